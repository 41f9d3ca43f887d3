"""Which cluster: kubeconfigs by kubectl's rules, service accounts, proxies, client certificates."""

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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from runbook.actions._kube import config as reading
from runbook.actions._kube.config import Access, access, context_name
from runbook.actions._kube.connection import Target
from runbook.actions._kube.login import Credentials, Login
from runbook.actions._kube.transport import Within
from runbook.contract import PermanentError, TemporaryError
from tests.context import LocalContext
from tests.kube import Caller, opened
from tests.kubeconfigs import credential, flag, kubeconfig, reads, runner_space
from tests.testbed.plane import Plane


@pytest.fixture
def space(control_plane: Plane) -> str:
    return runner_space(control_plane)


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


@pytest.mark.control_plane
def test_in_a_pod_its_service_account_is_used(
    control_plane: Plane, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text(control_plane.kubectl("-n", space, "create", "token", "runner"))
    (account / "ca.crt").write_bytes((control_plane.folder / "api.crt").read_bytes())
    monkeypatch.setattr(reading, "_ACCOUNT", account)
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
