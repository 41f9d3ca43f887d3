"""The report as one page: no scripts, no links to elsewhere, everything of the world escaped; it can be printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from runbook.runner.wording import end_of, status_word, tame

Table = tuple[str, Sequence[str], list[list[str]]]
"""Title, header, rows."""

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;"
    "color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:.5em 0 1.5em;display:block;overflow-x:auto}"
    "td,th{border-bottom:1px solid #8885;padding:.25em .8em .25em 0;text-align:left;vertical-align:top;"
    "white-space:pre-wrap}td.long{overflow-wrap:anywhere;min-width:20em}th{font-weight:600}"
    ".simulated{background:#fff3cd;color:#222;border:2px solid #b8860b;padding:.6em 1em;font-weight:600}"
    ".what{border-left:4px solid #c62828;padding:.3em 1em;background:#c6282818;white-space:pre-wrap}"
    "code{overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181a1b}}"
    "@media print{body{max-width:none;margin:0;padding:0;font-size:11px}"
    "table{display:table;width:100%;overflow:visible}thead{display:table-header-group}"
    "td,th{padding-right:.5em}td.long{min-width:0}svg.page{max-height:88vh}"
    "tr,.what,.simulated{break-inside:avoid}h2{break-after:avoid}}"
)
LONG = 36  # characters of a word that may be broken; shorter ones keep their column wide enough


def document(facts: Mapping[str, Any], chart: str, blame: str, head: list[list[str]], tables: Iterable[Table]) -> str:
    """The whole file. `chart`: an SVG. `blame`: why the run did not end well. `head`, `tables`: what it says."""
    title = f"{facts['name']} · {status_word(end_of(facts['status'], facts['exit']))}"
    body = "\n".join(_body(facts, chart, blame, head, tables))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(
    facts: Mapping[str, Any], chart: str, blame: str, head: list[list[str]], tables: Iterable[Table]
) -> Iterator[str]:
    yield f"<h1>{_text(str(facts['name']))}: {_text(status_word(end_of(facts['status'], facts['exit'])))}</h1>"
    if facts["simulated"]:
        yield '<p class="simulated">SIMULATED. This run was a rehearsal in a sandbox; nothing of it happened.</p>'
    if blame:
        yield f'<p class="what">{_text(blame)}</p>'
    yield from _html_table((), head)
    yield "<h2>Time</h2>"
    yield chart
    for title, header, rows in tables:
        if rows:
            yield f"<h2>{_text(title)}</h2>"
            yield from _html_table(header, rows)
    yield "<h2>Integrity</h2>"
    yield (
        f"<p>Journal head <code>{_text(str(facts['head']))}</code>. "
        f"<code>runbook verify {_text(str(facts['run']))}</code> recomputes it from every record.</p>"
    )


def _text(text: str) -> str:
    """Text of the world in HTML: escaped, control characters visible."""
    return escape(tame(text))


def _html_table(header: Sequence[str], rows: list[list[str]]) -> Iterator[str]:
    yield "<table>"
    if header:
        yield "<thead><tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in header) + "</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{_class(cell)}>{_text(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table>"


def _class(cell: str) -> str:
    return ' class="long"' if any(len(word) > LONG for word in cell.split()) else ""
