"""Whether an undo has taken effect is one thing, whether it may be seen another: users with no more rights than needed.

On a real control plane; that no answer is no verdict, without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.actions._kube.reasons import LAST_LOOK, looked
from runbook.contract import TemporaryError
from runbook.interpreter.errors import Exit
from runbook.runner.session import Ended, Options, World
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests.context import LocalContext
from tests.kube import Caller, change
from tests.test_k8s_rollout import unschedulable, workload
from tests.testbed.plane import Plane


def run(plane: Plane, folder: Path, *steps: dict[str, Any]) -> Ended:
    path = folder / "one.yaml"
    path.write_text(json.dumps({"runbook": 1, "name": "one", "on_failure": {"undo": True}, "steps": steps}))
    world = World(store=Store(folder / "home"), surroundings=Real(plane.environ(user="nobody")))
    ended: Ended = runbook.run(path, world=world, options=Options(yes=True))
    return ended


@pytest.mark.control_plane
def test_an_undo_of_whom_may_not_look_takes_everything_back(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    names = ["one", "two"]
    for name in names:
        control_plane.deployment(space, name, "r/web:1")
    control_plane.allow(space, "get,patch=deployments.apps/scale")
    scaled = [
        {"id": name, "action": "k8s.scale", "with": {"namespace": space, "name": name, "replicas": 4}} for name in names
    ]
    stop = {"id": "stop", "action": "flow.assert", "with": {"that": False, "message": "no"}}
    ended = run(control_plane, tmp_path, *scaled, stop)
    assert ended.exit == Exit.FAILED
    assert not ended.unfinished
    assert [control_plane.read(space, "deployment", name)["spec"]["replicas"] for name in names] == [2, 2]
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        action, args = change("k8s.scale", {"namespace": space, "name": "one", "replicas": 2})
        assert action.effective(args, {}, ctx)
    (told,) = ctx.lines
    assert told.startswith("warning: the change is made; whether deployments 'one' in namespace")
    assert "has rolled out cannot be seen: no right to get deployments 'one'" in told


@pytest.mark.control_plane
def test_whoever_sees_the_workload_and_not_its_pods_waits_for_what_it_says(
    control_plane: Plane, tmp_path: Path
) -> None:
    space = control_plane.namespace()
    control_plane.allow(space, "get,patch=deployments.apps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    broken = workload("deployment")
    broken["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "none"}
    control_plane.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(broken))
    control_plane.until(lambda: unschedulable(control_plane, space))
    given = {"namespace": space, "kind": "deployment", "name": "web", "patch": {"spec": {"replicas": 2}}}
    with nobody.context() as ctx:
        action, args = change("k8s.patch", given)
        after = action.observe(args, ctx)
        assert not action.effective(args, after, ctx), "there is time left"
        assert not ctx.lines
    with nobody.context(seconds=LAST_LOOK) as ctx:
        assert action.effective(args, after, ctx)
        (told,) = ctx.lines
        assert "cannot be seen: no right to list pods" in told
    anywhere = {"spec": {"template": {"spec": {"nodeSelector": None}}}}
    control_plane.kubectl("-n", space, "patch", "deployment", "web", "-p", json.dumps(anywhere))
    with nobody.context() as ctx:
        control_plane.until(lambda: action.effective(args, after, ctx))
        assert not ctx.lines, "the workload says itself that it is done"


def test_no_answer_is_no_verdict_as_long_as_there_is_time(tmp_path: Path) -> None:
    def look() -> bool:
        raise TemporaryError("no answer")

    with LocalContext(tmp_path, op="run-1:it") as ctx:
        assert not looked(ctx, "whether it is so", look)
    with LocalContext(tmp_path, op="run-1:it", seconds=LAST_LOOK) as ctx, pytest.raises(TemporaryError):
        looked(ctx, "whether it is so", look)
