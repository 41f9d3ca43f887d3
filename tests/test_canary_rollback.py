"""canary-rollback.yaml through every branch, in the SIMULATED world, by an HTTPRoute's weights and by pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.runner import session
from runbook.sandbox import kinds
from tests import rollbacks
from tests.command import Commands
from tests.emergency import PLAYBOOKS
from tests.rollbacks import SENIOR, TEAM, Branch, keeps_its_promises

pytestmark = pytest.mark.slow

NAME = "canary-rollback"
GREEN, BLUE = "analysis-service-green", "analysis-service-blue"
PAGED, ESCALATED, WELL, NOBODY = [(TEAM, "trigger")], [(SENIOR, "trigger")], [(TEAM, "resolve")], list[Any]()


@dataclass(frozen=True)
class Case:
    """What a scenario must come to. `pods`: green's and blue's; `weights`: the same, None where there is no route."""

    exit: int
    pods: tuple[int, int]
    weights: tuple[int, int] | None
    told: list[str]
    pages: list[Any]
    says: str = ""
    choice: str = ""


TAKEN_BACK: dict[str, Any] = {"pods": (10, 0), "weights": (100, 0), "told": ["started", "failed"], "pages": PAGED}
ENDED, GOES_ON = ["started", "completed"], ["started", "progress"]
CASES = {
    "route": Case(0, (10, 10), (0, 100), ENDED, WELL, choice="full"),
    "unattended": Case(0, (10, 10), (0, 100), ENDED, WELL, choice="full"),
    "pods": Case(0, (0, 10), None, ENDED, WELL, choice="full"),
    "hold": Case(0, (10, 1), (90, 10), GOES_ON, NOBODY, choice="hold"),
    "back": Case(0, (10, 0), (100, 0), GOES_ON, NOBODY, choice="back"),
    "pods-back": Case(0, (10, 0), None, GOES_ON, NOBODY, choice="back"),
    "worse": Case(1, **TAKEN_BACK, says="2.3.1 fails 7.0 % of its requests"),
    "pods-worse": Case(1, (10, 0), None, ["started", "failed"], PAGED, "2.3.1 fails 7.0 % of its requests"),
    "slow": Case(1, **TAKEN_BACK, says="needs 1.7 s for 95 of 100"),
    "quiet": Case(1, **TAKEN_BACK, says="Only 12 requests reached 2.3.1: that proves nothing."),
    "blind": Case(1, **TAKEN_BACK, says="query timed out"),
    "unready": Case(1, **TAKEN_BACK, says="timed out canary/ready"),
    "full-fails": Case(1, (10, 1), (90, 10), ["started", "failed"], PAGED, "timed out full/calm"),
    "even": Case(3, (10, 0), (50, 50), ["failed"], PAGED, "one of them must have more traffic"),
    "left": Case(3, (10, 0), (100, 0), ["failed"], PAGED, "2.3.1 was itself rolled back from"),
    "unseen": Case(
        3, (10, 0), (100, 0), ["failed"], PAGED, "It cannot be seen whether analysis-service has an HTTPRoute"
    ),
    "escalate": Case(1, (10, 1), (90, 10), ["started", "escalated"], ESCALATED, "change freeze"),
}


@pytest.fixture(scope="module")
def branches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Branch]]]:
    yield from rollbacks.rehearsals(request, tmp_path_factory.mktemp(NAME), NAME)


def test_every_scenario_has_its_test() -> None:
    assert rollbacks.shipped(NAME) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_branch(branches: Mapping[str, Future[Branch]], case: str) -> None:
    branch, wanted = branches[case].result(), CASES[case]
    assert branch.exit == wanted.exit, branch.said
    assert wanted.says in branch.said
    replicas = branch.replicas()
    assert (replicas[GREEN], replicas[BLUE]) == wanted.pods
    if wanted.weights is not None:
        weights = branch.weights()
        assert (weights[GREEN], weights[BLUE]) == wanted.weights
    else:
        assert "HTTPRoute/analysis-service" not in branch.states["after"]
    assert branch.images() == branch.images("before") == {GREEN: "2.4.0", BLUE: "2.3.1"}
    assert branch.told == wanted.told
    assert branch.pages == wanted.pages
    if case == "escalate":
        assert branch.undo != 0, "the API refuses that way back, too"
        branch.undo = None
    # The second change of one place is planned on what is there now.
    keeps_its_promises(branch, but=["full/grow", "full/whole/weigh_all"])
    assert branch.annotation(GREEN, "tracktion.io/bad-version") == ("2.4.0" if wanted.choice == "full" else None)
    if wanted.exit == 0:
        assert branch.outputs["choice"] == wanted.choice
        assert branch.outputs["by"] == ("route" if wanted.weights else "pods")
        assert (branch.outputs["from_version"], branch.outputs["to_version"]) == ("2.4.0", "2.3.1")
    elif case not in ("full-fails", "escalate"):
        assert branch.states["after"] == branch.states["before"], "all of it was taken back, or nothing was changed"


@pytest.mark.parametrize(
    ("replicas", "percentage", "canary"), [(3, 10, 1), (10, 10, 1), (25, 10, 3), (4, 50, 2), (1, 99, 1)]
)
def test_the_share_in_pods(tmp_path: Path, replicas: int, percentage: int, canary: int) -> None:
    """At least one; rounded up. Seen in the plan: nothing is run."""
    text = (PLAYBOOKS / "scenarios" / NAME / "pods.yaml").read_text()
    cli = Commands(tmp_path)
    cli.write("world.yaml", text.replace("replicas: 10", f"replicas: {replicas}"))
    words = ("plan", str(PLAYBOOKS / f"{NAME}.yaml"), "--sandbox", "world.yaml", "-i", f"percentage={percentage}")
    said = cli(*words)
    assert said.code == 0, said.out + said.err
    assert f"{BLUE}#spec.replicas: 0 → {canary}" in said.out
    left = max(1, replicas - canary)
    assert (f"{GREEN}#spec.replicas: {replicas} → {left}" in said.out) == (left != replicas)


@pytest.mark.parametrize("percentage", ["0", "100", "10.5", "ten"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, percentage: str) -> None:
    said = Commands(tmp_path)(
        "run", str(PLAYBOOKS / f"{NAME}.yaml"), "-i", "service=file-watcher", "-i", f"percentage={percentage}"
    )
    assert said.code == 2
    assert "percentage" in said.err + said.out


def test_held_then_all_of_it_then_never_back(tmp_path: Path) -> None:
    """It is held at its share; a second run gives it all; a third would return to the bad version, and is refused."""
    with rollbacks.stage(NAME, "hold", tmp_path) as stage:
        assert int(stage.run(then="hold").exit) == 0
        assert _weights(stage) == {GREEN: 90, BLUE: 10}
        assert int(stage.run(then="full").exit) == 0
        assert _weights(stage) == {GREEN: 0, BLUE: 100}
        ended = stage.run(then="full")
        assert int(ended.exit) == 3
        assert ended.outcome is not None
        assert ended.outcome.error is not None
        assert "2.4.0 was itself rolled back from" in ended.outcome.error.message
        assert _weights(stage) == {GREEN: 0, BLUE: 100}


def test_a_route_that_somebody_changed_meanwhile_is_not_put_back(tmp_path: Path) -> None:
    with rollbacks.stage(NAME, "route", tmp_path) as stage:
        assert int(stage.run(then="hold").exit) == 0
        world = stage.sandbox.world
        world.amend(kinds.HTTP_ROUTE, rollbacks.SPACE, "analysis-service", lambda route: _weigh(route, [50, 50]))
        undone = session.undo("last", world=stage.around)
        assert int(undone.exit) != 0
        assert _weights(stage) == {GREEN: 50, BLUE: 50}, "somebody else's"
        assert undone.outcome is not None
        assert undone.outcome.error is not None
        assert "HTTPRoute" in undone.outcome.error.message


def _weigh(route: dict[str, Any], weights: list[int]) -> None:
    for backend, weight in zip(route["spec"]["rules"][0]["backendRefs"], weights, strict=True):
        backend["weight"] = weight


def _weights(stage: rollbacks.Stage) -> dict[str, int]:
    route = stage.sandbox.world.get(kinds.HTTP_ROUTE, rollbacks.SPACE, "analysis-service")
    return {one["name"]: one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]}
