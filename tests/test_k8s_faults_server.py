"""The API server is killed and comes back in the middle of a run; its store stands still. On a control plane apart."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.actions._kube import cluster as clusters
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref, known
from tests.command import Commands
from tests.kube import Caller
from tests.proxy import proxied
from tests.testbed.plane import Plane, running, why_not

pytestmark = pytest.mark.control_plane

STEPS = """
runbook: 1
name: outlives
defaults: {{with: {{k8s: {{namespace: {space}}}}}}}
steps:
  - id: mark
    action: k8s.patch
    with: {{kind: configmap, name: flag, patch: {{data: {{mark: "1"}}}}}}
  - id: pause
    action: shell.run
    with: {{command: [sh, -c, "echo > begun; while test ! -e go; do sleep 0.05; done"]}}
    undo: none
  - id: scale
    action: k8s.scale
    with: {{name: web, replicas: 3}}
    timeout: {timeout}
    retry: {{max_attempts: 100, delay: 200ms, max_delay: 500ms}}
  - id: rolled_out
    action: k8s.wait
    with: {{kind: deployment, name: web, for: rollout}}
    timeout: 60s
  - id: done
    action: k8s.patch
    with: {{kind: configmap, name: flag, patch: {{data: {{mark: "2"}}}}, expect: {{data: {{mark: "1"}}}}}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("faulty")) as found:
        yield found


@pytest.fixture
def space(plane: Plane) -> str:
    name = plane.namespace()
    plane.deployment(name, "web", "r/web:1", replicas=1)
    plane.kubectl("-n", name, "create", "configmap", "flag", "--from-literal=mark=0")
    return name


@pytest.fixture
def cli(plane: Plane, tmp_path: Path) -> Commands:
    return Commands(tmp_path, plane.environ())


def begin(cli: Commands, space: str, timeout: str) -> subprocess.Popen[str]:
    """A run that stands before its second change."""
    cli.write("run.yaml", STEPS.format(space=space, timeout=timeout))
    process = cli.start("run", "run.yaml", "--yes")
    Plane.until((cli.folder / "begun").exists)
    return process


def attempts(cli: Commands) -> int:
    """Of the step that meets the fault."""
    steps = json.loads(cli("show", "last", "--output", "json").out)["steps"]
    return next((int(step["attempts"]) for step in steps if step["id"] == "scale"), 0)


def ended_well(process: subprocess.Popen[str], plane: Plane, space: str, cli: Commands) -> None:
    """The run did all that it should, once; and all of it can be taken back."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert plane.read(space, "configmap", "flag")["data"] == {"mark": "2"}
    assert plane.read(space, "deployment", "web")["status"]["readyReplicas"] == 3
    assert plane.read(space, "deployment", "web")["metadata"]["generation"] == 2, "scaled once"
    said = cli("undo", "last", "--yes")
    assert said.code == 0, said.out + said.err
    assert plane.read(space, "configmap", "flag")["data"] == {"mark": "0"}
    assert plane.read(space, "deployment", "web")["spec"]["replicas"] == 1


def test_a_run_outlives_its_api_server(plane: Plane, space: str, cli: Commands) -> None:
    process = begin(cli, space, "20s")
    argv = plane.kill("kube-apiserver")
    (cli.folder / "go").touch()
    plane.until(lambda: attempts(cli) >= 2)
    plane.start("kube-apiserver", argv)
    ended_well(process, plane, space, cli)


WAITS = """
runbook: 1
name: waits
defaults: {{with: {{k8s: {{namespace: {space}}}}}}}
steps:
  - id: gone
    action: k8s.wait
    with: {{kind: configmap, name: flag, for: deleted}}
    timeout: 60s
