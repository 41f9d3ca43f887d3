"""rolling-rollback.yaml through every branch, in the SIMULATED world."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from tests import emergency, rollbacks
from tests.rollbacks import SENIOR, TEAM, Branch, keeps_its_promises

pytestmark = pytest.mark.slow

NAME = "rolling-rollback"
PAGED, ESCALATED, WELL = [(TEAM, "trigger")], [(SENIOR, "trigger")], [(TEAM, "resolve")]
ORDER = ["notification-service", "file-watcher", "tracklist-service", "analysis-service"]
ENDED = ["started", "completed"]

# exit, who runs the earlier version then, who was touched (in this order), what Slack got, who was paged
CASES: dict[str, tuple[int, list[str], list[str], list[str], list[Any]]] = {
    "good": (0, ORDER, ORDER, ENDED, WELL),
    "some": (0, [ORDER[0], ORDER[2]], [ORDER[0], ORDER[2]], ENDED, WELL),
    "nobody": (3, [], [], ["failed"], PAGED),
    "no-history": (3, [], [], ["failed"], PAGED),
    "canary": (1, [], ORDER[:1], ["started", "failed"], PAGED),
    "blind": (1, [], ORDER[:1], ["started", "failed"], PAGED),
    "errors": (1, [], ORDER[:2], ["started", "failed"], PAGED),
    "stuck": (1, [], ORDER[:3], ["started", "failed"], PAGED),
    "red": (1, ORDER, ORDER, ["started", "failed"], PAGED),
    "escalate": (1, ORDER[:2], ORDER[:2], ["started", "escalated"], ESCALATED),
}
HASTY: emergency.Edits = {
    "validate.yaml": [("every: 10s\n        timeout: 3m\n      - id: latency", "timeout: 1s\n      - id: latency")]
}
"""The error rate at the end is asked for 1 s instead of 3 m."""


@pytest.fixture(scope="module")
def branches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Branch]]]:
    yield from rollbacks.rehearsals(request, tmp_path_factory.mktemp(NAME), NAME, {"red": HASTY})


def test_every_scenario_has_its_test() -> None:
    assert rollbacks.shipped(NAME) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_branch(branches: Mapping[str, Future[Branch]], case: str) -> None:
    branch = branches[case].result()
    code, back, touched, told, pages = CASES[case]
    assert branch.exit == code, branch.said
    before, after = branch.images("before"), branch.images()
    assert {name for name in after if after[name] != before[name]} == set(back)
    assert all(after[name] == "2.3.1" for name in back)
    assert branch.told == told
    assert branch.pages == pages
    begun = [event.data["op"] for event in branch.events if event.kind == "call.intent"]
    reverted = [op for op in begun if op.endswith("/revert")]
    assert len(reverted) == len(touched)
    course = branch.course
    assert {name for name in ORDER if len(course[f"Deployment/{name}"]) > len(before_only(branch, name))} == set(
        touched
    )
    if case == "escalate":
        assert branch.undo != 0, "the API refuses that way back, too"
        branch.undo = None
    keeps_its_promises(branch)
    if code == 0:
        left = [name for name in ORDER if name not in back]
        assert branch.outputs == {"rolled_back": back, "left_alone": left}
    elif case not in ("red", "escalate"):
        assert branch.states["after"] == branch.states["before"], "all of it was taken back, or nothing was changed"


def before_only(branch: Branch, name: str) -> list[Any]:
    """The states of a Deployment until the run began: the history that the scenario gave it."""
    specs = branch.course[f"Deployment/{name}"]
    live = branch.states["before"][f"Deployment/{name}"]["spec"]
    return specs[: specs.index(live) + 1]


@pytest.mark.parametrize("case", ["good"])
def test_no_capacity_is_lost(branches: Mapping[str, Future[Branch]], case: str) -> None:
    """Every roll-out is one of surge 25 %, unavailable 0, with pods that must prove themselves; then as it was."""
    branch = branches[case].result()
    for name in ORDER:
        specs = branch.course[f"Deployment/{name}"][len(before_only(branch, name)) :]
        moved = [spec for spec in specs if spec["template"]["spec"]["containers"][0]["image"].endswith(":2.3.1")]
        assert moved[0]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 0}
        assert moved[0]["minReadySeconds"] == 1
        final = branch.states["after"][f"Deployment/{name}"]["spec"]
        assert final["strategy"] == branch.states["before"][f"Deployment/{name}"]["spec"]["strategy"]
        assert "minReadySeconds" not in final


@pytest.mark.parametrize("case", ["stuck"])
def test_the_last_one_is_put_back_first(branches: Mapping[str, Future[Branch]], case: str) -> None:
    said = branches[case].result().said
    assert "ProgressDeadlineExceeded" in said
    order = re.findall(r"took back (\S+)/service/revert", said)
    assert order == ["roll[1]/services[1]", "roll[1]/services[0]", "roll[0]/services[0]"]
