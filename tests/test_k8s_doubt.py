"""kill -9 between a changing request and its answer, then `resume`, on a real control plane: settled right, each way.

For every change of family k8s: killed before the request leaves, after its answer arrived and before anybody saw it,
and at odd moments in between, when the server may have done it or not.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import emergency, kube_cases
from tests.kube_cases import CASES, Case, Seen
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

KILLS = 15
"""For each change: a third of them before the request, a third after its answer, a third between. 14 changes: 210."""


@dataclass
class Place:
    """A namespace with the objects, and processes that run one playbook in it."""

    plane: Plane
    space: str
    nursery: Nursery
    folder: Path
    count: int = 0

    def start(self, case: Case, **request: Any) -> dict[str, Any]:
        self.count += 1
        home = emergency.wipe(self.folder / f"run-{self.count}")
        (home / "coordinates.json").write_text(json.dumps({"environ": self.plane.environ()}))
        (home / "one.yaml").write_text(case.playbook(self.space))
        return self._order("start", request)

    def again(self, what: str) -> dict[str, Any]:
        return self._order(what, {})

    def _order(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        home = self.folder / f"run-{self.count}"
        found: dict[str, Any] = self.nursery.order(home, home / "one.yaml", what, request=request or None)
        return found

    def look(self) -> Seen:
        return kube_cases.look(self.plane, self.space)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(1)
    yield made
    made.close()


@pytest.fixture
def place(control_plane: Plane, nursery: Nursery, tmp_path: Path) -> Place:
    space = control_plane.namespace()
    kube_cases.install(control_plane, space)
    return Place(control_plane, space, nursery, tmp_path)


def put_back(place: Place, case: Case, before: Seen) -> Seen:
    """The next kill begins where this one did. Where the undo can do that, it must."""
    if case.back:
        undone = place.again("undo")
        assert undone["exit"] == 0, undone
    else:
        there = place.look().objects
        for found in [found for name, found in before.objects.items() if name not in there]:
            place.plane.kubectl("-n", place.space, "create", "-f", "-", stdin=json.dumps(found))
    kube_cases.rest(place.plane, place.space)
    now = place.look()
    assert not case.back or now.objects == before.objects, "undo gives back what was observed"
    return now


def without_marks(seen: Seen) -> Any:
    """Objects without the marks of the run that made or restarted them: each run has its own."""

    def plain(found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        return {key: plain(value) for key, value in found.items() if "restarted" not in key and "created-by" not in key}

    return plain(seen.objects)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_a_kill_between_request_and_answer_is_settled_by_looking(place: Place, name: str) -> None:
    case = CASES[name]
    begin = place.look()
    calm = place.start(case)
    assert calm["exit"] == 0, calm
    assert calm["requests"] == case.requests
    after = place.look()
    changed = after.changed(begin)
    assert case.action == "k8s.delete_pods" or after.objects != begin.objects
    begin = put_back(place, case, begin)
    chosen = random.Random(zlib.crc32(name.encode()))
    number = kills = 0
    while kills < KILLS:
        assert number < 2 * KILLS, "too often a run is over before its kill comes"
        when, at = ("before", "after", "amid")[number % 3], 1 + number // 3 % case.requests
        died = place.start(case, at=at, when=when, delay=chosen.uniform(0.0, 0.02))
        where = f"{when} request {at}, kill {number}"
        assert "signal" in died or when == "amid", (where, died)
        number, kills = number + 1, kills + ("signal" in died)
        ended = place.again("resume") if "signal" in died else died
        assert ended["exit"] == 0, (where, ended)
        now = place.look()
        assert without_marks(now) == without_marks(after), where
        assert now.changed(begin) == changed, f"{where}: changed more or less often than by an undisturbed run"
        if when != "amid" and case.requests == 1:  # of several, those that are asked again find nothing to do
            assert ended["requests"] == (when == "before"), f"{where}: what was done is not done again"
        former, begin = begin, put_back(place, case, begin)
        if case.action == "k8s.delete_pods":
            assert begin.pods & former.pods == set(), f"{where}: all that were there are gone"
