"""Which step may name which: what has ended for sure, or at least may have ended, when a template is evaluated.

Every step has a trail: the way to it through containers. Where the trails of a template and of the step that it names
part,
the container's kind and the two sections decide (docs/language: Outputs and scope).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from runbook.interpreter.errors import Place
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.schema import KIND_KEYS, step_kind
from runbook.interpreter.source import Source

BODY, UNDO, ON_FAILURE, FINALLY, END = 0, 1, 2, 3, 4
BRANCH = 10  # section of the first branch of a choose


class Turn(NamedTuple):
    """One container on a trail: which (the identity of its data), its kind, the section of it, and the place in that
    section.
    """

    container: int
    kind: str
    section: int
    order: int


Trail = tuple[Turn, ...]


@dataclass(slots=True)
class Known:
    """A step as references see it. `outputs` is None while any name is possible."""

    id: str
    trail: Trail
    place: Place
    kind: str = ""
    outputs: frozenset[str] | None = None


class Index(dict[str, Known]):
    """All steps of a file by id."""

    def wrong(self, trail: Trail, name: str) -> tuple[str, str] | None:
        """Why a template at `trail` may not name the step `name`: a sentence and a hint, or None."""
        known = self.get(name)
        if known is None:
            return f"there is no step `{name}`", did_you_mean(
                name, self
            ) or "a sub-playbook's steps are its own: it returns `outputs`"
        return _wrong(trail, known)


def main_kind(step: Mapping[str, Any]) -> str:
    """The kind of a step; of one that claims several, or none, what it is looked into as."""
    return step_kind(step) or next((key for key in KIND_KEYS if key in step), "steps")


def child_lists(step: Mapping[str, Any]) -> Iterator[tuple[int, str, list[Any]]]:
    """The lists of steps inside a step or a root, as (section, how a path names it, list). Tolerates any data."""
    for key in ("steps", "parallel", "fallback"):
        if isinstance(step.get(key), list):
            yield BODY, "", step[key]
    if isinstance(step.get("choose"), list):
        for number, branch in enumerate(step["choose"]):
            if isinstance(branch, dict) and isinstance(branch.get("steps"), list):
                yield BRANCH + number, "", branch["steps"]
    for section, key in ((UNDO, "undo"), (ON_FAILURE, "on_failure"), (FINALLY, "finally")):
        handler = step.get(key)
        if isinstance(handler, dict) and isinstance(handler.get("steps"), list):
            yield section, f"!{key}", handler["steps"]


def index_of(root: Mapping[str, Any], source: Source) -> tuple[Index, list[tuple[Known, Place]]]:
    """The steps of a file, and those whose id is taken: (the first, the place of the second)."""
    every: list[Known] = []
    lists: list[tuple[Trail, str, Mapping[str, Any]]] = [((), "root", root)]
    while lists:
        trail, kind, holder = lists.pop()
        for section, _, steps in child_lists(holder):
            for position, step in enumerate(steps):
                if not isinstance(step, dict):
                    continue
                here = (*trail, Turn(id(holder), kind, section, position))
                name = step.get("id")
                step_is = main_kind(step)
                if isinstance(name, str):
                    every.append(Known(name, here, source.place(step, "id"), step_is))
                lists.append((here, step_is, step))
    every.sort(key=lambda known: known.place)
    index, twice = Index(), []
    for known in every:
        if known.id in index:
            twice.append((index[known.id], known.place))
        else:
            index[known.id] = known
    return index, twice


def _wrong(trail: Trail, known: Known) -> tuple[str, str] | None:
    name, target = known.id, known.trail
    split = 0
    for mine, other in zip(trail, target, strict=False):
        if mine != other:
            break
        split += 1
    if split == len(target):
        if split == len(trail):
            return (
                f"`steps.{name}` is this step itself",
                "what it returned is `result`, in `outputs`, `until` and `fail_when`",
            )
        if trail[split].section in (UNDO, ON_FAILURE, FINALLY, END):
            return None
        return f"`steps.{name}` has not ended: this step is inside it", "name a step that ends before"
    inside = _foreach_between(trail, target, split, name)
    if inside is not None:
        return inside
    if split == len(trail):
        return f"`steps.{name}` runs later: it is inside this step", ""
    mine, other = trail[split], target[split]
    if mine.section == other.section:
        if mine.kind == "parallel" and mine.section == BODY:
            return (
                f"`steps.{name}` runs at the same time",
                "a parallel sibling cannot be read; read it after the `parallel`",
            )
        return None if other.order < mine.order else _later(name)
    if mine.section >= BRANCH and other.section >= BRANCH:
        return f"`steps.{name}` is in another branch of the `choose`", "only one branch runs"
    if other.section in (BODY, UNDO) or other.section >= BRANCH or mine.section in (UNDO, END):
        return None if mine.section != BODY and mine.section < BRANCH else _later(name)
    return None if mine.section == FINALLY else _later(name)


def _later(name: str) -> tuple[str, str]:
    return f"`steps.{name}` runs later", "only steps that come before can be named"


def _foreach_between(trail: Trail, target: Trail, split: int, name: str) -> tuple[str, str] | None:
    """A foreach that the named step is inside of and the template is not."""
    for depth in range(split, len(target)):
        turn = target[depth]
        if turn.kind != "foreach" or turn.section != BODY:
            continue
        if (
            depth == split
            and split < len(trail)
            and trail[split].section in (BODY, END)  # its own outputs are those of each iteration
            and trail[split].container == turn.container
        ):
            continue
        return (
            f"`steps.{name}` lives inside an iteration of a `foreach`",
            "outside of it read `outputs.results` of the foreach",
        )
    return None
