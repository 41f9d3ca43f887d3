"""kill -9 between a changing request and its answer, then `resume`, on a real control plane: settled right, each way.

For every change of family k8s, and for its undo: killed before the request leaves, after its answer arrived and before
anybody saw it, and at odd moments in between, when the server may have done it or not.
"""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.kube_cases import CASES, Case, Seen
from tests.kube_kills import Place, without_marks
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

KILLS = 15
"""For each change: a third of them before the request, a third after its answer, a third between. 14 changes: 210."""


Kill = tuple[str, int]  # when, at which request

LABEL = {
    "id": "before",
    "action": "k8s.label",
    "with": {"kind": "Service", "name": "web", "labels": {"tier": "front"}},
}
"""A change that an undo takes back: else it would restart nothing."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(1)
    yield made
    made.close()


@pytest.fixture
def place(control_plane: Plane, nursery: Nursery, tmp_path: Path) -> Place:
    return Place.install(control_plane, nursery, tmp_path)


@dataclass
class Back:
    """The way back of a case: an undo that is killed and resumed. `requests`, `changed`: as undisturbed."""

    place: Place
    pods: bool  # whether pods are what it is about
    requests: int = 0
    changed: dict[str, int] = field(default_factory=dict)

    def points(self) -> list[Kill]:
        """Where it is killed: before and after each of its requests, and amid the last."""
        at = range(1, self.requests + 1)
        return [*((when, number) for number in at for when in ("before", "after")), ("amid", self.requests)]

    def undisturbed(self) -> None:
        made = self.place.look()
        undone = self.place.again("undo")
        assert undone["exit"] == 0, undone
        self.place.rest()
        self.requests, self.changed = undone["requests"], self.place.look().changed(made)
        assert self.requests

    def killed(self, kill: Kill, delay: float) -> None:
        """Killed and resumed: nothing is done twice, and nothing is left out."""
        (when, at), made = kill, self.place.look()
        died = self.place.again("undo", at=at, when=when, delay=delay)
        assert "signal" in died or when == "amid", (kill, died)
        mid = self.place.look() if self.pods else made
        ended = self.place.again("resume") if "signal" in died else died
        assert ended["exit"] == 0, (kill, ended)
        self.place.rest()
        now = self.place.look()
        assert now.changed(made) == self.changed, f"undo killed {when} request {at}: changed more or less often"
        assert now.pods >= mid.pods - made.pods, f"undo killed {when} request {at}: pods that came since are gone"
        if when != "amid" and self.requests == 1:
            assert ended["requests"] == (when == "before"), f"undo killed {when} request {at}: done twice, or never"


def put_back(place: Place, case: Case, before: Seen, back: Callable[[], object]) -> Seen:
    """The next kill begins where this one did. Where the undo can do that, it must."""
    if case.back:
        back()
    else:
        there = place.look().objects
        for found in [found for name, found in before.objects.items() if name not in there]:
            place.plane.kubectl("-n", place.space, "create", "-f", "-", stdin=json.dumps(found))
    place.rest()
    now = place.look()
    assert not case.back or now.objects == before.objects, "undo gives back what was observed"
    return now


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_a_kill_between_request_and_answer_is_settled_by_looking(place: Place, name: str) -> None:
    """The run's, and then its undo's."""
    case, pods = CASES[name], CASES[name].action == "k8s.delete_pods"
    back = Back(place, pods)
    begin = place.look()
    calm = place.start(case)
    assert calm["exit"] == 0, calm
    assert calm["requests"] == case.requests
    after = place.look()
    changed = after.changed(begin)
    assert pods or after.objects != begin.objects
    begin = put_back(place, case, begin, back.undisturbed)
    chosen = random.Random(zlib.crc32(name.encode()))
    number = kills = 0
    undos = iter(back.points())
    while kills < KILLS:
        assert number < 2 * KILLS, "too often a run is over before its kill comes"
        when, at = ("before", "after", "amid")[number % 3], 1 + number // 3 % case.requests
        died = place.start(case, at=at, when=when, delay=chosen.uniform(0.0, 0.02))
        where = f"{when} request {at}, kill {number}"
        assert "signal" in died or when == "amid", (where, died)
        number, kills = number + 1, kills + ("signal" in died)
        mid = place.look() if pods else begin
        ended = place.again("resume") if "signal" in died else died
        assert ended["exit"] == 0, (where, ended)
        now = place.look()
        assert without_marks(now) == without_marks(after), where
        assert now.changed(begin) == changed, f"{where}: changed more or less often than by an undisturbed run"
        if when != "amid" and case.requests == 1:  # of several, those that are asked again find nothing to do
            assert ended["requests"] == (when == "before"), f"{where}: what was done is not done again"
        undo = next(undos, None)
        way = functools.partial(back.killed, undo, chosen.uniform(0.0, 0.02)) if undo else lambda: place.again("undo")
        former, begin = begin, put_back(place, case, begin, way)
        if pods:
            assert begin.pods & former.pods == set(), f"{where}: all that were there are gone"
            assert begin.pods >= mid.pods - former.pods, f"{where}: those that came since are left"


@pytest.mark.parametrize("name", ["rollout_restart", "delete_pods"])
def test_an_undo_that_restarts_once_more_is_killed_and_resumed(place: Place, name: str) -> None:
    case, back = replace(CASES[name], first=(LABEL,)), Back(place, name == "delete_pods")
    service = place.look().objects["Service/web"]
    assert place.start(case)["exit"] == 0
    place.rest()
    back.undisturbed()
    for kill in back.points():
        assert place.start(case)["exit"] == 0
        place.rest()
        made = place.look()
        assert made.objects["Service/web"] != service
        back.killed(kill, 0.005)
        now = place.look()
        assert now.objects["Service/web"] == service, kill
        assert now.pods & made.pods == set(), f"{kill}: all pods run with what was put back"
