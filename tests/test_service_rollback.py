"""service-rollback.yaml through every branch, in the SIMULATED world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.runner import planning
from tests import emergency, rollbacks
from tests.rollbacks import SENIOR, TEAM, Branch, keeps_its_promises

pytestmark = pytest.mark.slow

NAME = "service-rollback"
PAGED = [(TEAM, "trigger")]
ESCALATED = [(SENIOR, "trigger")]
WELL = [(TEAM, "resolve")]  # nobody was called; an incident that somebody opened is closed

# exit, the analysis service's version then, what Slack got, who was paged
CASES: dict[str, tuple[int, str, list[str], list[Any]]] = {
    "kubernetes": (0, "2.3.1", ["started", "completed"], WELL),
    "helm": (0, "2.3.1", ["started", "completed"], WELL),
    "named": (0, "2.2.0", ["started", "completed"], WELL),
    "busy": (0, "2.3.1", ["started", "completed"], WELL),
    "slow": (0, "2.3.1", ["started", "completed"], WELL),
    "mute": (0, "2.3.1", [], WELL),
    "unknown": (3, "2.4.0", ["failed"], PAGED),
    "no-history": (3, "2.4.0", ["failed"], PAGED),
    "sick": (1, "2.4.0", ["started", "failed"], PAGED),
    "helm-sick": (1, "2.4.0", ["started", "failed"], PAGED),
    "escalate": (1, "2.3.1", ["started", "escalated"], ESCALATED),
}
BY_HELM = ("helm", "busy", "helm-sick")


@pytest.fixture(scope="module")
def branches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Branch]]]:
    yield from rollbacks.rehearsals(request, tmp_path_factory.mktemp(NAME), NAME)


def test_every_scenario_has_its_test() -> None:
    assert rollbacks.shipped(NAME) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_branch(branches: Mapping[str, Future[Branch]], case: str) -> None:
    branch = branches[case].result()
    code, version, told, pages = CASES[case]
    assert branch.exit == code, branch.said
    assert branch.images()["analysis-service"] == version
    others = {name: image for name, image in branch.images().items() if name != "analysis-service"}
    assert set(others.values()) == {"2.4.0"}, "nobody else was touched"
    assert branch.states["after"]["release/tracktion"] == branch.states["before"]["release/tracktion"], "the umbrella"
    assert branch.told == told
    assert branch.pages == pages
    if case == "escalate":
        assert branch.undo != 0, "the API refuses that way back, too"
        branch.undo = None
    keeps_its_promises(branch, but=["mark"])  # it names the run
    if code == 0:
        by = "helm" if case in BY_HELM else "kubernetes"
        assert branch.outputs == {"from_version": "2.4.0", "to_version": version, "by": by}
        assert branch.annotation("analysis-service", "tracktion.io/rolled-back-by")
        assert [key for key in rollbacks.made(branch.events) if key.startswith("go_back/")] == [f"go_back/by_{by}"]
    elif case != "escalate":
        assert branch.states["after"] == branch.states["before"], "all of it was taken back, or nothing was changed"


@pytest.mark.parametrize("case", ["slow"])
def test_slow_and_some_errors_are_warnings(branches: Mapping[str, Future[Branch]], case: str) -> None:
    branch = branches[case].result()
    assert set(branch.warnings) == {"fast", "errors"}
    assert "4." in branch.warnings["fast"]


@pytest.mark.parametrize("case", ["unknown", "no-history", "sick", "escalate"])
def test_what_is_said(branches: Mapping[str, Future[Branch]], case: str) -> None:
    words = {
        "unknown": "analysis-service has no earlier version 1.0.0 to go back to.",
        "no-history": "analysis-service has no earlier version to go back to.",
        "sick": "Undone    go_back/by_kubernetes (k8s.rollout_undo)",
        "escalate": "go_back/by_kubernetes (k8s.rollout_undo) stands",
    }
    assert words[case] in branches[case].result().said


@pytest.mark.parametrize("world", ["kubernetes", "helm"])
def test_two_in_a_row_never_return_to_the_bad_version(tmp_path: Path, world: str) -> None:
    with rollbacks.stage(NAME, world, tmp_path) as stage:
        for version in ("2.3.1", "2.2.0"):
            ended = stage.run()
            assert int(ended.exit) == 0
            assert stage.image("analysis-service") == version
        assert int(stage.run().exit) == 3, "there is nothing before it"
        assert stage.image("analysis-service") == "2.2.0"


def test_a_saved_plan_of_it_is_applied_with_its_messages_and_its_mark(tmp_path: Path) -> None:
    """They name the run, its times and who started it: nothing of that is in the plan."""
    with rollbacks.stage(NAME, "kubernetes", tmp_path) as stage:
        saved = runbook.plan(stage.playbook, stage.inputs, world=stage.around).to_json()
        ended = planning.apply(saved, runbook.load(stage.playbook), world=stage.around)
        assert (int(ended.exit), stage.image("analysis-service")) == (0, "2.3.1")
        events = emergency.events_of(stage.around.store.find("last"))
        assert not [event.data["message"] for event in events if event.kind == "warning"]
        statuses = {event.key: event.data["status"] for event in events if event.kind == "step.ended"}
        assert (statuses["announce/slack"], statuses["mark"], statuses["done/slack"]) == ("succeeded",) * 3
