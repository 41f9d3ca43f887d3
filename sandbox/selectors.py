"""Label and field selectors (apimachinery, pkg/labels and pkg/fields)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from runbook.sandbox.kinds import POD, SECRET, SERVICE, Kind
from runbook.sandbox.statuses import bad_request

Labels = Mapping[str, str]
Predicate = Callable[[Labels], bool]

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|[^\s,=!()]+)")
_OPERATORS = "in, notin, =, ==, !=, gt, lt"
_FIELDS = {
    POD: ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"),
    SECRET: ("type",),
    SERVICE: ("spec.clusterIP", "spec.type"),
}


def parse(text: str) -> Predicate:
    """`app=web,slot in (blue, green),!canary` -> whether labels match. StatusError 400 as the server words it."""
    tokens = [match.group(1) for match in _TOKEN.finditer(text)]
    requirements: list[Predicate] = []
    while tokens:
        requirements.append(_requirement(tokens))
        if tokens and tokens.pop(0) != ",":
            raise bad_request("unable to parse requirement: expected ','")
        # A trailing comma is refused by the real parser too.
    return lambda labels: all(holds(labels) for holds in requirements)


def _requirement(tokens: list[str]) -> Predicate:
    key = tokens.pop(0)
    if key == "!":
        absent = _word(tokens)
        return lambda labels: absent not in labels
    if key in {"=", "==", "!=", ",", "(", ")"}:
        raise bad_request(f"unable to parse requirement: found '{key}', expected: !, identifier, or 'end of string'")
    if not tokens or tokens[0] == ",":
        return lambda labels: key in labels
    operator = tokens.pop(0)
    if operator in {"=", "=="}:
        wanted = _word(tokens, empty=True)
        return lambda labels: labels.get(key) == wanted
    if operator == "!=":
        unwanted = _word(tokens, empty=True)
        return lambda labels: labels.get(key) != unwanted
    if operator == "in":
        values = _set(tokens)
        return lambda labels: labels.get(key) in values
    if operator == "notin":
        values = _set(tokens)
        return lambda labels: labels.get(key) not in values
    raise bad_request(f"unable to parse requirement: found '{operator}', expected: {_OPERATORS}")


def _word(tokens: list[str], *, empty: bool = False) -> str:
    if empty and (not tokens or tokens[0] == ","):
        return ""
    if not tokens or tokens[0] in {"=", "==", "!=", "!", ",", "(", ")"}:
        found = tokens[0] if tokens else ""
        raise bad_request(f"unable to parse requirement: found '{found}', expected: identifier")
    return tokens.pop(0)


def _set(tokens: list[str]) -> frozenset[str]:
    if not tokens or tokens.pop(0) != "(":
        raise bad_request("unable to parse requirement: found '', expected: '('")
    values, word = [], ""
    while tokens:
        found = tokens.pop(0)
        if found in {",", ")"}:  # nothing before it is the empty value
            values.append(word)
            word = ""
        else:
            word = found
        if found == ")":
            return frozenset(values)
    raise bad_request("unable to parse requirement: found '', expected: ',' or ')'")


def by_label_selector(selector: Mapping[str, Any] | None) -> Predicate:
    """The structured form (`matchLabels`, `matchExpressions`) of workloads. Null matches nothing, empty everything."""
    if selector is None:
        return lambda _labels: False
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    expressions: list[Mapping[str, Any]] = selector.get("matchExpressions") or []
    return lambda labels: _subset(wanted, labels) and all(_expression(e, labels) for e in expressions)


def by_map(wanted: Mapping[str, str] | None) -> Predicate:
    """The map form of Services. Empty or absent selects nothing."""
    return lambda labels: bool(wanted) and _subset(wanted or {}, labels)


def as_text(selector: Mapping[str, Any]) -> str:
    """A structured selector in the short form (the scale subresource's `status.selector`)."""
    parts = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or []:
        values = ",".join(sorted(expression.get("values") or []))
        parts.append(f"{expression['key']} {expression['operator'].lower()} ({values})")
    return ",".join(parts)


def _subset(wanted: Labels, labels: Labels) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise bad_request(f'"{expression["operator"]}" is not a valid label selector operator')


def parse_fields(text: str, kind: Kind) -> Callable[[Mapping[str, Any]], bool]:
    """`metadata.name=web,status.phase!=Running` -> whether an object matches."""
    tests: list[tuple[tuple[str, ...], bool, str]] = []
    for part in filter(None, text.split(",")):
        field, operator, value = re.match(r"([^=!]*)(==|!=|=|$)(.*)", part).groups()  # type: ignore[union-attr]
        if not operator:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if field not in ("metadata.name", "metadata.namespace", *_FIELDS.get(kind, ())):
            known = 'only "metadata.name", "metadata.namespace"'
            raise bad_request(f'"{field}" is not a known field selector: {known}')
        tests.append((tuple(field.split(".")), operator != "!=", value))
    return lambda item: all((_at(item, path) == value) is equal for path, equal, value in tests)


def _at(item: Any, path: tuple[str, ...]) -> str:
    for key in path:
        item = item.get(key, {}) if isinstance(item, Mapping) else {}
    return item if isinstance(item, str) else ""
