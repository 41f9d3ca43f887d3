"""The steps and the objectives of a run against time, as one SVG without scripts or links: it shows offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from runbook.interpreter.frozen import frozen
from runbook.runner.run_tree import StepView
from runbook.runner.view import RunView
from runbook.runner.wording import clock, one_line, span, status_word

LABELS = 300  # px, the column of names
WIDTH = 1100
MARGIN = 110  # px, room for the words after the last bar
ROW = 20
ROWS = 400  # more would make a browser crawl; what is left out is said
PAGE = 100  # rows that can still be read on one printed page
TICKS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)

COLOURS: Mapping[str, str] = {
    "succeeded": "#2e7d32",
    "failed": "#c62828",
    "timed_out": "#c62828",
    "in_doubt": "#ad1457",
    "cancelled": "#6a6a6a",
    "declined": "#6a6a6a",
    "skipped": "#bdbdbd",
    "running": "#1565c0",
    "pending": "#bdbdbd",
}


@frozen
class _Axis:
    """Time to pixels. `begin` and `end` are Unix times; what lies beyond the end is drawn at the edge."""

    begin: float
    end: float

    @property
    def total(self) -> float:
        return max(0.001, self.end - self.begin)

    def x(self, wall: float) -> float:
        share = min(max(0.0, (wall - self.begin) / self.total), 1.0)
        return LABELS + share * (WIDTH - LABELS - MARGIN)


def svg(view: RunView) -> str:
    """The chart: a row for each objective, then a row for each step that began, in the order of the tree.

    The axis is the run's own time: an objective of an hour must not squeeze a run of ten seconds into a hair.
    """
    begin = view.started or 0.0
    axis = _Axis(begin, begin + view.elapsed())
    rows = [(depth, step) for depth, step in view.walk() if step.started is not None]
    left_out = len(rows) - ROWS
    height = ROW * (len(view.objectives) + min(len(rows), ROWS) + 2 + (left_out > 0))
    page = 'class="page" ' if len(rows) <= PAGE else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
        f'{page}aria-label="Steps and objectives against time" font-family="system-ui, sans-serif" font-size="12">',
        *_ticks(axis, height),
    ]
    top = ROW
    for entry in view.objectives:
        parts += _objective(entry, axis, top)
        top += ROW
    for depth, step in rows[:ROWS]:
        parts += _bar(depth, step, axis, top)
        top += ROW
    if left_out > 0:
        parts.append(f'<text x="8" y="{top + 14}" fill="currentColor">… and {left_out} more steps</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _ticks(axis: _Axis, height: int) -> Iterator[str]:
    every = next((tick for tick in TICKS if axis.total / tick <= 10), axis.total / 10)
    for index in range(int(axis.total / every) + 1):
        x = axis.x(axis.begin + index * every)
        text = span(index * every) if 0 < every < 1 else clock(index * every)
        yield f'<line x1="{x:.1f}" y1="{ROW}" x2="{x:.1f}" y2="{height}" stroke="#888" stroke-opacity="0.3"/>'
        yield f'<text x="{x:.1f}" y="14" fill="currentColor" fill-opacity="0.7" text-anchor="middle">{text}</text>'


def _objective(entry: Mapping[str, Any], axis: _Axis, top: int) -> Iterator[str]:
    name, verdict = str(entry.get("name", "")), str(entry.get("verdict", ""))
    since, at = entry.get("since"), entry.get("at")
    begin = axis.begin if since is None else float(since)
    within = float(entry.get("within") or 0.0)
    colour = {"met": "#2e7d32", "missed": "#c62828"}.get(verdict, "#9e9e9e")
    x, width = axis.x(begin), max(2.0, axis.x(begin + within) - axis.x(begin))
    said = f"{name}: within {span(within)}, {verdict}"
    yield f'<text x="8" y="{top + 14}" fill="currentColor" font-weight="bold">{_label(name, 0)}</text>'
    yield (
        f'<rect x="{x:.1f}" y="{top + 5}" width="{width:.1f}" height="10" fill="none" stroke="{colour}" '
        f'stroke-dasharray="4 2"><title>{escape(one_line(said))}</title></rect>'
    )
    if at is not None:
        yield f'<circle cx="{axis.x(at):.1f}" cy="{top + 10}" r="5" fill="{colour}"/>'
    yield f'<text x="{x + width + 8:.1f}" y="{top + 14}" fill="{colour}">{escape(one_line(verdict))}</text>'


def _bar(depth: int, step: StepView, axis: _Axis, top: int) -> Iterator[str]:
    started = step.started or axis.begin
    ended = step.ended if step.ended is not None else axis.end
    x, width = axis.x(started), max(2.0, axis.x(ended) - axis.x(started))
    colour = COLOURS.get(step.status, "#9e9e9e")
    shade = ' fill-opacity="0.35"' if step.children else ""
    took = step.duration if step.duration is not None else ended - started
    title = f"{step.key}: {status_word(step.status)}, {span(took)}" + (", undone" if step.undone else "")
    yield f'<text x="{8 + 12 * min(depth, 12)}" y="{top + 14}" fill="currentColor">{_label(_name(step), depth)}</text>'
    yield (
        f'<rect x="{x:.1f}" y="{top + 4}" width="{width:.1f}" height="12" rx="2" fill="{colour}"{shade}>'
        f"<title>{escape(one_line(title))}</title></rect>"
    )
    mark = span(took) if step.status == "succeeded" else status_word(step.status)
    mark += ", undone" if step.undone else ""
    yield f'<text x="{x + width + 5:.1f}" y="{top + 14}" fill="currentColor" fill-opacity="0.7">{escape(mark)}</text>'


def _name(step: StepView) -> str:
    """A row's name: an iteration with its item, an inverse with what it takes back, else the id."""
    if step.kind == "inverse":
        return f"take back {step.id.removeprefix(step.key.rpartition('!')[0] + '/')}"
    if step.key.endswith("]") and not step.phase:
        return f"[{step.id}] {step.name}"
    return step.phase.replace("_", " ") or step.id


def _label(text: str, depth: int) -> str:
    room = max(8, 40 - 2 * depth)
    text = one_line(text)
    return escape(text if len(text) <= room else text[: room - 1] + "…")
