"""The programs in simulated pods: a web application with /health, Prometheus, and those that are not simulated."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runbook.sandbox.behaviour import Version, application, tag
from runbook.sandbox.faults import Fault, Faults, Request, close, cut
from runbook.sandbox.http_server import Reply, as_json, gone
from runbook.sandbox.metrics import Metrics
from runbook.sandbox.world import Document, World


class SimulatedPods:
    """Connects to the program in a pod."""

    def __init__(
        self, world: World, version_of: Callable[[Document], Version], metrics: Metrics, faults: Faults
    ) -> None:
        self._world = world
        self._version_of = version_of
        self._metrics = metrics
        self._faults = faults

    def connect(self, pod: Document, port: int) -> socket.socket:
        """A connection to the program in `pod`; ConnectionRefusedError where nothing simulated listens."""
        program = application(pod)
        if program in {"postgres", "redis"}:
            where = f"(pod {pod['metadata']['name']})"
            what = f"the {program} protocol {where}; give the action an `answers:` entry in the scenario"
            self._world.report_unmodelled(what)
            raise ConnectionRefusedError(f"SIMULATED pods do not model {what}")
        declared = [p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports") or []]
        if port not in declared:
            raise ConnectionRefusedError(f"dial tcp4 127.0.0.1:{port}: connect: connection refused")
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(ours, pod, program), daemon=True).start()
        return theirs

    def _serve(self, connection: socket.socket, pod: Document, program: str) -> None:
        try:
            _Handler(connection, _Program(self, pod, program))
        except OSError:
            pass  # the other side hung up
        finally:
            close(connection)

    def respond(self, pod: Document, program: str, path: str, query: Mapping[str, str]) -> Reply:
        """What the program answers to one request."""
        if program == "prometheus":
            return self._metrics.answer(path, query)
        version = self._version_of(pod)
        time.sleep(min(version.latency, 300.0))
        image = pod["spec"]["containers"][0].get("image", "")
        about = {"simulated": True, "pod": pod["metadata"]["name"], "version": tag(image)}
        if version.health != "ok":
            return as_json(version.status, about | {"status": "unhealthy"})
        if path.rstrip("/") in {"/health", "/healthz", "/ready", "/readyz", "/live", ""}:
            return as_json(200, about | {"status": "ok"})
        self._world.report_unmodelled(f"web pods do not model {path}")
        return as_json(404, about | {"error": f"SIMULATED application does not model {path}"})

    def fault(self, pod: Document, method: str, path: str) -> Fault | None:
        """The injected fault that a request to a pod meets."""
        meta = pod["metadata"]
        service = "prometheus" if application(pod) == "prometheus" else "pod"
        return self._faults.strike(Request(service, method, path, "pods", meta["namespace"], meta["name"]))


class _Program:
    """What a handler needs to know, in the place of a server."""

    def __init__(self, pods: SimulatedPods, pod: Document, program: str) -> None:
        self.pods = pods
        self.pod = pod
        self.program = program


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "SIMULATED"
    sys_version = ""

    def __init__(self, connection: socket.socket, program: _Program) -> None:
        self._program = program
        super().__init__(connection, ("pod", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name is the base class's)
        """Nothing is printed."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form = self.rfile.read(length).decode("utf-8", "replace") if length else ""
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query + "&" + form).items()}
        program = self._program
        fault = program.pods.fault(program.pod, self.command, parts.path)
        if fault is not None and fault.reset:
            self.close_connection = True
            cut(self.connection)
            return
        end = time.monotonic() + ((fault.hang or fault.latency or 0.0) if fault is not None else 0.0)
        while time.monotonic() < end and not gone(self.connection):
            time.sleep(0.05)
        if fault is not None and fault.answer is not None:
            reply = as_json(int(fault.answer), {"simulated": True, "error": fault.message or "SIMULATED fault"})
        else:
            reply = program.pods.respond(program.pod, program.program, parts.path, query)
        self.send_response(reply.status)
        self.send_header("X-Simulated", "runbook")
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if fault is not None and fault.drip:
            for index in range(len(reply.body)):
                self.wfile.write(reply.body[index : index + 1])
                time.sleep(1.0)
            return
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_POST = do_HEAD = do_GET  # noqa: N815  (http.server's names)
