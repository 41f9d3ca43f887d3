"""Port-forward through the API server: a pod's port as a socket of ours, a Service's as a listening one.

Each connection has a WebSocket of its own, so that a slow reader holds up nobody else. The client library's own
`portforward` swaps a method of the shared ApiClient while it connects, knows no time-out, and grows without end.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.bounds import Bounds, pause
from runbook.actions._kube.cluster import Cluster, MissingError, connect, explain
from runbook.actions._kube.config import CURRENT
from runbook.actions._kube.kinds import Ref
from runbook.actions._kube.preflight import lacks
from runbook.actions._kube.tunnel import PROTOCOL, Tunnel
from runbook.actions._kube.websocket import RefusedError, Upgraded, upgrade
from runbook.actions._kube.workload import is_ready, pod_selector, pods
from runbook.contract import Context, PermanentError, TemporaryError

FORWARD_VERBS = ("get", "create")
"""What a WebSocket to pods/portforward takes: it is a GET, and since Kubernetes 1.35 `create` is wanted, too."""
AT_ONCE = 128
"""Connections to one Service at the same time; more wait until one of these ends."""
_AGAIN = 0.2
"""Seconds before a connection that could not be taken is tried again."""
_FAREWELL = 1.0
"""Seconds that threads have to end in, once everything that they wait for is closed."""


def open_web(cluster: Cluster, bounds: Bounds, pod: Ref, port: int) -> Upgraded:
    """The WebSocket of a forward to a pod's port. MissingError where the pod is gone, else as `explain` has it."""
    ref = Ref(kinds.POD, pod.namespace, pod.name, "portforward")
    try:
        return upgrade(cluster.transport, bounds, f"{ref.path()}?ports={port}", PROTOCOL)
    except RefusedError as refused:
        if refused.answer.status < 400:
            raise PermanentError(
                f"the API server answered a port-forward by HTTP {refused.answer.status}",
                hint="is there a proxy in between that does not pass WebSockets on?",
            ) from refused
        verb = "get" if b"cannot get" in refused.answer.body else "create"
        raise explain(refused.answer, f"{verb} {ref}", cluster.context) from refused
    except TemporaryError as error:
        raise TemporaryError(f"cannot forward to port {port} of pod {pod.name}: {error.message}") from error


@contextlib.contextmanager
def open_pod(bounds: Bounds, cluster: Cluster, pod: Ref, port: int) -> Iterator[tuple[socket.socket, Tunnel]]:
    """A connected socket to a pod's port while the block runs; cut at the deadline."""
    upgraded = open_web(cluster, bounds, pod, port)
    try:
        near, far = socket.socketpair()
    except OSError as error:  # no descriptor is left
        upgraded.wire.close()
        raise TemporaryError(f"cannot forward to port {port} of pod {pod.name}: {error.strerror}") from error
    tunnel = Tunnel(far, upgraded)

    def carry() -> None:
        with far:
            tunnel.run()

    thread = threading.Thread(target=carry, name="port-forward", daemon=True)
    with near:
        forget = bounds.on_stop(tunnel.close)
        thread.start()
        try:
            yield near, tunnel
        finally:
            forget()
            tunnel.close()
            thread.join(_FAREWELL)


@contextlib.contextmanager
def open_service(
    ctx: Context, host: str, port: int, *, context: str = CURRENT, namespace: str = ""
) -> Iterator[tuple[str, int]]:
    """A Service's port as a listening socket on loopback while the block runs: `(127.0.0.1, port)`.

    `host`: the Service's name as its clients in the cluster have it (`db`, `db.shop`, `db.shop.svc.cluster.local`); a
    bare name is looked for in `namespace`. Each connection goes to a ready pod of the Service, and to another one where
    that pod is gone or nothing listens in it. A connection that fails is reset, so that nobody takes a part for the
    whole. Errors: PermanentError (no such Service or port, no right), TemporaryError (no ready pod, unreachable); one
    that the block raises because of the forward says so.
    """
    cluster = connect(ctx, context)
    service, where = service_name(host, namespace)
    found = cluster.get(ctx, Ref(kinds.SERVICE, where, service))
    ready = _ready(cluster, ctx, found)
    if not ready:
        raise TemporaryError(f"no pod of Service {service} in namespace {where!r} is ready")
    target_port(found, ready[0], port)  # before anybody connects
    life = _Life(ctx)
    forward = _Forward(cluster, life, found, port, ready, ctx.log)
    forget = ctx.on_stop(life.end)
    try:
        yield "127.0.0.1", forward.port
    except TemporaryError as error:
        problem = forward.problem
        if isinstance(problem, TemporaryError):
            raise TemporaryError(f"{error.message} ({problem.message})", error.retry_after) from error
        if problem is not None:
            raise problem from error
        raise
    finally:
        forget()
        life.end()
        forward.join(_FAREWELL)


def lacking(ctx: Context, host: str, *, context: str = CURRENT, namespace: str = "") -> list[str]:
    """For preflight: sentences about what `open_service` would lack: a right, the namespace, a name that says one."""
    try:
        service, where = service_name(host, namespace)
    except PermanentError as error:
        return [f"{error.message} ({error.hint})"]
    pod = Ref(kinds.POD, where, subresource="portforward")
    rights = [("get", Ref(kinds.SERVICE, where, service)), ("list", Ref(kinds.POD, where))]
    rights += [(verb, pod) for verb in FORWARD_VERBS]
    return lacks(connect(ctx, context), ctx, where, lambda: rights, why=f"to reach Service {service}")


