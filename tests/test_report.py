"""The view is a fold, and the report says what the journal says: escaped, complete, golden."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.runner import gantt, report
from runbook.runner.journal import Event
from runbook.runner.run_tree import parent_of, step_of
from runbook.runner.view import RunView, fold
from runbook.runner.wording import change_lines, clock, span, tame, value

START = 1_763_766_000.0  # 2025-11-21 23:00:00Z
EVIL = '<script>alert("x")</script>&| `code` \x1b[31m *bold* \n# head'


def events(*made: tuple[str, str, dict[str, Any], float]) -> list[Event]:
    """(kind, key, data, seconds after the start) -> numbered events."""
    return [
        Event(number, kind, key, data, at, START + at, f"{number:064x}")
        for number, (kind, key, data, at) in enumerate(made, 1)
    ]


def a_failed_run(text: str = "HTTP 500") -> list[Event]:
    """A change that worked, one that failed, an undo, a notification, a question, a warning, two objectives."""
    error = {"message": text, "kind": "permanent", "temporary": False, "attempt": 1, "hint": "look at the server"}
    begun = {
        "run": "20251121-230000-rollback-abc",
        "name": "rollback",
        "file": "playbooks/rollback.yaml",
        "inputs": {"environment": "production", "note": text},
        "initiator": "ada",
        "version": "0.1.0",
        "simulated": True,
    }
    change = {
        "action": "k8s.patch",
        "effect": "change",
        "args": {"name": "web"},
        "before": {"k8s:prod/web": {"spec": {"selector": {"color": "green"}}}},
        "after": {"k8s:prod/web": {"spec": {"selector": {"color": "blue"}}}},
    }
    ended = {"tolerated": False, "outputs": {}, "attempts": 1, "error": None}
    return events(
        ("run.begun", "", begun, 0.0),
        ("locked", "!locks", {"names": ["rollback/production"], "tokens": {"rollback/production": 3}}, 0.1),
        ("step.started", "traffic", {"id": "traffic", "kind": "block", "name": "Move traffic"}, 0.2),
        ("step.started", "traffic/switch", {"id": "switch", "kind": "action", "action": "k8s.patch"}, 0.3),
        ("call.intent", "traffic/switch#1", change, 0.4),
        ("call.result", "traffic/switch#1", {"status": "succeeded", "changed": True, "outputs": {}}, 1.4),
        ("step.ended", "traffic/switch", {**ended, "id": "switch", "status": "succeeded", "duration": 1.1}, 1.4),
        ("milestone", "switched", {"name": "switched", "step": "traffic/switch", "wall": START + 1.4}, 1.4),
        ("step.started", "traffic/each[0]/probe", {"id": "probe", "kind": "action", "action": "http.check"}, 1.5),
        (
            "call.result",
            "traffic/each[0]/probe#1",
            {"status": "failed", "error": error, "action": "http.check", "effect": "check"},
            2.0,
        ),
        (
            "step.ended",
            "traffic/each[0]/probe",
            {**ended, "id": "probe", "status": "failed", "error": error, "duration": 0.5},
            2.0,
        ),
        ("warning", "tell", {"message": text}, 2.1),
        ("asked", "agree#1", {"kind": "approve", "text": text, "options": {"by": 1}, "step": "agree"}, 2.2),
        ("answered", "agree#1", {"status": "succeeded", "outputs": {"by": ["ada"], "comment": text}}, 2.4),
        (
            "call.result",
            "tell#1",
            {"status": "failed", "error": error, "action": "slack.post", "effect": "notify"},
            2.5,
        ),
        ("step.started", "traffic!undo", {"id": "undo", "kind": "phase", "name": "undo"}, 2.6),
        ("step.started", "traffic!undo[6]", {"id": "traffic/switch", "kind": "inverse", "action": "k8s.patch"}, 2.6),
        ("call.intent", "traffic!undo[6]", {**change, "undoes": 6}, 2.7),
        ("call.result", "traffic!undo[6]", {"status": "succeeded", "changed": True}, 3.0),
        ("step.ended", "traffic!undo", {"id": "undo", "kind": "phase", "status": "succeeded", "duration": 0.4}, 3.0),
        ("undone", "traffic/switch", {"seq": 6, "ok": True}, 3.0),
        ("milestone.taken_back", "switched", {"name": "switched", "step": "traffic/switch"}, 3.0),
        ("step.ended", "traffic", {**ended, "id": "traffic", "status": "failed", "error": error, "duration": 2.9}, 3.1),
        ("unlocked", "!locks", {"names": ["rollback/production"]}, 3.2),
        (
            "run.ended",
            "",
            {
                "status": "failed",
                "exit": 1,
                "error": error,
                "outputs": {},
                "objectives": [
                    {"name": "recovered", "within": 900.0, "since": START, "at": None, "verdict": "missed"},
                    {"name": "told", "within": 2.0, "since": START, "at": START + 1.0, "verdict": "met"},
                ],
            },
            3.2,
        ),
    )


def test_the_view_of_a_failed_run() -> None:
    view = fold(a_failed_run())
    assert (view.id, view.status, view.exit, view.simulated) == ("20251121-230000-rollback-abc", "failed", 1, True)
    assert view.elapsed() == pytest.approx(3.2)
    culprit = view.culprit()
    assert culprit is not None
    assert culprit.key == "traffic/each[0]/probe"
    assert [call.op for call in view.changes()] == ["traffic/switch"]
    assert view.left() == []
    assert view.steps["traffic/switch"].undone
    assert view.milestones["switched"].taken_back
    assert view.open_questions() == []
    assert view.locks == {}
    assert [(depth, step.key) for depth, step in view.walk()][:4] == [
        (0, "traffic"),
        (1, "traffic/switch"),
        (1, "traffic/each"),
        (2, "traffic/each[0]"),
    ]


def test_a_resumed_run_is_running_again() -> None:
    waits = events(("waiting", "", {"questions": [{"kind": "approve"}]}, 8.0))
    view = fold(a_failed_run()[:-1] + waits)
    assert (view.status, view.exit) == ("waiting", 5)
    fold(events(("resumed", "", {"pid": 7}, 9.0)), view)
    assert (view.status, view.exit, view.ended) == ("running", None, None)


def test_an_undo_after_the_end_is_a_round_of_its_own() -> None:
    later = events(
        ("resumed", "", {}, 9.0),
        ("undo.begun", "1", {}, 9.0),
        ("undo.ended", "1", {"status": "succeeded", "exit": 0}, 9.5),
    )
    view = fold(a_failed_run() + later)
    assert (view.status, view.exit) == ("failed", 1)
    assert view.last_round is not None
    assert (view.last_round.what, view.last_round.status, view.last_round.exit) == ("undo", "succeeded", 0)


def test_passing_events_leave_no_trace() -> None:
    before = fold(a_failed_run())
    after = fold([Event(0, "log", "traffic/switch#1", {"text": "x"}, 9, START + 99)], fold(a_failed_run()))
    assert snapshot(after) == snapshot(before)


def snapshot(view: RunView) -> Any:
    return json.loads(json.dumps(report.to_data(view), default=str)), view.seq, view.digest


@given(st.integers(min_value=0, max_value=len(a_failed_run())))
def test_folding_a_prefix_then_the_rest_is_folding_everything(cut: int) -> None:
    everything = a_failed_run()
    assert snapshot(fold(everything[cut:], fold(everything[:cut]))) == snapshot(fold(everything))


KINDS = [
    "step.started",
    "step.ended",
    "call.intent",
    "call.result",
    "undone",
    "asked",
    "answered",
    "warning",
    "milestone",
    "unheard.of",
]
KEYS = ["", "a", "a/b", "a/b#1", "a/b#2", "a[0]/c", "a!undo", "a!undo[3]", "!finally/x", "a/b~1#1"]


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(KEYS), st.sampled_from(["succeeded", "failed", "skipped"]))
    ),
    st.data(),
)
def test_any_sequence_of_events_folds_and_reports(made: list[tuple[str, str, str]], data: st.DataObject) -> None:
    """Half a journal, or one of a newer version, is shown as far as it goes: never an exception."""
    everything = events(
        *((kind, key, {"status": status, "id": key}, float(i)) for i, (kind, key, status) in enumerate(made))
    )
    cut = data.draw(st.integers(0, len(everything)))
    view = fold(everything[cut:], fold(everything[:cut]))
    assert snapshot(view) == snapshot(fold(everything))
    for form in report.FORMATS:
        assert report.render(view, form)


def test_keys_nest() -> None:
    assert parent_of("a/b[2]/c") == "a/b[2]"
    assert parent_of("a/b[2]") == "a/b"
    assert parent_of("deploy!undo[17]") == "deploy!undo"
    assert parent_of("deploy!finally/tell") == "deploy!finally"
    assert parent_of("!finally") == ""
    assert parent_of("a") == ""
    assert parent_of("") is None
    assert [step_of(key) for key in ("a/b#1", "a/b~1#2", "a/b#1?", "a/b#failure?", "a/b#1+", "x[0]#1")] == [
        "a/b",
        "a/b",
        "a/b",
        "a/b",
        "a/b",
        "x[0]",
    ]


class Text(HTMLParser):
    """Collects tags and text, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


