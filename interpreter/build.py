"""Steps as data -> the model, each checked for form and meaning on the way. What cannot be built is None, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runbook.interpreter import merge, schema
from runbook.interpreter.build_action import build_action, secret_positions
from runbook.interpreter.build_playbook import build_playbook
from runbook.interpreter.catalogue import ActionSpec, Catalogue
from runbook.interpreter.errors import Place
from runbook.interpreter.grammar import COMMON
from runbook.interpreter.model import (
    Block,
    Branch,
    Choose,
    Fallback,
    Foreach,
    OnFailure,
    Parallel,
    Playbook,
    Seconds,
    Step,
    Undo,
)
from runbook.interpreter.naming import WORDS, Names, Site
from runbook.interpreter.problems import Problems
from runbook.interpreter.references import BODY, BRANCH, END, FINALLY, ON_FAILURE, UNDO, Turn, child_lists, main_kind
from runbook.interpreter.source import Source
from runbook.interpreter.times import parse_duration
from runbook.interpreter.worst_case import LEAST_CLEANUP, phases

COUNTS = frozenset({"total", "succeeded", "failed", "skipped", "failures"})
_ENDED = frozenset({"result", "error"})


@dataclass(slots=True)
class Builder:
    """Builds the steps of one file. `sub` loads a sub-playbook: (path as written, its place, path for people) ->
    Playbook.
    """

    source: Source
    catalogue: Catalogue
    problems: Problems
    names: Names
    declared: merge.Declared
    sub: Callable[[str, Place, str], Playbook | None]
    default_timeout: float | None = None
    cleanup: float | None = None  # seconds, as the root says; None = each scope's own worst case
    positions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    decided: set[str] = field(default_factory=set)  # ids of the steps that say `on_failure`

    def secret_at(self, spec: ActionSpec) -> tuple[str, ...]:
        """Where an action takes secrets, worked out once."""
        found = self.positions.get(spec.name)
        if found is None:
            found = self.positions[spec.name] = secret_positions(spec)
        return found

    def steps(self, items: Any, site: Site) -> tuple[Step, ...]:
        """The steps of one list. `site`: inside the list's holder, its trail ending with a turn whose index is
        replaced.
        """
        built = []
        *outer, turn = site.trail
        for position, item in enumerate(items):
            if isinstance(item, dict):
                here = replace_site(site, (*outer, turn._replace(order=position)))
                step = self.step(item, here)
                if step is not None:
                    built.append(step)
        return tuple(built)

    def step(self, data: Mapping[str, Any], site: Site) -> Step | None:
        """One step. `site`: where it stands; its path is the holder's prefix."""
        name = data.get("id")
        prefix = site.path
        path = f"{prefix}{name if isinstance(name, str) else '?'}"
        here = site.at(path=path)
        kind, findings = schema.check_step(data)
        spoiled = self.problems.findings(findings, self.source, data, path) if findings else frozenset[str]()
        clean = {key: value for key, value in data.items() if key not in spoiled} if spoiled else data
        common = self._common(clean, kind or main_kind(data), here, data)
        if kind is None or kind not in clean or "id" not in clean:
            self._descend(data, kind or main_kind(data), here)
            return None
        if self.cleanup is not None:
            common["cleanup"] = self.cleanup
        step = _BUILDERS[kind](self, clean, here, common, data)
        if step is None or self.cleanup is not None:
            return step
        longest = phases(step)
        return step if longest <= LEAST_CLEANUP else replace(step, cleanup=longest)

    def _descend(self, data: Mapping[str, Any], kind: str, site: Site) -> None:
        """Look for problems in the steps inside a step that cannot be built."""
        head = data.get("foreach")
        name = head.get("as") if isinstance(head, dict) else None
        words = site.words | {name, "loop"} if isinstance(name, str) else site.words
        for section, suffix, items in child_lists(data):
            if not suffix:
                self.steps(items, self.child(data, kind, site.at(words=words), section))

    def child(self, data: Mapping[str, Any], kind: str, site: Site, section: int, suffix: str = "") -> Site:
        """The site of the steps in one section of a step."""
        return replace_site(site, (*site.trail, Turn(id(data), kind, section, 0)), path=f"{site.path}{suffix}/")

    def _common(self, clean: Mapping[str, Any], kind: str, site: Site, data: Mapping[str, Any]) -> dict[str, Any]:
        """What every step has, as keyword arguments of its class."""
        place = self.source.place(data)
        common: dict[str, Any] = {"id": clean.get("id", "?"), "place": place}
        sees: frozenset[str] = frozenset()
        for key in clean:
            if key not in COMMON or key == "id":
                continue
            value = clean[key]
            if key == "name":
                common["name"] = value
                if "{{" in value:
                    self.names.template(value, self.source, data, "name", site, "name")
            elif key == "when":
                bare = self.names.bare(value, self.source, self.source.place(data, key), site, key)
                common["when"] = bare
                sees |= bare.reads
            elif key == "timeout":
                common["timeout"], read = self.seconds(value, data, key, site, key)
                sees |= read
            elif key == "locks":
                locks = [
                    self.names.template(item, self.source, value, number, site, f"locks[{number}]")
                    for number, item in enumerate(value)
                ]
                common["locks"] = tuple(locks)
                sees = sees.union(*(one.reads for one in locks))
            elif key == "outputs":
                common["outputs"], read = self._outputs(value, data, kind, site)
                sees |= read if kind in ("action", "playbook") else frozenset()
            elif key == "on_failure":
                self.decided.add(common["id"])
                common["on_failure"] = self.on_failure(value, data, kind, site)
            elif key == "finally":
                common["finally_"] = self.steps(value["steps"], self.child(data, kind, site, FINALLY, "!finally"))
            elif key == "undo":
                common["undo"] = self._undo(value, data, kind, site)
            else:  # temporary, background, milestone
                common[key] = value
        common["sees"] = sees
        return common

    def seconds(self, value: Any, holder: Any, key: str, site: Site, path: str) -> tuple[Seconds, frozenset[str]]:
        """A duration, or a template that gives one."""
        if "{{" in value:
            template = self.names.template(value, self.source, holder, key, site, path)
            return template, template.reads
        length = float(parse_duration(value))
        if key == "timeout" and not length:
            self.problems.no_time(self.source.place(holder, key), f"{site.path}.{path}" if site.path else path)
        return length, frozenset()

    def on_failure(self, value: Any, data: Mapping[str, Any], kind: str, site: Site) -> OnFailure:
        """`on_failure` of a step or of the root."""
        if isinstance(value, str):
            return OnFailure(undo=value == "undo", then="continue" if value == "continue" else "abort")
        inner = self.child(data, kind, site, ON_FAILURE, "!on_failure")
        return OnFailure(
            value.get("undo", False), self.steps(value.get("steps", ()), inner), value.get("then", "abort")
        )

    def _undo(self, value: Any, data: Mapping[str, Any], kind: str, site: Site) -> Undo:
        if isinstance(value, str):
            return Undo(value)  # type: ignore[arg-type]  # the schema's enum is this Literal
        ended = site.at(words=site.words | _ENDED)  # an undo sees the scope of the step's end
        return Undo("steps", self.steps(value["steps"], self.child(data, kind, ended, UNDO, "!undo")))

    def _outputs(
        self, value: Mapping[str, Any], data: Mapping[str, Any], kind: str, site: Site
    ) -> tuple[Any, frozenset[str]]:
        ended = site.at(words=site.words | _ENDED)
        if kind not in ("action", "playbook"):
            ended = replace_site(ended, (*site.trail, Turn(id(data), kind, END, 0)))
        if kind == "foreach" and isinstance(data["foreach"], dict):  # of each iteration
            ended = ended.at(words=ended.words | {data["foreach"].get("as"), "loop"})
        built = []
        reads: frozenset[str] = frozenset()
        for name, item in value.items():
            bare = self.names.bare(item, self.source, self.source.place(value, name), ended, f"outputs.{name}")
            built.append((name, bare))
            reads |= bare.reads
        return tuple(built), reads

    def returns(self, common: Mapping[str, Any], outputs: frozenset[str] | None) -> None:
        """Remember what a step returns, for the steps after it."""
        known = self.names.index.get(common["id"])
        if known is not None and outputs is not None:
            known.outputs = outputs | {name for name, _ in common.get("outputs", ())}

    def concurrency(self, value: Any, holder: Any, site: Site, path: str, default: int | None) -> Any:
        """`max_concurrent`: a number, or a template of one."""
        if value is None:
            return default
        return (
            self.names.template(value, self.source, holder, "max_concurrent", site, path)
            if isinstance(value, str)
            else int(value)
        )

    def tolerance(self, clean: Mapping[str, Any], data: Mapping[str, Any], site: Site) -> Any:
        """`keep_going`."""
        value = clean.get("keep_going")
        if isinstance(value, str) and "{{" in value:
            return self.names.template(value, self.source, data, "keep_going", site, "keep_going")
        return value


