"""Rules that need the whole of a step: what an undo can reach, what may run in the background, what a return can
return.
"""

from __future__ import annotations

from collections.abc import Iterator

from runbook.interpreter.model import Action, Choose, Fallback, Parallel, Playbook, Step, SubPlaybook
from runbook.interpreter.problems import Problems

QUIET = frozenset({"read", "check", "notify", "local"})


def check_rules(playbook: Playbook, problems: Problems, decided: frozenset[str]) -> None:
    """All rules, over all steps of one file. `decided`: ids of the steps that say `on_failure` themselves."""
    if playbook.on_failure.undo:
        for step in playbook.steps:
            _undoable(step, f"{step.id}", "the playbook", problems)
    for prefix, steps in (
        ("", playbook.steps),
        ("!on_failure/", playbook.on_failure.steps),
        ("!finally/", playbook.finally_),
    ):
        for step in steps:
            _check(step, prefix + step.id, problems, decided)


def children(step: Step) -> Iterator[Step]:
    """The steps of a step's body."""
    if isinstance(step, Choose):
        for branch in step.branches:
            yield from branch.steps
    elif not isinstance(step, Action | SubPlaybook):
        yield from step.steps


def inner(step: Step) -> Iterator[tuple[str, Step]]:
    """Every step inside a step, its own file's handlers included, with the rest of the path to it."""
    for suffix, steps in (
        ("", tuple(children(step))),
        ("!undo", step.undo.steps),
        ("!on_failure", step.on_failure.steps),
        ("!finally", step.finally_),
    ):
        for child in steps:
            yield f"{suffix}/{child.id}", child


def milestones(playbook: Playbook) -> set[str]:
    """The names of all milestones that a playbook can meet; those of a sub-playbook begin with its step's id."""
    found: set[str] = set()
    todo = [*playbook.steps, *playbook.on_failure.steps, *playbook.finally_]
    while todo:
        step = todo.pop()
        if step.milestone is not None:
            found.add(step.milestone)
        if isinstance(step, SubPlaybook):
            found |= {f"{step.id}.{name}" for name in milestones(step.playbook)}
        todo += [child for _, child in inner(step)]
    return found


def _check(step: Step, path: str, problems: Problems, decided: frozenset[str]) -> None:
    if step.background:
        _quiet(step, path, path, problems)
    if step.temporary:
        _returns(step, path, problems)
    if step.on_failure.undo:
        _undoable(step, path, f"`{step.id}`", problems, body=True)
    if isinstance(step, Action) and step.effect in QUIET | {"ask"} and step.undo.kind in ("steps", "again"):
        problems.add(
            step.place,
            f"{step.action} changes nothing: there is nothing to undo",
            f"{path}.undo",
            rule="undo",
            hint="leave `undo` out",
        )
    if not isinstance(step, Action) and step.undo.kind == "again":
        problems.add(
            step.place,
            "`undo: again` is for one action",
            f"{path}.undo",
            rule="undo",
            hint="say it at the actions inside, or `undo: {steps: [...]}` here",
        )
    if isinstance(step, Parallel | Fallback):
        _beside(step, path, problems)
    if isinstance(step, Fallback):
        for child in step.steps[:-1]:
            if child.id not in decided:
                _keeps(child, f"{path}/{child.id}", problems)
    for suffix, child in inner(step):
        _check(child, path + suffix, problems, decided)


def _beside(step: Parallel | Fallback, path: str, problems: Problems) -> None:
    """Only in a list of steps in order can one go on beside the others."""
    why = (
        ("a branch of `parallel` runs beside the others already", "leave it out, or put it before the `parallel`")
        if isinstance(step, Parallel)
        else ("the next alternative waits for how this one ends", "leave it out, or put it before the `fallback`")
    )
    for child in step.steps:
        if child.background:
            problems.add(
                child.place,
                f"`background: true` of `{child.id}`: {why[0]}",
                f"{path}/{child.id}.background",
                rule="background",
                hint=why[1],
            )


