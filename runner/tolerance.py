"""What a run could do without: why a step that lacks something does not refuse the whole run."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence

from runbook.interpreter import model
from runbook.interpreter.effects import Call
from runbook.interpreter.frozen import frozen
from runbook.runner import shape

_INDEX = re.compile(r"\[\d*\]")
_END = re.compile(r"[/!\[]|$")
_CHILD = re.compile(r"[/!\[]*([^/!\[\]]*)")
_PHASES = ("!on_failure", "!undo")


@frozen
class _Inside:
    """A step that another one is inside of, or itself. `phase`: in one of its phases; `child`: in which of its parts
    ('' itself)."""

    path: str
    step: model.Step
    phase: bool
    child: str


def reasons(playbook: model.Playbook, calls: Sequence[Call], skipped: Iterable[str] = ()) -> Mapping[str, str]:
    """Operation -> why its failure would not fail the run; '' where it would.

    `calls`: all that lack something. A fallback lacks something only where each of its alternatives does that is not
    `skipped`; a block that tolerates two failures where three of its parts do.
    """
    out = {_plain(key) for key in skipped}
    steps = {_plain(path): step for path, step in shape.walk(playbook)}
    around = {call.op: _around(call.op, steps) for call in calls}
    found = {call.op: _own(call, around[call.op]) for call in calls}
    for path, step in sorted(steps.items(), key=lambda item: -len(item[0])):  # the innermost first
        needed, words = _needed(path, step, out)
        parts = {
            op: inside.child
            for op, why in found.items()
            if not why and needed > 1
            for inside in around[op]
            if inside.path == path and inside.child and not inside.phase
        }
        if len(set(parts.values())) < needed:
            found |= dict.fromkeys(parts, words)
    return found


def _needed(path: str, step: model.Step, skipped: Container[str]) -> tuple[float, str]:
    """How many of a step's parts must fail to fail it, and why fewer do not."""
    if isinstance(step, model.Fallback):
        ways = sum(f"{path}/{child.id}" not in skipped for child in step.steps)
        return ways, "the fallback has another way"
    tolerated = getattr(step, "keep_going", None)
    if tolerated is None or tolerated is False:
        return 1, ""
    if isinstance(tolerated, int) and tolerated is not True:
        return tolerated + 1, "so many may fail"
    return math.inf, "the others keep going"


def _own(call: Call, around: Sequence[_Inside]) -> str:
    """Why, whatever becomes of other steps."""
    if call.effect == "notify":
        return "a notification never fails a run"
    if any(phase in call.op for phase in _PHASES):
        return "only needed after a failure"
    if any(inside.step.on_failure.then == "continue" for inside in around if not inside.phase):
        return "its failure is tolerated"  # that of a handler would not be
    return "perhaps not needed" if call.maybe and not call.spare else ""


def _around(key: str, steps: Mapping[str, model.Step]) -> list[_Inside]:
    """The steps that hold the one at `key`, and itself."""
    found: dict[str, _Inside] = {}
    for end in _END.finditer(key):
        path, rest = _plain(key[: end.start()]), key[end.start() :]
        step = steps.get(path)
        if step is None or path in found:
            continue
        phase = rest.startswith("!") and not isinstance(step, model.SubPlaybook)
        child = _CHILD.match(rest)
        found[path] = _Inside(path, step, phase, child[1] if child is not None else "")
    return list(found.values())


def _plain(key: str) -> str:
    """Without indexes; what a called playbook's own phases are called on the static tree."""
    return _INDEX.sub("", key).replace("/!", "!")
