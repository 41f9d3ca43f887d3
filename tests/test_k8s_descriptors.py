"""Descriptors: more are open than select() can name, or none is left for a moment. Against a real API server."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.actions._kube import forward
from tests.command import PATIENCE, Commands
from tests.forwards import PORT, dialled, echo, exactly, program, start_pod
from tests.kube import Caller
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

MANY = 1100
LAUNCH = f"""
import os, resource, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({2 * MANY}, most))
for _ in range({MANY}):
    os.set_inheritable(os.dup(0), True)
os.execv(sys.executable, [sys.executable, "-m", "runbook.cli", *sys.argv[1:]])
"""
BOOK = """
runbook: 1
name: many
locks: [one]
defaults: {{with: {{k8s: {{namespace: {space}}}}}}}
steps:
  - {{id: one, action: k8s.get, with: {{kind: deployment, name: web}}}}
  - {{id: two, action: k8s.get, with: {{kind: deployment, name: web}}}}
  - {{id: mark, action: k8s.patch, with: {{kind: deployment, name: web, patch: {{metadata: {{labels: {{a: b}}}}}}}}}}
  - {{id: wait, action: k8s.wait, with: {{kind: deployment, name: web, for: rollout}}}}
  - {{id: exec, action: k8s.exec, with: {{deployment: web, command: ["true"]}}, undo: none}}
  - {{id: http, action: k8s.http, with: {{deployment: web, port: {port}}}}}
  - {{id: here, action: shell.run, with: {{command: ["true"]}}, undo: none}}
"""


def test_a_run_whose_descriptors_are_above_what_select_can_name(control_plane: Plane, tmp_path: Path) -> None:
    """As where many programs run beside it: every connection, pipe and socket of this run has a number above 1023."""
    space = control_plane.namespace()
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    cli = Commands(tmp_path, control_plane.environ())
    cli.write("many.yaml", BOOK.format(space=space, port=PORT))

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with program(control_plane.local(PORT), answer):
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, "run", "many.yaml", "--yes", "--locks", f"k8s:{space}"],
            cwd=tmp_path, env=cli.variables(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert control_plane.read(space, "deployment", "web")["metadata"]["labels"]["a"] == "b"


@contextlib.contextmanager
def exhausted() -> Iterator[None]:
    """No descriptor is to be had in this process while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_forward_outlives_a_moment_without_descriptors(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    control_plane.kubectl("-n", space, "create", "service", "clusterip", "web", f"--tcp={PORT}:{PORT}")
    start_pod(control_plane, space, "one")
    with program(control_plane.local(PORT), echo), Caller(control_plane, tmp_path).context() as ctx:
        with forward.open_service(ctx, f"web.{space}", PORT) as at, socket.socket() as unlucky:
            with exhausted():
                unlucky.connect(at)
                said = "a connection to the forward could not be taken: too many open files"
                control_plane.until(lambda: said in ctx.lines)
            with dialled(at) as mine:
                mine.sendall(b"hello")
                assert exactly(mine, 5) == b"hello"
            assert ctx.lines.count(said) == 1, "said once, however long it lasts"
