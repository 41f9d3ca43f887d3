"""After the run: `runbook undo`, the clean-up that a second cancel left; and mistakes of earlier engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from runbook.interpreter.engine import Engine, Outcome
from runbook.interpreter.model import OnFailure, Playbook
from tests.effects_toy import Toy
from tests.law import Case, everywhere
from tests.playbooks_toy import CONTINUE, UNDO, act, block, book, engine, fail, foreach, parallel, play, put, wait


def with_rounds(
    playbook: Playbook, toy: Toy, *rounds: tuple[str, int], accepted: Mapping[int, Sequence[str]] | None = None
) -> Outcome:
    """The run (or its replay), then these rounds. `accepted`: by an undo's number, what it leaves as it is."""
    made = engine(playbook, toy)

    async def main(one: Engine) -> Outcome:
        out = await one.run()
        for what, number in rounds:
            left = (accepted or {}).get(number, ())
            out = await (one.undo(number, left) if what == "undo" else one.finish(number))
        return out

    out: Outcome = toy.play(made, main(made))
    return out


def killed_in(
    playbook: Playbook,
    world: dict[str, object],
    cancels: tuple[float, ...],
    *rounds: tuple[str, int],
    accepted: Mapping[int, Sequence[str]] | None = None,
) -> int:
    """Killed at every write of the rounds and resumed: the same end. How many kills."""
    first = Toy(dict(world), cancels=cancels)
    with_rounds(playbook, first)
    after_run = first.disk.copy()
    whole = Toy(dict(first.world), after_run.copy())
    wanted = with_rounds(playbook, whole, *rounds, accepted=accepted)
    for point in range(whole.writes):
        one = Toy(dict(first.world), after_run.copy(), crash_at=point)
        assert with_rounds(playbook, one, *rounds, accepted=accepted) is None
        two = Toy(one.world, one.disk)
        out = with_rounds(playbook, two, *rounds, accepted=accepted)
        assert (out.status, {k: v for k, v in two.world.items() if v is not None}) == (
            wanted.status,
            {k: v for k, v in whole.world.items() if v is not None},
        ), point
    return whole.writes


# --- runbook undo

SWITCH = book(
    put("a", "a", 1, back=1),
    put("quiet", "quiet", True, temporary=True),
    block("inner", put("b", "b", 1), fail("bad"), on_failure=OnFailure(undo=True, then="continue")),
    act("restart", "toy.restart", {"name": "app"}),
    put("c", "c", 1),
)


def test_undo_of_a_finished_run_gives_back_the_observed_state() -> None:
    toy = Toy({"a": "old", "quiet": False})
    out = with_rounds(SWITCH, toy, ("undo", 1))
    assert out.status == "succeeded"
    assert {key: toy.world[key] for key in ("a", "b", "c", "quiet")} == {
        "a": "old",
        "b": None,
        "c": None,
        "quiet": False,
    }
    assert len(toy.world["app"]) == 2  # restarted once more, at the end
    assert toy.done[-1].endswith("restart app")


def test_undo_is_durable() -> None:
    assert killed_in(SWITCH, {"a": "old", "quiet": False}, (), ("undo", 1)) > 5


def test_a_second_undo_has_nothing_left_to_do() -> None:
    toy = Toy({})
    before = len(toy.done)
    with_rounds(SWITCH, toy, ("undo", 1))
    once = list(toy.done)
    again = Toy(toy.world, toy.disk)
    assert with_rounds(SWITCH, again, ("undo", 1), ("undo", 2)).status == "succeeded"
    assert (again.done, len(once) > before) == ([], True)


def test_an_undo_that_fails_in_the_middle_is_taken_up_by_the_next() -> None:
    playbook = book(put("a", "a"), put("b", "b", back_fails="stuck"), put("c", "c"))
    toy = Toy({})
    out = with_rounds(playbook, toy, ("undo", 1))
    assert (out.status, toy.world) == ("failed", {"a": 1, "b": 1, "c": None})
    out = with_rounds(playbook, Toy(toy.world, toy.disk), ("undo", 1), ("undo", 2))
    assert (out.status, toy.world) == ("failed", {"a": 1, "b": 1, "c": None})  # c is not put back a second time


# --- what somebody accepts

STUCK = book(
    put("a", "a", 1, back=1),
    put("quiet", "quiet", True, temporary=True),
    put("b", "b", 1, back_fails="somebody else was here"),
    block("inner", act("post", "toy.run", {}), put("c", "c", 1)),
    act("restart", "toy.restart", {"name": "app"}),
)
WORLD: dict[str, object] = {"a": "old", "quiet": False}


