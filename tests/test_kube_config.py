"""Which cluster, and who asks: kubeconfigs by kubectl's rules, programs that print credentials, tokens that end.

Against a real API server where one can tell."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from runbook.actions import _kube_config
from runbook.actions._kube import connect
from runbook.actions._kube_config import Access, access, context_name
from runbook.actions._kube_connection import Target
from runbook.actions._kube_kinds import POD, Ref, known
from runbook.actions._kube_login import Credentials, Login
from runbook.actions._kube_transport import Within
from runbook.actions._kube_websocket import upgrade
from runbook.contract import PermanentError, TemporaryError
from tests.command import Commands
from tests.context import LocalContext
from tests.kube import Caller, opened
from tests.testbed.plane import Plane


def kubeconfig(path: Path, **changes: Any) -> Path:
    """A file with context `here`; `changes` replace its parts."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(content | {name.replace("_", "-"): value for name, value in changes.items()}))
    return path


# -- which cluster


def test_files_are_merged_and_the_first_wins(tmp_path: Path) -> None:
    one = kubeconfig(tmp_path / "one", current_context="", users=[])
    there = [{"name": "there", "context": {"cluster": "c", "user": "v"}}]
    user = [{"name": "v", "user": {"token": "other"}}, {"name": "u", "user": {"token": "late"}}]
    cluster = [{"name": "c", "cluster": {"server": "https://127.0.0.1:2"}}]
    two = kubeconfig(tmp_path / "two", contexts=there, users=user, clusters=cluster, current_context="there")
    environ = {"KUBECONFIG": f"{tmp_path / 'absent'}:{one}::{two}"}
    assert context_name(environ, "current") == "there"
    assert access(environ, "there").server == "https://127.0.0.1:1"
    assert access(environ, "here").token == "late"
    assert context_name({"HOME": str(tmp_path / "nobody"), "KUBECONFIG": str(one)}, "here") == "here"


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/token").write_text("from a file\n")
    (tmp_path / "sub/ca.pem").write_text("an authority")
    cluster = [{"name": "c", "cluster": {"server": "https://x", "certificate-authority": "ca.pem"}}]
    user = [{"name": "u", "user": {"tokenFile": "token", "token": "is not taken"}}]
    found = access({"KUBECONFIG": str(kubeconfig(tmp_path / "sub/config", clusters=cluster, users=user))}, "here")
    assert found.ca == b"an authority"
    assert found.token_file == tmp_path / "sub/token"
    assert "is not taken" not in repr(found)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such context": ({"contexts": []}, "the kubeconfig has no usable context 'here'; it has none"),
    "no such cluster": ({"clusters": []}, "context 'here' of the kubeconfig names cluster 'c', which is not there"),
    "no such user": ({"users": []}, "context 'here' of the kubeconfig names user 'u', which is not there"),
    "no address": ({"clusters": [{"name": "c", "cluster": {"server": "localhost"}}]}, r"has no address \(`server`\)"),
    "entries that are none": ({"clusters": "c"}, "names cluster 'c', which is not there"),
    "half a certificate": (
        {"users": [{"name": "u", "user": {"client-certificate-data": "eA=="}}]},
        "has a client certificate or its key, not both",
    ),
    "an authority that is not there": (
        {"clusters": [{"name": "c", "cluster": {"server": "https://x", "certificate-authority": "gone.pem"}}]},
        "cannot read certificate-authority .*gone.pem: No such file",
    ),
    "an old plug-in": ({"users": [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]}, "has an auth-provider"),
    "a plug-in that is none": ({"users": [{"name": "u", "user": {"exec": {"args": []}}}]}, "needs a command"),
    "a plug-in for people": (
        {"users": [{"name": "u", "user": {"exec": {"apiVersion": "v1", "command": "x", "interactiveMode": "Always"}}}]},
        "wants a terminal",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case: str, tmp_path: Path) -> None:
    changes, text = WRONG[case]
    with pytest.raises(PermanentError, match=text) as caught:
        access({"KUBECONFIG": str(kubeconfig(tmp_path / "config", **changes))}, "here")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("token", ["two\nlines-of-secret", "schlüssel-of-secret", "nul\0-of-secret"])