"""


def test_a_wait_that_watches_outlives_its_api_server(plane: Plane, space: str, tmp_path: Path) -> None:
    """It is killed while a watch is open: what is waited for comes only when it is back, and is seen."""
    with proxied(plane) as proxy:
        cli = Commands(tmp_path, plane.environ() | {"KUBECONFIG": proxy.kubeconfig(tmp_path)})
        cli.write("waits.yaml", WAITS.format(space=space))
        process = cli.start("run", "waits.yaml", "--yes")
        plane.until(lambda: proxy.count("GET", "[?&]watch=1") > 0 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        asked = len(proxy.asked)
        argv = plane.kill("kube-apiserver")
        plane.until(lambda: len(proxy.asked) > asked)  # it has noticed, and asks whoever is not there
        plane.start("kube-apiserver", argv)
        plane.until(lambda: _answers(plane))
        plane.kubectl("-n", space, "delete", "configmap", "flag")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err


# -- versions that the store has forgotten


@pytest.fixture(scope="module")
def forgetful(plane: Plane) -> Plane:
    """The same, with an API server that remembers no ConfigMaps itself: what its store has compacted is gone."""
    plane.start("kube-apiserver", [*plane.kill("kube-apiserver"), "--watch-cache-sizes=configmaps#0"])
    plane.until(lambda: _answers(plane))
    return plane


def test_a_watch_from_a_version_that_was_compacted_lists_again(forgetful: Plane, space: str, tmp_path: Path) -> None:
    watch, listed = "[?&]watch=1", "[?&]limit=1(&|$)"
    with proxied(forgetful) as proxy:
        proxy.fault("GET", watch, "reset", times=1)
        proxy.fault("GET", watch, "refuse", times=1_000_000)  # nothing is watched until it is let through
        cli = Commands(tmp_path, forgetful.environ() | {"KUBECONFIG": proxy.kubeconfig(tmp_path)})
        cli.write("waits.yaml", WAITS.format(space=space))
        process = cli.start("run", "waits.yaml", "--yes")
        forgetful.until(lambda: proxy.count("GET", watch) > 0 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        asked = next(path for _, path in proxy.asked if "watch=1" in path)
        for name in ("later", "latest"):  # the version after the one that it watches from is not the present one
            forgetful.kubectl("-n", space, "create", "configmap", name)
        forgetful.compact()
        event = json.loads(forgetful.kubectl("get", "--raw", asked))
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410), event
        before = proxy.count("GET", listed)
        proxy.rules.clear()
        forgetful.until(lambda: proxy.count("GET", listed) > before)
        forgetful.kubectl("-n", space, "delete", "configmap", "flag")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert proxy.count("GET", listed) == before + 1


def test_a_list_whose_version_was_compacted_between_two_pages_goes_on(
    forgetful: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE", 2)
    space, names = forgetful.namespace(), [f"map-{number}" for number in range(5)]
    for name in names:
        forgetful.kubectl("-n", space, "create", "configmap", name)
    kind = known("configmap")
    assert kind is not None
    with proxied(forgetful) as proxy:
        caller = Caller(forgetful, tmp_path)
        caller.environ["KUBECONFIG"] = proxy.kubeconfig(tmp_path)
        with caller.context() as ctx:
            found = connect(ctx, "current").each(ctx, Ref(kind, space))
            first = next(found)
            forgetful.kubectl("-n", space, "delete", "configmap", names[0])
            forgetful.compact()
            rest = [one["metadata"]["name"] for one in found]
    assert [first["metadata"]["name"], *rest] == names
    assert proxy.count("GET", "configmaps.*continue=") == 3, "two pages, the first of them refused once"


def _answers(plane: Plane) -> bool:
    try:
        plane.kubectl("get", "--raw", "/readyz")
    except AssertionError:
        return False
    return True


def test_a_store_that_stands_still_for_ten_seconds_costs_time_and_nothing_else(
    plane: Plane, space: str, cli: Commands
) -> None:
    process = begin(cli, space, "2s")  # shorter than the fault: attempts are cut, and looked at again
    thaw = threading.Timer(10.0, plane.signal, ("etcd", signal.SIGCONT))
    plane.signal("etcd", signal.SIGSTOP)
    thaw.start()
    try:
        (cli.folder / "go").touch()
        plane.until(lambda: attempts(cli) >= 3)
        thaw.join()
    finally:
        thaw.cancel()
        plane.signal("etcd", signal.SIGCONT)
    ended_well(process, plane, space, cli)
