"""A real Kubernetes control plane on loopback, for tests: one per session, ended by its own pids.

    def test_it(control_plane: Plane) -> None:
        namespace = control_plane.namespace()
        control_plane.kubectl("-n", namespace, "create", "deployment", "web", "--image=registry/web:1")

Built once by `tests/testbed/control_plane/build` (Go >= 1.26, ~11 min) into $RUNBOOK_TESTBED. Without it the tests that
want it are skipped with the reason, or fail where everything is required (RUNBOOK_TEST_REQUIRE=all).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent / "control_plane"
NEEDED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kwok", "kubectl", "stages.yaml")
FORWARDED = (8000, 8001, 8080, 9090, 5432)
"""Ports of every pod that lead to a local server: to `Plane.local(port)`."""

_GROUPS = {
    "api/v1": ("configmap", "secret", "service", "pod"),
    "apis/apps/v1": ("deployment", "replicaset", "statefulset", "daemonset", "controllerrevision"),
    "apis/coordination.k8s.io/v1": ("lease",),
}
SERVED = {kind: f"{group}/{kind}s" for group, kinds in _GROUPS.items() for kind in kinds}
"""Kinds that every server has, by their singular: where they are served."""

_ITS_OWN = ssl._create_unverified_context()  # a certificate that the server made for itself, on loopback


def built() -> Path:
    """Where `build` put the programs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RUNBOOK_TESTBED") or cache / "runbook-testbed")


def why_not() -> str | None:
    """Why there can be no control plane on this machine; None when there can."""
    missing = [name for name in NEEDED if not (built() / name).exists()]
    if missing:
        return f"no Kubernetes control plane: {missing[0]} is not in {built()} (tests/testbed/control_plane/build)"
    absent = [name for name in ("bash", "openssl", "curl") if shutil.which(name) is None]
    return f"no Kubernetes control plane: {absent[0]} is not installed" if absent else None


