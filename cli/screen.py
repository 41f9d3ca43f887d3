"""A run's tree as lines of text: the same for `show`, the live screen and its last picture."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.cli.terminal import STATUS_MARK, STATUS_STYLE, Terminal, cut
from runbook.runner.run_tree import StepView
from runbook.runner.view import RunView
from runbook.runner.wording import change_lines, clock, one_line, span, status_word, value, without_step

PHASES = {
    "undo": "undo",
    "finish": "clean-up that was left",
    "on_failure": "on failure",
    "temporary": "giving back what was temporary",
    "finally": "finally",
}
SHORT_NAME = 24  # characters of an object's name that are always left


def tree(view: RunView, terminal: Terminal, *, now: float | None = None, verbose: bool = False) -> Iterator[str]:
    """All steps, one line each; below a change its differences, below a failure its sentence."""
    for depth, step in view.walk():
        indent = "  " * depth
        yield indent + step_line(step, terminal, now)
        for line in _below(step, verbose):
            yield terminal.paint(
                fitted(f"{indent}    {line}", terminal.width), "dim" if step.status != "failed" else "red"
            )


def step_line(step: StepView, terminal: Terminal, now: float | None = None) -> str:
    """Mark, title, action, what became of it, how long it took."""
    status = "waiting" if step.status == "running" and step.waiting == "a person" else step.status
    mark = terminal.paint(STATUS_MARK.get(status, "·"), STATUS_STYLE.get(status, "dim"))
    words = [] if status in ("succeeded", "running", "pending") else [status_word(status)]
    if status == "waiting":
        words = ["waits for a person"]
    if step.tolerated and status != "succeeded":
        words.append("tolerated")
    if step.alternative and status in ("failed", "timed_out"):
        words.append("next one tried")
    if step.undone:
        words.append("undone")
    if step.attempts > 1 and not step.children:
        words.append(f"attempt {step.attempts}" if status == "running" else f"{step.attempts} attempts")
    if status == "succeeded" and any(c.effect == "change" and not c.changed for c in step.calls):
        words.append("already so")
    took = step.duration
    if took is None and step.started is not None and now is not None and step.ended is None:
        took = max(0.0, now - step.started)
    if took is not None and status != "skipped":
        words.append(clock(took) if status in ("running", "waiting") else span(took))
    action = terminal.paint(f"  {step.action}", "dim") if step.action else ""
    tail = terminal.paint(f"  {', '.join(words)}", STATUS_STYLE.get(status, "dim")) if words else ""
    return f"{mark} {title(step)}{action}{tail}"


def title(step: StepView) -> str:
    """What a step is called: a phase by its words, an iteration by its number, else its name, else its id."""
    if step.phase:
        return PHASES.get(step.phase, step.phase)
    if step.kind == "inverse":
        return one_line(step.name)
    if step.key.endswith("]"):
        return f"[{step.key.rpartition('[')[2]}" + (f" {one_line(step.name)}" if step.name else "")
    return one_line(step.name) or step.id


def said(step: StepView) -> str:
    """A failure's sentence in one line, without the name of the step that it stands beside."""
    return one_line(without_step(str((step.error or {}).get("message", "")), step.key, step.by))


def changed_lines(step: StepView) -> Iterator[str]:
    """The differences that a step made; of one that failed it is not sure that it made them."""
    for call in step.changes():
        sure = "" if call.status == "succeeded" else "perhaps "
        yield from (sure + line for line in change_lines(call.diff, call.before, call.after))


def _below(step: StepView, verbose: bool) -> Iterator[str]:
    yield from changed_lines(step)
    if step.error and not step.children and step.status not in ("succeeded", "skipped", "running"):
        yield said(step)
    for warning in step.warnings:
        if not said(step) or not one_line(warning).endswith(said(step)):
            yield f"warning: {one_line(warning)}"
    if verbose and step.outputs:
        yield from (f"{name} = {value(given, 300)}" for name, given in step.outputs.items())


def fitted(line: str, width: int) -> str:
    """A line below a step in `width`: of a difference the object's name gives way first, not what changed."""
    over = len(line) - width
    where, colon, change = line.partition(": ")
    name = where.lstrip()
    if over > 0 and colon and (" → " in change or change[:2] in ("+ ", "- ")) and len(name) > SHORT_NAME:
        kept = name[min(over + 1, len(name) - SHORT_NAME) :]
        line = f"{' ' * (len(where) - len(name))}…{kept}{colon}{change}"
    return cut(line, width)