GOLDEN = Path(__file__).parent / "golden" / "report.md"

TAGS = "html head meta title style body h1 h2 p table tr td th code svg rect text line circle thead tbody"
ALLOWED = set(TAGS.split())


def strings(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for inner in data.values():
            yield from strings(inner)
    elif isinstance(data, list):
        for inner in data:
            yield from strings(inner)
    elif isinstance(data, str):
        yield data


@given(st.one_of(st.just(EVIL), st.text(st.characters())))
def test_html_holds_text_and_never_markup_of_the_world(text: str) -> None:
    page = report.to_html(fold(a_failed_run(text)))
    parser = Text()
    parser.feed(page)
    assert set(parser.tags) <= ALLOWED
    assert "<script" not in page.lower()
    assert not {name for name in parser.attributes if name.startswith("on") or name in ("href", "src", "style")}
    page.encode()  # lone surrogates of a broken output do not keep the report from being written


def test_every_text_of_the_world_goes_through_one_place_to_the_page() -> None:
    """All strings of an evil run: none of the raw ones is in the HTML or between the bars of the Markdown."""
    journal = a_failed_run(EVIL)
    for event in journal:  # every name of the playbook is evil too
        for name in ("id", "name", "action", "initiator"):
            if name in event.data and name != "id":
                event.data[name] = EVIL  # type: ignore[index]
    view = fold(journal)
    assert "<script" not in report.to_html(view)
    markdown = report.to_markdown(view)
    assert "<script" not in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 7), line
    assert EVIL in list(strings(report.to_data(view)))