@dataclass(frozen=True)
class Plane:
    """A running control plane. `kubeconfig` is cluster-admin's, `nobody` the one of a user without any right."""

    folder: Path
    port: int
    kubeconfig: Path
    nobody: Path
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def environ(self, helm: int = 4, *, user: str = "admin") -> dict[str, str]:
        """An environment for actions: this cluster, this user, helm 3 or 4."""
        programs = built() / "helm3" if helm == 3 else built()
        return {
            "KUBECONFIG": str(self.kubeconfig if user == "admin" else self.nobody),
            "HOME": str(self.folder),
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "GOGC": "400",  # a quarter less time of each helm and kubectl, of which there are thousands
        }

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as cluster-admin; its output."""
        return self._run([str(built() / "kubectl"), *arguments], self.environ(), stdin)

    def helm(self, version: int, *arguments: str) -> str:
        """Run helm; its output."""
        return self._run(["helm", *arguments], self.environ(version), None)

    def read(self, namespace: str, *arguments: str) -> Any:
        """What `kubectl get ... -o json` says; of well-known kinds without a kubectl: tests ask thousands of times."""
        kinds = [SERVED.get(kind.lower().removesuffix("s")) for kind in arguments[0].split(",")]
        if None not in kinds and len(arguments) == 1:
            return {"items": [item for kind in kinds for item in self._listed(f"{kind}", namespace)]}
        if None not in kinds and len(arguments) == 2 and len(kinds) == 1 and arguments[1][:1] not in ("-", ""):
            return _as_shown(self._get(f"{kinds[0]}", namespace, arguments[1]))
        return json.loads(self.kubectl("--namespace", namespace, "get", *arguments, "--output", "json"))

    def _listed(self, kind: str, namespace: str) -> list[Any]:
        answer = self._get(kind, namespace)
        about = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [_as_shown(about | item) for item in answer["items"]]

    def _get(self, kind: str, namespace: str, name: str = "") -> Any:
        group, _, plural = kind.rpartition("/")
        return self._ask("GET", f"/{group}/namespaces/{namespace}/{plural}/{name}".rstrip("/"))

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        """As cluster-admin. AssertionError with the server's word where it says no, or nothing."""
        url, body = f"https://127.0.0.1:{self.port}{path}", None if content is None else json.dumps(content).encode()
        token = (self.folder / "tokens.csv").read_text().partition(",")[0]
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": "application/json"}
        asked = urllib.request.Request(url, body, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60, context=_ITS_OWN) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {url}: {refused.read().decode(errors='replace')}") from None
        except OSError as error:
            raise AssertionError(f"{method} {url}: {error}") from None

    def namespace(self) -> str:
        """A new namespace of its own for a test."""
        name = f"test-{next(self._names)}"
        self._ask("POST", "/api/v1/namespaces?fieldManager=kubectl-create", {"metadata": {"name": name}})
        return name

    def allow(self, namespace: str, *rules: str) -> None:
        """Give the user nobody rights in a namespace: `get,list=pods,deployments.apps`."""
        for number, rule in enumerate(rules):
            verbs, _, resources = rule.partition("=")
            role = f"nobody-{next(self._names)}-{number}"
            self.kubectl("-n", namespace, "create", "role", role, f"--verb={verbs}", f"--resource={resources}")
            self.kubectl("-n", namespace, "create", "rolebinding", role, f"--role={role}", "--user=nobody")

    def deployment(self, namespace: str, name: str, image: str, replicas: int = 2, *, wait: bool = True) -> None:
        """Make a Deployment whose pods become ready: the one that `kubectl create deployment` makes."""
        container = {"name": re.split("[:@]", image.rpartition("/")[2])[0], "image": image}
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        made = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
        self._ask("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments?fieldManager=kubectl-create", made)
        if wait:
            self.rolled_out(namespace, name)

    def rolled_out(self, namespace: str, name: str) -> None:
        """Wait until a Deployment's newest spec is rolled out."""

        def holds() -> bool:
            found = self._get("apis/apps/v1/deployments", namespace, name)
            status, wanted = found["status"], found["spec"]["replicas"]
            counts = [status.get(count, 0) for count in ("replicas", "updatedReplicas", "availableReplicas")]
            return status.get("observedGeneration") == found["metadata"]["generation"] and counts == [wanted] * 3

        self.until(holds, 120)

    def local(self, port: int) -> int:
        """The local port to which port-forward to a pod's `port` leads (one of FORWARDED)."""
        return self.port + 4 + FORWARDED.index(port)

    def signal(self, program: str, number: int) -> None:
        """Send a signal to one of the control plane's programs (`etcd`, `kube-apiserver`), by its pid."""
        os.kill(int((self.folder / f"{program}.pid").read_text()), number)

    def kill(self, program: str) -> list[str]:
        """End one of them as a crash does; its command line, for `start`."""
        pid = int((self.folder / f"{program}.pid").read_text())
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: not _lives(pid))
        return argv

    def start(self, program: str, argv: list[str]) -> None:
        """Start one of them again; `down` ends it as it would have ended the first."""
        with (self.folder / f"{program}.log").open("ab") as log:
            child = subprocess.Popen(
                argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.folder / f"{program}.pid").write_text(f"{child.pid}\n")

    def compact(self) -> None:
        """Let the store forget all versions but the present one, as the API server has it do every five minutes."""
        now = self._store("range", {"key": "AA=="})["header"]["revision"]
        self._store("compaction", {"revision": now, "physical": True})

    def _store(self, what: str, asked: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port + 1}/v3/kv/{what}", json.dumps(asked).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    @staticmethod
    def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until it holds; fails the test when it does not in time."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come to be in time"
            time.sleep(0.05)

    @staticmethod
    def _run(argv: list[str], environ: Mapping[str, str], stdin: str | None) -> str:
        done = subprocess.run(
            argv, env=dict(environ), input=stdin, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Plane]:
    """Start a control plane in a folder, on free ports; end it afterwards by its own pids."""
    port = _free_block(4 + len(FORWARDED))
    plane = Plane(folder / "plane", port, folder / "plane/kubeconfig", folder / "plane/kubeconfig-nobody")
    forwards = "".join(
        f"  - {{ports: [{inner}], target: {{address: 127.0.0.1, port: {plane.local(inner)}}}}}\n" for inner in FORWARDED
    )
    pods = folder / "pods.yaml"
    pods.write_text(
        "apiVersion: kwok.x-k8s.io/v1alpha1\nkind: ClusterPortForward\nmetadata: {name: services}\n"
        f"spec:\n  forwards:\n{forwards}---\n"
    )
    environ = {**os.environ, "PODS": str(pods), "RUNBOOK_TESTBED": str(built())}
    up = subprocess.run(
        [str(SCRIPTS / "up"), str(plane.folder), str(port)],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    try:
        assert up.returncode == 0, f"the control plane did not start: {up.stdout}{up.stderr}"
        yield plane
    finally:
        subprocess.run([str(SCRIPTS / "down"), str(plane.folder)], timeout=60, check=False)


def _as_shown(found: Any) -> Any:
    """Without what kubectl does not show either."""
    found["metadata"].pop("managedFields", None)
    return found


def _lives(pid: int) -> bool:
    """Whether it runs: a zombie, whose parent is not we, does not. Its other threads may last longer, and its port."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False
    return state not in "ZX" or threads > 1


def _free_block(size: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for start in range(27000 + os.getpid() % 50 * 20, 32000, 20):
        with contextlib.ExitStack() as held:
            try:
                for port in range(start, start + size):
                    probe = held.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return start
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The session's control plane."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("kubernetes")) as plane:
        yield plane


@pytest.fixture(params=[3, 4], ids=["helm3", "helm4"])
def helm_version(request: pytest.FixtureRequest, control_plane: Plane) -> int:
    """Each of the two Helm versions."""
    version = int(request.param)
    folder = built() / "helm3" if version == 3 else built()
    if not (folder / "helm").exists():
        pytest.skip(f"no helm {version} in {folder} (tests/testbed/control_plane/build)")
    return version


@pytest.fixture(scope="session")
def helm_chart(control_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart as `helm create` makes it, with a Secret: values `image.tag`, `replicaCount` and `password`."""
    folder = tmp_path_factory.mktemp("chart")
    control_plane.helm(4, "create", str(folder / "app"))
    (folder / "app/templates/secret.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: {{ .Release.Name }}-secret}\n"
        'stringData: {password: {{ .Values.password | default "initial-pass" | quote }}, user: app}\n'
    )
    return folder / "app"
