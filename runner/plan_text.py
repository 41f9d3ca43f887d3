"""A plan for people: one line a step, the differences below the changes, what is missing last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runbook.runner.plan import BEHIND, Plan, Row
from runbook.runner.wording import difference_lines, one_line, span, together, value

MARKS = {
    "change": ("~", "yellow"),
    "same": ("=", "green"),
    "read": ("·", "dim"),
    "yes": ("✓", "green"),
    "no": ("?", "yellow"),
    "skip": ("-", "dim"),
    "opaque": ("!", "magenta"),
    "notify": ("»", "blue"),
    "ask": ("☐", "cyan"),
    "wait": ("…", "dim"),
    "local": ("·", "dim"),
    "block": ("▸", "bold"),
    "failed": ("✗", "red"),
    "forbidden": ("✗", "red"),
}
STYLES = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
WORDS = {
    "same": "already so",
    "read": "read",
    "yes": "holds now",
    "no": "does not hold now; the run waits for it or fails",
    "opaque": "cannot be previewed",
    "notify": "tells people, never blocks",
    "ask": "asks a person",
    "local": "writes into the run's folder",
    "failed": "would fail",
    "forbidden": "not allowed",
}
BEFORE = {
    "read": "read, before the planned changes",
    "yes": "holds now, before the planned changes",
    "no": "does not hold now, before the planned changes; the run waits for it or fails",
}
"""Of what was looked at behind a planned change."""
TAKEN_BACK = {
    "again": "undo repeats it",
    "author": "undo by its own steps",
    "none": "no undo, accepted",
    "no": "CANNOT BE UNDONE",
}
WIDTH = 100
SCREEN = 40
"""Lines of a plan of which the end is not all that is seen: what it changes is said again there, in short."""
SHORT = 15
"""Lines of that."""


def render(plan: Plan, *, color: bool = False) -> str:
    """The whole plan as text, ending in a newline."""
    lines = [_painted(f"Plan of {plan.name}", "bold", color) + (" — SIMULATED world" if plan.simulated else "")]
    lines += _inputs(plan)
    lines.append("")
    for group in _groups(plan.rows):
        lines += _skipped(group, color) if group[0].verdict == "skip" else _row(group[0], color)
    if len(lines) > SCREEN:
        lines += _in_short(plan.rows, color)
    lines += ["", *_summary(plan, color)]
    return "\n".join(lines) + "\n"


def _inputs(plan: Plan) -> list[str]:
    return [f"  {name} = {value(given, WIDTH)}" for name, given in plan.inputs.items()]


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows one by one; skipped neighbours together, without what lies below them and without their idle handlers."""
    group: list[Row] = []
    below: str | None = None
    for row in rows:
        if below is not None and row.key.startswith((f"{below}/", f"{below}!", f"{below}[")):
            continue
        below = row.key if row.verdict == "skip" else None
        if row.verdict == "skip" and group and group[0].depth == row.depth:
            group.append(row)
            continue
        if group:
            yield group
        group = [row]
        if row.verdict != "skip":
            yield group
            group = []
    if group:
        yield group


def _skipped(group: Sequence[Row], color: bool) -> Iterator[str]:
    names = [row.name or row.id for row in group if row.kind != "phase"]
    if names:
        yield _painted(f"{'  ' * group[0].depth}- skipped: {', '.join(names)}", "dim", color)


def _row(row: Row, color: bool) -> Iterator[str]:
    mark, style = MARKS[row.verdict]
    indent = "  " * row.depth
    words = _words(row)
    title = row.name or row.id
    action = f" {row.action}" if row.action else ""
    maybe = "maybe: " if row.maybe and row.verdict not in ("block", "skip") else "maybe " if row.maybe else ""
    yield (
        f"{indent}{_painted(mark, style, color)} {maybe}"
        + _painted(title, "bold" if row.verdict == "block" else "", color)
        + _painted(f" ·{action}" if action else "", "dim", color)
        + (f"  {_painted(words, style, color)}" if words else "")
    )
    pad = indent + "    "
    for line in difference_lines(row.diff, WIDTH):
        yield pad + _painted(line, "yellow", color)
    if row.detail and row.detail != BEHIND:
        yield from (pad + one_line(line) for line in row.detail.splitlines())
    if row.error:
        yield pad + _painted(one_line(row.error), "red", color)
    if row.hint:
        yield pad + one_line(row.hint)


