"""kill -9 at every journal write of emergency.yaml, then resume. The SIMULATED world lives on in this process."""

from __future__ import annotations

import collections
import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook.runner.journal import Event
from runbook.runner.store import Store
from runbook.sandbox import scenario, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests import emergency

pytestmark = pytest.mark.slow

AT_ONCE = 6  # most of a run is waiting
PATIENCE = 120.0  # seconds for one run: a hang fails, it does not hang the tests


class Nursery:
    """Warm processes, each of which forks a run and says what became of it; one order at a time for each."""

    def __init__(self, size: int) -> None:
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._all = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.emergency_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )
            for _ in range(size)
        ]
        for process in self._all:
            self._free.put(process)

    def order(self, folder: Path, playbook: Path, what: str, at: int = 0, when: str = "after", **more: Any) -> Any:
        """One process of a run, from its start or resume to its end or its death."""
        process = self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        try:
            given = {"folder": str(folder), "playbook": str(playbook), "what": what, "at": at, "when": when, **more}
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            watch.cancel()
            self._free.put(process)
        assert line, f"{what} did not end in {PATIENCE:.0f}s"
        return json.loads(line)

    def close(self) -> None:
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._all:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(AT_ONCE)
    yield made
    made.close()


@dataclass
class Calm:
    """The undisturbed run: what all others are compared with."""

    writes: int
    begins: set[int]  # writes that let an effect begin: an intent is on disk
    outputs: dict[str, Any]
    cluster: dict[str, Any]
    course: dict[str, list[Any]]
    asked: collections.Counter[str]
    told: collections.Counter[str]
    revisions: list[tuple[str, str]]


@dataclass
class Tally:
    """What the kills came to, counted from several threads. `flying`: actions whose intents had no result."""

    kills: int = 0
    in_flight: int = 0
    in_doubt: int = 0
    flying: collections.Counter[str] = field(default_factory=collections.Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def killed(self, actions: Collection[str]) -> None:
        with self.lock:
            self.kills += 1
            self.in_flight += bool(actions)
            self.flying.update(actions)

    def doubted(self) -> None:
        with self.lock:
            self.in_doubt += 1


def told(sandbox: Sandbox) -> collections.Counter[str]:
    """What people got, each message by its service and its text without the run's own name and time."""
    found: collections.Counter[str] = collections.Counter()
    for one in sandbox.receivers.received:
        if one.service == "slack" and one.status == 200:
            found["slack " + one.body["text"].splitlines()[0].split(" ", 1)[1]] += 1
        elif one.service == "pagerduty" and one.status == 202:
            found[f"pagerduty {one.body['event_action']}"] += 1
        elif one.service == "statuspage" and one.method != "GET" and one.body is not None:  # None: cut by the kill
            found[f"statuspage {one.body['incident']['status']}"] += 1
    return found


def revisions(sandbox: Sandbox) -> list[tuple[str, str]]:
    """Helm's history: status and version."""
    return [(one.status, one.app_version) for one in sandbox.releases.history(emergency.SPACE, "tracktion")]


def events(folder: Path) -> list[Event]:
    runs = Store(folder / "home").runs()
    return emergency.events_of(runs[-1]) if runs else []


def in_flight(found: list[Event]) -> dict[str, str]:
    """Intents without a result: call key -> action."""
    intents = {event.key: str(event.data["action"]) for event in found if event.kind == "call.intent"}
    for event in found:
        if event.kind == "call.result":
            intents.pop(event.key, None)
    return intents


def open_in(folder: Path, given: scenario.Scenario) -> Sandbox:
    """A world that outlives the runs in it."""
    emergency.wipe(folder)
    sandbox = surroundings.start(given)
    shutil.copy(sandbox.coordinates, folder / "coordinates.json")
    return sandbox


def undisturbed(nursery: Nursery, folder: Path, playbook: Path, given: scenario.Scenario) -> Calm:
    with open_in(folder, given) as sandbox:
        ended = nursery.order(folder, playbook, "start")
        assert ended["exit"] == 0, ended
        cluster = calmed(sandbox)
        return Calm(
            ended["writes"],
            {at for mark, at in ended["marks"].items() if mark.startswith("call.intent ")},
            ended["outputs"],
            cluster,
            emergency.course(sandbox),
            emergency.asked(sandbox),
            told(sandbox),
            revisions(sandbox),
        )


def calmed(sandbox: Sandbox) -> dict[str, Any]:
    """The cluster when its controllers are done: each Deployment has its pods and no other."""
    emergency.at_rest(sandbox)
    return emergency.observed(sandbox)


def killed(
    nursery: Nursery,
    folder: Path,
    playbook: Path,
    given: scenario.Scenario,
    calm: Calm,
    at: int,
    when: str,
    tally: Tally,
) -> str | None:
    """Kill at one write and resume. What is wrong then; None when all is as it must be."""
    with open_in(folder, given) as sandbox:
        first = nursery.order(folder, playbook, "start", at, when)
        if "signal" not in first:  # fewer writes this time: a group commit joins what comes together
            return None if first["exit"] == 0 else f"not killed, and failed: {first}"
        assert first["signal"] == signal.SIGKILL
        before = events(folder)
        flying = in_flight(before)
        tally.killed(flying.values())
        last = nursery.order(folder, playbook, "resume")
        if last.get("raised") == "RefusedError" and not any(event.kind == "run.begun" for event in before):
            return None if "before it began" in last["message"] and not emergency.asked(sandbox) else f"{last}"
        if last.get("raised") == "RefusedError" and any(event.kind == "run.ended" for event in before):
            last = {"exit": 0, "outputs": calm.outputs}  # its end was on disk
        if last["exit"] == 6:
            tally.doubted()
            asked = {key.removesuffix("?") for key in last["questions"]}
            return None if asked and asked <= set(flying) else f"asked of {asked}, in flight were {flying}"
        return wrong(sandbox, folder, calm, last, flying)


def wrong(sandbox: Sandbox, folder: Path, calm: Calm, last: dict[str, Any], flying: dict[str, str]) -> str | None:
    """What differs from the undisturbed run."""
    if last["exit"] != 0 or last["outputs"] != calm.outputs:
        return f"another outcome: {last}"
    differ = emergency.settles(sandbox, calm.cluster)
    if differ:
        return f"another cluster: {differ}"
    course = emergency.course(sandbox)
    moved = {name: course.get(name) for name in calm.course if course.get(name) != calm.course[name]}
    if moved:
        return f"changes were repeated or lost: {moved}"
    repeated = emergency.asked(sandbox) - calm.asked
    changes = sum(action.startswith("k8s.") for action in flying.values())
    if sum(repeated.values()) > changes:
        return f"requests were repeated: {dict(repeated)}, in flight were {flying}"
    again = told(sandbox) - calm.told
    messages = sum(action.partition(".")[0] in ("slack", "pagerduty", "statuspage") for action in flying.values())
    if sum(again.values()) > messages or calm.told - told(sandbox):
        return f"messages were repeated or lost: {dict(told(sandbox))}, in flight were {flying}"
    history = revisions(sandbox)
    if "helm.rollback" in flying.values() and len(history) == len(calm.revisions) + 1:
        del history[-2]  # Helm keeps the record of the roll-back that was killed half-way
    if history != calm.revisions:
        return f"another history of the release: {revisions(sandbox)}, in flight were {flying}"
    left = in_flight(events(folder))
    return f"intents without a result: {left}" if left else None


@pytest.mark.parametrize(
    ("name", "chosen", "edits", "least"),
    [("traffic", "by_traffic", None, 30), ("helm", "by_helm", emergency.IMPATIENT, 50)],
    ids=["traffic", "helm"],
)
def test_killed_at_every_journal_write_and_resumed_the_cluster_is_as_if_never_killed(
    nursery: Nursery, tmp_path: Path, name: str, chosen: str, edits: Any, least: int, record_property: Any
) -> None:
    """Traffic: switched. Helm: the switch is taken back, then Helm rolls back; undo and helm are killed too."""
    given = emergency.world(name)
    playbook = emergency.playbook(tmp_path, edits)
    calm = undisturbed(nursery, tmp_path / "calm", playbook, given)
    assert calm.outputs["chosen"] == chosen
    assert calm.writes >= least
    points = [(at, "before") for at in range(1, calm.writes + 1)]
    points += [(at, "after") for at in sorted({1, *calm.begins, calm.writes})]  # else it is just before the next write
    tally = Tally()

    def one(point: tuple[int, str]) -> tuple[tuple[int, str], str | None]:
        at, when = point
        folder = tmp_path / f"{when}-{at}"
        return point, killed(nursery, folder, playbook, given, calm, at, when, tally)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(one, points))
    bad = {f"{when} write {at}": why for (at, when), why in found if why is not None}
    assert not bad, "\n".join(f"{where}: {why[:2000]}" for where, why in bad.items())
    record_property("kills", tally.kills)
    record_property("in flight", dict(tally.flying))
    record_property("in doubt (exit 6)", tally.in_doubt)
    assert tally.kills >= 0.85 * len(points), "the last writes come together now and then, the others do not"
    assert tally.in_flight >= len(calm.begins), "whatever was begun was once killed in flight"
    assert tally.in_doubt <= 0.05 * tally.kills, "what this playbook changes can be looked at: few have to ask"


