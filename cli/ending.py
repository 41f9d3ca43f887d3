"""How a run's end is told: what happened, where, what was undone, what is left, and the command that goes on."""

from __future__ import annotations

import click

from runbook.cli.terminal import Terminal
from runbook.interpreter.errors import Exit, InvalidError, RunbookError
from runbook.runner.run_tree import StepView
from runbook.runner.view import RunView
from runbook.runner.wording import moment, one_line, span, status_word, tame, value

GOES_ON = frozenset({Exit.WAITING, Exit.IN_DOUBT})
MANY = 8  # rows of one list; what is more is counted


def show_error(error: RunbookError, terminal: Terminal) -> None:
    """An expected end without a run behind it: the sentence and the hint, on stderr."""
    click.echo(f"{terminal.paint('runbook:', 'red')} {tame(error.message)}", err=True)
    if isinstance(error, InvalidError):
        for problem in error.problems:
            click.echo(f"  {problem.place}: {problem.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def lines(view: RunView, terminal: Terminal, place: str = "", report: str = "") -> list[str]:
    """The last lines of a run. `place`: file:line of the step to blame, `report`: a report's path."""
    status = _status(view)
    took = span(view.elapsed())
    simulated = terminal.paint("  SIMULATED", "yellow") if view.simulated else ""
    head = f"{terminal.status(status, f'{view.name} {status_word(status)}')} after {took}{simulated}"
    rows = [*_objectives(view, terminal)]
    if view.exit not in (None, int(Exit.SUCCEEDED)):
        rows += _what(view, place)
        rows += _undone(view)
        rows += _left(view)
    rows += _warnings(view)
    rows += _undelivered(view)
    if view.exit == 0 and view.outputs:
        rows += [
            ("Outputs" if i == 0 else "", f"{k} = {value(v, 200)}") for i, (k, v) in enumerate(view.outputs.items())
        ]
    if report:
        rows.append(("Report", report))
    rows += _next(view)
    return ["", head, *(f"  {terminal.paint(f'{label:<10}', 'bold')}{text}".rstrip() for label, text in rows)]


def _status(view: RunView) -> str:
    if view.exit == int(Exit.WAITING):
        return "waiting"
    if view.exit == int(Exit.IN_DOUBT):
        return "in_doubt"
    return view.status


def _objectives(view: RunView, terminal: Terminal) -> list[tuple[str, str]]:
    rows = []
    for entry in view.objectives:
        verdict = str(entry.get("verdict", "n/a"))
        style = {"met": "green", "missed": "red"}.get(verdict, "dim")
        at, since = entry.get("at"), entry.get("since")
        took = f" after {span(at - since)}" if at is not None and since is not None else ""
        text = f"{entry.get('name', '')}: {terminal.paint(verdict, style)}{took} (within {span(entry.get('within'))})"
        rows.append(("Objective" if not rows else "", text))
    return rows


def _what(view: RunView, place: str) -> list[tuple[str, str]]:
    culprit = view.culprit()
    error = (culprit.error if culprit is not None and culprit.error else None) or view.error or {}
    message = tame(str(error.get("message") or _reason(view)))
    first, *more = message.splitlines() or [""]
    rows = [("What", first), *(("", line) for line in more[:MANY])]
    if len(more) > MANY:
        rows.append(("", f"… {len(more) - MANY} more lines: runbook logs {view.id}"))
    if error.get("hint"):
        rows.append(("", one_line(str(error["hint"]))))
    where = _where(culprit, place)
    if where:
        rows.append(("Where", where))
    return rows


def _reason(view: RunView) -> str:
    if view.open_questions():
        return "a person is asked: " + view.open_questions()[0].text
    if view.stops:
        _, kind, why = view.stops[-1]
        return why or status_word(kind)
    return status_word(view.status)


def _where(culprit: StepView | None, place: str) -> str:
    if culprit is None:
        return place
    parts = [culprit.key, place, culprit.action]
    if culprit.attempts > 1:
        parts.append(f"{culprit.attempts} attempts")
    return " · ".join(part for part in parts if part)


def _undone(view: RunView) -> list[tuple[str, str]]:
    undone = [call for call in view.calls.values() if call.undone]
    if not undone:
        return [("Undone", "nothing")] if view.changes() else []
    return _list("Undone", [f"{call.op} ({call.action})" for call in undone])


def _left(view: RunView) -> list[tuple[str, str]]:
    rows = []
    for call in view.left():
        state = "stands" if call.status == "succeeded" else f"{status_word(call.status)}, may have happened"
        why = f": {one_line(call.undo_error)}" if call.undo_error else ", no undo for it" if call.irreversible else ""
        rows.append(f"{call.op} ({call.action}) {state}{why}")
    if not rows and not view.unfinished:
        return [("Left", "nothing: no change of this run stands" if view.changes() else "nothing: no change was made")]
    return [*_list("Left", rows), *_list("Clean-up", [value(entry, 160) for entry in view.unfinished])]


def _warnings(view: RunView) -> list[tuple[str, str]]:
    return _list(
        "Warning" if len(view.warnings) == 1 else "Warnings",
        [
            f"{warning.key}: {one_line(warning.message)}" if warning.key else one_line(warning.message)
            for warning in view.warnings
        ],
    )


def _undelivered(view: RunView) -> list[tuple[str, str]]:
    return _list("Not told", [f"{entry.get('key', '')}: not delivered when the run ended" for entry in view.lane_left])


def _next(view: RunView) -> list[tuple[str, str]]:
    run = view.id
    if view.exit == int(Exit.WAITING):
        return [
            ("Next", f"runbook answer {run} {question_name(q.key)} {_choices(q.kind)}") for q in view.open_questions()
        ]
    if view.exit == int(Exit.IN_DOUBT):
        return [("Next", f"look at it, then: runbook resume {run} --in-doubt done|repeat|fail")]
    if view.unfinished:
        return [("Next", f"runbook resume {run}   (finishes the clean-up that is left)")]
    if view.exit in (None, int(Exit.SUCCEEDED)):
        return [("Next", f"runbook show {run}")] if view.exit is not None else [("Next", f"runbook resume {run}")]
    rows = []
    if any(call.status == "succeeded" for call in view.left()):
        rows.append(("Next", f"runbook undo {run}   (takes back what stands)"))
    rows.append(("Next" if not rows else "", f"runbook report {run}   (everything that happened)"))
    return rows


def question_name(key: str) -> str:
    """The step's key as `runbook answer` takes it."""
    return key.partition("#")[0]


def _choices(kind: str) -> str:
    words = {
        "approve": "yes|no",
        "checklist": "",
        "in_doubt": "done|repeat|fail",
        "failure": "retry|continue|undo|abort",
    }
    return words.get(kind, "CHOICE")


def _list(label: str, entries: list[str]) -> list[tuple[str, str]]:
    rows = [(label if i == 0 else "", entry) for i, entry in enumerate(entries[:MANY])]
    if len(entries) > MANY:
        rows.append(("", f"… and {len(entries) - MANY} more"))
    return rows


def opening(view: RunView) -> str:
    """The first line of a run."""
    return f"{view.name}  run {view.id}  started {moment(view.started)} by {value(view.initiator)}"