def _quiet(step: Step, path: str, top: str, problems: Problems) -> None:
    """Only reads, checks and notifications may run in the background."""
    for where, one in _everything(step, path):
        if isinstance(one, Action) and one.effect not in QUIET:
            message = f"{one.action} may not run in the background: it is of class {one.effect}"
            hint = f"`{top}` has `background: true`: only reads, checks and notifications may be inside"
            problems.add(one.place, message, where, rule="background", hint=hint)


def _everything(step: Step, path: str) -> Iterator[tuple[str, Step]]:
    yield path, step
    for suffix, child in inner(step):
        yield from _everything(child, path + suffix)
    if isinstance(step, SubPlaybook):
        book = step.playbook
        for child in (*book.steps, *book.on_failure.steps, *book.finally_):
            yield from _everything(child, f"{path}/{child.id}")


def _returns(step: Step, path: str, problems: Problems) -> None:
    """`temporary` needs a change that has an inverse."""
    if step.undo.kind == "none":
        problems.add(
            step.place,
            "`temporary: true` and `undo: none` contradict each other",
            f"{path}.temporary",
            rule="temporary",
            hint="leave one of the two out",
        )
        return
    changes = [
        one for _, one in _everything(step, path) if isinstance(one, Action) and one.effect in ("change", "opaque")
    ]
    if not changes and step.undo.kind != "steps":
        problems.add(
            step.place,
            "`temporary: true` where nothing is changed",
            f"{path}.temporary",
            rule="temporary",
            hint="it returns a change when the block ends",
        )
        return
    for where, one in _stuck(step, path):
        problems.add(
            one.place,
            f"`temporary: true`, and {_why(one)}",
            where,
            rule="temporary",
            hint="say how it is taken back: `undo: {steps: [...]}`",
        )


def _stuck(step: Step, path: str, *, body: bool = False) -> Iterator[tuple[str, Action]]:
    """The actions inside that no inverse brings back and that nobody has said `undo` about.

    `body`: without the step's own `on_failure` and `finally`, which run after its own undo.
    """
    if step.undo.kind in ("steps", "none") or (isinstance(step, Action) and step.undo.kind == "again"):
        return
    if isinstance(step, Action) and (step.effect == "opaque" or (step.irreversible and step.effect == "change")):
        yield path, step
    for suffix, child in inner(step):
        if not suffix.startswith("!undo") and not (body and suffix.startswith("!")):
            yield from _stuck(child, path + suffix)
    if isinstance(step, SubPlaybook):
        for child in (*step.playbook.steps, *step.playbook.on_failure.steps, *step.playbook.finally_):
            yield from _stuck(child, f"{path}/{child.id}")


def _why(step: Action) -> str:
    return (
        f"nothing brings back what {step.action} did"
        if step.irreversible
        else f"nobody knows what takes back {step.action}"
    )


def _undoable(step: Step, path: str, owner: str, problems: Problems, *, body: bool = False) -> None:
    """A block with `on_failure: undo` holds nothing that cannot be undone, unless the author says what to do about
    it.
    """
    for where, one in _stuck(step, path, body=body):
        hint = "give the step `undo: {steps: [...]}`, or accept it: `undo: none`"
        problems.add(one.place, f"{owner} is undone on failure, and {_why(one)}", where, rule="undo", hint=hint)


def _keeps(step: Step, path: str, problems: Problems) -> None:
    """An alternative that leaves its changes behind when it fails."""
    if step.undo.kind == "none" or (isinstance(step, SubPlaybook) and step.playbook.on_failure.undo):
        return
    if any(isinstance(one, Action) and one.effect in ("change", "opaque") for _, one in _everything(step, path)):
        message = f"if `{step.id}` fails, its changes stay when the next alternative starts"
        hint = "say `on_failure: undo`; or `on_failure: abort` if they are meant to stay"
        problems.add(step.place, message, path, rule="fallback", hint=hint, warning=True)
