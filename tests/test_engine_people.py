"""People, notifications, background steps and sub-playbooks. Times are virtual seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.interpreter.model import Input, OnFailure, Playbook, Retry, Undo
from runbook.interpreter.times import Duration
from tests.effects_toy import Toy, again
from tests.law import Case, everywhere
from tests.playbooks_toy import (
    CONTINUE,
    UNDO,
    act,
    block,
    book,
    engine,
    fail,
    fallback,
    foreach,
    get,
    parallel,
    play,
    put,
    run,
    sub,
    tell,
    wait,
)


def view(toy: Toy, step: str) -> dict[str, Any]:
    return dict(toy.engine.scope.at(0.0)["steps"][step])


def told(toy: Toy) -> list[str]:
    return [line for line in toy.done if " tell " in line]


# --- people

APPROVE = act("ok", "manual.approve", {"message": "go on?"})


def test_an_approval_goes_on_and_its_answer_is_the_steps_outputs() -> None:
    out, toy = play(book(APPROVE, put("a", "a")), answers={"ok": {"after": 5.0}})
    assert (out.status, toy.world, view(toy, "ok")["outputs"]["by"]) == ("succeeded", {"a": 1}, "ann")


def test_a_refusal_cancels_the_run_and_nothing_swallows_it() -> None:
    playbook = book(
        block(
            "b",
            put("a", "a"),
            fallback("f", APPROVE, put("other", "other")),
            on_failure=OnFailure(undo=True, then="continue"),
        ),
        put("never", "never"),
    )
    out, toy = play(playbook, answers={"ok": {"after": 5.0, "declines": True}})
    assert (out.status, out.by, toy.world) == ("cancelled", "@run", {"a": None})


def test_a_refusal_inside_a_handler_is_that_handlers_failure() -> None:
    out, _ = play(book(get("a", "k"), finally_=(APPROVE,)), answers={"ok": {"after": 5.0, "declines": True}})
    assert (out.status, out.kind, out.by) == ("failed", "failed", None)
    assert [fault.kind for fault in out.others] == ["declined"]


def test_at_its_timeout_a_choice_takes_its_default_and_an_approval_fails() -> None:
    choice = act(
        "pick", "manual.choose", {"message": "which?", "choices": {"a": "", "b": ""}, "default": "b"}, timeout=3.0
    )
    out, toy = play(book(choice))
    assert (out.status, view(toy, "pick")["outputs"]["choice"], out.at) == ("succeeded", "b", 3.0)
    late = act("ok", "manual.approve", {"message": "go on?"}, timeout=3.0)
    out, _ = play(book(late))
    assert (out.status, out.kind, out.path) == ("failed", "timed_out", "ok")


def test_in_doubt_a_person_decides() -> None:
    playbook = book(run("a", takes=5), put("b", "b"))
    first = Toy({}, crash_at=3)
    assert first.play(engine(playbook, first)) is None  # killed when its result should have been written
    assert first.world == {"ran": ("a#1",)}
    second = again(first)
    out = second.play(engine(playbook, second))
    assert (out.status, second.world) == ("succeeded", {"ran": ("a#1",), "b": 1})  # "done": not repeated


def test_interactive_asks_at_a_failure() -> None:
    playbook = book(put("a", "a"), fail("bad"), put("b", "b"))

    def answered(choice: str) -> tuple[str, dict[str, Any]]:
        out, toy = play(playbook, interactive=True, answers={"bad": {"after": 1.0, "choice": choice}})
        return out.status, toy.world

    assert answered("continue") == ("succeeded", {"a": 1, "b": 1})
    assert answered("abort") == ("failed", {"a": 1})
    assert answered("undo") == ("failed", {"a": None})


def test_interactive_retry_makes_new_attempts_under_new_keys() -> None:
    answers = {"bad#failure?": {"after": 1.0, "choice": "retry"}, "bad~1#failure?": {"after": 1.0, "choice": "abort"}}
    _, toy = play(book(fail("bad")), interactive=True, answers=answers)
    assert [call.key for call in toy.calls] == ["bad#1", "bad~1#1"]


# --- notifications


def test_a_notification_never_delays_and_never_fails_the_main_line() -> None:
    out, toy = play(book(tell("news", "hello", takes=5, fail="no route"), put("a", "a", takes=1)))
    assert (out.status, out.at, view(toy, "news")["status"]) == ("succeeded", 1.0, "failed")
    assert "no route" in toy.events("warning")["news"]["message"]


def test_a_lane_keeps_its_order_and_another_lane_does_not_wait() -> None:
    _, toy = play(book(tell("one", "1", takes=5), tell("two", "2", takes=1), tell("page", "!", takes=1, lane="pager")))
    assert told(toy) == ["1s tell !", "5s tell 1", "6s tell 2"]


def test_a_notification_has_two_attempts_of_its_own_time() -> None:
    hung = act("news", "toy.tell", {"text": "x", "hangs": True}, attempt=3.0, lane="a", retry=Retry(2, delay=1.0))
    _, toy = play(book(hung, tell("next", "2", takes=1, lane="a")))
    assert (view(toy, "news")["attempts"], told(toy)) == (2, ["8s tell 2"])


def test_the_first_template_that_names_a_notification_waits_for_it() -> None:
    out, toy = play(
        book(
            tell("news", "hello", takes=5),
            act("use", "flow.set", {"values": {"s": "{{ steps.news.status }}"}}),
            put("a", "a"),
        )
    )
    assert (view(toy, "use")["outputs"]["s"], toy.done[-1], out.status) == ("succeeded", "5s a=1", "succeeded")


def test_a_notification_that_names_another_waits_in_its_lane_not_in_the_main_line() -> None:
    thread = tell("more", "{{ steps.news.outputs.ts }}", lane="other")
    _, toy = play(book(tell("news", "hello", takes=5), thread, put("a", "a")))
    assert toy.done == ["0s a=1", "5s tell hello", "5s tell news"]


def test_undefined_values_in_a_notification_read_as_unknown() -> None:
    _, toy = play(book(get("x", "k", when="false"), tell("news", "slot {{ steps.x.outputs.slot }}")))
    assert told(toy) == ["0s tell slot <unknown: steps.x.outputs.slot>"]


def test_texts_say_how_things_were_when_the_step_came() -> None:
    _, toy = play(book(tell("one", "1", takes=5), tell("two", "{{ steps.later.status }}"), put("later", "x")))
    assert told(toy) == ["5s tell 1", "5s tell pending"]


def test_what_is_left_after_twenty_seconds_is_listed_and_does_not_change_the_outcome() -> None:
    slow = tell("slow", "slow", takes=60, attempt=100.0)
    out, toy = play(book(put("a", "a"), slow))
    assert (out.status, list(toy.events("lane.left")), toy.now) == ("succeeded", ["slow"], 20.0)


def test_a_milestone_of_a_notification_is_met_when_it_is_told() -> None:
    _, toy = play(book(tell("news", "hello", takes=5, milestone="notified"), put("a", "a")))
    assert toy.events("milestone")["news"]["wall"] == 1005.0


# --- background


def test_a_background_step_is_joined_by_the_first_template_that_names_it() -> None:
    use = act("use", "flow.set", {"values": {"v": "{{ steps.side.outputs.value }}"}})
    out, toy = play(book(get("side", "k", takes=5, background=True), put("a", "a"), use, put("b", "b")), {"k": 7})
    assert (view(toy, "use")["outputs"]["v"], toy.done, out.status) == (7, ["0s a=1", "5s b=1"], "succeeded")


def test_a_background_step_is_joined_at_its_blocks_end() -> None:
    out, toy = play(book(block("b", get("side", "k", takes=5, background=True), put("a", "a")), put("c", "c")))
    assert (out.status, toy.done) == ("succeeded", ["0s a=1", "5s c=1"])


def test_a_failed_background_step_fails_its_block_unless_it_continues() -> None:
    out, toy = play(book(fail("side", after=5, background=True), put("a", "a")))
    assert (out.status, out.path, toy.world) == ("failed", "side", {"a": 1})
    reader = act("use", "flow.set", {"values": {"v": "{{ steps.side.status }}"}})
    out, toy = play(book(block("b", fail("side", after=5, background=True), reader)))
    failures = view(toy, "b")["outputs"]["failures"]
    assert ([one["id"] for one in failures], view(toy, "use")["status"]) == (["side"], "pending")
    out, _ = play(book(fail("side", after=5, background=True, on_failure=CONTINUE), put("a", "a")))
    assert out.status == "succeeded"


def test_a_reader_deep_inside_joins_a_step_from_further_out() -> None:
    reader = foreach("each", [1], parallel("p", act("use", "flow.set", {"values": {"v": "{{ steps.side.status }}"}})))
    out, _ = play(book(get("side", "k", takes=5, background=True), reader))
    assert (out.status, out.at) == ("succeeded", 5.0)


def test_a_template_that_names_a_step_inside_a_background_block_joins_the_block() -> None:
    side = block("side", wait("nap", 5), get("inner", "k", when="steps.nap.status == 'succeeded'"), background=True)
    reader = act("use", "flow.set", {"values": {"v": "{{ steps.inner.outputs.value }}"}})
    out, toy = play(book(side, reader, put("a", "a")), {"k": 7})
    assert (out.status, view(toy, "use")["outputs"]["v"], toy.done) == ("succeeded", 7, ["5s a=1"])


@pytest.mark.parametrize(("own", "at"), [(0.5, 4.0), (9.0, 9.0)])
def test_a_step_in_two_background_blocks_joins_the_outer_one(own: float, at: float) -> None:
    """Whether the inner one has ended by then decides nothing: in a replay all are on their way at once."""
    inner = block("inner", get("late", "k", takes=1), background=True)
    outer = block("outer", inner, wait("own", own), background=True)
    reader = act("use", "flow.set", {"values": {"v": "{{ steps.late.status }}"}})
    playbook = book(outer, wait("nap", 4), reader)
    out, toy = play(playbook)
    assert (out.status, out.at, view(toy, "use")["outputs"]["v"]) == ("succeeded", at, "succeeded")
    everywhere(Case(playbook))
    failing = replace(inner, steps=(fail("late", after=1),))
    everywhere(Case(replace(playbook, steps=(replace(outer, steps=(failing, *outer.steps[1:])), *playbook.steps[1:]))))


# --- sub-playbooks


def called(**more: Any) -> Playbook:
    return book(
        put("set", "{{ inputs.key }}", "{{ inputs.wait }}"),
        name="called",
        inputs=(Input("key", "string"), Input("wait", "duration", required=False, default=Duration(60.0, "1m"))),
        outputs={
            "key": "{{ inputs.key }}",
            "run": "{{ run.name }} of {{ run.parent }}",
            "nothing": "{{ steps.set.outputs.x }}",
        },
        **more,
    )


def test_inputs_in_outputs_out() -> None:
    out, toy = play(book(sub("s", called(), {"key": "{{ 'k' ~ 1 }}"}, outputs={"again": "result.key"})))
    assert view(toy, "s")["outputs"] == {"key": "k1", "run": "called of toy", "nothing": None, "again": "k1"}
    assert (out.status, str(toy.world["k1"])) == ("succeeded", "1m")


def test_a_sub_playbook_inherits_nothing() -> None:
    inner = book(act("x", "flow.set", {"values": {"v": "{{ vars.outer }}"}}), name="called")
    out, _ = play(book(sub("s", inner), vars={"outer": 1}))
    assert (out.status, out.path) == ("failed", "s/x")


def test_wrong_inputs_fail_the_step() -> None:
    out, _ = play(book(sub("s", called(), {"other": 1})))
    assert (out.status, out.path) == ("failed", "s")


def test_outputs_come_out_after_a_failure_too() -> None:
    inner = book(get("a", "k"), fail("bad"), name="called", outputs={"v": "{{ steps.a.outputs.value }}"})
    out, toy = play(book(sub("s", inner, on_failure=CONTINUE)), {"k": 7})
    assert (out.status, view(toy, "s")["outputs"], view(toy, "s")["status"]) == ("succeeded", {"v": 7}, "failed")


def test_its_changes_belong_to_the_callers_undo() -> None:
    out, toy = play(book(block("b", sub("s", called(), {"key": "k"}), fail("bad"), on_failure=UNDO)))
    assert (out.status, toy.world) == ("failed", {"k": None})


def test_it_has_its_own_handlers_and_sees_how_it_was_ended() -> None:
    inner = book(
        wait("long", 60),
        name="called",
        on_failure=OnFailure(steps=(put("seen", "seen", "{{ failure.kind }}"),)),
        timeout=9.0,
    )
    own, toy = play(book(sub("s", inner)))
    assert (own.status, own.kind, own.by, toy.world) == ("failed", "timed_out", None, {"seen": "timed_out"})
    _, toy = play(book(sub("s", inner, timeout=4.0)))
    assert (toy.world, toy.now) == ({"seen": "timed_out"}, 4.0)
    out, toy = play(book(sub("s", inner)), cancels=(3.0,))
    assert (out.status, toy.world) == ("cancelled", {"seen": "cancelled"})


def test_milestones_inside_are_named_after_the_step() -> None:
    inner = book(get("a", "k", milestone="recovered"), name="called")
    _, toy = play(book(sub("s", inner)))
    assert [data["name"] for data in toy.events("milestone").values()] == ["s.recovered"]


# --- undo by the author


def test_undo_steps_of_the_author_see_the_scope_of_the_steps_end() -> None:
    back = Undo("steps", (put("back", "{{ steps.a.outputs.value }}", "{{ result.rc }}"),))
    out, toy = play(book(block("b", get("a", "k"), run("r", undo=back), fail("bad"), on_failure=UNDO)), {"k": "key"})
    assert (out.status, out.kind, toy.world["key"]) == ("failed", "failed", 0)


def test_undo_none_is_accepted_and_an_opaque_step_without_it_stops_an_undo() -> None:
    accepted = block("b", put("a", "a"), run("r", undo=Undo("none")), fail("bad"), on_failure=UNDO)
    assert play(book(accepted))[1].world["a"] is None
    stuck = block("b", put("a", "a"), run("r"), fail("bad"), on_failure=UNDO)
    out, toy = play(book(stuck))
    assert (toy.world["a"], [fault.message for fault in out.others]) == (
        1,
        ["undo: stopped at b/r: nothing takes toy.run back"],
    )
