"""What a plan shows and holds a run to, with the toys' world (docs/language.md: What a run promises, 4)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

import re
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


def applied(room: Room, text: str) -> dict[str, str]:
    """A plan made, saved and applied by somebody else: path -> status, or why it was refused."""
    loaded = room.load(HEAD + text)
    plan = planning.make(loaded, {}, world=room.around, initiator="eve")
    ended = planning.apply(plan.to_json(), loaded, world=room.around)
    return {
        event.key: error["message"]
        if (error := event.data["error"] or {}).get("kind") == "refused"
        else event.data["status"]
        for event in room.events(ended)
        if event.kind == "step.ended" and event.data["kind"] == "action"
    }


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
    "and nobody knows there which iteration it is": (
        f"{SET}, {LOOK}, {{id: e, foreach: {{items: '{{{{ steps.look.outputs.value }}}}', as: i}}, steps: [{{id: one, when: not loop.first, action: toy.note}}]}}",
        ["set change", "look read", "e[0]/one opaque?"],
    ),
    "a lock whose name is not known yet is no mistake": (
        f"{SET}, {LOOK}, {{id: one, locks: ['{{{{ steps.look.outputs.value }}}}'], action: toy.note}}",
        ["set change", "look read", "one opaque"],
    ),
    "how a step ends whose failure is put up with": (
        "{id: a, on_failure: continue, action: toy.note}, {id: b, when: steps.a.status == 'failed', action: toy.note}, {id: c, when: steps.a.error is none, action: toy.note}",
        ["a opaque", "b opaque?", "c opaque?"],
    ),
    "what is in a block whose failure is put up with": (
        "{id: k, on_failure: continue, steps: [{id: a, action: toy.note}]}, {id: b, when: steps.a.status == 'failed', action: toy.note}",
        ["k/a opaque", "b opaque?"],
    ),
    "but a step that must succeed has succeeded for those after it": (
        "{id: a, action: toy.note}, {id: b, when: steps.a.status == 'failed', action: toy.note}, {id: c, when: steps.a.error is none, action: toy.note}",
        ["a opaque", "b skip", "c opaque"],
    ),
    "and a read is as it is now": (
        "{id: a, on_failure: continue, action: toy.get}, {id: b, when: steps.a.status == 'failed', action: toy.note}",
        ["a read", "b skip"],
    ),
    "how many fail with keep_going": (
        "{id: e, keep_going: 1, foreach: {items: [1], as: i}, steps: [{id: a, action: toy.note}]}, {id: b, when: steps.e.outputs.failed > 0, action: toy.note}, {id: c, when: \"steps.e.outputs.results[0].status == 'failed'\", action: toy.note}, {id: d, when: steps.e.outputs.total == 1, action: toy.note}",
        ["e[0]/a opaque", "b opaque?", "c opaque?", "d opaque"],
    ),
    "which alternative failed": (
        f"{{id: f, fallback: [{ONE}, {TWO}]}}, {{id: b, when: steps.one.status == 'failed', action: toy.note}}",
        ["f/one opaque", "f/two opaque?", "b opaque?"],
    ),
    "whether a message arrived": (
        "{id: t, action: toy.tell}, {id: b, when: steps.t.status == 'failed', action: toy.note}",
        ["t notify", "b opaque?"],
    ),
    "times, and who runs it": (
        "{id: a, when: run.initiator == 'eve', action: toy.note}, {id: b, when: run.elapsed < 1, action: toy.note}, {id: c, when: steps.b.duration > 5, action: toy.note}",
        ["a opaque?", "b opaque?", "c opaque?"],
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


def test_what_only_the_run_knows_reads_likely_in_a_plan_and_agrees_with_the_run(room: Room) -> None:
    """Its id, its times, who starts it, how its steps end: the plan of one is applied by another."""
    text = "{{ run.id }} {{ run.initiator }} {{ run.elapsed }} {{ run.started_at | strftime('%Y') }} {{ steps.one.status }} {{ steps.one.duration }} {{ steps.one.started_at }} {{ steps.one.attempts }}"
    playbook = f"""
steps:
  - {{id: one, action: toy.note, undo: none, on_failure: continue, with: {{name: one, seconds: 0.05}}}}
  - {{id: name, action: toy.set, with: {{name: x, value: "by {{{{ run.id }}}}"}}}}
  - {{id: told, action: toy.tell, with: {{name: "{text}"}}}}
