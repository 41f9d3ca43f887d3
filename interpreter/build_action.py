"""An action step -> the model: its parameters with the defaults, what it is by nature, how often it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook.interpreter import answerable, merge, quoting, schema
from runbook.interpreter.catalogue import ActionSpec
from runbook.interpreter.errors import Place
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.grammar import COMMON, KINDS
from runbook.interpreter.located import moved
from runbook.interpreter.model import Action, Template, Undo
from runbook.interpreter.naming import Site, takes_secret
from runbook.interpreter.problems import dotted, named, place_of
from runbook.interpreter.repeats import poll_of, retry_of

if TYPE_CHECKING:
    from runbook.interpreter.build import Builder

ATTEMPT = 300.0  # seconds; built in, so that nothing is unbounded
NOTIFY_ATTEMPT = 10.0
_STEP_KEYS = frozenset({*COMMON, *KINDS["action"]})


def build_action(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> Action | None:
    """One action step, checked against the catalogue. `common`: what every step has; `data`: the step as written."""
    name = clean["action"]
    spec = self.catalogue.get(name)
    if spec is None:
        _unknown_action(self, name, data, site)
        self.names.template(clean.get("with", {}), self.source, data, "with", site, "with", ("/*",))
        poll_of(self, clean, data, site, None, "read", common.get("timeout"))
        return None
    items = merge.parameters(spec, clean, self.source, self.declared)
    values = {key: item.value for key, item in items.items()}
    good = _parameters(self, spec, items, values, data, site)
    if good and spec.effect == "ask":
        _answerable(self, spec, items, values, data, site)
    with_ = _with(self, spec, items, values, data, site)
    effect, idempotent = spec.nature(values) if good else (spec.effect, spec.idempotent)
    if clean.get("effect") == "read":
        if effect not in ("opaque", "read"):
            place = self.source.place(data, "effect")
            self.problems.add(
                place,
                f"{name} is no opaque action: it says itself what it does",
                f"{site.path}.effect",
                rule="effect",
                hint=f"it is a {effect}",
            )
        effect = "read"
    if "idempotent" in clean and spec.effect != "opaque":
        place = self.source.place(data, "idempotent")
        self.problems.add(
            place,
            f"{name} is no opaque action: it says itself whether it may run twice",
            f"{site.path}.idempotent",
            rule="effect",
            hint="leave it out",
        )
    idempotent = clean.get("idempotent", idempotent) or effect == "read"
    own = common.pop("timeout", None)
    poll = poll_of(self, clean, data, site, spec.until, effect, own)
    retry = retry_of(self, clean, data, site, effect, idempotent, poll is not None and poll.until is not None)
    common.setdefault("undo", Undo(spec.undo))
    self.returns(common, _returned(spec, values))
    people = effect == "ask" or name == "flow.wait"
    named_by = (with_, own, *((poll.until, poll.every, poll.hold, poll.fail_when) if poll else ()))
    common["sees"] = common["sees"].union(*(getattr(one, "reads", ()) for one in named_by))
    return Action(
        **common,
        timeout=own if people else None,
        action=name,
        with_=with_,
        effect=effect,
        attempt=own if own is not None else NOTIFY_ATTEMPT if effect == "notify" else self.default_timeout or ATTEMPT,
        retry=retry,
        poll=poll,
        idempotent=idempotent,
        irreversible=spec.irreversible,
        secret_at=self.secret_at(spec),
        lane=spec.lane,
        preflight=spec.preflight,
        listed=_listed(spec, values),
    )


def _returned(spec: ActionSpec, values: Mapping[str, Any]) -> frozenset[str] | None:
    if spec.name == "flow.set":
        return frozenset(values["values"]) if isinstance(values.get("values"), dict) else None
    return frozenset(spec.outputs)


def _unknown_action(self: Builder, name: str, data: Mapping[str, Any], site: Site) -> None:
    place = self.source.place(data, "action")
    path = f"{site.path}.action"
    if "{{" in name:
        self.problems.add(place, "`action` takes no template", path, rule="static", hint="`choose` picks between steps")
        return
    family, _, verb = name.partition(".")
    siblings = sorted(one for one in self.catalogue if one.startswith(f"{family}."))
    within = [one for one in siblings if len(verb) > 3 and verb in one]
    if len(within) == 1:
        hint = f"did you mean `{within[0]}`?"
        self.problems.add(place, f"there is no action `{name}`", path, rule="unknown-action", hint=hint)
        return
    hint = did_you_mean(name, self.catalogue) or (
        f"the family {family} has {', '.join(siblings)}" if siblings else "`runbook actions` lists them"
    )
    self.problems.add(place, f"there is no action `{name}`", path, rule="unknown-action", hint=hint)


def _parameters(
    self: Builder,
    spec: ActionSpec,
    items: Mapping[str, merge.Item],
    values: Mapping[str, Any],
    data: Mapping[str, Any],
    site: Site,
) -> bool:
    """The form of an action's parameters; a wrong default is said where the default stands."""
    findings = schema.check_with(spec, values)
    for one in findings:
        item = items.get(str(one.path[0])) if one.path else None
        shown = one
        if one.rule == "unknown-key" and not one.hint and len(one.path) == 1 and one.path[0] in _STEP_KEYS:
            shown = replace(one, hint=f"`{one.path[0]}` is a key of the step: it stands beside `with`")
        if item is None:
            place = self.source.place(data, "with" if "with" in data else "action")
        elif one.of_key and len(one.path) == 1:
            place = item.key_place
        else:
            place = place_of(item.source, item.holder, (item.key, *one.path[1:]), one.of_key)
        path = site.path + ".with" + dotted(one.path[:-1] if one.of_key else one.path, True)
        message = shown.message.replace("{name}", named(one.path), 1)
        self.problems.add(place, message, path, rule=one.rule, expected=one.expected, hint=shown.hint)
    return not findings


