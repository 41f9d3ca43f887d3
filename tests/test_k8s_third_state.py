"""kill -9 in the middle of a change, and then somebody else changes the object: a question, and each answer obeyed.

On a real control plane, for every change of family k8s whose object can be in a third state. (A deletion has none: an
object is there or it is not, and what is made anew under its name is another one.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from tests import kube_cases
from tests.kube_cases import CASES, Case, Seen, Third
from tests.kube_kills import Place, without_marks
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

THIRD = [name for name, case in CASES.items() if case.third is not None]


@pytest.fixture(scope="module")
def place(control_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all: each test puts right what it found."""
    nursery = Nursery(1)
    try:
        yield Place.install(control_plane, nursery, tmp_path_factory.mktemp("runs"))
    finally:
        nursery.close()


@pytest.mark.parametrize("name", THIRD)
def test_a_third_state_is_a_question_and_each_answer_is_obeyed(place: Place, name: str) -> None:
    case = CASES[name]
    third = case.third
    assert third is not None
    begin = place.look()
    calm = _undisturbed(place, case, begin)
    _asked(place, case, third, case.requests, "after")
    kube_cases.put_right(place.plane, place.space, begin)
    there = _asked(place, case, third, 1, "before")
    question = place.count

    for choice, code in (("done", Exit.SUCCEEDED), ("fail", Exit.FAILED)):
        place.go_on_from(question)
        ended = _decided(place, choice, mailed=THIRD.index(name) % 2 == 0)
        assert (ended["exit"], ended["requests"]) == (code, 0), ended
        assert place.look() == there, "nothing is done"
        if case.back:
            undone = place.again("undo")
            assert undone["exit"] == Exit.FAILED, undone
            assert "was changed by somebody else" in undone["error"]
            assert place.look() == there, "what somebody else made of it is not undone"

    place.go_on_from(question)
    ended = _decided(place, "repeat", mailed=THIRD.index(name) % 2 == 1)
    made = place.look()
    if third.again:
        assert ended["exit"] == Exit.FAILED, ended
        assert third.again in ended["error"]
        assert made == there
    elif third.gives:
        assert ended["exit"] == Exit.SUCCEEDED, ended
        assert all(held in json.dumps(made.objects[found]) for found, held in third.gives.items())
    else:
        assert (ended["exit"], ended["requests"]) == (Exit.SUCCEEDED, case.requests), ended
        assert without_marks(made) == without_marks(calm)
        if case.back:
            assert place.again("undo")["exit"] == Exit.SUCCEEDED
            place.rest()
            assert place.look().objects == begin.objects, "as it was before the first attempt"
    kube_cases.put_right(place.plane, place.space, begin)
    assert place.look().objects == begin.objects


@pytest.mark.parametrize("name", ["scale", "apply, changed and new"])
def test_an_undo_that_was_killed_asks_as_well(place: Place, name: str) -> None:
    case = CASES[name]
    third = case.third
    assert third is not None
    begin = place.look()
    assert place.start(case)["exit"] == Exit.SUCCEEDED
    assert "signal" in place.again("undo", at=1, when="before")
    place.plane.kubectl("-n", place.space, *third.words)
    place.rest()
    there = place.look()

    said = place.command("resume")
    assert said.code == Exit.IN_DOUBT, said.out + said.err
    now = third.told.partition(", neither ")[0]  # "before" and "was to become" are the other way round here
    for words in (said.out, place.command("show").out):
        assert "undo of one in doubt" in words
        assert "undo of it: nobody knows whether k8s." in words
        assert now in words
        assert "--in-doubt repeat" in words
    assert "in doubt" in place.command("runs").out
    assert place.look() == there

    question = place.count
    for choice, code in (("fail", Exit.FAILED), ("repeat", Exit.FAILED), ("done", Exit.SUCCEEDED)):
        place.go_on_from(question)
        ended = _decided(place, choice, mailed=choice != "repeat")
        assert (ended["exit"], ended["requests"]) == (code, 0), ended
        assert place.look() == there, "what somebody else made of it is not undone"
        assert "in doubt" not in place.command("runs").out, "it is settled"
    kube_cases.put_right(place.plane, place.space, begin)


def test_what_came_since_the_kill_is_not_pruned(place: Place) -> None:
    begin = place.look()
    assert "signal" in place.start(CASES["apply, pruned"], at=1, when="after")
    newer = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "newer", "labels": {"set": "shop"}}}
    words = ("apply", "--server-side", "--field-manager=runbook", "--filename=-")
    place.plane.kubectl("-n", place.space, *words, stdin=json.dumps(newer))
    assert place.again("resume")["exit"] == Exit.SUCCEEDED
    left = place.look().objects
    assert "ConfigMap/stale" not in left
    assert "ConfigMap/newer" in left, "only what was seen, and planned"
    kube_cases.put_right(place.plane, place.space, begin)


def _asked(place: Place, case: Case, third: Third, at: int, when: str) -> Seen:
    """Killed, changed by somebody else, resumed: what is there then, and stays until somebody decides."""
    died = place.start(case, at=at, when=when)
    assert "signal" in died, died
    place.plane.kubectl("-n", place.space, *third.words)
    place.rest()
    there = place.look()
    asked = place.again("resume")
    assert (asked["exit"], asked["questions"], asked["requests"]) == (Exit.IN_DOUBT, ["it#1?"], 0), asked
    (question,) = asked["asked"]
    assert question.startswith(f"it: nobody knows whether {case.action} happened: ")
    assert third.told in question
    assert place.look() == there, "nothing is changed before somebody has decided"
    return there


def _decided(place: Place, choice: str, *, mailed: bool) -> dict[str, Any]:
    """`mailed`: by `runbook answer`; else by the word of `runbook resume --in-doubt`."""
    if not mailed:
        return place.again("resume", in_doubt=choice)
    place.answer(choice)
    return place.again("resume")


def _undisturbed(place: Place, case: Case, begin: Seen) -> Seen:
    """What the step makes of it when nobody disturbs it."""
    assert place.start(case)["exit"] == Exit.SUCCEEDED
    calm = place.look()
    kube_cases.put_right(place.plane, place.space, begin)
    return calm