def test_an_undo_goes_on_without_what_was_accepted_and_only_without_that() -> None:
    toy = Toy(dict(WORLD))
    out = with_rounds(STUCK, toy, ("undo", 1))
    assert out.error is not None
    assert (out.error.message, out.error.kind) == (
        "stopped at inner/post: nothing takes toy.run back",
        "no_inverse",
    )
    assert out.error.hint == "see to it by hand, then: runbook undo r1 --accept inner/post"
    toy = Toy(toy.world, toy.disk)
    out = with_rounds(STUCK, toy, ("undo", 1), ("undo", 2), accepted={2: ("inner/post",)})
    assert out.error is not None
    assert out.error.message == "stopped at b: somebody else was here"
    assert (toy.world["a"], toy.world["b"], toy.world["c"]) == (1, 1, None)
    toy = Toy(toy.world, toy.disk)
    rounds = ("undo", 1), ("undo", 2), ("undo", 3)
    out = with_rounds(STUCK, toy, *rounds, accepted={2: ("inner/post",), 3: ("b",)})
    assert (out.status, toy.world["a"], toy.world["b"], toy.world["quiet"]) == ("succeeded", "old", 1, False)
    later = Toy(toy.world, toy.disk)
    out = with_rounds(STUCK, later, *rounds, ("undo", 4), accepted={2: ("inner/post",), 3: ("b",)})
    assert (out.status, later.done) == ("succeeded", [])  # accepted once, for good


def test_an_undo_that_was_told_what_to_leave_is_durable() -> None:
    rounds = ("undo", 1), ("undo", 2), ("undo", 3)
    assert killed_in(STUCK, WORLD, (), *rounds, accepted={2: ("inner/post",), 3: ("b",)}) > 15


def test_with_a_temporary_change_its_return_is_accepted_too() -> None:
    """Else the return would be taken back, and the change would stand again with nobody to give it back."""
    playbook = book(put("a", "a"), put("quiet", "quiet", True, temporary=True, back_fails="not twice"))
    toy = Toy({"quiet": False})
    out = with_rounds(playbook, toy)
    assert (out.status, toy.world) == ("failed", {"quiet": True, "a": 1})
    toy = Toy(toy.world, toy.disk)
    assert with_rounds(playbook, toy, ("undo", 1)).status == "failed"
    toy = Toy(toy.world, toy.disk)
    out = with_rounds(playbook, toy, ("undo", 1), ("undo", 2), accepted={2: ("quiet",)})
    assert (out.status, toy.world) == ("succeeded", {"quiet": True, "a": None})
    given_back = book(put("a", "a"), put("quiet", "quiet", True, temporary=True), put("b", "b"))
    toy = Toy({"quiet": False})
    out = with_rounds(given_back, toy, ("undo", 1), accepted={1: ("quiet",)})
    assert (out.status, toy.world) == ("succeeded", {"quiet": False, "a": None, "b": None})
    assert not [line for line in toy.done[4:] if "quiet" in line], toy.done


# --- what a second cancel leaves

LONG = book(
    block(
        "b",
        put("stop_writers", "writers", 0, back=1, temporary=True),
        put("a", "a", 1, back=10),
        wait("long", 100),
        on_failure=OnFailure(undo=True, steps=(put("told", "told"),)),
        finally_=(put("fin", "fin"),),
    ),
    finally_=(put("last", "last"),),
)


def test_a_second_cancel_leaves_the_clean_up_listed_and_finish_plays_it() -> None:
    toy = Toy({"writers": 4}, cancels=(5.0, 7.0))
    out = with_rounds(LONG, toy)
    assert (out.status, toy.world) == ("cancelled", {"writers": 0, "a": 1})
    left = [one.key for one in toy.engine.unfinished()]
    assert left == ["b!undo", "b!on_failure", "b!temporary", "b!finally", "!finally"]
    later = Toy(toy.world, toy.disk)
    out = with_rounds(LONG, later, ("finish", 1))
    assert out.status == "succeeded"
    assert later.world == {"writers": 4, "a": None, "told": 1, "fin": 1, "last": 1}
    assert later.engine.unfinished() == []


def test_finish_repeats_no_completed_step_of_a_handler() -> None:
    handler = (put("one", "one", 1), block("deep", put("two", "two", 1), put("three", "three", 1, takes=9)))
    playbook = book(wait("long", 100), finally_=handler)
    toy = Toy({}, cancels=(5.0, 7.0))
    with_rounds(playbook, toy)
    assert toy.done == ["5s one=1", "5s two=1"]
    later = Toy(toy.world, toy.disk)
    assert with_rounds(playbook, later, ("finish", 1)).status == "succeeded"
    assert later.done == ["16s three=1"]


def test_an_undo_of_more_than_could_be_counted_before_has_its_time() -> None:
    """Nobody said how long clean-up may take: four inverses of 30 s are more than the minute that was foreseen."""
    each = foreach("e", "{{ 'abcd' | list }}", put("a", "{{ item }}", 1, back=30, attempt=40.0))
    toy = Toy({})
    out = with_rounds(book(each, cleanup_open=True), toy, ("undo", 1))
    assert out is not None
    assert (out.status, out.at, set(toy.world.values())) == ("succeeded", 120.0, {None})


def test_finish_is_durable() -> None:
    assert killed_in(LONG, {"writers": 4}, (5.0, 7.0), ("finish", 1)) > 5


# --- mistakes that were made while prototyping