def test_undo_killed_at_every_journal_write_gives_back_what_was(nursery: Nursery, tmp_path: Path) -> None:
    """`runbook undo` after the switch: killed at each of its writes, and resumed."""
    given = emergency.world("traffic")
    playbook = emergency.playbook(tmp_path)

    def one(at: int) -> tuple[int, int, str | None]:
        """Writes of the undo, kills, what is wrong."""
        folder = tmp_path / f"undo-{at}"
        with open_in(folder, given) as sandbox:
            before = calmed(sandbox)
            assert nursery.order(folder, playbook, "start")["exit"] == 0
            emergency.at_rest(sandbox)
            undone = nursery.order(folder, playbook, "undo", at, "before")
            writes, kills = undone.get("writes", 0), int("signal" in undone)
            if kills:
                undone = nursery.order(folder, playbook, "resume" if begun(folder) else "undo")
            if undone["exit"] != 0:
                return writes, kills, f"{undone}"
            emergency.at_rest(sandbox)
            slots = [spec["selector"]["slot"] for spec in emergency.course(sandbox)["Service/tracktion"]]
            if slots != ["green", "blue", "green"]:
                return writes, kills, f"the switch was taken back more or less than once: {slots}"
            return (
                writes,
                kills,
                "; ".join(emergency.settles(sandbox, before)) or None,
            )

    def begun(folder: Path) -> bool:
        return any(event.kind == "undo.begun" for event in events(folder))

    writes, _, why = one(0)
    assert why is None
    assert writes >= 5
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(one, range(1, writes + 1)))
    bad = {f"write {at}": why for at, (_, _, why) in enumerate(found, 1) if why is not None}
    assert not bad, bad
    assert sum(kills for _, kills, _ in found) >= 0.8 * writes
