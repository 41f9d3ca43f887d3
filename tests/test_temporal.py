"""The interpreter runs in a workflow of Temporal: nothing has crept in that a distributed engine refuses.

Inside temporalio's sandbox (which refuses clocks, random numbers, threads, files), against a development server,
evicted after every task so that each goes on by replay, and replayed from its history.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("temporalio", reason="temporalio is not installed (the test extra has it)")

from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from tests.temporal_workflow import HELD, PlaybookWorkflow, act

FOREIGN = ("jinja2", "markupsafe", "ruamel", "_ruamel_yaml")
ACTIONS: dict[str, Any] = {
    "$defs": {
        "toy.set": {
            "type": "object",
            "description": "Set a key.",
            "properties": {"key": {"type": "string"}, "value": {}, "fail": {"type": "string"}},
            "required": ["key"],
            "additionalProperties": False,
            "x-class": "change",
            "x-idempotent": True,
            "x-outputs": {"value": "the value"},
        },
        "flow.wait": {
            "type": "object",
            "description": "Wait.",
            "properties": {"for": {"type": "string", "format": "duration"}},
            "required": ["for"],
            "additionalProperties": False,
            "x-class": "read",
            "x-outputs": {},
        },
    }
}
PLAYBOOK = """
runbook: 1
name: everything
inputs:
  names: {type: list, items: {type: string}}
vars: {prefix: "k_{{ inputs.names | length }}"}
timeout: 1h
steps:
  - {id: first, action: toy.set, with: {key: a, value: "{{ vars.prefix }}"}}
  - id: each
    foreach: {items: "{{ inputs.names }}", as: name, max_concurrent: 2}
    steps:
      - {id: set, action: toy.set, with: {key: "{{ vars.prefix }}_{{ name }}", value: "{{ loop.index }}"}}
  - id: ways
    fallback:
      - id: one
        on_failure: undo
        steps:
          - {id: switch, action: toy.set, with: {key: c, value: blue}}
          - {id: broken, action: toy.set, with: {key: d, fail: no such thing}}
      - id: two
        parallel:
          - {id: left, action: toy.set, with: {key: l, value: 1}}
          - {id: right, action: flow.wait, with: {for: 100ms}}
  - id: slow
    timeout: 200ms
    on_failure: continue
    steps:
      - {id: nap, action: flow.wait, with: {for: 1h}}
finally:
  steps:
    - {id: tidy, action: toy.set, with: {key: z, value: "{{ failure.kind }}"}}
outputs:
  value: "{{ steps.first.outputs.value }}"
  all: "{{ steps.each.outputs.results | map(attribute='status') | list }}"
"""
LONG = """
runbook: 1
name: long
steps:
  - id: b
    on_failure: undo
    steps:
      - {id: a, action: toy.set, with: {key: a, value: 1}}
      - {id: nap, action: flow.wait, with: {for: 1h}}
finally:
  steps:
    - {id: tidy, action: toy.set, with: {key: z, value: "{{ failure.kind }}"}}
"""


def spec(playbook: str, **inputs: Any) -> dict[str, Any]:
    return {"files": {"playbook.yaml": playbook}, "actions": ACTIONS, "inputs": inputs}


def sandboxed() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*FOREIGN))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A development server in memory on a loopback port of its own."""
    testbed = Path(os.environ.get("RUNBOOK_TESTBED", "~/.cache/runbook-testbed")).expanduser()
    binary = testbed / "temporal"
    if not os.access(binary, os.X_OK):
        pytest.skip(
            f"no Temporal development server ({binary}; tests/testbed builds it, RUNBOOK_TESTBED names another place)"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


async def connected(address: str) -> Client:
    for _ in range(100):
        with contextlib.suppress(RuntimeError):
            return await Client.connect(address)
        await asyncio.sleep(0.2)
    raise AssertionError("the development server did not come up")


@contextlib.asynccontextmanager
async def worker(client: Client) -> AsyncIterator[str]:
    """A worker that evicts every workflow after every task: each goes on by replay."""
    queue = uuid.uuid4().hex
    async with Worker(
        client,
        task_queue=queue,
        workflows=[PlaybookWorkflow],
        activities=[act],
        workflow_runner=sandboxed(),
        max_cached_workflows=0,
    ):
        yield queue


def within(seconds: float, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), seconds))


async def replayed(handle: WorkflowHandle[Any, Any]) -> None:
    """The same decisions from the history alone."""
    history = await handle.fetch_history()
    await Replayer(workflows=[PlaybookWorkflow], workflow_runner=sandboxed()).replay_workflow(history)


def test_a_playbook_loads_and_runs_inside_the_workflow_sandbox(server: str) -> None:
    async def test() -> None:
        HELD["calls"].clear()
        client = await connected(server)
        async with worker(client) as queue:
            handle = await client.start_workflow(
                "Playbook", spec(PLAYBOOK, names=["x", "y"]), id=uuid.uuid4().hex, task_queue=queue
            )
            result = await handle.result()
        assert (result["status"], result["outputs"]) == (
            "succeeded",
            {"value": "k_2", "all": ["succeeded", "succeeded"]},
        )
        steps = dict(result["steps"])
        shown = [steps[key] for key in ("ways/one", "ways/one!undo", "ways", "slow", "!finally/tidy")]
        assert shown == ["failed", "succeeded", "succeeded", "timed_out", "succeeded"]
        assert len(HELD["calls"]) == len(set(HELD["calls"])) == 8
        await replayed(handle)

    within(90, test)


def test_a_cancel_unwinds_inside_the_workflow(server: str) -> None:
    async def test() -> None:
        client = await connected(server)
        async with worker(client) as queue:
            handle = await client.start_workflow("Playbook", spec(LONG), id=uuid.uuid4().hex, task_queue=queue)
            await asyncio.sleep(1.5)
            await handle.cancel()
            result = await handle.result()
        assert (result["status"], dict(result["steps"])["b!undo"], dict(result["steps"])["!finally"]) == (
            "cancelled",
            "succeeded",
            "succeeded",
        )
        await replayed(handle)

    within(90, test)
