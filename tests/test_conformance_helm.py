"""The simulated helm against the real ones: the same commands, the same outcomes, the same words."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.sandbox import scenario, surroundings
from tests.testbed.plane import Plane

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")  # the plane signs its own
WORLD = """
scenario: 1
world:
  ready_after: 200ms
  versions: {"sick": {health: never_ready}}
  namespaces:
    shop:
      deployments: {web: {image: "registry/web:3", replicas: 2}}
      releases:
        web:
          chart: web-0.1.0
          revisions: [{tag: "1"}, {tag: sick}, {tag: "3"}]
"""
CHART = "apiVersion: v2\nname: web\nversion: 0.1.0\n"
# Sick in the real world: no such node.
TEMPLATE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      {{- if eq .Values.tag "sick" }}
      nodeSelector: {no: where}
      {{- end }}
      containers: [{name: web, image: "registry/web:{{ .Values.tag }}"}]
"""
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Helm:
    """One helm, its cluster and a namespace with the release `web`: revisions 1, sick, 3."""

    environ: Mapping[str, str]
    namespace: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["helm", *arguments, "--namespace", self.namespace]
        return subprocess.run(argv, env=dict(self.environ), capture_output=True, text=True, timeout=60, check=False)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def image(self) -> str:
        """What the live Deployment runs."""
        from kubernetes import client, config

        settings: Any = client.Configuration()
        load: Any = config.load_kube_config
        load(self.environ["KUBECONFIG"], client_configuration=settings)
        with client.ApiClient(settings) as connection:
            apps: Any = client.AppsV1Api(connection)
            item = apps.read_namespaced_deployment("web", self.namespace)
        return str(item.spec.template.spec.containers[0].image)


def real(plane: Plane, version: int, folder: Path) -> Helm:
    environ = plane.environ(version)
    made = Helm(environ, f"helm-{version}-{int(time.time() * 1000) % 10**8}-{next(_NUMBERS)}")
    (folder / "web/templates").mkdir(parents=True)
    (folder / "web/Chart.yaml").write_text(CHART)
    (folder / "web/templates/web.yaml").write_text(TEMPLATE)
    for number, tag in enumerate(("1", "sick", "3")):
        command = ["upgrade"] if number else ["install", "--create-namespace"]
        done = made.run(*command, "web", str(folder / "web"), "--set-string", f"tag={tag}")
        assert done.returncode == 0, done.stderr
    return made


PROGRAMS = [
    "simulated",
    pytest.param("helm 3", marks=pytest.mark.control_plane),
    pytest.param("helm 4", marks=pytest.mark.control_plane),
]


def begin(program: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Helm]:
    if program == "simulated":
        with surroundings.start(scenario.parse(WORLD)) as sandbox:
            yield Helm(sandbox.environ, "shop")
    else:
        yield real(request.getfixturevalue("control_plane"), int(program[-1]), folder)


@pytest.fixture(params=PROGRAMS)
def helm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Helm]:
    """A release of the test's own."""
    yield from begin(request.param, request, tmp_path)


@pytest.fixture(params=PROGRAMS, scope="module")
def looked_at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """A release that no test changes."""
    yield from begin(request.param, request, tmp_path_factory.mktemp("chart"))


def test_history(looked_at: Helm) -> None:
    helm = looked_at
    history = helm.json("history", "web")
    assert [(one["revision"], one["status"], one["description"]) for one in history] == [
        (1, "superseded", "Install complete"),
        (2, "superseded", "Upgrade complete"),
        (3, "deployed", "Upgrade complete"),
    ]
    assert {one["chart"] for one in history} == {"web-0.1.0"}
    assert {"revision", "updated", "status", "chart", "app_version", "description"} <= set(history[0])
    assert [one["revision"] for one in helm.json("history", "web", "--max", "2")] == [2, 3]
    first, *lines = helm.run("history", "web").stdout.splitlines()
    assert first.split("\t")[0].strip() == "REVISION"
    assert [line.split("\t")[2].strip() for line in lines] == ["superseded", "superseded", "deployed"]


