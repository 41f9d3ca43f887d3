"""Port-forward through the API server: a pod's port as a socket of ours.

One WebSocket carries one connection (subprotocol v4.channel.k8s.io): channel 0 is the data, channel 1 an error, and
both begin with the port's number in two bytes, little-endian. The client library's own `portforward` swaps a method of
the shared ApiClient while it connects, which is not for threads; its `create_websocket` (TLS, proxies) is used as is.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from runbook.actions import _kube_kinds as kinds
from runbook.actions._kube import Cluster, connect, explain
from runbook.actions._kube_kinds import Ref
from runbook.actions._kube_transport import Answer, Bounds
from runbook.actions._kube_workload import is_ready, pod_selector, pods
from runbook.contract import Context, PermanentError, TemporaryError

_CHUNK = 64 * 1024


class Tunnel:
    """An open forward to one port: bytes go between `ours` and the pod until either side ends.

    `failure`: what the kubelet said, once it said something (no process listens on that port, say).
    """

    def __init__(self, ours: socket.socket, web: Any) -> None:
        self.failure: str | None = None
        self._ours = ours
        self._web = web
        threading.Thread(target=self._carry, name="port-forward", daemon=True).start()

    def close(self) -> None:
        """End both sides; whoever reads from the other end of `ours` sees its end."""
        for side in (self._ours, self._web.sock):
            if isinstance(side, socket.socket):
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: that one drops the TLS object under the feet of the thread that reads.
                    socket.socket.shutdown(side, socket.SHUT_RDWR)

    def _carry(self) -> None:
        from websocket import WebSocketException

        # One thread for both ways: a TLS object is not for two at a time.
        with contextlib.suppress(OSError, ValueError, WebSocketException):
            self._pump()
        self.close()
        self._ours.close()
        with contextlib.suppress(OSError, WebSocketException):
            self._web.shutdown()

    def _pump(self) -> None:
        begun: set[int] = set()
        with selectors.DefaultSelector() as ready:
            ready.register(self._ours, selectors.EVENT_READ)
            ready.register(self._web.sock, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is self._ours:
                        chunk = self._ours.recv(_CHUNK)
                        if not chunk:
                            return
                        self._web.send_binary(b"\x00" + chunk)
                    elif not self._receive(begun):
                        return

    def _receive(self, begun: set[int]) -> bool:
        """Take the frames that are there (TLS decrypts more than select shows); False at the connection's end."""
        from websocket import ABNF

        while True:
            opcode, frame = self._web.recv_data_frame(True)
            if opcode == ABNF.OPCODE_CLOSE:
                return False
            if opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and frame.data:
                channel, content = frame.data[0], frame.data[1:]
                if channel not in begun:
                    begun.add(channel)
                    content = content[2:]
                if channel == 1 and content:
                    self.failure = content.decode("utf-8", "replace").strip()
                    return False
                if channel == 0 and content:
                    self._ours.sendall(content)
            if not (isinstance(self._web.sock, ssl.SSLSocket) and self._web.sock.pending()):
                return True


def open_tunnel(cluster: Cluster, bounds: Bounds, pod: Ref, port: int, ours: socket.socket) -> Tunnel:
    """Forward `ours` to a pod's port. TemporaryError, or PermanentError where the right is missing."""
    from kubernetes.stream.ws_client import create_websocket, get_websocket_url
    from websocket import WebSocketBadStatusException, WebSocketException

    bounds.checkpoint()
    transport = cluster.transport
    ref = Ref(kinds.POD, pod.namespace, pod.name, "portforward")
    url = get_websocket_url(transport.url(ref.path()), [("ports", str(port))])
    headers = {**transport.authorization(), "sec-websocket-protocol": "v4.channel.k8s.io"}
    try:
        web = create_websocket(transport.configuration, url, headers)
    except WebSocketBadStatusException as error:
        answer = Answer(error.status_code, error.resp_headers or {}, error.resp_body or b"")
        raise explain(answer, f"create {ref}", cluster.context) from error
    except (OSError, WebSocketException) as error:
        raise TemporaryError(f"cannot forward to port {port} of pod {pod.name}: {error}") from error
    return Tunnel(ours, web)