def replace_site(site: Site, trail: Any, path: str | None = None) -> Site:
    """The same names, elsewhere."""
    return Site(trail, site.path if path is None else path, site.words, site.steps, site.failure)


def also_sees(common: dict[str, Any], *values: Any) -> dict[str, Any]:
    """`sees` with what these templates name."""
    for value in values:
        reads = getattr(value, "reads", None)
        if reads:
            common["sees"] = common["sees"] | reads
    return common


def _block(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Step:
    steps = self.steps(clean["steps"], self.child(data, "steps", site, BODY))
    going = self.tolerance(clean, data, site)
    self.returns(common, COUNTS)
    return Block(**also_sees(common, going), steps=steps, keep_going=going)


def _parallel(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Step:
    steps = self.steps(clean["parallel"], self.child(data, "parallel", site, BODY))
    going = self.tolerance(clean, data, site)
    limit = self.concurrency(clean.get("max_concurrent"), data, site, "max_concurrent", None)
    self.returns(common, COUNTS)
    return Parallel(**also_sees(common, going, limit), steps=steps, keep_going=going, max_concurrent=limit)


def _fallback(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Step:
    steps = self.steps(clean["fallback"], self.child(data, "fallback", site, BODY))
    return Fallback(**common, steps=steps)


def _choose(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Step:
    branches = []
    last = len(clean["choose"]) - 1
    for number, branch in enumerate(clean["choose"]):
        when = None
        if "when" in branch:
            place = self.source.place(branch, "when")
            when = self.names.bare(branch["when"], self.source, place, site, f"choose[{number}].when")
            also_sees(common, when)
        elif number < last:
            place = self.source.place(branch)
            self.problems.add(
                place,
                "a branch without `when` must be the last",
                f"{site.path}.choose[{number}]",
                rule="choose",
                hint="the branches after it never run",
            )
        steps = self.steps(branch["steps"], self.child(data, "choose", site, BRANCH + number))
        branches.append(Branch(when, steps, self.source.place(branch)))
    return Choose(**common, branches=tuple(branches))


def _foreach(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Step | None:
    head = clean["foreach"]
    name = head["as"]
    place = self.source.place(head, "as")
    path = f"{site.path}.foreach.as"
    if name in site.words:
        self.problems.add(
            place,
            f"`{name}` is the name of an outer item already",
            path,
            rule="shadow",
            hint="give the inner item its own name",
        )
    elif name in WORDS:
        self.problems.add(
            place, f"`{name}` is a word of the language", path, rule="shadow", hint="give the item its own name"
        )
    items = self.names.template(head["items"], self.source, head, "items", site, "foreach.items")
    limit = self.concurrency(head.get("max_concurrent"), head, site, "foreach.max_concurrent", 1)
    going = self.tolerance(clean, data, site)
    also_sees(common, items, limit, going)
    self.returns({"id": common["id"]}, COUNTS | {"results"})  # its own outputs stand in each result
    if "steps" not in clean:
        return None
    inner = self.child(data, "foreach", site, BODY)
    steps = self.steps(clean["steps"], inner.at(words=site.words | {name, "loop"}))
    return Foreach(**common, items=items, as_=name, steps=steps, max_concurrent=limit, keep_going=going)


_BUILDERS: Mapping[str, Callable[..., Step | None]] = {
    "action": build_action,
    "steps": _block,
    "parallel": _parallel,
    "fallback": _fallback,
    "choose": _choose,
    "foreach": _foreach,
    "playbook": build_playbook,
}