def test_status_and_manifest(looked_at: Helm) -> None:
    helm = looked_at
    status = helm.json("status", "web")
    assert (status["name"], status["version"], status["namespace"]) == ("web", 3, helm.namespace)
    assert (status["info"]["status"], status["info"]["description"]) == ("deployed", "Upgrade complete")
    assert helm.json("status", "web", "--revision", "1")["info"]["status"] == "superseded"
    for revision, image in (("1", "registry/web:1"), ("3", "registry/web:3")):
        done = helm.run("get", "manifest", "web", "--revision", revision)
        assert done.returncode == 0
        assert done.stdout.startswith("---\n# Source: web/templates/")
        assert image in done.stdout
    assert helm.run("get", "hooks", "web", "--revision", "1").stdout == ""
    listed = helm.json("list")
    assert [(one["name"], one["revision"], one["status"]) for one in listed] == [("web", "3", "deployed")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("history", "nope"), "Error: release: not found"),
        (("status", "nope", "--output", "json"), "Error: release: not found"),
        (("get", "manifest", "web", "--revision", "9"), "Error: release: not found"),
        (("rollback", "nope", "1"), "Error: release: not found"),
        (("rollback", "web", "9"), "Error: release has no 9 version"),
        (("rollback", "web", "1", "--bogus"), "Error: unknown flag: --bogus"),
        (("history",), 'Error: "helm history" requires 1 argument'),
        (("rollback",), 'Error: "helm rollback" requires at least 1 argument'),
    ],
)
def test_errors(looked_at: Helm, arguments: tuple[str, ...], said: str) -> None:
    done = looked_at.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == said


def test_who_may_not(looked_at: Helm) -> None:
    nobody = Path(looked_at.environ["KUBECONFIG"]).with_name("kubeconfig-nobody")
    done = looked_at.run("history", "web", "--kubeconfig", str(nobody))
    assert (done.returncode, done.stderr) == (
        1,
        'Error: query: failed to query with labels: secrets is forbidden: User "nobody" cannot list resource "secrets" '
        f'in API group "" in the namespace "{looked_at.namespace}"\n',
    )
    done = looked_at.run("history", "web", "--kube-context", "nope")
    assert done.returncode == 1
    assert 'cluster unreachable: context "nope" does not exist' in done.stderr


def test_rollback(helm: Helm) -> None:
    done = helm.run("rollback", "web", "1", "--dry-run")
    assert done.returncode == 0
    assert helm.image() == "registry/web:3"
    done = helm.run("rollback", "web", "1", "--wait", "--timeout", "30s")
    assert (done.returncode, done.stdout) == (0, "Rollback was a success! Happy Helming!\n")
    assert helm.image() == "registry/web:1"
    newest = helm.json("history", "web")[-1]
    assert (newest["revision"], newest["status"], newest["description"]) == (4, "deployed", "Rollback to 1")
    assert helm.run("rollback", "web", "--wait", "--timeout", "30s").returncode == 0
    newest = helm.json("history", "web")[-1]
    assert newest["description"] == "Rollback to 3", "without a revision it toggles"
    assert helm.image() == "registry/web:3"


def test_a_rollback_that_does_not_get_ready(helm: Helm) -> None:
    done = helm.run("rollback", "web", "2", "--wait", "--timeout", "2s")
    assert done.returncode == 1
    assert "context deadline exceeded" in done.stderr
    history = helm.json("history", "web")
    assert [one["status"] for one in history] == ["superseded", "superseded", "deployed", "failed"]
    assert history[-1]["description"].startswith('Release "web" failed: ')
    assert helm.image() == "registry/web:sick", "it was applied all the same"
    assert helm.run("rollback", "web", "1", "--wait", "--timeout", "30s").returncode == 0
    assert [one["status"] for one in helm.json("history", "web")][2:] == ["superseded", "failed", "deployed"]


def test_a_killed_rollback_stays_pending(helm: Helm) -> None:
    argv = ["helm", "rollback", "web", "2", "--wait", "--timeout", "60s", "--namespace", helm.namespace]
    with subprocess.Popen(argv, env=dict(helm.environ), stderr=subprocess.DEVNULL) as program:
        deadline = time.monotonic() + 20
        while len(history := helm.json("history", "web")) < 4 or history[-1]["status"] != "pending-rollback":
            assert time.monotonic() < deadline
        time.sleep(0.5)
        program.kill()
    time.sleep(0.5)
    assert helm.json("status", "web")["info"]["status"] == "pending-rollback"
    assert helm.run("rollback", "web", "1", "--wait", "--timeout", "30s").returncode == 0
    assert helm.image() == "registry/web:1"