@contextlib.contextmanager
def open_pod(bounds: Bounds, cluster: Cluster, pod: Ref, port: int) -> Iterator[tuple[socket.socket, Tunnel]]:
    """A connected socket to a pod's port while the block runs; cut at the deadline."""
    near, far = socket.socketpair()
    with near:
        try:
            tunnel = open_tunnel(cluster, bounds, pod, port, far)
        except BaseException:
            far.close()
            raise
        forget = bounds.on_stop(tunnel.close)
        try:
            yield near, tunnel
        finally:
            forget()
            tunnel.close()


@contextlib.contextmanager
def open_service(
    ctx: Context, host: str, port: int, *, context: str = "current", namespace: str = ""
) -> Iterator[tuple[str, int]]:
    """A Service's port as a listening socket on loopback while the block runs: `(127.0.0.1, port)`.

    `host`: the Service's name as its clients in the cluster have it (`db`, `db.shop`, `db.shop.svc.cluster.local`); a
    bare name is looked for in `namespace`. Each connection goes to a ready pod of the Service. Errors: PermanentError
    (no such Service or port, no right), TemporaryError (no ready pod, unreachable).
    """
    cluster = connect(ctx, context)
    service, where = service_name(host, namespace)
    found = cluster.get(ctx, Ref(kinds.SERVICE, where, service))
    ready = [pod for pod in pods(cluster, ctx, where, pod_selector(found)) if is_ready(pod)]
    if not ready:
        raise TemporaryError(f"no pod of Service {service} in namespace {where!r} is ready")
    target = Ref(kinds.POD, where, str(ready[0]["metadata"]["name"]))
    number = target_port(found, ready[0], port)
    listener = socket.create_server(("127.0.0.1", 0))
    tunnels: list[Tunnel] = []
    closing = threading.Event()

    def shut() -> None:
        closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for tunnel in tuple(tunnels):  # a copy: the thread above may add one meanwhile
            tunnel.close()

    def serve() -> None:
        while not closing.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:  # no tunnel: the client sees its connection closed, and says so in its own words
                tunnels.append(open_tunnel(cluster, ctx, target, number, client))
            except (TemporaryError, PermanentError) as error:
                ctx.log(error.message)
                client.close()

    forget = ctx.on_stop(shut)
    threading.Thread(target=serve, name="port-forward", daemon=True).start()
    try:
        yield "127.0.0.1", int(listener.getsockname()[1])
    finally:
        forget()
        shut()
        listener.close()


def service_name(host: str, namespace: str) -> tuple[str, str]:
    """Service and namespace of a host name as clients in the cluster write it (DNS for Services and Pods)."""
    parts = host.rstrip(".").split(".")
    if len(parts) == 1:
        if not namespace:
            raise PermanentError(f"in which namespace is Service {host!r}?", hint=f"write {host}.<namespace>")
        return parts[0], namespace
    if len(parts) > 2 and parts[2] != "svc":
        raise PermanentError(f"{host!r} is not the name of a Service", hint="write <service>.<namespace>")
    return parts[0], parts[1]


def target_port(service: Any, pod: Any, port: int) -> int:
    """The container's port behind a Service's port (a number, or the name of one of the pod's ports)."""
    listed = (service.get("spec") or {}).get("ports") or ()
    entry = next((item for item in listed if item.get("port") == port), None)
    if entry is None:
        known = ", ".join(str(item.get("port")) for item in listed) or "none"
        raise PermanentError(f"Service {service['metadata']['name']} has no port {port} (it has {known})")
    target = entry.get("targetPort", port)
    if isinstance(target, int):
        return target
    for container in (pod.get("spec") or {}).get("containers") or ():
        for exposed in container.get("ports") or ():
            if exposed.get("name") == target:
                return int(exposed["containerPort"])
    raise PermanentError(f"pod {pod['metadata']['name']} has no port named {target!r}")
