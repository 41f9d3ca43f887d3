"""blue-green.yaml by itself, in the SIMULATED world: when traffic is switched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runbook.runner import session
from runbook.runner.store import Store
from runbook.sandbox import kinds, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests import emergency


def at_the_switch(sandbox: Sandbox) -> dict[str, tuple[int, int]]:
    """The idle colour's Deployments when the Service turned to it: replicas asked for, replicas ready."""
    seen: dict[str, Any] = {}
    for change in sandbox.world.history(0):
        name = change.after["metadata"]["name"]
        if change.kind == kinds.DEPLOYMENT and name.endswith("-blue"):
            seen[name] = change.after
        elif change.kind == kinds.SERVICE and change.after["spec"].get("selector") == {"slot": "blue"}:
            break
    else:
        raise AssertionError("traffic was never switched")
    return {name: (one["spec"]["replicas"], one["status"].get("readyReplicas", 0)) for name, one in seen.items()}


def test_traffic_waits_for_the_pods_that_were_added(tmp_path: Path) -> None:
    """One pod of each service is ready and answers well from the start; the others take their time."""
    given = emergency.world("traffic", ("  versions:\n", '  versions:\n    "2.3.1": {ready_after: 2s}\n'))
    with surroundings.start(given) as sandbox:
        around = session.World(store=Store(tmp_path / "home"), surroundings=sandbox.surroundings)
        ended = emergency.start(emergency.PLAYBOOKS / "blue-green.yaml", around, {"retire": False, "announce": False})
        assert int(ended.exit) == 0, ended
        found = at_the_switch(sandbox)
        assert found == {
            "analysis-service-blue": (3, 3),
            "file-watcher-blue": (2, 2),
            "tracklist-service-blue": (2, 2),
            "notification-service-blue": (2, 2),
        }
