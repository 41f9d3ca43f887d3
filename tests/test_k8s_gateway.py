"""An API server behind a gateway, whose address has a path: `https://host/k8s/clusters/c-abc`, as Rancher gives it out.

The gateway is kubectl's own (`kubectl proxy --api-prefix`), in front of a real API server: what is asked outside its
path is not there.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runbook.actions._kube import forward
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref, known
from runbook.actions._kube.watch import Watched, watching
from runbook.actions.k8s_exec import Exec
from runbook.contract import TemporaryError
from tests.command import Commands
from tests.context import call
from tests.forwards import PORT, dialled, echo, exactly, program, start_pod
from tests.helm_release import App
from tests.kube import Caller
from tests.testbed.plane import Plane, built

pytestmark = pytest.mark.control_plane

PATH = "/k8s/clusters/c-abc"
BOOK = """
runbook: 1
name: gateway
locks: [one]
steps:
  - id: mark
    action: k8s.patch
    with: {{namespace: {space}, kind: configmap, name: flag, patch: {{data: {{run: "yes"}}}}}}
"""


@pytest.fixture(scope="module")
def gateway(control_plane: Plane) -> Iterator[str]:
    """Its address."""
    argv = [str(built() / "kubectl"), "proxy", "--port=0", f"--api-prefix={PATH}/", "--reject-paths=^$"]
    with subprocess.Popen(argv, env=control_plane.environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
        try:
            assert begun is not None
            yield f"http://{begun[0]}"
        finally:
            process.terminate()


def addressed(plane: Plane, folder: Path, server: str) -> str:
    """The plane's own kubeconfig with another address."""
    found = yaml.safe_load(plane.kubeconfig.read_text())
    found["clusters"][0]["cluster"] = {"server": server}
    path = folder / "kubeconfig-gateway"
    path.write_text(yaml.safe_dump(found))
    return str(path)


@pytest.fixture
def caller(control_plane: Plane, gateway: str, tmp_path: Path) -> Caller:
    made = Caller(control_plane, tmp_path)
    made.environ["KUBECONFIG"] = addressed(control_plane, tmp_path, f"{gateway}{PATH}")
    return made


@pytest.fixture(scope="module")
def space(control_plane: Plane) -> str:
    """A namespace with ConfigMap flag, and Service `web` before pod `one`."""
    name = control_plane.namespace()
    control_plane.kubectl("-n", name, "create", "configmap", "flag", "--from-literal=mark=0")
    control_plane.kubectl("-n", name, "create", "service", "clusterip", "web", f"--tcp={PORT}:{PORT}")
    start_pod(control_plane, name, "one")
    return name


def test_requests_watches_commands_and_forwards_keep_to_the_path(
    control_plane: Plane, caller: Caller, space: str
) -> None:
    flag = {"namespace": space, "kind": "configmap", "name": "flag"}
    made = caller.change("k8s.patch", {**flag, "patch": {"data": {"mark": "1"}}})
    assert control_plane.read(space, "configmap", "flag")["data"] == {"mark": "1"}
    named = {name.partition("#")[0] for name in made.before}
    assert named == {f"k8s:testbed/{space}/ConfigMap/flag"}, "what is recorded does not hang on the way there"
    caller.undo(made)
    kind = known("configmap")
    assert kind is not None
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        with watching(cluster, ctx, [Watched.one(Ref(kind, space, "flag"))]) as alarm:
            control_plane.kubectl("-n", space, "annotate", "configmap", "flag", "seen=1")
            assert alarm.wait(30)
            assert not alarm.broken
        done = call(Exec, {"namespace": space, "pod": "one", "command": ["echo", "here"]}, ctx)
        assert done["stdout"] == "here\n"
        with program(control_plane.local(PORT), echo), forward.open_service(ctx, f"web.{space}", PORT) as at:
            with dialled(at) as mine:
                mine.sendall(b"hello")
                assert exactly(mine, 5) == b"hello"


def test_a_gateway_that_does_not_know_the_way_makes_no_object_absent(
    control_plane: Plane, gateway: str, space: str, tmp_path: Path
) -> None:
    """Outside of its path it answers 404, as the API server does for what is not there."""
    caller = Caller(control_plane, tmp_path)
    caller.environ["KUBECONFIG"] = addressed(control_plane, tmp_path, f"{gateway}/k8s/clusters/c-other")
    flag = {"namespace": space, "kind": "configmap", "name": "flag"}
    told = rf"^cannot \w+ configmaps .*{gateway}/k8s/clusters/c-other answers 404, but not as the Kubernetes API does"
    for name, given in (
        ("k8s.get", {**flag, "optional": True}),
        ("k8s.wait", {**flag, "for": "deleted"}),
    ):
        with pytest.raises(TemporaryError, match=told):
            caller.read(name, given)
    with pytest.raises(TemporaryError, match=told):
        caller.change("k8s.delete", flag)


def test_a_whole_run_goes_through_it_with_its_preflight_and_its_locks(
    control_plane: Plane, gateway: str, space: str, tmp_path: Path
) -> None:
    config = addressed(control_plane, tmp_path, f"{gateway}{PATH}/")
    cli = Commands(tmp_path, control_plane.environ() | {"KUBECONFIG": config})
    cli.write("run.yaml", BOOK.format(space=space))
    said = cli("run", "run.yaml", "--yes", "--locks", f"k8s:{space}")
    assert said.code == 0, said.out + said.err
    assert control_plane.read(space, "configmap", "flag")["data"]["run"] == "yes"
    (lease,) = control_plane.read(space, "leases")["items"]
    assert lease["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "runbook"


def test_helm_goes_its_own_way_through_it(control_plane: Plane, gateway: str, tmp_path: Path) -> None:
    app = App(control_plane, 4, tmp_path)
    app.caller.environ["KUBECONFIG"] = addressed(control_plane, tmp_path, f"{gateway}{PATH}")
    made = app.caller.change("helm.upgrade", app.upgrade({"tag": "1"}))
    assert made.outputs == {"from_revision": 0, "revision": 1, "installed": True}
    assert app.newest() == (1, "deployed")
    assert app.caller.read("helm.status", app.given)["revision"] == 1