def test_a_token_that_no_header_can_carry_is_not_quoted(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    file = kubeconfig(tmp_path / "config", users=[{"name": "u", "user": {"tokenFile": "token"}}])
    login = Login(lambda: access({"KUBECONFIG": str(file)}, "here"), {})
    with pytest.raises(PermanentError, match="hold characters that no HTTP header can carry") as caught:
        login.credentials(Within(5.0))
    assert "of-secret" not in caught.value.message


def test_an_unknown_context_names_those_that_exist(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config")
    with pytest.raises(PermanentError, match="no usable context 'hree'; it has here") as caught:
        access({"KUBECONFIG": str(file)}, "hree")
    assert caught.value.hint == "did you mean here?"
    with pytest.raises(PermanentError, match=r"there is no kubeconfig .*\(/nowhere/config does not exist\)"):
        access({"KUBECONFIG": "/nowhere/config"}, "here")
    with pytest.raises(PermanentError, match="there is no kubeconfig /nowhere/config, and this is no pod"):
        context_name({"KUBECONFIG": "/nowhere/config"}, "current")
    with pytest.raises(PermanentError, match="no kubeconfig with a current context was found"):
        context_name({}, "current")


@pytest.mark.parametrize("content", ["users: [{token: secret-token", "- a\n- list\n", "a: \t b: c", "\0"])
def test_a_malformed_file_is_named_and_not_quoted(content: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(PermanentError, match=f"cannot read the kubeconfig {tmp_path / 'config'}") as caught:
        context_name({"KUBECONFIG": str(tmp_path / "config")}, "current")
    assert "secret-token" not in caught.value.message
    assert "\n" not in caught.value.message


# -- a pod's service account


@pytest.fixture
def space(control_plane: Plane) -> str:
    name = control_plane.namespace()
    control_plane.kubectl("-n", name, "create", "configmap", "flag", "--from-literal=mark=0")
    control_plane.kubectl("-n", name, "create", "serviceaccount", "runner")
    control_plane.kubectl(
        "-n", name, "create", "rolebinding", "r", "--clusterrole=cluster-admin", f"--serviceaccount={name}:runner"
    )
    return name


def flag(space: str, context: str = "current") -> dict[str, Any]:
    return {"namespace": space, "kind": "configmap", "name": "flag", "context": context}


@pytest.mark.control_plane
def test_in_a_pod_its_service_account_is_used(
    control_plane: Plane, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text(control_plane.kubectl("-n", space, "create", "token", "runner"))
    (account / "ca.crt").write_bytes((control_plane.folder / "certs/apiserver.crt").read_bytes())
    monkeypatch.setattr(_kube_config, "_ACCOUNT", account)
    caller = Caller(control_plane, tmp_path)
    caller.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(control_plane.port)}
    for context in ("current", "in-cluster"):
        assert caller.read("k8s.get", flag(space, context))["object"]["data"] == {"mark": "0"}
    with pytest.raises(PermanentError, match=f"system:serviceaccount:{space}:runner"):
        caller.read("k8s.get", {**flag("default"), "kind": "secret"})
    (account / "ca.crt").write_bytes((control_plane.folder / "kwok.crt").read_bytes())
    with pytest.raises(PermanentError, match=r"the certificate of https://127.0.0.1:\d+ cannot be verified"):
        caller.read("k8s.get", flag(space))
    (account / "token").unlink()
    with pytest.raises(PermanentError, match="this pod has no service account"):
        caller.read("k8s.get", flag(space))


# -- programs that print credentials

PLUGIN = """#!/bin/sh
echo run >> {folder}/runs
env > {folder}/environment
. {folder}/answer
"""


class Plugin:
    """A credentials plug-in of the test's; `answer` is the rest of its script."""

    def __init__(self, folder: Path, plane: Plane) -> None:
        self.folder = folder
        self.program = folder / "get-token"
        self.program.write_text(PLUGIN.format(folder=folder))
        self.program.chmod(0o755)
        found = yaml.safe_load(plane.kubeconfig.read_text())
        self.token = str(found["users"][0]["user"]["token"])
        self.entry: dict[str, Any] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./get-token",
            "args": ["--cluster", "prod"],
            "env": [{"name": "PROFILE", "value": "ops"}],
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": True,
            "installHint": "install get-token from the wiki",
        }
        found["users"][0]["user"] = {"exec": self.entry}
        self.config = found
        self.write()

    def write(self) -> None:
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(self.config))

    def answer(self, script: str) -> None:
        (self.folder / "answer").write_text(script)

    def prints(self, token: str, expires: str | None = None, **more: str) -> None:
        status = {"token": token, "expirationTimestamp": expires, **more}
        self.answer(f"cat <<'E'\n{json.dumps(credential(status))}\nE\n")

    @property
    def runs(self) -> int:
        file = self.folder / "runs"
        return len(file.read_text().splitlines()) if file.exists() else 0


def credential(status: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in status.items() if value}
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": kept}


@pytest.fixture
def plugin(control_plane: Plane, tmp_path: Path) -> Plugin:
    return Plugin(tmp_path, control_plane)


@pytest.fixture
def caller(control_plane: Plane, plugin: Plugin, tmp_path: Path) -> Caller:
    made = Caller(control_plane, tmp_path)
    made.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    return made


def reads(caller: Caller, space: str, times: int = 1, **options: Any) -> None:
    """So many reads of one run."""
    with caller.context(**options) as ctx:
        for _ in range(times):
            action, args = opened("k8s.get", flag(space))
            assert action.read(args, ctx)["object"]["data"] == {"mark": "0"}  # type: ignore[attr-defined]


@pytest.mark.control_plane
def test_a_plug_in_is_run_in_the_environment_of_the_call_and_once(
    caller: Caller, plugin: Plugin, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PROCESS", "not for plug-ins")
    plugin.prints(plugin.token, "2999-01-01T00:00:00Z")
    reads(caller, space, times=5)
    assert plugin.runs == 1
    seen = dict(line.partition("=")[::2] for line in (plugin.folder / "environment").read_text().splitlines())
    assert seen["PROFILE"] == "ops"
    assert seen["PATH"] == caller.environ["PATH"]
    assert "OF_THE_PROCESS" not in seen
    asked = json.loads(seen["KUBERNETES_EXEC_INFO"])
    assert asked["kind"] == "ExecCredential"
    assert asked["spec"]["interactive"] is False
    assert asked["spec"]["cluster"]["server"].startswith("https://127.0.0.1:")


@pytest.mark.control_plane
def test_what_has_run_out_is_got_anew_before_it_is_used(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.prints(plugin.token, "2001-01-01T00:00:00Z")
    reads(caller, space, times=3)
    assert plugin.runs == 3


@pytest.mark.control_plane
def test_many_threads_run_a_plug_in_once(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer(f"sleep 0.3; cat <<'E'\n{json.dumps(credential({'token': plugin.token}))}\nE\n")
    found: list[str] = []
    kind = known("configmap")
    assert kind is not None
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        threads = [
            threading.Thread(target=lambda: found.append(cluster.get(ctx, Ref(kind, space, "flag"))["data"]["mark"]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == ["0"] * 8
    assert plugin.runs == 1


@pytest.mark.control_plane
def test_a_plug_in_that_fails_is_named_with_what_it_said(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer("echo 'Error: the SSO session has expired' >&2; exit 3")
    text = (
        r"the credentials plug-in get-token of context 'testbed' failed \(exit status 3\): Error: the SSO session has"
    )
    with pytest.raises(TemporaryError, match=text):
        reads(caller, space)
    for said in ("echo secret-half", 'echo \'{"kind": "Else", "token": "secret-half"}\'', "true"):
        plugin.answer(said)
        with pytest.raises(PermanentError, match="did not print an ExecCredential") as caught:
            reads(caller, space)
        assert "secret-half" not in caught.value.message
    plugin.prints("")
    with pytest.raises(PermanentError, match="it holds neither a token nor a certificate with its key"):
        reads(caller, space)


@pytest.mark.control_plane
def test_a_plug_in_that_is_not_installed_says_how_to(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.entry["command"] = "aws-no-such-program"
    plugin.write()
    with pytest.raises(
        PermanentError, match=r"aws-no-such-program of context 'testbed' cannot be run: .*not found"
    ) as caught:
        reads(caller, space)
    assert caught.value.hint == "install get-token from the wiki"


@pytest.mark.timed
@pytest.mark.control_plane
def test_a_plug_in_that_hangs_is_ended_with_its_call(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer(f"echo $$ > {plugin.folder}/pid; trap '' TERM; sleep 60")
    began = time.monotonic()
    with pytest.raises(TemporaryError):
        reads(caller, space, seconds=1.0)
    assert time.monotonic() - began < 2.0
    pid = int((plugin.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- tokens that end in the middle of a run


@pytest.mark.control_plane
def test_a_token_file_is_read_again_when_it_changes(control_plane: Plane, space: str, tmp_path: Path) -> None:
    users = [yaml.safe_load(file.read_text())["users"] for file in (control_plane.nobody, control_plane.kubeconfig)]
    (tmp_path / "token").write_text(users[0][0]["user"]["token"])
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    found["users"][0]["user"] = {"tokenFile": "token"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
    caller = Caller(control_plane, tmp_path)
    caller.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    with caller.context() as ctx:
        action, args = opened("k8s.get", flag(space))
        with pytest.raises(PermanentError, match='User "nobody" cannot get'):
            action.read(args, ctx)  # type: ignore[attr-defined]
        (tmp_path / "new").write_text(users[1][0]["user"]["token"] + "\n")
        (tmp_path / "new").replace(tmp_path / "token")
        assert action.read(args, ctx)["found"]  # type: ignore[attr-defined]


STEPS = """
runbook: 1
name: long
defaults: {{with: {{k8s: {{namespace: {space}}}}}}}
steps:
  - {{id: first, action: k8s.patch, with: {{kind: configmap, name: {name}, patch: {{data: {{mark: "1"}}}}}}}}
  - id: pause
    action: shell.run
    with: {{command: [sh, -c, "echo > begun; while test ! -e go; do sleep 0.05; done"]}}
    undo: none
  - {{id: second, action: k8s.patch, with: {{kind: configmap, name: {name}, patch: {{data: {{mark: "2"}}}}}}}}
"""


def bound_token(plane: Plane, space: str, secret: str) -> str:
    """A token that ends with a Secret: what the API server says of it then is what it says of any token that ended."""
    plane.kubectl("-n", space, "create", "secret", "generic", secret)
    kind = ("--bound-object-kind", "Secret", "--bound-object-name", secret)
    return plane.kubectl("-n", space, "create", "token", "runner", *kind).strip()


def ended(plane: Plane, space: str, secret: str, token: str) -> None:
    """End it, and wait until the API server (which remembers good tokens for ten seconds) has noticed."""
    plane.kubectl("-n", space, "delete", "secret", secret)

    def refused() -> bool:
        try:
            plane.kubectl("-n", space, "--token", token, "get", "configmap", "flag")
        except AssertionError as error:
            return "Unauthorized" in str(error) or "must be logged in" in str(error)
        return False

    plane.until(refused, seconds=40.0)


class Long:
    """A run that stands between two changes, in a folder, with credentials and an object of its own."""

    def __init__(self, plane: Plane, space: str, folder: Path) -> None:
        folder.mkdir()
        self.name = folder.name
        self.plane, self.space = plane, space
        self.plugin = Plugin(folder, plane)
        self.first, self.second = (bound_token(plane, space, f"{self.name}-{which}") for which in ("one", "two"))
        self.plugin.prints(self.first, "2999-01-01T00:00:00Z")
        plane.kubectl("-n", space, "create", "configmap", self.name, "--from-literal=mark=0")
        self.cli = Commands(folder, plane.environ() | {"KUBECONFIG": str(folder / "kubeconfig")})
        self.cli.write("long.yaml", STEPS.format(space=space, name=self.name))

    def log_in(self, token: str) -> None:
        """As `oc login` and the like do it: write a token into the kubeconfig."""
        self.plugin.config["users"][0]["user"] = {"token": token}
        self.plugin.write()

    def begin(self) -> None:
        self.process = self.cli.start("run", "long.yaml", "--yes")
        begun = self.cli.folder / "begun"
        self.plane.until(lambda: begun.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        self.runs = self.plugin.runs

    def end(self) -> tuple[int, str, int, str]:
        """Exit code, the object's mark, how often the plug-in was run since, and what was said."""
        (self.cli.folder / "go").touch()
        out, err = self.process.communicate(timeout=60)
        mark = self.plane.read(self.space, "configmap", self.name)["data"]["mark"]
        return self.process.returncode, mark, self.plugin.runs - self.runs, " ".join((out + err).split())


@pytest.mark.control_plane
def test_what_is_no_request_gets_new_credentials_too(
    control_plane: Plane, caller: Caller, plugin: Plugin, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    plugin.answer(  # the first time a token that the server does not know
        f"if test $(wc -l < {plugin.folder}/runs) = 1; then T=unknown; else T={plugin.token}; fi\n"
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", \\"kind\\": \\"ExecCredential\\",'
        ' \\"status\\": {\\"token\\": \\"$T\\"}}"\n'
    )
    (pod,) = control_plane.read(space, "pods")["items"]
    ref = Ref(POD, space, str(pod["metadata"]["name"]), "exec")
    with caller.context() as ctx:
        transport = connect(ctx, "current").transport
        opened_one = upgrade(transport, ctx, f"{ref.path()}?command=true&stdout=true", "v5.channel.k8s.io")
        opened_one.wire.close()
    assert plugin.runs == 2


@pytest.mark.control_plane
def test_tokens_end_in_the_middle_of_runs(control_plane: Plane, space: str, tmp_path: Path) -> None:
    by_plugin, by_hand, never = (
        Long(control_plane, space, tmp_path / name) for name in ("by-plug-in", "by-hand", "never")
    )
    by_hand.log_in(by_hand.first)
    for run in (by_plugin, by_hand, never):
        run.begin()
    for run in (by_plugin, by_hand, never):
        ended(control_plane, space, f"{run.name}-one", run.first)
    by_plugin.plugin.prints(by_plugin.second)
    by_hand.log_in(by_hand.second)
    assert by_plugin.end()[:3] == (0, "2", 1), "got anew once"
    assert by_hand.end()[:3] == (0, "2", 0)
    code, mark, runs, said = never.end()
    assert (code, mark, runs) == (1, "1", 1), "asked once whether there is anything new, then no more"
    assert "context 'testbed' is not logged in (401)" in said


# -- through a proxy


@contextlib.contextmanager
def tunnelling(asked: list[tuple[str, str | None]]) -> Iterator[int]:
    """A proxy that connects (CONNECT) whoever says who he is."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := near.recv(65536):
                far.sendall(content)
            far.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        reader = client.makefile("rb", buffering=0)
        _, place, _ = reader.readline().decode().split(" ")
        headers = http.client.parse_headers(reader)  # unbuffered: what follows is TLS
        asked.append((place, headers.get("Proxy-Authorization")))
        if headers.get("Proxy-Authorization") is None:
            client.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            client.close()
            return
        host, _, port = place.partition(":")
        with socket.create_connection((host, int(port))) as server, client:
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=carry, args=(server, client), daemon=True)
            back.start()
            carry(client, server)
            back.join(30)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.control_plane
def test_a_proxy_of_the_kubeconfig_is_used(control_plane: Plane, space: str, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    caller = Caller(control_plane, tmp_path)
    caller.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    with tunnelling(asked) as port:
        found["clusters"][0]["cluster"]["proxy-url"] = f"http://me:p%40ss@127.0.0.1:{port}"
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
        reads(caller, space, times=3)
        who = "Basic " + base64.b64encode(b"me:p@ss").decode()
        assert asked == [(f"127.0.0.1:{control_plane.port}", who)]
        found["clusters"][0]["cluster"]["proxy-url"] = f"http://127.0.0.1:{port}"
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
        with pytest.raises(TemporaryError, match="407 Who are you"):
            reads(caller, space)
    found["clusters"][0]["cluster"]["proxy-url"] = "socks5://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
    with pytest.raises(PermanentError, match=r"the proxy socks5://\.\.\. is of a kind that is not known here"):
        reads(caller, space)


@pytest.mark.parametrize(
    ("server", "no_proxy", "proxied"),
    [
        ("https://api.example.com", "", True),
        ("https://api.example.com", "example.com", False),
        ("https://api.example.com", ".example.com,x", False),
        ("https://api.example.com", "*.example.com", False),
        ("https://api.example.com", "ample.com", True),
        ("https://10.1.2.3:6443", "10.0.0.0/8", False),
        ("https://10.1.2.3:6443", "10.2.0.0/16, nonsense/x", True),
        ("https://[fd00::1]:6443", "fd00::/8", False),
        ("https://api.example.com", "*", False),
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
        ("http://api.example.com", "", False),  # another variable's
    ],
)
def test_the_proxy_of_the_environment_is_the_one_that_kubectl_takes(server: str, no_proxy: str, proxied: bool) -> None:
    environ = {"HTTPS_PROXY": "proxy.example.com:3128", "NO_PROXY": no_proxy}
    found = Target.of(Access("here", server), Credentials(), environ)
    assert found.proxy == ("http://proxy.example.com:3128" if proxied else None)


# -- client certificates


def made(folder: Path, name: str, *more: str) -> tuple[bytes, bytes]:
    """A certificate and its key."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", f"/CN={name}", *more],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return certificate.read_bytes(), key.read_bytes()


@contextlib.contextmanager
def demanding(folder: Path, client: bytes) -> Iterator[int]:
    """A TLS server for the name `api.test` that takes nobody without this certificate, and answers who came."""
    made(folder, "api", "-addext", "subjectAltName=DNS:api.test")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(folder / "api.crt", folder / "api.key")
    trust.verify_mode = ssl.CERT_REQUIRED
    trust.load_verify_locations(cadata=client.decode())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            subject = self.connection.getpeercert()["subject"]
            who = dict(pair for entry in subject for pair in entry)["commonName"]
            asked = self.headers.get("Impersonate-User", "")
            body = json.dumps({"kind": "ConfigMap", "metadata": {"name": "flag"}, "data": {"mark": who, "as": asked}})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = trust.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", ["in the kubeconfig", "as files", "by a plug-in"])
def test_a_client_certificate_says_who_asks(how: str, tmp_path: Path) -> None:
    certificate, key = made(tmp_path, "ops")
    cluster: dict[str, Any] = {"certificate-authority": "api.crt", "tls-server-name": "api.test"}
    if how == "as files":
        user: dict[str, Any] = {"client-certificate": "ops.crt", "client-key": "ops.key", "as": "someone"}
    elif how == "in the kubeconfig":
        encoded = {"client-certificate-data": certificate, "client-key-data": key}
        user = {name: base64.b64encode(content).decode() for name, content in encoded.items()} | {"as": "someone"}
    else:
        status = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
        (tmp_path / "said").write_text(json.dumps(credential(status)))
        user = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [str(tmp_path / "said")],
            },
            "as": "someone",
        }  # fmt: skip
    with demanding(tmp_path, certificate) as port:
        cluster["server"] = f"https://127.0.0.1:{port}"
        file = kubeconfig(
            tmp_path / "config", clusters=[{"name": "c", "cluster": cluster}], users=[{"name": "u", "user": user}]
        )
        (tmp_path / "run").mkdir()
        environ = {"KUBECONFIG": str(file), "PATH": os.environ["PATH"]}
        with LocalContext(tmp_path / "run", environ=environ) as ctx:
            action, args = opened("k8s.get", flag("shop"))
            found = action.read(args, ctx)  # type: ignore[attr-defined]
            left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert found["object"]["data"] == {"mark": "ops", "as": "someone"}
        assert not left, "no key stays on the disk"
        cluster["tls-server-name"] = "other.test"
        kubeconfig(
            tmp_path / "config", clusters=[{"name": "c", "cluster": cluster}], users=[{"name": "u", "user": user}]
        )
        with LocalContext(tmp_path / "run", environ=environ) as ctx:
            with pytest.raises(PermanentError, match=r"cannot be verified: Hostname mismatch"):
                action.read(args, ctx)  # type: ignore[attr-defined]
