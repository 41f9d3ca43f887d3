"""A plan as people read it: each fact once, and at its end, where it is agreed to, what it changes in short."""

from __future__ import annotations

from typing import Any

from runbook.runner.diff import Difference
from runbook.runner.plan import BEHIND, Plan, Row
from runbook.runner.plan_text import SCREEN, SHORT, render


def a_plan(rows: list[Row], **more: Any) -> Plan:
    return Plan(
        name="p",
        file="p.yaml",
        files={},
        inputs={},
        rows=tuple(rows),
        made=0.0,
        initiator="me",
        version="0",
        work_seconds=60.0,
        cleanup_seconds=None,
        **more,
    )


def change(number: int, **more: Any) -> Row:
    moved = (Difference(f"file:f{number}", ("mode",), "a", "b"), Difference(f"file:f{number}", ("owner",), "x", "y"))
    return Row(f"c{number}", f"c{number}", 0, "change", action="file.write", effect="change", diff=moved, **more)


def test_a_check_behind_a_change_says_so_in_its_own_line() -> None:
    rows = [
        change(1),
        Row("well", "well", 0, "yes", action="http.check", effect="check", detail=BEHIND),
        Row("ill", "ill", 0, "no", action="http.check", effect="check", detail=BEHIND),
        Row("gone", "gone", 0, "no", action="http.check", effect="check", detail="as of now: no route"),
    ]
    lines = render(a_plan(rows)).splitlines()
    assert "✓ well · http.check  holds now, before the planned changes" in lines
    ill = "? ill · http.check  does not hold now, before the planned changes; the run waits for it or fails"
    assert lines[lines.index(ill) + 1].startswith("? gone"), "no line of its own"
    assert "    as of now: no route" in lines


def test_a_long_plan_ends_with_what_it_changes_in_short() -> None:
    reads = [Row(f"r{number}", f"r{number}", 0, "read", action="k8s.get") for number in range(SCREEN)]
    opaque = Row("run", "run", 0, "opaque", action="shell.run", effect="opaque", maybe=True)
    lines = render(a_plan([*reads, change(1), opaque])).splitlines()
    short = lines[lines.index("In short:") :]
    assert short[1:4] == ["  ~ f1.mode: a → b  (and 1 more)", "  ! only if needed: run · shell.run", ""]
    assert "In short:" not in render(a_plan([change(1), opaque])), "a plan that is seen whole says it once"
    assert "In short:" not in render(a_plan(reads)), "nothing is changed"
    many = render(a_plan([*reads, *(change(number) for number in range(SHORT + 3))])).splitlines()
    assert "  … and 3 more" in many


def test_what_cannot_be_previewed_says_whether_it_can_be_undone() -> None:
    for undo, words in (
        ("no", "CANNOT BE UNDONE"),
        ("none", "no undo, accepted"),
        ("author", "undo by its own steps"),
    ):
        row = Row("run", "run", 0, "opaque", action="shell.run", effect="opaque", undo=undo)
        assert f"! run · shell.run  cannot be previewed; {words}" in render(a_plan([row])).splitlines()


def test_one_lack_is_one_line_whatever_steps_it_concerns() -> None:
    missing = tuple(f"s{number}: helm is not on PATH" for number in range(5))
    lines = render(a_plan([change(1)], missing=missing, warnings=("a: slow", "b: slow"))).splitlines()
    assert "missing: s0, s1, s2 and 2 more: helm is not on PATH" in lines
    assert "warning: a, b: slow" in lines