def test_a_printed_page_cuts_nothing_off_and_repeats_the_heads_of_tables() -> None:
    page = report.to_html(fold(a_failed_run()))
    printed = page.partition("@media print")[2].partition("</style>")[0]
    assert "overflow:visible" in printed, "a table that scrolls on a screen would be cut off on paper"
    assert page.count("<thead>") == page.count("<h2>") - 2, "each table with a heading; Time and Integrity have none"
    assert 'class="page"' in gantt.svg(fold(a_failed_run())), "on one page"


def test_the_chart_is_well_formed_and_says_everything() -> None:
    root = ET.fromstring(gantt.svg(fold(a_failed_run(EVIL.replace("\x1b", "")))))
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert {"recovered", "told", "probe", "switch", "missed", "met", "undo"} <= set(texts)
    for rect in (node for node in root.iter() if node.tag.endswith("rect")):
        assert float(rect.attrib["width"]) >= 2
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= gantt.WIDTH


def test_a_chart_of_many_steps_says_what_it_left_out() -> None:
    many = events(
        ("run.begun", "", {"run": "r", "name": "many"}, 0.0),
        *(("step.started", f"s{i}", {"id": f"s{i}", "kind": "action"}, i / 100) for i in range(gantt.ROWS + 7)),
    )
    assert "and 7 more steps" in gantt.svg(fold(many))


def test_an_empty_run_has_a_report() -> None:
    for form in report.FORMATS:
        assert report.render(RunView(), form)


def test_the_markdown_report_is_golden() -> None:
    assert report.to_markdown(fold(a_failed_run())) == GOLDEN.read_text(encoding="utf-8")


def test_times_and_values_as_people_write_them() -> None:
    assert [span(s) for s in (None, 0.042, 3.21, 59.96, 65, 3600 * 2 + 180)] == [
        "",
        "42ms",
        "3.2s",
        "1m",
        "1m05s",
        "2h03m",
    ]
    assert [clock(s) for s in (0, 42, 725, 3723)] == ["0:00", "0:42", "12:05", "1:02:03"]
    assert value({"a": [1, True, None, "x"]}) == '{"a": [1, true, null, "x"]}'
    assert value("a\nb\x1b[31m", 20) == "a\\nb\\x1b[31m"
    assert value("x" * 50, 10) == "xxxxxxxxx…"
    assert tame("a\x1b[2Jb\n") == "a\\x1b[2Jb\n"


