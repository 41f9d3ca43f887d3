"""Locks, doubts and bounds of the engine that other files take for granted. Times are virtual seconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runbook.interpreter.effects import Box, Fault
from runbook.interpreter.engine import Outcome
from runbook.interpreter.model import Input, OnFailure, Playbook, Retry, Undo
from tests.effects_toy import Toy, again
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
    template,
    wait,
)


def error_of(out: Outcome) -> str:
    assert out.error is not None
    return out.error.message


# --- boxes


def test_the_outermost_box_decides() -> None:
    outer = Box("outer", None, due=5.0)
    inner = Box("inner", outer, due=3.0)
    assert inner.verdict(2.0) is None
    assert inner.verdict(4.0) == ("timed_out", "inner")
    assert inner.verdict(6.0) == ("timed_out", "outer")
    outer.stopped = "cancelled"
    assert inner.verdict(2.0) == ("cancelled", "outer")
    assert inner.deadline() == 3.0


def test_a_run_that_is_cancelled_before_it_begins_does_nothing() -> None:
    toy = Toy({})
    made = engine(book(put("a", "a"), finally_=(put("f", "f"),)), toy)
    made.work.stopped = "cancelled"
    out = toy.play(made)
    assert (out.status, out.by, toy.done) == ("cancelled", "@run", [])


def test_a_time_box_may_be_a_template_and_must_be_a_duration() -> None:
    out, _ = play(book(block("b", wait("nap", 60), timeout=template("{{ inputs.limit }}"))), inputs={"limit": "4s"})
    assert (out.kind, out.at) == ("timed_out", 4.0)
    out, _ = play(book(block("b", wait("nap", 60), timeout=template("{{ inputs.limit }}"))), inputs={"limit": "soon"})
    assert "not a duration" in error_of(out)


@pytest.mark.parametrize("wrong", ["{{ [] }}", "{{ -1 }}", "{{ true }}"])
def test_what_is_no_duration_fails_the_step(wrong: str) -> None:
    out, _ = play(book(block("b", wait("nap", 60), timeout=template(wrong))))
    assert (out.status, "duration" in error_of(out)) == ("failed", True)


def test_no_step_is_to_blame_when_a_box_ended() -> None:
    seen = OnFailure(
        steps=(put("s", "s", "{{ failure.kind }}|{{ failure.step }}|{{ failure.path }}|{{ failure.error.message }}"),)
    )
    _, toy = play(book(block("b", wait("nap", 60), timeout=2.0, on_failure=seen)))
    assert toy.world["s"] == "timed_out|||b was not done in its time of 2s"
    _, toy = play(book(wait("nap", 60), on_failure=seen), cancels=(3.0,))
    assert toy.world["s"].startswith("cancelled|||")
    _, toy = play(book(wait("nap", 60), on_failure=seen, timeout=5.0))
    assert toy.world["s"] == "timed_out|||toy was not done in its time of 5s"


@pytest.mark.parametrize("wrong", [0, "two", True])
def test_max_concurrent_is_a_whole_number_from_one(wrong: Any) -> None:
    out, _ = play(book(foreach("each", [1], get("a", "k"), max_concurrent=template(f"{{{{ {wrong!r} }}}}"))))
    assert "max_concurrent" in error_of(out)


@pytest.mark.parametrize("wrong", ["many", "-3", [1]])
def test_keep_going_is_true_a_number_or_a_percentage(wrong: Any) -> None:
    out, _ = play(book(block("b", get("a", "k"), keep_going=wrong if isinstance(wrong, str) else template(wrong))))
    assert "keep_going" in error_of(out)


# --- locks


def test_a_lock_is_waited_for_up_to_the_steps_time() -> None:
    holder = block("holder", wait("nap", 9), locks=["{{ steps.name.outputs.n }}"])
    waiter = put("waiter", "w", 1, locks=["{{ steps.name.outputs.n }}"])
    waiter = dataclasses.replace(waiter, timeout=3.0)
    name = act("name", "flow.set", {"values": {"n": "one"}})
    out, toy = play(book(name, parallel("p", holder, waiter)))
    assert (out.kind, out.path, out.at, toy.world) == ("timed_out", "p/waiter", 9.0, {})


def test_locks_are_held_while_the_step_unwinds() -> None:
    careful = block(
        "a", put("x", "x", 1, back=5), fail("bad"), on_failure=OnFailure(undo=True, then="continue"), locks=["one"]
    )
    _, toy = play(book(parallel("p", careful, put("y", "y", 1, locks=["one"]))))
    assert toy.done == ["0s x=1", "5s x=None", "5s y=1"]


def test_an_undo_takes_the_locks_of_what_it_takes_back() -> None:
    locked = put("x", "x", 1, back=3, locks=["one"])
    _, toy = play(book(block("b", locked, fail("bad"), on_failure=UNDO)))
    assert [key for key in toy.disk.records if key.endswith(" lock")] == ["@run lock", "b/x lock", "b!undo[6] lock"]


def test_a_called_playbook_has_locks_of_its_own() -> None:
    called = book(
        put("x", "x", 1, takes=4), name="called", locks=["{{ inputs.name }}"], inputs=(Input("name", "string"),)
    )
    branch = sub("s", called, {"name": "one"})
    out, toy = play(book(parallel("p", branch, put("y", "y", 1, locks=["one"]))))
    assert (out.status, toy.done) in (("succeeded", ["0s y=1", "4s x=1"]), ("succeeded", ["4s x=1", "4s y=1"]))
    held = block("b", sub("s", called, {"name": "one"}), locks=["one"])
    assert play(book(held))[0].status == "succeeded"


def test_a_lock_whose_name_is_no_text_fails_the_step() -> None:
    out, _ = play(book(get("n", "k"), put("a", "a", locks=["{{ steps.n.outputs.value }}"])), {"k": 7})
    assert "a lock's name is text" in error_of(out)


# --- doubts


def doubtful(playbook: Playbook, answer: str, *, cancels: tuple[float, ...] = ()) -> tuple[Outcome, Toy]:
    """Killed while the first opaque action ran; then somebody answers what to do."""
    first = Toy({}, crash_at=3)
    assert first.play(engine(playbook, first)) is None

    class Answering(Toy):
        async def ask(self, question: Any, box: Box) -> Any:
            if question.kind != "in_doubt" or box.verdict(self.now) is not None:
                return await super().ask(question, box)
            return await self._keep(f"{question.key} ask", outputs={"choice": answer, "by": "ann"})

    second = Answering(first.world, first.disk, cancels=cancels)
    return second.play(engine(playbook, second)), second


def test_a_doubt_answered_with_fail_is_a_failure_of_its_own_kind() -> None:
    handler = OnFailure(steps=(put("seen", "seen", "{{ failure.kind }} {{ steps.a.status }}"),))
    out, toy = doubtful(book(run("a", takes=5), on_failure=handler), "fail")
    assert (out.status, out.kind, toy.world["seen"]) == ("failed", "in_doubt", "in_doubt in_doubt")


def test_a_doubt_answered_with_repeat_runs_under_a_new_key() -> None:
    out, toy = doubtful(book(run("a", takes=5)), "repeat")
    assert (out.status, [call.key for call in toy.calls]) == ("succeeded", ["a#1", "a#1~1"])


def test_a_doubt_in_a_cancelled_run_is_unwound_as_if_it_had_happened() -> None:
    playbook = book(run("a", takes=5, undo=Undo("steps", (put("back", "back"),))), on_failure=UNDO)
    toy = Toy({}, cancels=(5.0,), crash_at=4)
    assert toy.play(engine(playbook, toy)) is None
    second = again(toy, cancels=(5.0,))
    out = second.play(engine(playbook, second))
    assert (out.status, second.world.get("back")) == ("cancelled", 1)


# --- undo


def test_an_inverse_is_tried_three_times_where_that_can_help() -> None:
    class Flaky(Toy):
        def _inverse(self, call: Any) -> Any:
            made = super()._inverse(call)
            if made is None or call.inverse:
                return made
            return dataclasses.replace(made, args={**made.args, "fail": "busy", "temporary": True})

    toy = Flaky({})
    out = toy.play(engine(book(put("a", "a"), fail("bad"), on_failure=UNDO), toy))
    assert ([call.attempt for call in toy.calls if call.inverse], [fault.message for fault in out.others]) == (
        [1, 2, 3],
        ["undo: stopped at a: busy"],
    )


def test_undo_steps_of_a_block_stand_for_what_is_inside() -> None:
    whole = block("b", put("a", "a"), put("c", "c"), undo=Undo("steps", (put("back", "back"),)))
    _, toy = play(book(block("outer", whole, fail("bad"), on_failure=UNDO)))
    assert toy.world == {"a": 1, "c": 1, "back": 1}


def test_an_undo_of_restarts_alone_does_nothing() -> None:
    restarts = block("b", act("r", "toy.restart", {"name": "app"}), fail("bad"), on_failure=UNDO)
    out, toy = play(book(restarts))
    assert (out.status, toy.world) == ("failed", {"app": ("b/r",)})


def test_a_temporary_inside_a_foreach_goes_back_with_its_iteration() -> None:
    each = foreach("each", ["u", "v"], put("quiet", "quiet", "{{ item }}", temporary=True), wait("nap", 1))
    _, toy = play(book(each))
    assert toy.done == ["0s quiet=u", "1s quiet=None", "1s quiet=v", "2s quiet=None"]


def test_a_temporary_inside_a_handler_goes_back_with_the_handler() -> None:
    _, toy = play(book(get("a", "k"), finally_=(put("quiet", "quiet", temporary=True), wait("nap", 1))))
    assert toy.world == {"quiet": None}


# --- retry, notifications


def test_the_other_side_may_ask_for_a_longer_pause() -> None:
    class Busy(Toy):
        def _land(self, call: Any, intent: Any) -> Any:
            record = super()._land(call, intent)
            busy = Fault("429", kind="temporary", temporary=True, retry_after=40.0)
            return dataclasses.replace(record, error=busy)

    toy = Busy({})
    step = act("a", "toy.get", {"key": "k", "fail": "429", "temporary": True}, retry=Retry(max_attempts=2, delay=1.0))
    assert toy.play(engine(book(step), toy)).at == 40.0


def test_a_notification_that_is_skipped_or_wrong_stops_nothing() -> None:
    wrong = tell("wrong", "x", when="1")
    out, toy = play(book(tell("not", "x", when="false"), wrong, put("a", "a")))
    assert (out.status, toy.statuses()["not"], toy.statuses()["wrong"]) == ("succeeded", "skipped", "failed")
    assert "wrong" in toy.events("warning")


def test_a_name_may_be_a_template_that_cannot_fail_the_step() -> None:
    named = dataclasses.replace(get("a", "k"), name="of {{ inputs.who }} and {{ inputs.nobody }}")
    _, toy = play(book(named), inputs={"who": "ann"})
    assert toy.events("step.ended")["a"]["name"] == "of ann and <unknown: inputs.nobody>"


def test_a_fallback_keeps_what_a_failed_alternative_changed_unless_it_says_undo() -> None:
    out, toy = play(
        book(fallback("f", block("one", put("a", "a"), fail("bad")), put("two", "b")), fail("c", on_failure=CONTINUE))
    )
    assert (out.status, toy.world) == ("succeeded", {"a": 1, "b": 1})