class _Life:
    """Bounds that end with the block, or with the call that it stands in."""

    def __init__(self, ctx: Context) -> None:
        self.remaining = ctx.remaining
        self._ctx = ctx
        self._lock = threading.Lock()
        self._cuts: list[Callable[[], None]] = []
        self.is_over = False

    def checkpoint(self) -> None:
        """Raise TemporaryError when it is over."""
        if self.is_over:
            raise TemporaryError("the forward is closed")
        self._ctx.checkpoint()

    def on_stop(self, cut: Callable[[], None]) -> Callable[[], None]:
        """As `Context.on_stop`."""
        with self._lock:
            self._cuts.append(cut)
            late = self.is_over
        if late:
            cut()

        def forget() -> None:
            with self._lock:
                if cut in self._cuts:
                    self._cuts.remove(cut)

        return forget

    def end(self) -> None:
        """Cut everything, now and later."""
        with self._lock:
            self.is_over = True
            cuts = list(self._cuts)
        for cut in cuts:
            cut()


class _Forward:
    """A listening socket whose connections go to pods. `problem`: why the last connection that failed did."""

    def __init__(
        self, cluster: Cluster, life: _Life, service: Any, port: int, ready: list[Any], log: Callable[[str], None]
    ) -> None:
        self.problem: TemporaryError | PermanentError | None = None
        self._cluster = cluster
        self._life = life
        self._service = service
        self._port = port
        self._ready = ready
        self._log = log
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._threads: set[threading.Thread] = set()
        try:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=AT_ONCE)
        except OSError as error:
            raise TemporaryError(f"cannot listen on loopback for a forward: {error.strerror}") from error
        self.port = int(self._listener.getsockname()[1])
        life.on_stop(self._hang_up)
        self._accepts = threading.Thread(target=self._accept, name="port-forward", daemon=True)
        self._accepts.start()

    def join(self, seconds: float) -> None:
        """Wait for the threads; the life has ended, so they end."""
        until = time.monotonic() + seconds
        with self._lock:
            threads = [self._accepts, *self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._listener.close()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ValueError):  # the one who waits for a place shall see that it is over
            self._places.release()

    def _accept(self) -> None:
        """Take connections until the life is over: one that cannot be taken now (no descriptor is left, no thread) is
        no reason to take none ever after."""
        before = ""
        while not self._life.is_over:
            self._places.acquire()
            try:
                self._take()
                before = ""
            except (OSError, RuntimeError) as error:
                with contextlib.suppress(ValueError):
                    self._places.release()
                if self._life.is_over:
                    return
                said = (error.strerror if isinstance(error, OSError) else None) or str(error)
                self.problem = TemporaryError(f"a connection to the forward could not be taken: {said.lower()}")
                if said != before:  # it may last
                    before = said
                    self._log(self.problem.message)
                with contextlib.suppress(TemporaryError):
                    pause(self._life, _AGAIN)

    def _take(self) -> None:
        client, _ = self._listener.accept()
        thread = threading.Thread(target=self._serve, args=(client,), name="port-forward", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
            _reset(client)
            client.close()
            raise

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                try:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._carry(client)
                except (TemporaryError, PermanentError) as error:
                    if not self._life.is_over:
                        self.problem = error
                        self._log(error.message)
                    _reset(client)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            with contextlib.suppress(ValueError):
                self._places.release()

    def _carry(self, client: socket.socket) -> None:
        """One connection: to the first pod that takes it. The error of the last one where none does."""
        tried: dict[str, TemporaryError | PermanentError] = {}
        said, done = b"", False
        while True:
            pod, number = self._pod(tried)
            try:
                upgraded = open_web(self._cluster, self._life, pod, number)
            except (MissingError, TemporaryError) as error:
                self._life.checkpoint()
                self._pass_over(pod, error, tried)
                continue
            tunnel = Tunnel(client, upgraded, said=said, done=done)
            forget = self._life.on_stop(tunnel.close)
            tunnel.run()
            forget()
            if tunnel.failure is None or self._life.is_over:
                return
            failure = TemporaryError(f"port {number} of pod {pod.name}: {tunnel.failure}")
            unheard = tunnel.unheard
            if unheard is None:
                raise failure
            said, done = unheard, tunnel.done
            self._pass_over(pod, failure, tried)

    def _pod(self, tried: dict[str, TemporaryError | PermanentError]) -> tuple[Ref, int]:
        """The next pod, and which of its ports. The last error where all were tried."""
        with self._lock:
            ready = self._ready
        fresh = [pod for pod in ready if pod["metadata"]["name"] not in tried]
        if tried and not fresh:
            raise list(tried.values())[-1]
        if not fresh:
            raise TemporaryError(f"no pod of Service {self._service['metadata']['name']} is ready any more")
        metadata = fresh[0]["metadata"]
        ref = Ref(kinds.POD, str(metadata.get("namespace") or ""), str(metadata["name"]))
        return ref, target_port(self._service, fresh[0], self._port)

    def _pass_over(
        self,
        pod: Ref,
        error: TemporaryError | PermanentError,
        tried: dict[str, TemporaryError | PermanentError],
    ) -> None:
        """Which pods there are may have changed; the one that failed comes last for the connections after this one."""
        tried[pod.name] = error
        self._log(f"{error.message}; trying another pod")
        ready = _ready(self._cluster, self._life, self._service)
        with self._lock:
            self._ready = sorted(ready, key=lambda found: found["metadata"]["name"] == pod.name)


def _ready(cluster: Cluster, bounds: Bounds, service: Any) -> list[Any]:
    namespace = str(service["metadata"].get("namespace") or "")
    return [pod for pod in pods(cluster, bounds, namespace, pod_selector(service)) if is_ready(pod)]


def _reset(client: socket.socket) -> None:
    """Close so that the other end sees an error, not an end."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


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