def test_a_sealed_value_prints_as_its_mask() -> None:
    sealed = {"$sealed": [["ref", "token", "env", "TOKEN"]]}
    assert value(sealed) == "‹secret:token›"
    assert value({"password": sealed}) == '{"password": "‹secret:token›"}'


def test_changes_are_shown_leaf_by_leaf() -> None:
    assert change_lines(None, {"o": {"a": 1, "b": 2}}, {"o": {"a": 1, "b": 3, "c": None}}) == [
        "o.b: 2 → 3",
        "o.c: + null",
    ]
    file = {"file:/etc/a.conf": {"content": "1", "sha256": "6b86", "size": 1}}
    assert change_lines(None, {"file:/etc/a.conf": {"mode": "0644"}}, file) == [
        "/etc/a.conf.mode: - 0644",
        "/etc/a.conf.content: + 1",  # its digest and its size say nothing more
    ]
    assert change_lines("-a\n+b") == ["-a", "+b"]


def a_change(key: str, status: str, at: float) -> list[tuple[str, str, dict[str, Any], float]]:
    """One attempt of a change: its intent and its result."""
    made = {"action": "file.write", "effect": "change", "op": key.partition("#")[0], "changed": True, "status": status}
    intent = {**made, "before": {"file:/a": {"mode": "0600"}}, "after": {"file:/a": {"mode": "0644"}}}
    return [("call.intent", key, intent, at), ("call.result", key, made, at + 0.1)]


BEGUN = ("run.begun", "", {"run": "r", "name": "n", "file": "n.yaml", "inputs": {}}, 0.0)


def test_attempts_of_one_change_are_told_and_taken_back_as_one() -> None:
    made = [BEGUN, *a_change("a#1", "failed", 1.0), *a_change("a#2", "succeeded", 2.0)]
    view = fold(events(*made))
    assert [call.key for call in view.changes()] == ["a#2"]
    assert [call.key for call in view.left()] == ["a#2"]
    assert [call.key for call in view.steps["a"].changes()] == ["a#2"]
    view = fold(events(*made, ("undone", "a", {"seq": 3, "ok": True}, 3.0)))  # the undo names the first attempt
    assert view.left() == []
    assert [call.key for call in view.undone()] == ["a#2"]


def test_what_was_temporary_is_not_left_behind_once_it_was_given_back() -> None:
    back = {"action": "file.revert", "effect": "change", "op": "!temporary[3]", "undoes": 3, "status": "succeeded"}
    made = [BEGUN, *a_change("a#1", "succeeded", 1.0), ("call.result", "!temporary[3]#1", back, 2.0)]
    view = fold(events(*made))
    assert view.left() == []
    assert report.to_data(view)["changes"][0]["returned"] is True
    assert "given back" in report.to_markdown(view)
    view = fold(events(*made, ("undone", "!temporary[3]", {"seq": 4, "ok": True}, 3.0)))
    assert [call.op for call in view.left()] == ["a"]  # an undo put it there again, to take it back at its place


def test_a_refused_run_is_not_called_failed_and_a_cancelled_one_says_why() -> None:
    ended = {"status": "failed", "exit": 3, "error": {"message": "lock x is held"}}
    assert "# n: refused" in report.to_markdown(fold(events(BEGUN, ("run.ended", "", ended, 1.0))))
    ended = {"status": "cancelled", "exit": 4, "error": {"message": "cancelled"}}
    stop = ("stop", "@run", {"kind": "cancelled", "why": "wrong region"}, 0.5)
    assert "cancelled: wrong region" in report.to_markdown(fold(events(BEGUN, stop, ("run.ended", "", ended, 1.0))))


def test_rounds_and_cut_phases_end_with_the_run() -> None:
    made: list[tuple[str, str, dict[str, Any], float]] = [
        BEGUN,
        ("step.started", "!on_failure", {"id": "on_failure", "kind": "phase"}, 1.0),
        ("step.ended", "!on_failure/tell", {"id": "tell", "kind": "action", "status": "cancelled"}, 2.0),
        ("run.ended", "", {"status": "cancelled", "exit": 4}, 3.0),
    ]
    assert fold(events(*made)).steps["!on_failure"].status == "cancelled"
