"""What stands above the steps -> the model: inputs, secrets, vars, defaults, objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter import inputs as typed
from runbook.interpreter import merge, rules
from runbook.interpreter.build_playbook import holds_template
from runbook.interpreter.catalogue import Catalogue
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.located import located
from runbook.interpreter.model import Input, Objective, Playbook, SecretSource, Template
from runbook.interpreter.naming import Names, Site
from runbook.interpreter.problems import Problems
from runbook.interpreter.source import Source
from runbook.interpreter.times import parse_duration

_LIMITS: Mapping[str, tuple[str, ...]] = {
    "pattern": ("string", "path"),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "items": ("list",),
}


class Declarations:
    """The declared part of one file, imports merged, built in the order in which it is evaluated."""

    def __init__(self, problems: Problems, names: Names, declared: merge.Declared, catalogue: Catalogue) -> None:
        self.problems = problems
        self.names = names
        self.declared = declared
        self.catalogue = catalogue
        self.inputs: tuple[Input, ...] = ()
        self.secrets: tuple[SecretSource, ...] = ()
        self.vars: tuple[tuple[str, Template], ...] = ()
        self.timeout: float | None = None

    def all(self, text: Source) -> None:
        """Build everything; `names` knows it afterwards."""
        names, said = self.names, self.declared.names
        names.inputs, names.secrets, names.vars = (
            frozenset(said.get(one, ())) for one in ("inputs", "secrets", "vars")
        )
        self._build(text)

    def library(self) -> None:
        """Check everything, of a file whose importers may declare more names."""
        self._build(None)

    def duration(self, written: str | None) -> float | None:
        """A duration that was checked for form, in seconds."""
        return None if written is None else float(parse_duration(written))

    def _build(self, text: Source | None) -> None:
        declared, names = self.declared, self.names
        self.inputs = tuple(
            self._input(name, item, text.file if text else item.source.file) for name, item in declared.inputs.items()
        )
        names.secret_inputs = frozenset(one.name for one in self.inputs if one.secret)
        self.secrets = tuple(
            one for one in (self._secret(name, item, text) for name, item in declared.secrets.items()) if one
        )
        built = []
        left = names.later_vars = set(declared.vars)
        for name, item in declared.vars.items():
            site = Site((), "vars", steps=False, failure=False)
            built.append((name, names.template(item.value, item.source, item.holder, item.key, site, name)))
            left.discard(name)
        self.vars = tuple(built)
        if declared.timeout is not None:
            self.timeout = self.duration(declared.timeout.value)
            if not self.timeout:
                self.problems.no_time(declared.timeout.place, "defaults.timeout")
        self._families()

    def _families(self) -> None:
        if not self.declared.family:
            return
        families: dict[str, set[str]] = {}
        for spec in self.catalogue.values():
            families.setdefault(spec.family, set()).update(spec.parameters.get("properties", {}))
        for family, parameters in self.declared.family.items():
            for name, item in parameters.items():
                if family not in families:
                    holder = item.source.data["defaults"]["with"]
                    place = item.source.place(holder, family, of_key=True)
                    hint = did_you_mean(family, families) or f"there are {', '.join(sorted(families))}"
                    self.problems.add(
                        place,
                        f"there is no family of actions `{family}`",
                        f"defaults.with.{family}",
                        rule="unknown-family",
                        hint=hint,
                    )
                    break
                if name not in families[family]:
                    hint = did_you_mean(name, families[family])
                    path = f"defaults.with.{family}.{name}"
                    self.problems.add(
                        item.key_place,
                        f"no action of {family} has a parameter `{name}`",
                        path,
                        rule="unknown-key",
                        hint=hint,
                    )

    def _input(self, name: str, item: merge.Item, file: str) -> Input:
        path = f"inputs.{name}"
        one = self._typed(name, item.value, item.source, path)
        default = item.value.get("default")
        place = item.source.place(item.value, "default")
        if isinstance(default, dict) and default.keys() == {"from_env"} and one.type != "map":
            if not isinstance(default["from_env"], str) or not default["from_env"]:
                self.problems.add(place, "`from_env` takes the name of a variable", f"{path}.default", rule="input")
        elif holds_template(default):
            self.problems.add(
                place, "a default takes no template", f"{path}.default", rule="static", hint="compute it in `vars`"
            )
        elif default is not None:
            try:
                default = typed.convert(one, default)
            except typed.Misfit as misfit:
                message = misfit.message.replace("{name}", "the default", 1)
                self.problems.add(
                    place, message, f"{path}.default", rule="input", expected=misfit.expected, hint=misfit.hint
                )
        return one if one.default is None else replace(one, default=located(one, one.default, item.source.file, file))

    def _typed(self, name: str, body: Mapping[str, Any], text: Source, path: str) -> Input:
        kind = body["type"]
        for key, kinds in _LIMITS.items():
            if key in body and kind not in kinds:
                place = text.place(body, key, of_key=True)
                message = f"`{key}` is not for an input of type {kind}"
                hint = f"it is for {' and '.join(kinds)}"
                self.problems.add(place, message, f"{path}.{key}", rule="input", hint=hint)
        if body.get("secret") and kind != "string":
            place = text.place(body, "secret", of_key=True)
            self.problems.add(
                place,
                f"a secret is text, and this is a {kind}",
                f"{path}.secret",
                rule="input",
                expected="type: string",
            )
        pattern = body.get("pattern")
        if pattern is not None:
            from runbook.interpreter.patterns import checked

            try:
                checked(pattern, 0)
            except ValueError as error:
                self.problems.add(
                    text.place(body, "pattern"),
                    f"this pattern cannot be used: {error}",
                    f"{path}.pattern",
                    rule="input",
                    expected="a regular expression as Python reads it, whose time does not run away",
                )
                pattern = None
        default = body.get("default")
        from_env = (
            default.get("from_env")
            if isinstance(default, dict) and default.keys() == {"from_env"} and kind != "map"
            else None
        )
        one = Input(
            name=name,
            type=kind,
            place=text.place(body),
            description=body.get("description", ""),
            required="default" not in body or from_env is not None,
            default=None if from_env is not None else default,
            from_env=from_env if isinstance(from_env, str) else None,
            pattern=pattern,
            minimum=body.get("minimum"),
            maximum=body.get("maximum"),
            items=self._typed(name, body["items"], text, f"{path}.items")
            if kind == "list" and "items" in body
            else None,
            secret=body.get("secret", False),
        )
        return self._with_enum(one, body, text, path)

    def _with_enum(self, one: Input, body: Mapping[str, Any], text: Source, path: str) -> Input:
        fitting = []
        for number, option in enumerate(body.get("enum", ())):
            try:
                typed.convert(one, option)
                fitting.append(option)
            except typed.Misfit as misfit:
                message = misfit.message.replace("{name}", f"item {number + 1} of `enum`", 1)
                self.problems.add(
                    text.place(body["enum"], number),
                    message,
                    f"{path}.enum[{number}]",
                    rule="input",
                    expected=misfit.expected,
                    hint=misfit.hint,
                )
        return replace(one, enum=tuple(fitting))

    def _secret(self, name: str, item: merge.Item, text: Source | None) -> SecretSource | None:
        path = f"secrets.{name}"
        kinds = [key for key in ("env", "file", "k8s") if key in item.value]
        if len(kinds) != 1:
            place = item.source.place(item.value) if kinds else item.key_place
            said = f"`{name}` has {' and '.join(kinds)}" if kinds else f"`{name}` says not where the secret is"
            self.problems.add(place, said, path, rule="secret-source", expected="exactly one of env, file, k8s")
            return None
        kind = kinds[0]
        site = Site((), "secrets", steps=False, failure=False)
        where = self.names.template(item.value[kind], item.source, item.value, kind, site, f"{name}.{kind}")
        return SecretSource(name, kind, where, item.value.get("optional", False), item.place)  # type: ignore[arg-type]

    def objectives(self, body: Mapping[str, Any], written: Any, text: Source) -> tuple[Objective, ...]:
        """The objectives of a playbook."""
        built = []
        for name, value in body.items():
            if isinstance(value, str):
                built.append(Objective(name, float(parse_duration(value))))
                continue
            since = value.get("since")
            if isinstance(since, str) and "{{" in since:
                site = Site((), f"objectives.{name}", steps=False, failure=False)
                since = self.names.template(since, text, value, "since", site, "since")
            built.append(Objective(name, float(parse_duration(value["within"])), since))
        return tuple(built)

    def unmet(self, playbook: Playbook, body: Mapping[str, Any], written: Any, text: Source) -> None:
        """Objectives that no step can meet, and starts that no step marks."""
        met = rules.milestones(playbook)
        for name, value in body.items():
            if name not in met:
                place = text.place(written, name, of_key=True)
                hint = did_you_mean(name, met) or f"give a step `milestone: {name}`"
                self.problems.add(
                    place,
                    f"no step meets the objective `{name}`",
                    f"objectives.{name}",
                    rule="objective",
                    hint=hint,
                    warning=True,
                )
            since = value.get("since") if isinstance(value, dict) else None
            if since == name:
                self.problems.add(
                    text.place(value, "since"),
                    f"the objective `{name}` counts from itself",
                    f"objectives.{name}.since",
                    rule="objective",
                    hint="name an earlier milestone, or leave `since` out to count from the run's start",
                )
                continue
            if isinstance(since, str) and "{{" not in since and since not in met:
                hint = did_you_mean(since, met) or "it is a milestone's name, or a template of a timestamp"
                self.problems.add(
                    text.place(value, "since"),
                    f"there is no milestone `{since}`",
                    f"objectives.{name}.since",
                    rule="objective",
                    hint=hint,
                )