"""
    plan = planning.make(room.load(HEAD + playbook), {}, world=room.around, initiator="eve")
    change = plan.row("name")
    assert change is not None
    assert (change.verdict, [one.to_data()["after"] for one in change.diff]) == ("change", ["by plan"])
    assert applied(room, playbook) == {"one": "succeeded", "name": "succeeded", "told": "succeeded"}
    (value,) = [line.removeprefix("done x=by ") for line in room.log() if line.startswith("done x=")]
    assert f"tell {value} " in "\n".join(room.log())


# name: playbook, what apply then does, by step
CLEAN_UP: dict[str, tuple[str, dict[str, str]]] = {
    "finally, which asks how it went": (
        "steps: [{id: a, action: toy.note, undo: none, with: {fail: broken}}]\nfinally: {steps: [{id: f, when: failure.kind != 'none', action: toy.note, with: {name: '{{ failure.path }}'}}, {id: g, when: steps.a.status == 'failed', action: toy.note}, {id: h, when: steps.a.status == 'succeeded', action: toy.note}]}",
        {"a": "failed", "!finally/f": "succeeded", "!finally/g": "succeeded", "!finally/h": "skipped"},
    ),
    "what follows a failure that is put up with": (
        "steps: [{id: a, action: toy.note, undo: none, on_failure: continue, with: {fail: broken}}, {id: b, when: steps.a.status == 'failed', action: toy.note}]",
        {"a": "failed", "b": "succeeded"},
    ),
    "the author's undo steps": (
        "on_failure: {undo: true}\nsteps: [{id: a, action: toy.note, undo: {steps: [{id: back, action: toy.note, with: {name: back}}]}}, {id: b, action: toy.note, undo: none, with: {fail: broken}}]",
        {"a": "succeeded", "b": "failed", "!undo[N]/back": "succeeded"},
    ),
    "and those of a temporary change": (
        "steps: [{id: k, steps: [{id: a, temporary: true, action: toy.note, undo: {steps: [{id: back, action: toy.note, with: {name: back}}]}}]}]",
        {"k/a": "succeeded", "k!temporary[N]/back": "succeeded"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN_UP)
def test_a_saved_plan_never_stands_in_the_way_of_clean_up(name: str, room: Room) -> None:
    text, done = CLEAN_UP[name]
    assert {re.sub(r"(!\w+)\[\d+\]", r"\1[N]", key): status for key, status in applied(room, text).items()} == done


def test_of_an_unknown_number_of_iterations_inside_known_ones_the_plan_holds_the_first_of_each(room: Room) -> None:
    """The first outer one needs nothing: its row in the plan is no row for the second's."""
    inner = f"{{id: e, foreach: {{items: '{{{{ steps.look.outputs.value | list }}}}', as: i}}, steps: [{ONE}]}}"
    text = f"steps: [{SET}, {LOOK}, {{id: o, foreach: {{items: [1, 2], as: n}}, steps: [{{id: k, when: n > 1, steps: [{inner}]}}]}}]"
    assert set(applied(room, text).values()) == {"succeeded"}
    assert room.log().count("done one") == 3


def test_a_called_playbook_whose_inputs_are_not_known_yet_is_planned_all_the_same(room: Room) -> None:
    """Its time, its locks, its vars and where its secrets are hang from what an earlier step will return."""
    called = """
runbook: 1
name: called
inputs: {name: {type: string}, names: {type: list, items: {type: string}}, limit: {type: duration}}
timeout: "{{ inputs.limit }}"
locks: ["l/{{ inputs.name }}"]
vars: {loud: "{{ inputs.name | upper }}", many: "{{ inputs.names | length }}"}
secrets:
  a: {env: "{{ inputs.name }}"}
  b: {file: "/nowhere/{{ vars.loud }}", optional: true}
  c: {k8s: {namespace: "{{ inputs.name }}", secret: s, key: k}}
steps:
  - {id: told, action: toy.note, with: {name: told, text: "{{ secrets.a }}{{ secrets.c }}"}}
  - {id: also, when: secrets.b is defined, action: toy.note, with: {text: "{{ secrets.b }}"}}
  - {id: each, when: vars.many == 1, foreach: {items: "{{ inputs.names }}", as: one}, steps: [{id: it, action: toy.note, with: {name: "{{ one }}"}}]}
outputs: {name: "{{ inputs.name }}"}
"""
    one = "{{ steps.one.outputs.name }}"
    text = f"steps: [{ONE}, {{id: s, playbook: called.yaml, with: {{name: '{one}', names: ['{one}'], limit: '{one}'}}}}, {{id: t, when: steps.s.outputs.name == 'x', action: toy.note}}]\n"
    plan = planning.make(room.load(HEAD + text, called_yaml=called), {}, world=room.around)
    assert (plan.outcome, plan.missing) == ("succeeded", ())
    assert shown(plan) == ["one opaque", "s/told opaque", "s/also opaque?", "s/each[0]/it opaque", "t opaque?"]
