"""The emergency rollback, rehearsed through every branch: what became of the SIMULATED cluster, who was told what."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.runner import preflight, session
from tests import emergency
from tests.emergency import IMPATIENT, Edits, Rehearsal, world

TEAM, SENIOR = "simulated-routing-key", "simulated-senior-routing-key"
STARTED, COMPLETED, STABLE = (
    f"*EMERGENCY ROLLBACK* {event} (production)" for event in ("started", "completed", "stood down")
)
FAILED = "*EMERGENCY ROLLBACK FAILED* escalated (production)"
AS_IT_WAS = ([1, 1, 1, 1], [3, 2, 2, 2])  # replicas of blue and green
OWN = (
    "Service/tracktion",
    *(f"Deployment/{name}-{colour}" for name in emergency.SERVICES for colour in ("blue", "green")),
)


def said(ended: session.Ended) -> dict[str, object]:
    assert ended.outcome is not None
    return dict(ended.outcome.outputs)


def objectives(run: Rehearsal) -> dict[str, str]:
    (event,) = [event for event in run.events if event.kind == "run.ended"]
    return {one["name"]: one["verdict"] for one in event.data["objectives"]}


def recovered(run: Rehearsal) -> float:
    """When the milestone was met, in seconds of the run."""
    (found,) = [e.at for e in run.events if e.kind == "milestone" and e.data.get("name", e.key) == "recovered"]
    return found


def undo_gives_back(run: Rehearsal, before: dict[str, object]) -> None:
    """`runbook undo`: the Service, all Deployments and their pods are as they were observed before the run."""
    ended = run.undo()
    assert (ended.status, int(ended.exit)) == ("succeeded", 0)
    wanted = {name: state for name, state in before.items() if name in (*OWN, "Pods")}
    found = emergency.settles(run.sandbox, wanted, only=wanted)
    assert found == []


# -- the ladder


def test_traffic_is_switched_to_the_idle_colour(tmp_path: Path) -> None:
    with Rehearsal.of(world("traffic"), tmp_path) as run:
        before = emergency.observed(run.sandbox)
        ended = run.run(reason="Checkout is down")
        assert (ended.status, int(ended.exit)) == ("succeeded", 0)
        assert said(ended) == {
            "level": "high", "chosen": "by_traffic", "issues": {"down": [], "errors": True, "database": False},
        }  # fmt: skip
        assert run.slot() == "blue"
        assert (run.replicas("blue"), run.replicas("green")) == ([3, 2, 2, 2], [3, 2, 2, 2])
        assert run.tags("green") == {"2.4.0"}
        assert [number for number, _, _ in run.revisions()] == [1, 2, 3]
        assert run.slack() == [STARTED, COMPLETED]
        assert run.pages() == [(TEAM, "trigger"), (TEAM, "resolve")]
        assert run.status_page() == ["identified", "monitoring"]
        assert objectives(run) == {"notified": "met", "recovered": "met"}
        assert (ended.folder.artifacts / "emergency.md").read_text().count("SIMULATED")
        first = run.sandbox.received("slack")[0].body
        assert first["channel"] == "#incidents"
        assert first["text"].splitlines()[0].endswith(" <!channel>")
        assert "Checkout is down" in first["text"]
        assert run.sandbox.received("slack")[1].body["thread_ts"]
        undo_gives_back(run, before)


def test_traffic_fails_and_is_switched_back_then_helm_heals(tmp_path: Path) -> None:
    with Rehearsal.of(world("helm"), tmp_path, IMPATIENT) as run:
        before = emergency.observed(run.sandbox)
        ended = run.run()
        assert int(ended.exit) == 0
        assert (said(ended)["level"], said(ended)["chosen"]) == ("high", "by_helm")
        steps = run.steps()
        assert (steps["recover/by_traffic"], steps["recover/by_helm"]) == ("failed", "succeeded")
        slots = [spec["selector"]["slot"] for spec in emergency.course(run.sandbox)["Service/tracktion"]]
        assert slots == ["green", "blue", "green"]
        assert (run.replicas("blue"), run.replicas("green")) == AS_IT_WAS
        assert (run.tags("green"), run.tags("blue")) == ({"2.3.0"}, {"2.3.1"})
        assert run.revisions()[-2:] == [(3, "superseded", "2.4.0"), (4, "deployed", "2.3.0")]
        assert run.slack() == [STARTED, COMPLETED]
        assert run.pages() == [(TEAM, "trigger"), (TEAM, "resolve")]  # an alternative that failed is no failure
        assert "by by_helm." in run.sandbox.received("slack")[-1].body["text"]
        undo_gives_back(run, before)


@pytest.mark.timed
def test_without_a_standby_helm_has_it_back_within_ten_seconds(tmp_path: Path) -> None:
    given = world("helm")
    deployments = dict(given.world["namespaces"][emergency.SPACE]["deployments"])
    for name in ("analysis-service-blue", "file-watcher-blue"):
        del deployments[name]
    given.world["namespaces"][emergency.SPACE]["deployments"] = deployments
    with Rehearsal.of(given, tmp_path) as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["chosen"]) == (0, "by_helm")
        assert recovered(run) < 10
        assert (run.slot(), run.tags("green")) == ("green", {"2.3.0"})


def test_the_last_resort_is_a_restart(tmp_path: Path) -> None:
    with Rehearsal.of(world("restart"), tmp_path) as run:
        pods = emergency.pods(run.sandbox, "green")
        ended = run.run()
        assert int(ended.exit) == 0
        assert said(ended)["level"] == "critical"
        assert said(ended)["chosen"] == "by_restart"
        assert said(ended)["issues"] == {
            "down": [f"{name}-green" for name in emergency.SERVICES], "errors": True, "database": False,
        }  # fmt: skip
        emergency.at_rest(run.sandbox)
        assert not emergency.pods(run.sandbox, "green") & pods
        assert len(emergency.pods(run.sandbox, "green")) == len(pods)
        assert (run.slot(), run.replicas("green")) == ("green", [3, 2, 2, 2])
        assert run.slack() == [STARTED, COMPLETED]
        assert run.undo().exit == 0  # pods that are gone stay gone: known and accepted


def test_three_of_four_are_enough(tmp_path: Path) -> None:
    with Rehearsal.of(world("quorum"), tmp_path, HASTY) as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["chosen"]) == (0, "by_restart")
        steps = run.steps()
        assert steps["recover/by_restart/restart_serves/services[2]/health"] != "succeeded"
        assert steps["recover/by_restart"] == "succeeded"
        assert run.pages() == [(TEAM, "trigger"), (TEAM, "resolve")]


def test_two_of_four_are_not(tmp_path: Path) -> None:
    edit = (
        '    "tracklist-service:2.4.0": {',
        '    "file-watcher:2.4.0": {health: never_ready}\n    "tracklist-service:2.4.0": {',
    )
    with Rehearsal.of(world("quorum", edit), tmp_path, HASTY) as run:
        ended = run.run()
        assert int(ended.exit) == 1
        assert run.slack() == [STARTED, FAILED]
        assert run.pages() == [(TEAM, "trigger"), (SENIOR, "trigger")]


HASTY: Edits = {"validate.yaml": [("every: 2s\n        timeout: 20s", "every: 300ms\n        timeout: 4s")]}
"""Ask for 4 s instead of 20 s a service whose pods never become ready."""


def test_high_and_nothing_helps_is_no_reason_to_restart_but_to_call_people(tmp_path: Path) -> None:
    with Rehearsal.of(world("escalate"), tmp_path, IMPATIENT) as run:
        ended = run.run()
        assert (ended.status, int(ended.exit)) == ("failed", 1)
        assert (said(ended)["level"], said(ended)["chosen"]) == ("high", "")
        steps = run.steps()
        tried = [steps[f"recover/{name}"] for name in ("by_traffic", "by_helm", "by_restart")]
        assert tried == ["failed", "failed", "skipped"]
        assert not [key for key in steps if "kill_pods" in key]
        assert run.slot() == "green"
        assert run.replicas("blue") == AS_IT_WAS[0]
        assert not [request for request in emergency.asked(run.sandbox) if request.startswith("delete")]
        assert run.tags("green") == {"2.3.0"}  # Helm's stays: the playbook says so
        assert run.slack() == [STARTED, FAILED]
        assert run.pages() == [(TEAM, "trigger"), (SENIOR, "trigger")]
        assert run.status_page() == ["identified"]  # what customers read is so already
        words = run.sandbox.received("slack")[-1].body["text"]
        assert "Traffic switch failed, Helm failed, restart skipped. Intervene by hand now." in words.replace("\n", " ")
        assert objectives(run) == {"notified": "met", "recovered": "missed"}
        assert (ended.folder.artifacts / "emergency.md").exists()


# -- looking


def test_nothing_is_wrong_and_nothing_is_changed(tmp_path: Path) -> None:
    with Rehearsal.of(world("stable"), tmp_path) as run:
        before = emergency.observed(run.sandbox)
        ended = run.run()
        assert (int(ended.exit), said(ended)["level"], said(ended)["chosen"]) == (0, "low", "")
        assert emergency.observed(run.sandbox) == before
        assert not emergency.asked(run.sandbox)
        assert run.slack() == [STARTED, STABLE]
        assert run.pages() == [(TEAM, "trigger"), (TEAM, "resolve")]
        assert run.status_page() == ["identified", "resolved"]
        assert objectives(run)["recovered"] == "n/a"


def test_force_rolls_back_a_stable_system(tmp_path: Path) -> None:
    with Rehearsal.of(world("stable"), tmp_path) as run:
        ended = run.run(mode="force")
        assert (int(ended.exit), said(ended)["level"], said(ended)["chosen"]) == (0, "high", "by_traffic")
        assert run.slot() == "blue"


PG = '  - {action: pg.query, match: {sql: "^SELECT 1$"}, outputs: {value: 1, rows: [{"?column?": 1}], count: 1}}'
FORBIDDEN = "world:\n  forbidden: [{resource: deployments, verb: list}, {resource: deployments, verb: get}]\n"
METRIC = "    - match: http_requests_total\n"


@pytest.mark.parametrize(
    ("edits", "issues", "level", "chosen"),
    [
        (
            [(METRIC, "    - {match: http_requests_total, error: no such metric}\n" + METRIC)],
            {"down": [], "errors": True, "database": False}, "high", "by_traffic",
        ),
        (
            [(METRIC, "    - {match: http_requests_total, value: null}\n" + METRIC)],
            {"down": [], "errors": True, "database": False}, "high", "by_traffic",
        ),
        (
            [(PG, '  - {action: pg.query, error: "connection refused", temporary: true}')],
            {"down": [], "errors": False, "database": True}, "high", "by_traffic",
        ),
        (
            [("world:\n", FORBIDDEN)],
            {"down": list(emergency.SERVICES), "errors": False, "database": False}, "critical", "",
        ),
    ],
    ids=["metrics", "no-metrics", "database", "workloads"],
)  # fmt: skip
def test_what_cannot_be_seen_counts_as_broken(
    tmp_path: Path, edits: list[tuple[str, str]], issues: dict[str, object], level: str, chosen: str
) -> None:
    """In a world where all is well but for what cannot be seen."""
    given = world("stable", *edits)
    with Rehearsal.of(given, tmp_path) as run:
        ended = run.run()
        assert (said(ended)["issues"], said(ended)["level"]) == (issues, level)
        assert (int(ended.exit), said(ended)["chosen"]) == (0 if chosen else 1, chosen)


def test_no_api_at_all_tries_everything_and_calls_people(tmp_path: Path) -> None:
    faults = "faults:\n  - {on: kubernetes, answer: 503}\n  - {on: helm, answer: 'Kubernetes cluster unreachable'}\n"
    with Rehearsal.of(world("traffic", more=faults), tmp_path) as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["level"]) == (1, "critical")
        assert said(ended)["issues"] == {"down": list(emergency.SERVICES), "errors": True, "database": False}
        steps = run.steps()
        tried = [steps[f"recover/{name}"] for name in ("by_traffic", "by_helm", "by_restart")]
        assert tried == ["failed", "failed", "failed"]
        assert run.pages() == [(TEAM, "trigger"), (SENIOR, "trigger")]
        assert run.slot() == "green"


# -- the time box

BOX = 6.0
BOXED: Edits = {"emergency.yaml": [("timeout: 5m\n", "timeout: 6s\n")]}
HANG = "faults:\n  - {on: kubernetes, hang: true}\n  - {on: helm, hang: true}\n  - {on: prometheus, hang: true}\n"
PATCHES_HANG = "faults:\n  - {on: kubernetes, verb: patch, hang: true}\n"


@pytest.mark.timed
@pytest.mark.parametrize(("faults", "at"), [(HANG, "triage"), (PATCHES_HANG, "recover")], ids=["reads", "changes"])
def test_everything_hangs_and_the_box_ends_it_within_a_second(tmp_path: Path, faults: str, at: str) -> None:
    with Rehearsal.of(world("traffic", more=faults), tmp_path, BOXED) as run:
        ended = run.run()
        assert int(ended.exit) == 1
        begun = next(when for when, event in run.seen if event.kind == "step.started")
        assert begun - run.seen[0][0] < preflight.SECONDS + 1, "what hangs holds up the start for some seconds at most"
        over = next(when for when, event in run.seen if event.kind == "step.ended" and event.key == at) - begun
        told = [event.key.rpartition("/")[2] for _, event in run.seen if event.kind == "call.result"]
        paged = [when for when, event in run.seen if event.kind == "call.result" and "page_lead" in event.key]
        assert "page_lead#1" in told
        assert BOX - 0.5 < over < BOX + 1, "the work is over within a second"
        assert paged[0] - begun < BOX + 2, "the senior engineers are called at once: their reserve is 60 s"
        handled = [when for when, event in run.seen if event.kind == "call.intent" and "!on_failure" not in event.key]
        assert max(handled, default=0.0) < begun + BOX + 1, "nothing is begun after that but to tell people"
        assert run.pages() == [(TEAM, "trigger"), (SENIOR, "trigger")]
        assert run.slot() == "green"
        assert "box" in ended.outcome.error.message or "time" in ended.outcome.error.message  # type: ignore[union-attr]


# -- telling


def test_a_missing_pager_key_is_a_warning(tmp_path: Path) -> None:
    given = world("traffic", ("  PAGERDUTY_ROUTING_KEY: simulated-routing-key\n", ""))
    with Rehearsal.of(given, tmp_path) as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["chosen"]) == (0, "by_traffic")
        assert run.warnings() == {"alert/pager": "Nobody is paged: PAGERDUTY_ROUTING_KEY is not set."}
        assert run.pages() == []
        assert run.slack() == [STARTED, COMPLETED]


def test_nobody_can_be_told_and_the_rollback_goes_on(tmp_path: Path) -> None:
    text = (emergency.SCENARIOS / "traffic.yaml").read_text()
    secrets = text[text.index("secrets:\n  SLACK") : text.index("answers:")]
    with Rehearsal.of(world("traffic", (secrets, "")), tmp_path) as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["chosen"]) == (0, "by_traffic")
        assert "Nobody was told. Phone the incident commander." in " ".join(run.warnings().values())
        assert objectives(run) == {"notified": "missed", "recovered": "met"}


@pytest.mark.timed
def test_black_holes_in_slack_and_pagerduty_cost_recovery_no_second(tmp_path: Path) -> None:
    """Both take the connection and never answer. The promise: at most 1 s later than without."""
    calm = []
    for number in range(3):
        with Rehearsal.of(world("traffic"), tmp_path / f"calm-{number}") as run:
            assert int(run.run().exit) == 0
            calm.append(recovered(run))
    faults = "faults:\n  - {on: slack, hang: true}\n  - {on: pagerduty, hang: true}\n"
    with Rehearsal.of(world("traffic", more=faults), tmp_path / "hung") as run:
        ended = run.run()
        assert (int(ended.exit), said(ended)["chosen"], run.slot()) == (0, "by_traffic", "blue")
        late = recovered(run)
        gave_up = [event.at for event in run.events if event.kind == "call.result" and "alert/slack" in event.key]
        assert (run.slack(), run.pages()) == ([], [])
        assert run.status_page() == ["identified", "monitoring"]  # its lane is another one
        warned = run.warnings()
    assert {"alert/slack", "alert/page"} <= set(warned)
    assert late <= max(calm) + 1.0, f"without: {calm}, with: {late}"
    assert late < min(gave_up, default=9.0) - 5.0, "recovery is on record long before the first notification gave up"