def _answerable(
    self: Builder,
    spec: ActionSpec,
    items: Mapping[str, merge.Item],
    values: Mapping[str, Any],
    data: Mapping[str, Any],
    site: Site,
) -> None:
    """A question that nobody could answer is said before anybody is asked."""
    for key, sentence, hint in answerable.problems(spec.name, answerable.as_written(values)):
        place = items[key].place if key in items else self.source.place(data, "with")
        self.problems.add(place, sentence, f"{site.path}.with.{key}", rule="answerable", hint=hint)


def _with(
    self: Builder,
    spec: ActionSpec,
    items: Mapping[str, merge.Item],
    values: dict[str, Any],
    data: Mapping[str, Any],
    site: Site,
) -> Template:
    """The parameters as one template; paths of an imported file are seen from this one."""
    positions = self.secret_at(spec)
    reads: frozenset[str] = frozenset()
    places: dict[str, Place] = {}
    properties = spec.parameters.get("properties", {})
    for key, item in items.items():
        if not isinstance(item.value, str | dict | list):
            continue
        if isinstance(item.value, str):
            if "{{" not in item.value:
                self.names.meant(item.value, item.place, f"{site.path}.with.{key}")
            else:
                place = item.place
                places[f"/{key}"] = place
                before = len(self.problems.found)
                reads |= self.names.check(
                    item.value, False, takes_secret(f"/{key}", positions), item.source, place, site, f"with.{key}"
                )
                if len(self.problems.found) == before:  # what is wrong anyway is not to be quoted
                    _quoting(self, properties.get(key, {}), item, f"{site.path}.with.{key}")
        else:
            inner = tuple(one[len(key) + 1 :] for one in positions if one.startswith(f"/{key}/"))
            part = self.names.template(item.value, item.source, item.holder, item.key, site, f"with.{key}", inner)
            reads |= part.reads
            places.update({f"/{key}{pointer}": place for pointer, place in part.places.items()})
        if item.source is not self.source and properties.get(key, {}).get("x-path"):
            values[key] = moved(item.value, item.source.file, self.source.file)
    return Template(values, self.source.place(data, "with"), reads, places)


def _quoting(self: Builder, parameter: Mapping[str, Any], item: merge.Item, path: str) -> None:
    """A text that is code to somebody else takes data only through the filter that its declaration names."""
    by = parameter.get("x-quoted")
    if by is None:
        return
    found = quoting.unquoted(item.value, by, self.declared)
    if found is None:
        return
    listed = any(one.get("type") == "array" for one in parameter.get("anyOf", ()))
    self.problems.add(
        item.source.inside(item.place, item.value, found.offset),
        found.message(by),
        path,
        rule="quoting",
        expected=found.expected(by, listed),
    )


def _listed(spec: ActionSpec, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Parameters of which only the run knows whether they are text that would have to be quoted."""
    quoted = {name: one["x-quoted"] for name, one in spec.parameters.get("properties", {}).items() if "x-quoted" in one}
    given = {name: values[name] for name in quoted if isinstance(values.get(name), str)}
    return tuple(name for name, text in given.items() if "{{" in text and quoting.may_give_text(text, quoted[name]))


def secret_positions(spec: ActionSpec) -> tuple[str, ...]:
    """JSON pointers of `with` where an action takes secrets: a whole parameter, and each value of one that is a map
    or list; all that lies below where such a value may itself hold others (a manifest, a chart's values).
    """
    found = []
    for name, one in spec.parameters.get("properties", {}).items():
        if one.get("x-secret"):
            found.append(f"/{name}")
            kinds = one.get("type", ("object",))
            if "object" in kinds or "array" in kinds or "anyOf" in one:
                of_one_kind = isinstance(one.get("additionalProperties", one.get("items")), dict)
                found.append(f"/{name}/*" if of_one_kind else f"/{name}/**")
    return tuple(found)