def test_an_outer_undo_does_not_re_apply_what_an_inner_one_had_undone() -> None:
    inner = block("inner", put("a", "a"), fail("bad"), on_failure=OnFailure(undo=True, then="continue"))
    _, toy = play(book(block("outer", inner, put("b", "b"), fail("worse"), on_failure=UNDO)))
    assert toy.done == ["0s a=1", "0s a=None", "0s b=1", "0s b=None"]


def test_a_temporarys_return_and_its_later_undo_are_two_calls() -> None:
    inner = block("inner", put("quiet", "quiet", temporary=True), put("a", "a"))
    _, toy = play(book(block("outer", inner, fail("bad"), on_failure=UNDO)))
    assert toy.done == ["0s quiet=1", "0s a=1", "0s quiet=None", "0s quiet=1", "0s a=None", "0s quiet=None"]
    assert len({call.key for call in toy.calls}) == len(toy.calls)


def test_writers_start_again_when_clean_up_runs_out_of_time_in_the_middle_of_a_pair() -> None:
    inner = block("inner", put("stop", "writers", 0, temporary=True), put("slow", "slow", 1, back=99))
    playbook = book(block("outer", inner, fail("bad"), on_failure=UNDO, cleanup=5.0))
    out, toy = play(playbook, {"writers": 4})
    assert (out.status, toy.world) == ("failed", {"writers": 4, "slow": 1})
    assert len(out.others) == 1


def test_a_sibling_failed_is_on_record_before_it_acts_and_holds_after_a_resume() -> None:
    case = Case(
        book(parallel("p", fail("bad", after=1), put("slow", "s", 1, takes=3), put("never", "n"), max_concurrent=2))
    )
    assert everywhere(case) > 0


def test_not_one_more_item_starts_after_the_failure() -> None:
    out, toy = play(book(foreach("each", [0, 1, 2, 3, 4], fail("bad", after=1), max_concurrent=2)))
    assert (out.status, [call.key for call in toy.calls]) == ("failed", ["each[0]/bad#1", "each[1]/bad#1"])


def test_an_inner_time_out_does_not_overwrite_an_outer_cancel() -> None:
    playbook = book(block("b", wait("long", 100), timeout=5.0, on_failure=CONTINUE), put("never", "never"))
    out, toy = play(playbook, cancels=(5.0,))
    assert (out.status, out.by, toy.done) == ("cancelled", "@run", [])


def test_already_so_does_not_turn_a_restart_into_nothing() -> None:
    restarts = [act(f"r{number}", "toy.restart", {"name": "app"}) for number in range(2)]
    _, toy = play(book(*restarts))
    assert toy.world["app"] == ("r0", "r1")


@pytest.mark.parametrize("width", [1, 2])
def test_foreach_items_touching_one_object_keep_their_own_before(width: int) -> None:
    each = foreach(
        "each",
        ["u", "v", "w"],
        act("set", "toy.set", {"key": "k", "value": "{{ item }}", "takes": 1}),
        max_concurrent=width,
    )
    _, toy = play(book(block("b", each, fail("bad"), on_failure=UNDO)), {"k": "old"})
    if width == 1:
        assert toy.world["k"] == "old"
    inverses = [call.args["value"] for call in toy.calls if call.inverse]
    assert len(inverses) == 3


def test_each_phase_has_its_own_time_and_a_first_cancel_waits() -> None:
    playbook = book(
        block(
            "b",
            put("a", "a", back=4),
            fail("bad"),
            on_failure=OnFailure(undo=True, steps=(put("x", "x", 1, takes=4),)),
            cleanup=5.0,
        ),
        finally_=(put("fin", "fin", 1, takes=4),),
        cleanup=5.0,
    )
    out, toy = play(playbook, cancels=(1.0,))
    assert (out.status, toy.done) == ("failed", ["0s a=1", "4s a=None", "8s x=1", "12s fin=1"])


def test_a_failing_finally_fails_a_succeeded_scope_and_continue_does_not_swallow_it() -> None:
    out, toy = play(book(block("b", put("a", "a"), on_failure=CONTINUE, finally_=(fail("bad"),)), put("c", "c")))
    assert (out.status, out.path, toy.world) == ("failed", "b!finally/bad", {"a": 1})


def test_a_failing_handler_never_hides_the_first_failure() -> None:
    out, _ = play(book(fail("first"), on_failure=OnFailure(steps=(fail("second"),)), finally_=(fail("third"),)))
    assert (out.path, [fault.message for fault in out.others]) == (
        "first",
        ["on_failure: second broke", "finally: third broke"],
    )


def test_undo_of_this_very_action() -> None:
    broken = put("a", "a", 1, late="reset by peer", on_failure=UNDO)
    out, toy = play(book(broken), {"a": "old"})
    assert (out.status, toy.world, toy.events("step.ended")["a"]["undone"]) == ("failed", {"a": "old"}, True)


def test_a_replay_of_a_whole_run_touches_nothing() -> None:
    _, toy = play(SWITCH, {"a": "old"})
    nothing: dict[str, object] = {}
    replayed = Toy(nothing, toy.disk.copy())
    assert replayed.play(engine(SWITCH, replayed)).status == "succeeded"
    assert (nothing, replayed.writes) == ({}, 0)
