"""The report of a run: the same facts as data, as Markdown and as one HTML file without scripts.

Everything comes from the view of the journal, where secrets are masks already; text of the world is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runbook.runner import gantt, report_page
from runbook.runner.run_tree import CallView, StepView
from runbook.runner.view import RunView
from runbook.runner.wording import (
    change_lines,
    end_of,
    grouped,
    listed,
    moment,
    span,
    status_word,
    stop_reason,
    tame,
    unwired,
    value,
    without_step,
)

FORMATS = ("md", "html", "json")


def render(view: RunView, form: str) -> str:
    """The report as `html`, `json`, or (anything else) Markdown."""
    if form == "html":
        return to_html(view)
    if form == "json":
        return json.dumps(to_data(view), ensure_ascii=False, indent=2, default=str) + "\n"
    return to_markdown(view)


def to_data(view: RunView) -> dict[str, Any]:
    """Everything that the report says, as JSON. Times are ISO 8601 in UTC, durations seconds."""
    culprit = view.culprit()
    return {
        "run": view.id,
        "name": view.name,
        "file": view.file,
        "status": view.status,
        "exit": view.exit,
        "simulated": view.simulated,
        "initiator": unwired(view.initiator),
        "parent": view.parent,
        "trigger": unwired(view.trigger),
        "version": view.version,
        "started": moment(view.started),
        "ended": moment(view.ended),
        "elapsed": round(view.elapsed(), 3),
        "inputs": unwired(view.inputs),
        "outputs": unwired(view.outputs),
        "error": unwired(view.error),
        "culprit": culprit.key if culprit else None,
        "objectives": [_objective(entry) for entry in view.objectives],
        "milestones": [
            {"name": m.name, "step": m.step, "at": moment(m.wall), "taken_back": m.taken_back}
            for m in view.milestones.values()
        ],
        "steps": [_step(view, depth, step) for depth, step in view.walk()],
        "changes": [_change(view, call) for call in view.changes()],
        "left": [_change(view, call) for call in view.left()],
        "accepted": [
            {"step": told.step, "by": told.by, "at": moment(told.wall), "why": told.why}
            for told in view.accepted.values()
        ],
        "unfinished": unwired(view.unfinished),
        "warnings": [{"step": w.key, "message": w.message, "at": moment(w.wall)} for w in view.warnings],
        "notifications": [_notification(call) for call in view.calls.values() if call.effect == "notify"],
        "undelivered": unwired(view.lane_left),
        "artifacts": [
            {"step": call.op, **unwired(call.outputs)}
            for call in view.calls.values()
            if call.effect == "local" and call.status == "succeeded" and isinstance(call.outputs, Mapping)
        ],
        "people": [
            {
                "step": q.key,
                "kind": q.kind,
                "text": q.text,
                "status": q.status or "waiting",
                "answer": unwired(q.answer),
                "asked": moment(q.asked),
                "answered": moment(q.answered),
            }
            for q in view.questions.values()
        ],
        "stops": [{"box": box, "kind": kind, "why": why} for box, kind, why in view.stops],
        "resumed": len(view.resumed),
        "head": view.digest,
    }


def to_markdown(view: RunView) -> str:
    """The report as Markdown; tables hold no raw text of the world."""
    return "\n".join(_markdown(to_data(view))) + "\n"


def to_html(view: RunView) -> str:
    """The report as one file: no scripts, no links to elsewhere, everything escaped."""
    facts = to_data(view)
    return report_page.document(facts, gantt.svg(view), _blame(facts), _head(facts), _tables(facts))


# -- facts


def _objective(entry: Mapping[str, Any]) -> dict[str, Any]:
    since, at = entry.get("since"), entry.get("at")
    took = at - since if at is not None and since is not None else None
    return {
        "name": entry.get("name", ""),
        "within": entry.get("within"),
        "verdict": entry.get("verdict", "n/a"),
        "since": moment(since),
        "at": moment(at),
        "took": None if took is None else round(took, 3),
    }


def _step(view: RunView, depth: int, step: StepView) -> dict[str, Any]:
    begin = view.started or 0.0
    return {
        "key": step.key,
        "depth": depth,
        "id": step.phase or (step.name if step.kind == "inverse" else step.id),
        "kind": step.kind,
        "name": "" if step.kind in ("inverse", "phase") else step.name,
        "action": step.action,
        "status": step.status,
        "tolerated": step.tolerated,
        "by": step.by,
        "undone": step.undone,
        "attempts": 1 if step.children else step.attempts,
        "alternative": step.alternative,
        "after": None if step.started is None else round(step.started - begin, 3),
        "duration": None if step.duration is None or step.status == "skipped" else round(step.duration, 3),
        "error": unwired(step.error),
        "parts": len(step.children),
        "changed": any(call.changed for call in step.calls if not call.is_inverse),
    }


def _change(view: RunView, call: CallView) -> dict[str, Any]:
    told = view.accepted_of(call.op)
    return {
        "step": call.op,
        "action": call.action,
        "status": call.status,
        "undone": call.undone,
        "undo_error": call.undo_error,
        "accepted": None if told is None else told.by,
        "returned": call.returned,
        "irreversible": call.irreversible,
        "waived": view.waived(call),
        "diff": change_lines(call.diff, call.before, call.after),
    }


def _notification(call: CallView) -> dict[str, Any]:
    return {
        "step": call.op,
        "action": call.action,
        "status": call.status,
        "at": moment(call.ended),
        "error": unwired(call.error),
    }


def undo_word(change: Mapping[str, Any]) -> str:
    """What became of a change, in a word or two."""
    if change["undone"]:
        return "taken back"
    if change["undone"] is False:
        return "NOT taken back"
    if change["irreversible"]:
        return "stands, no undo for it"
    return "stands (`undo: none`)" if change["waived"] else "stands"


# -- the parts that both texts share: (title, header, rows)


def _head(facts: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["Run", facts["run"]],
        ["Playbook", facts["file"]],
        ["Started", f"{facts['started']} by {value(facts['initiator'])}"],
        ["Ended", facts["ended"] or "not yet"],
        ["Took", span(facts["elapsed"])],
        ["Exit code", "" if facts["exit"] is None else str(facts["exit"])],
        ["Changes", _changed(facts)],
        ["Inputs", ", ".join(f"{name}={value(given, 60)}" for name, given in (facts["inputs"] or {}).items())],
        ["Outputs", ", ".join(f"{name}={value(given, 60)}" for name, given in (facts["outputs"] or {}).items())],
        ["Called by", value(facts["parent"]) if facts["parent"] else ""],
        ["Trigger", value(facts["trigger"]) if facts["trigger"] else ""],
        ["Resumed", {0: "", 1: "once"}.get(facts["resumed"], f"{facts['resumed']} times")],
    ]
    return [row for row in rows if row[1]]


def _changed(facts: Mapping[str, Any]) -> str:
    """How much was changed, how much of it was taken back, and what is left where a run did not end well."""
    back = sum(bool(change["undone"] or change["returned"]) for change in facts["changes"])
    left = listed([change["step"] for change in facts["left"]]) or "nothing"
    taken = f", {back} taken back" if back else ""
    return f"{len(facts['changes'])} made{taken}" + (f"; left: {left}" if back or facts["exit"] else "")


def _tables(facts: Mapping[str, Any]) -> Iterator[report_page.Table]:
    yield (
        "Objectives",
        ("Objective", "Within", "Took", "Verdict"),
        [
            [o["name"], span(o["within"]), span(o["took"]), f"{o['verdict']} at {o['at']}" if o["at"] else _unmet(o)]
            for o in facts["objectives"]
        ],
    )
    yield (
        "Steps",
        ("Step", "Action", "Status", "After", "Took", "Attempts"),
        [_step_row(step) for step in facts["steps"]],
    )
    yield (
        "Changes",
        ("Step", "Action", "What", "Now"),
        [[c["step"], c["action"], "\n".join(c["diff"]) or "no preview", _now(c)] for c in facts["changes"]],
    )
    yield (
        "Left behind",
        ("Step", "Action", "Now"),
        [[c["step"], c["action"], _now(c)] for c in facts["left"]] if facts["exit"] else [],
    )
    yield (
        "Accepted as they are",
        ("Step", "By", "At", "Why"),
        [[a["step"], a["by"], a["at"], a["why"]] for a in facts["accepted"]],
    )
    yield "Open clean-up", ("What",), [[value(entry)] for entry in facts["unfinished"]]
    warned = grouped(f"{w['step']}: {w['message']}".removeprefix(": ") for w in facts["warnings"])
    yield "Warnings", ("Step", "Warning"), [[steps, sentence] for steps, sentence in warned]
    yield (
        "People",
        ("Step", "Question", "Answer"),
        [[q["step"], q["text"], _answer(q)] for q in facts["people"]],
    )
    yield (
        "Notifications",
        ("Step", "Action", "Status", "At"),
        [[n["step"], n["action"], status_word(n["status"]), n["at"]] for n in facts["notifications"]],
    )
    yield (
        "Artifacts",
        ("Step", "File", "SHA-256"),
        [[a["step"], str(a.get("path", "")), str(a.get("sha256", ""))] for a in facts["artifacts"]],
    )
    yield "Not delivered", ("Notification",), [[value(entry)] for entry in facts["undelivered"]]


def _unmet(objective: Mapping[str, Any]) -> str:
    """Why an objective that was not reached has its verdict."""
    if objective["verdict"] == "missed":
        return "missed, never reached"
    return "n/a, its step was skipped" if objective["since"] else "n/a, what it counts from did not happen"


def _step_row(step: Mapping[str, Any]) -> list[str]:
    status = ("" if step["status"] == "pending" else status_word(step["status"])) + (
        ", tolerated" if step["tolerated"] else ""
    )
    status += ", next one tried" if step["alternative"] and step["status"] in ("failed", "timed_out") else ""
    status += ", undone" if step["undone"] else ""
    if step["error"] and step["status"] not in ("succeeded", "skipped") and not step["parts"]:
        status += f": {value(without_step(str(step['error'].get('message', '')), step['key'], step['by']), 200)}"
    name = f"{'· ' * step['depth']}{step['id']}" + (f" ({value(step['name'], 60)})" if step["name"] else "")
    after = "" if step["after"] is None else span(step["after"])
    attempts = str(step["attempts"]) if step["attempts"] and step["attempts"] > 1 else ""
    return [name, step["action"] or step["kind"].replace("phase", ""), status, after, span(step["duration"]), attempts]


def _now(change: Mapping[str, Any]) -> str:
    if change["accepted"] is not None and not change["undone"]:
        return f"left as it is, accepted by {change['accepted']}"
    word = "given back" if change["returned"] else undo_word(change)
    if change["status"] != "succeeded" and word.startswith("stands"):
        return "perhaps done, perhaps in part"
    return f"{word}: {change['undo_error']}" if change["undo_error"] else word


def _answer(question: Mapping[str, Any]) -> str:
    if question["answer"] is None:
        return status_word(question["status"])
    return f"{status_word(question['status'])} at {question['answered']}: {value(question['answer'], 300)}"


def _blame(facts: Mapping[str, Any]) -> str:
    if not facts["error"]:
        return ""
    message = str(facts["error"].get("message", ""))
    stops = [stop for stop in facts["stops"] if str(stop["box"]).startswith("@run")]
    if facts["status"] == "cancelled" and stops:  # what was in flight is not to blame
        return stop_reason(str(stops[-1]["kind"]), str(stops[-1]["why"]))
    if not facts["culprit"]:
        return message
    by = next((step["by"] for step in facts["steps"] if step["key"] == facts["culprit"]), None)
    return f"{facts['culprit']}: {without_step(message, facts['culprit'], by)}"


# -- Markdown


def _markdown(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_cell(facts['name'])}: {status_word(end_of(facts['status'], facts['exit']))}"
    yield ""
    if facts["simulated"]:
        yield "> **SIMULATED.** This run was a rehearsal in a sandbox; nothing of it happened."
        yield ""
    if _blame(facts):
        yield f"**What happened:** {_cell(_blame(facts))}"
        yield ""
    yield from _markdown_table(("", ""), _head(facts))
    for title, header, rows in _tables(facts):
        if rows:
            yield f"## {title}"
            yield ""
            yield from _markdown_table(header, rows)
    yield "## Integrity"
    yield ""
    yield f"Journal head `{facts['head']}`. `runbook verify {facts['run']}` recomputes it from every record."


def _markdown_table(header: Sequence[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"
    yield ""


def _cell(text: str) -> str:
    """Text of the world in a Markdown table: no markup, no HTML, no new column; line ends become `<br>`."""
    shown = tame(text).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|#":
        shown = shown.replace(mark, f"\\{mark}")
    return "<br>".join(shown.splitlines())
