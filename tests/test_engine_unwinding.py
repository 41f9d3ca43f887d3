"""Stopping and unwinding, each scenario to its end and then killed at every write. Times are virtual seconds."""

from __future__ import annotations

import pytest

from runbook.interpreter.model import OnFailure, Retry
from tests.law import Case, everywhere, play
from tests.playbooks_toy import (
    CONTINUE,
    UNDO,
    act,
    block,
    book,
    choose,
    fail,
    fallback,
    foreach,
    get,
    parallel,
    poll,
    put,
    tell,
    wait,
)

# name: (case, status, what happened in order)
CASES: dict[str, tuple[Case, str, list[str]]] = {
    "an undo of more than could be counted before has its time, where nobody said how long clean-up may take": (
        Case(
            book(
                foreach("e", "{{ 'abcd' | list }}", put("a", "{{ item }}", 1, back=30, attempt=40.0)),
                fail("bad"),
                on_failure=UNDO,
                cleanup_open=True,
            )
        ),
        "failed",
        ["0s a=1", "0s b=1", "0s c=1", "0s d=1", "30s d=None", "60s c=None", "90s b=None", "120s a=None"],
    ),
    "so have temporary changes; what the author says of clean-up stands": (
        Case(
            book(
                block(
                    "in",
                    foreach("e", "{{ 'ab' | list }}", put("a", "{{ item }}", 1, back=35, attempt=40.0), temporary=True),
                    fail("bad"),
                ),
                on_failure=OnFailure(steps=(wait("nap", 70), put("never", "n", 1))),
                cleanup_open=True,
            )
        ),
        "failed",
        ["0s a=1", "0s b=1", "35s b=None", "70s a=None"],
    ),
    "failure inside parallel: in flight goes on, nothing new starts, then all is undone": (
        Case(
            book(
                block(
                    "b",
                    put("first", "x", 1),
                    parallel(
                        "p",
                        put("a", "a", 1, takes=1),
                        fail("bad", after=2),
                        block("slow", wait("nap", 3), put("late", "s", 1)),
                        put("never", "n", 1, takes=9),
                        put("neither", "m", 1),
                        max_concurrent=3,
                    ),
                    on_failure=UNDO,
                )
            )
        ),
        "failed",
        ["0s x=1", "1s a=1", "3s s=1", "10s n=1", "10s n=None", "10s s=None", "10s a=None", "10s x=None"],
    ),
    "cancel in a block with temporary and finally; continue does not swallow it": (
        Case(
            book(
                block(
                    "b",
                    put("stop_writers", "writers", 0, back=2, temporary=True),
                    wait("long", 100),
                    on_failure=CONTINUE,
                    finally_=(put("fin", "fin", True, takes=1),),
                )
            ),
            {"writers": 4},
            (5.0,),
        ),
        "cancelled",
        ["0s writers=0", "7s writers=4", "8s fin=True"],
    ),
    "a second cancel cuts the cleaning up": (
        Case(
            book(
                block(
                    "b",
                    put("a", "a", 1, back=30),
                    wait("long", 100),
                    on_failure=UNDO,
                    finally_=(put("fin", "fin", True),),
                )
            ),
            {},
            (5.0, 7.0),
        ),
        "cancelled",
        ["0s a=1"],
    ),
    "time-out of a block whose undo takes time; the outer box ends meanwhile, does not cut it; no next alternative": (
        Case(
            book(
                block(
                    "run",
                    fallback(
                        "f",
                        block(
                            "by_traffic",
                            put("switch", "colour", "blue", back=3),
                            wait("wait", 99),
                            timeout=4.0,
                            on_failure=UNDO,
                        ),
                        put("by_helm", "helm", 1),
                    ),
                    timeout=6.0,
                    on_failure=OnFailure(steps=(put("page", "paged", True),)),
                )
            ),
            {"colour": "green"},
        ),
        "failed",
        ["0s colour=blue", "7s colour=green", "7s paged=True"],
    ),
    "fallback: the first is undone, the second wins": (
        Case(
            book(
                fallback(
                    "f",
                    block("one", put("a", "a", 1), fail("bad"), on_failure=UNDO),
                    put("two", "b", 1),
                    put("three", "c", 1),
                )
            )
        ),
        "succeeded",
        ["0s a=1", "0s a=None", "0s b=1"],
    ),
    "foreach with keep_going; equal items do not share a result": (
        Case(
            book(
                foreach(
                    "each",
                    ["u", "v", "v", "w"],
                    act(
                        "set",
                        "toy.set",
                        {"key": "{{ it }}", "value": 1, "takes": 1, "fail": "{{ 'no v' if it == 'v' else '' }}"},
                    ),
                    as_="it",
                    keep_going=True,
                    max_concurrent=2,
                )
            )
        ),
        "failed",
        ["1s u=1", "2s w=1"],
    ),
    "temporary in the middle, undo in order, restart last": (
        Case(
            book(
                block(
                    "b",
                    put("config", "cfg", "old"),
                    put("quiet", "quiet", True, temporary=True),
                    act("restart", "toy.restart", {"name": "api"}),
                    put("flags", "flag", 0),
                    fail("check"),
                    on_failure=UNDO,
                )
            ),
            {"cfg": "new", "flag": 1},
        ),
        "failed",
        [
            "0s cfg=old",
            "0s quiet=True",
            "0s restart api",
            "0s flag=0",
            "0s flag=1",
            "0s quiet=None",
            "0s cfg=new",
            "0s restart api",
        ],
    ),
    "background is joined by its reader; its failure is the reader's block's": (
        Case(
            book(
                block(
                    "b",
                    fail("side", after=5, background=True),
                    put("a", "a", 1, takes=1),
                    act("reads", "toy.set", {"key": "r", "value": "{{ steps.side.status }}"}),
                    put("never", "n", 1),
                )
            )
        ),
        "failed",
        ["1s a=1"],
    ),
    "background in a block that fails: stopped and joined before the undo": (
        Case(
            book(
                block(
                    "b",
                    block("side", put("s1", "s", 1), wait("nap", 50), put("s2", "s", 2), background=True),
                    wait("nap2", 2),
                    fail("bad"),
                    on_failure=UNDO,
                )
            ),
            {"s": 0},
        ),
        "failed",
        ["0s s=1", "2s s=0"],
    ),
    "poll and a deadline": (
        Case(book(get("poll", "ready", poll=poll("result.value is not none", every=2.0, timeout=9.0)))),
        "failed",
        [],
    ),
    "each attempt has its own time; the answer of the first was lost, its `before` is kept": (
        Case(
            book(
                block(
                    "b",
                    put("a", "a", 1, takes=1, late="reset by peer", attempt=3.0, retry=Retry(max_attempts=2)),
                    fail("bad"),
                    on_failure=UNDO,
                )
            ),
            {"a": "old"},
        ),
        "failed",
        ["1s a=1", "2s a=old"],
    ),
    "choice, when, locks in sorted order": (
        Case(
            book(
                parallel(
                    "p",
                    choose(
                        "c", ("1 == 2", (put("x", "x", 1),)), (None, (put("y", "y", 1, takes=2),)), locks=["l2", "l1"]
                    ),
                    put("z", "z", 1, takes=1, locks=["l1", "l2"]),
                    put("no", "no", 1, when="1 == 2"),
                )
            )
        ),
        "succeeded",
        ["2s y=1", "3s z=1"],
    ),
    "a notification is told beside the main line, and goes on when its block is cancelled": (
        Case(
            book(
                block("b", tell("news", "hello", takes=3), wait("long", 60), on_failure=UNDO),
                finally_=(tell("bye", "bye", takes=1),),
            ),
            {},
            (1.0,),
        ),
        "cancelled",
        ["3s tell hello", "4s tell bye"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_scenario(name: str) -> None:
    """What happens, in order, and the outcome; also when it is killed at any write."""
    case, status, done = CASES[name]
    world = dict(case.world)
    played = play(case, world)
    assert played.out is not None
    assert (played.out.status, played.toy.done) == (status, done)
    if (
        "answer of the first was lost" not in name
    ):  # there, resumed, it is observed that it did happen: one attempt less
        assert everywhere(case) > 0
