"""Port-forward, in both worlds of tests/test_conformance.py, by the official client: what `k8s.http` stands on."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.test_conformance import Api, api, deployment, eventually, real, rolled_out, simulated

__all__ = ["api", "real", "simulated"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


class Well(http.server.BaseHTTPRequestHandler):
    """What stands in for the program in a real pod: kwok's pods have none."""

    def do_GET(self) -> None:
        content = json.dumps({"status": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Quiet."""


@pytest.fixture
def answering(request: pytest.FixtureRequest, api: Api) -> Iterator[None]:  # the fixture
    """Somebody answers at port 8000 of every pod."""
    with contextlib.ExitStack() as ends:
        if api is not request.getfixturevalue("simulated"):
            port = request.getfixturevalue("control_plane").local(8000)
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Well)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ends.callback(server.server_close)
            ends.callback(server.shutdown)
        yield


@contextlib.contextmanager
def connected(api: Api, token: str) -> Iterator[Any]:
    """The official client, with this token."""
    from kubernetes import client

    settings: Any = client.Configuration()
    settings.host, settings.verify_ssl = api.server, False
    settings.api_key = {"authorization": f"Bearer {token}"}
    with client.ApiClient(settings) as connection:
        yield client.CoreV1Api(connection)


@pytest.fixture
def core(api: Api) -> Iterator[Any]:
    with connected(api, api.token) as found:
        yield found


def pod_of(api: Api) -> str:
    api.ok("POST", api.at("deployments"), deployment(replicas=1))
    eventually(lambda: rolled_out(api))
    (found,) = api.ok("GET", api.at("pods"))["items"]
    return str(found["metadata"]["name"])


def test_a_pod_is_asked_by_the_official_client(api: Api, core: Any, answering: None) -> None:
    from kubernetes import stream

    pod, forward = pod_of(api), stream.portforward
    for _ in range(3):
        tunnel: Any = forward(core.connect_get_namespaced_pod_portforward, pod, api.namespace, ports="8000")
        wire = tunnel.socket(8000)
        wire.settimeout(20)
        wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = b""
        while b"}" not in said and (more := wire.recv(4096)):
            said += more
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.splitlines()[0].split()[1] == b"200"
        assert json.loads(body)
        wire.close()


def test_a_pod_that_is_not_there_and_a_right_that_is_not(api: Api, core: Any) -> None:
    from kubernetes import client, stream

    forward: Any = stream.portforward
    with pytest.raises(client.ApiException) as missing:
        forward(core.connect_get_namespaced_pod_portforward, "nobody", api.namespace, ports="8000")
    assert "404" in str(missing.value)
    pod = pod_of(api)
    with connected(api, api.nobody) as stranger, pytest.raises(client.ApiException) as forbidden:
        forward(stranger.connect_get_namespaced_pod_portforward, pod, api.namespace, ports="8000")
    assert "403" in str(forbidden.value)
