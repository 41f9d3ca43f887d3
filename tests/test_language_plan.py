"""What a plan shows and holds a run to, with the toys' world (docs/language.md: What a run promises, 4)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner import planning
from runbook.runner.plan import Plan
from tests.language import HEAD, Room
from tests.runner_toys import steps


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.at(tmp_path)


def planned(room: Room, text: str) -> Plan:
    return planning.make(room.load(HEAD + text), {}, world=room.around)


def shown(plan: Plan) -> list[str]:
    """`key verdict`, and `?` where it is not known whether it runs."""
    return [f"{row.key} {row.verdict}{'?' if row.maybe else ''}" for row in plan.rows if row.verdict != "block"]


SET = "{id: set, action: toy.set, with: {name: x, value: new}}"
LOOK = "{id: look, action: toy.get, with: {name: x}}"  # behind `set` it reads what the change would alter
ONE = "{id: one, action: toy.note, undo: none, with: {name: one}}"
TWO = "{id: two, action: toy.note, undo: none, with: {name: two}}"

# name: steps, what the plan shows
SHOWS: dict[str, tuple[str, list[str]]] = {
    "a change, what is already so, a read, what is opaque": (
        f"{SET}, {{id: same, action: toy.set, with: {{name: y, value: old}}}}, {{id: r, action: toy.get}}, {ONE}",
        ["set change", "same same", "r read", "one opaque"],
    ),
    "what `when` skips": (f"{{id: s, when: 1 == 2, steps: [{ONE}]}}, {TWO}", ["s skip", "two opaque"]),
    "when of something unknown: maybe": (
        f"{SET}, {LOOK}, {{id: one, when: steps.look.outputs.value == 'new', action: toy.note, undo: none}}, {TWO}",
        ["set change", "look read", "one opaque?", "two opaque"],
    ),
    "choose shows the branches that may hold": (
        f"{SET}, {LOOK}, {{id: c, choose: [{{when: steps.look.outputs.value == 'new', steps: [{ONE}]}}, {{steps: [{TWO}]}}]}}",
        ["set change", "look read", "c/one opaque?", "c/two opaque?"],
    ),
    "a fallback shows what may be needed: after the first maybe": (
        f"{{id: f, fallback: [{ONE}, {TWO}]}}",
        ["f/one opaque", "f/two opaque?"],
    ),
    "foreach over something unknown shows its body once": (
        f"{SET}, {LOOK}, {{id: e, foreach: {{items: '{{{{ steps.look.outputs.value }}}}', as: i}}, steps: [{ONE}]}}",
        ["set change", "look read", "e[0]/one opaque?"],
    ),
    "foreach over a list shows each": (
        f"{{id: e, foreach: {{items: [1, 2], as: i}}, steps: [{ONE}]}}",
        ["e[0]/one opaque", "e[1]/one opaque"],
    ),
    "a check is tried once and its no does not end the plan": (
        f"{{id: c, action: flow.assert, with: {{that: false, message: no}}}}, {ONE}",
        ["c no", "one opaque"],
    ),
    "waits and people do not hold it": (
        f"{{id: w, action: flow.wait, with: {{for: 1h}}}}, {{id: a, action: manual.approve, with: {{message: m}}}}, {ONE}",
        ["w wait", "a ask", "one opaque"],
    ),
    "the author's word makes an opaque step a read": (
        '{id: r, action: shell.run, effect: read, with: {command: "echo 1"}}',
        ["r read"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWS)
def test_a_plan_shows(name: str, room: Room) -> None:
    room.put("x", "old")
    room.put("y", "old")
    text, rows = SHOWS[name]
    plan = planned(room, f"steps: [{text}]\n")
    assert shown(plan)[: len(rows)] == rows
    assert (room.value("x"), room.value("y")) == ("old", "old")
    assert [line for line in room.log() if not line.startswith("get")] == []  # nothing outside was changed


def test_a_plan_says_how_far_undo_reaches_and_how_long_it_takes(room: Room) -> None:
    plan = planned(
        room,
        f"steps: [{SET}, {ONE}, {{id: r, action: toy.restart, with: {{name: w}}}}, {{id: n, action: toy.note, with: {{name: n}}}}, {{id: w, action: flow.wait, with: {{for: 7s}}}}]\n",
    )
    undo = {row.key: row.undo for row in plan.rows if row.undo}
    assert undo == {"set": "yes", "one": "none", "r": "again", "n": "no"}
    assert plan.work_seconds is not None
    assert plan.work_seconds >= 4 * 300 + 7


def test_a_plan_without_unknowns_is_what_the_run_then_does(room: Room) -> None:
    text = f"steps: [{SET}, {{id: s, when: 1 == 2, action: toy.get}}, {{id: e, foreach: {{items: [1, 2], as: i}}, steps: [{ONE}]}}]\n"
    plan = planned(room, text)
    played = room.played(text)
    calls = [event.key.partition("#")[0] for event in played.all("call.intent")]
    assert [row.key for row in plan.rows if row.effectful] == calls


def test_apply_makes_only_calls_that_the_plan_holds(room: Room) -> None:
    text = f"steps: [{LOOK}, {{id: one, when: steps.look.outputs.value == 'old', action: toy.note, undo: none, with: {{name: one}}}}, {{id: two, when: steps.look.outputs.value != 'old', action: toy.note, undo: none, with: {{name: two}}}}]\n"
    room.put("x", "old")
    loaded = room.load(HEAD + text)
    plan = planning.make(loaded, {}, world=room.around)
    room.put("x", "other")  # now the run would take the other way
    ended = planning.apply(plan.to_json(), loaded, world=room.around)
    assert steps(room.events(ended))["two"] == "failed"
    assert "done two" not in room.log()


def test_apply_refuses_an_object_that_moved(room: Room) -> None:
    room.put("x", "old")
    loaded = room.load(f"{HEAD}steps: [{SET}]\n")
    plan = planning.make(loaded, {}, world=room.around)
    room.put("x", "theirs")
    assert planning.apply(plan.to_json(), loaded, world=room.around).exit == Exit.REFUSED
    assert room.value("x") == "theirs"