def _words(row: Row) -> str:
    words = BEFORE if row.detail == BEHIND and row.verdict in BEFORE else WORDS
    parts = [words.get(row.verdict, "")]
    if row.verdict == "wait":
        parts = [f"waits {span(row.seconds)}"]
    if row.verdict in ("change", "opaque"):
        parts.append(TAKEN_BACK.get(row.undo, ""))
        parts.append(f"computed here, not by the server: {row.computed}" if row.computed else "")
    if row.tolerated and row.verdict in ("failed", "forbidden"):
        parts = [f"{parts[0]} now, which does not end the run"]
    return "; ".join(part for part in parts if part)


def _in_short(rows: Sequence[Row], color: bool) -> Iterator[str]:
    """What a long plan changes, a line each: it is read, and agreed to, at the plan's end."""
    changes = [row for row in rows if row.verdict in ("change", "opaque")]
    if changes:
        yield from ("", _painted("In short:", "bold", color))
    for row in changes[:SHORT]:
        mark, style = MARKS[row.verdict]
        first, *more = difference_lines(row.diff, WIDTH) or [f"{row.key} · {row.action}"]
        maybe = "only if needed: " if row.maybe else ""
        rest = f"  (and {len(more)} more)" if more else ""
        yield f"  {_painted(mark, style, color)} {maybe}{first}{rest}"
    if len(changes) > SHORT:
        yield f"  … and {len(changes) - SHORT} more"


def _summary(plan: Plan, color: bool) -> Iterator[str]:
    changes = plan.changes
    sure = [row for row in changes if not row.maybe]
    maybe = len(changes) - len(sure)
    counts = [
        f"{len(sure)} change{'' if len(sure) == 1 else 's'}" + (f" (and {maybe} only if needed)" if maybe else "")
    ]
    for verdict, one, many in (
        ("same", "already so", "already so"),
        ("opaque", "not previewable", "not previewable"),
        ("notify", "message", "messages"),
    ):
        number = sum(1 for row in plan.rows if row.verdict == verdict)
        if number:
            counts.append(f"{number} {one if number == 1 else many}")
    yield _painted("Plan: ", "bold", color) + ", ".join(counts) + ". Nothing was changed."
    stuck = [row for row in changes if row.undo == "no"] + [
        row for row in plan.rows if row.verdict == "opaque" and row.undo in ("", "no", "unknown")
    ]
    if changes:
        yield "Undo: " + (
            "every change has its inverse."
            if not stuck
            else "NOT for " + ", ".join(row.key for row in stuck) + "; the rest has its inverse."
        )
    if plan.work_seconds is not None:
        cleanup = f", clean-up at most {span(plan.cleanup_seconds)} more" if plan.cleanup_seconds else ""
        yield f"Time: at most {span(plan.work_seconds)} of work{cleanup}."
    if plan.locks:
        yield f"Locks: {', '.join(plan.locks)}{_where(plan)}."
    for warning in together(plan.warnings):
        yield _painted(f"warning: {warning}", "yellow", color)
    for sentence in together(plan.missing):
        yield _painted(f"missing: {sentence}", "red", color)
    if plan.outcome != "succeeded":
        yield _painted(f"As things are now the run would end {plan.outcome}: {plan.error}", "red", color)


def _where(plan: Plan) -> str:
    place = plan.options.get("locks")
    return f", kept in {place}" if place else ""


def _painted(text: str, style: str, color: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if color and style and text else text
