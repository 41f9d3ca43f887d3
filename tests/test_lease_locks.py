"""Locks between machines: two laptops and one real control plane. Who lost its lock writes nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit, InvalidError
from runbook.runner import lock_place, processes
from runbook.runner.journal import Journal
from runbook.runner.lease_record import lease_name
from runbook.runner.store import Store
from runbook.sandbox import surroundings
from tests.command import PATIENCE, Commands, end, until
from tests.testbed.plane import Plane

SHORT = 3  # seconds that a Lease lasts where a test waits for its end

HOLD = """\
runbook: 1
name: hold
locks: [production]
steps:
  - {id: a, action: toy.set, with: {name: a, value: A}}
  - {id: w, action: toy.watch, with: {name: go}}
  - {id: b, action: toy.set, with: {name: b, value: A}}
on_failure: {undo: true}
"""

QUICK = """\
runbook: 1
name: quick
locks: [production]
steps:
  - {id: b, action: toy.set, with: {name: b, value: B}}
"""


ME = processes.user()
"""The two laptops of these tests are one person's: who somebody is, says the account."""


@dataclass
class Laptop:
    """A home of its own, and processes that share nothing with another laptop's but the cluster and the world."""

    folder: Path
    world: Path
    environ: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, what: str = "run", text: str = "", **more: str) -> subprocess.Popen[str]:
        if text:
            (self.folder / "p.yaml").write_text(text)
        environ = {**os.environ, **self.environ, **more}
        argv = [sys.executable, "-m", "tests.lease_child", str(self.folder), what]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        self.started.append(process)
        return process

    def __call__(self, what: str = "run", text: str = "", **more: str) -> dict[str, Any]:
        return said(self.start(what, text, **more))

    def tokens(self) -> list[int]:
        """Of the lock `production`, as the newest run's journal has them, in order."""
        journal = Journal.open(Store(self.folder / "home").find("last").journal, readonly=True)
        try:
            assert journal.verify() == []
            events = list(journal.events())
        finally:
            journal.close()
        found = (event.data.get("tokens") or {} for event in events if event.kind in ("locked", "resumed"))
        return [tokens["production"] for tokens in found if "production" in tokens]


@dataclass
class Desk:
    """Two laptops, one cluster, one world."""

    alice: Laptop
    bob: Laptop
    plane: Plane
    namespace: str
    world: Path

    def log(self) -> list[str]:
        path = self.world / "log"
        return path.read_text().splitlines() if path.exists() else []

    def value(self, name: str) -> str | None:
        path = self.world / f"o_{name}"
        return path.read_text() if path.exists() else None

    def go(self) -> None:
        (self.world / "go").touch()

    def lease(self) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.read(self.namespace, "lease", lease_name("production"))
        return found

    def holding(self, laptop: Laptop, text: str = HOLD, **more: str) -> subprocess.Popen[str]:
        """A process that has the lock and reads, until `go`."""
        process = laptop.start(text=text, **more)
        until(lambda: any(line.startswith(("watch", "first")) for line in self.log()) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process


@pytest.fixture
def desk(tmp_path: Path, control_plane: Plane) -> Iterator[Desk]:
    namespace = control_plane.namespace()
    world = tmp_path / "world"
    world.mkdir()
    laptops = []
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        environ = {"KUBECONFIG": str(control_plane.kubeconfig), "WORLD": str(world)}
        environ["LOCKS"] = f"k8s:{namespace}"
        laptops.append(Laptop(tmp_path / name, world, environ))
    yield Desk(laptops[0], laptops[1], control_plane, namespace, world)
    for process in (process for laptop in laptops for process in laptop.started):
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            end(process)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    assert out, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_second_laptop_is_refused_and_told_by_whom(desk: Desk) -> None:
    holding = desk.holding(desk.alice)
    run = Store(desk.alice.folder / "home").find("last").id
    refused = desk.bob(text=QUICK)
    assert refused["exit"] == Exit.REFUSED
    assert f"lock production is held by run {run} ({ME} on {os.uname().nodename}, since" in refused["message"]
    assert "--wait-lock" in refused["hint"]
    assert desk.lease()["spec"]["holderIdentity"].startswith(f"{ME}@{os.uname().nodename} run {run} process")
    waiting = desk.bob.start(WAIT="1")
    desk.go()
    assert said(holding)["exit"] == Exit.SUCCEEDED
    assert said(waiting)["exit"] == Exit.SUCCEEDED
    assert desk.value("b") == "B"
    assert desk.log()[-4:] == ["start b=A", "done b=A", "start b=B", "done b=B"]
    assert (desk.alice.tokens(), desk.bob.tokens()) == ([1], [2])
    assert not desk.lease()["spec"].get("holderIdentity")


def test_the_lock_of_a_killed_run_is_taken_over_when_it_shows_no_life(desk: Desk) -> None:
    end(desk.holding(desk.alice, SECONDS=str(SHORT)))
    assert desk.bob(text=QUICK, WAIT="1")["exit"] == Exit.SUCCEEDED
    assert (desk.alice.tokens(), desk.bob.tokens()) == ([1], [2])
    desk.go()
    refused = desk.alice("resume")
    assert refused["exit"] == Exit.REFUSED
    assert "another run held lock production meanwhile" in refused["message"]
    assert desk.alice("cleanup")["exit"] == Exit.CANCELLED
    assert (desk.value("a"), desk.value("b")) == (None, "B"), "its own change is taken back, the other's is not touched"
    assert desk.alice.tokens() == [1, 3]


def test_a_resumed_run_takes_its_lock_back_at_once_with_a_new_token(desk: Desk) -> None:
    end(desk.holding(desk.alice))
    desk.go()
    assert desk.alice("resume")["exit"] == Exit.SUCCEEDED
    assert desk.alice.tokens() == [1, 2]
    assert desk.value("b") == "A"
    assert desk.lease()["spec"]["leaseTransitions"] == 2


WATCH = "action: toy.watch, with: {name: go}"
ASLEEP = {
    "before its next change": HOLD,
    "in the middle of an action": HOLD.replace(WATCH, "action: toy.twice, with: {name: go, value: A}, undo: none"),
}


@pytest.mark.parametrize("text", ASLEEP.values(), ids=ASLEEP)
def test_an_owner_that_slept_through_its_lease_writes_nothing_when_it_wakes_up(desk: Desk, text: str) -> None:
    sleeper = desk.holding(desk.alice, text, SECONDS=str(SHORT))
    sleeper.send_signal(signal.SIGSTOP)
    assert desk.bob(text=QUICK, WAIT="1")["exit"] == Exit.SUCCEEDED
    before = desk.log()
    desk.go()
    sleeper.send_signal(signal.SIGCONT)
    told = said(sleeper)
    assert told["error"] == "LockLostError"
    assert "stopped here, nothing more was done" in told["message"]
    assert desk.log() == before, "nothing was done after it woke up"
    assert desk.value("b") == "B"
    assert desk.bob.tokens() == [2]


def test_preempt_cancels_the_run_on_the_other_laptop_and_waits_for_its_clean_up(desk: Desk) -> None:
    holding = desk.holding(desk.alice)
    won = desk.bob(text=QUICK, PREEMPT="1")
    assert said(holding)["exit"] == Exit.CANCELLED
    assert won["exit"] == Exit.SUCCEEDED
    assert desk.log()[-4:] == ["start a=None", "done a=None", "start b=B", "done b=B"]
    assert (desk.alice.tokens(), desk.bob.tokens()) == ([1], [2])
    assert "runbook/preempt" not in desk.lease()["metadata"]["annotations"]


ASKING = HOLD.replace(WATCH, "action: manual.approve, with: {message: m}")


def test_a_run_that_waits_for_a_person_keeps_its_lock_until_somebody_preempts_it(desk: Desk) -> None:
    assert desk.alice(text=ASKING, SECONDS="1")["exit"] == Exit.WAITING
    refused = desk.bob(text=QUICK)
    assert "it waits for a person" in refused["message"]
    assert "--preempt" in refused["hint"]
    assert desk.bob(text=QUICK, PREEMPT="1")["exit"] == Exit.SUCCEEDED
    assert desk.alice("resume")["exit"] == Exit.REFUSED
    assert desk.alice("cleanup")["exit"] == Exit.CANCELLED
    assert (desk.value("a"), desk.value("b")) == (None, "B")


BRIEF = """\
runbook: 1
name: brief
locks: [production]
steps:
  - {id: a, action: toy.set, with: {name: a, value: A}}
  - {id: s, locks: [late], steps: [{id: b, action: toy.set, with: {name: b, value: A}}]}
"""


def test_a_run_that_dies_after_any_write_to_a_lease_gets_its_locks_back_and_ends_right(desk: Desk) -> None:
    """After each write to a Lease, and after what the journal then has; another laptop gets the lock in the end."""
    died, at = 0, 0
    while died == at:
        at += 1
        first = desk.alice.start(text=BRIEF, DIE_AT=str(at), SECONDS=str(SHORT), WAIT="1")
        out, err = first.communicate(timeout=PATIENCE)
        if first.returncode != -signal.SIGKILL:
            assert json.loads(out)["exit"] == Exit.SUCCEEDED, err
            break
        died += 1
        ended = desk.alice("resume", SECONDS=str(SHORT), WAIT="1")
        if "before it began" in ended.get("message", ""):
            continue
        assert ended["exit"] == Exit.SUCCEEDED or "has ended" in ended["message"], ended
        assert desk.alice.tokens() == sorted(set(desk.alice.tokens())), "each process has a greater number"
    assert died >= 4  # two locks taken, two given back
    assert desk.bob(text=QUICK, WAIT="1")["exit"] == Exit.SUCCEEDED


class Gate:
    """A way to the API server that can be shut. TCP, bytes as they are."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self._to = plane.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._shut = False
        self.kubeconfig = folder / "kubeconfig-gate"
        port = self._listener.getsockname()[1]
        text = plane.kubeconfig.read_text()
        assert f"127.0.0.1:{plane.port}" in text
        self.kubeconfig.write_text(text.replace(f"127.0.0.1:{plane.port}", f"127.0.0.1:{port}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self._shut = True
        for one in self._ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        self._shut = False

    def close(self) -> None:
        self.shut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._shut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := one.recv(65536):
                other.sendall(some)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gate(control_plane: Plane, tmp_path: Path) -> Iterator[Gate]:
    made = Gate(control_plane, tmp_path)
    yield made
    made.close()


def test_without_the_api_server_a_run_goes_on_as_long_as_its_lease_is_valid(desk: Desk, gate: Gate) -> None:
    holding = desk.holding(desk.alice, KUBECONFIG=str(gate.kubeconfig), SECONDS="600")
    gate.shut()
    desk.go()
    assert said(holding)["exit"] == Exit.SUCCEEDED
    assert desk.value("b") == "A"


def test_without_the_api_server_a_run_stops_before_the_next_effect_when_its_lease_is_over(
    desk: Desk, gate: Gate
) -> None:
    holding = desk.holding(desk.alice, KUBECONFIG=str(gate.kubeconfig), SECONDS=str(SHORT))
    gate.shut()
    asked = desk.lease()["spec"]["renewTime"]
    refused = desk.bob(text=QUICK, WAIT="1", KUBECONFIG=str(desk.plane.kubeconfig))
    assert refused["exit"] == Exit.SUCCEEDED, "somebody else can have it by then"
    assert desk.lease()["spec"]["renewTime"] != asked
    desk.go()
    told = said(holding)
    assert told["error"] == "LockLostError"
    assert "cannot be reached" in told["message"]
    assert (desk.value("a"), desk.value("b")) == ("A", "B"), "nothing was done, not even clean-up"


def test_when_the_api_server_is_back_and_nobody_had_the_lock_the_run_is_resumed(desk: Desk, gate: Gate) -> None:
    text = HOLD.replace(WATCH, "action: toy.polite, with: {name: w}, undo: none, idempotent: true")
    running = desk.alice.start(text=text, KUBECONFIG=str(gate.kubeconfig), SECONDS=str(SHORT))
    until(lambda: "start polite w" in desk.log())
    gate.shut()
    told = said(running)  # an effect was on its way: it is ended before anybody else can have the lock
    assert told["error"] == "LockLostError"
    desk.go()
    gate.open()
    assert desk.alice("resume", KUBECONFIG=str(gate.kubeconfig))["exit"] == Exit.SUCCEEDED
    assert desk.alice.tokens() == [1, 2]
    assert desk.value("b") == "A"


def test_a_run_that_cannot_park_its_lock_says_so_and_waits_all_the_same(desk: Desk, gate: Gate) -> None:
    text = HOLD.replace("  - {id: b", "  - {id: ask, action: manual.approve, with: {message: m}}\n  - {id: b")
    holding = desk.holding(desk.alice, text, KUBECONFIG=str(gate.kubeconfig))
    gate.shut()
    desk.go()
    assert said(holding)["exit"] == Exit.WAITING
    shown = Commands(desk.alice.folder)("show")
    assert "the locks are not parked" in shown.out
    assert desk.alice("resume", KUBECONFIG=str(gate.kubeconfig))["exit"] == Exit.REFUSED
    gate.open()
    assert desk.alice("resume", KUBECONFIG=str(gate.kubeconfig))["exit"] == Exit.WAITING


def test_without_the_right_to_leases_a_run_is_refused_in_a_sentence(desk: Desk) -> None:
    refused = desk.bob(text=QUICK, KUBECONFIG=str(desk.plane.nobody))
    assert refused["exit"] == Exit.REFUSED
    assert "the locks cannot be used (k8s:" in refused["message"]
    assert "no right to get leases" in refused["message"]
    desk.plane.allow(desk.namespace, "get=leases.coordination.k8s.io")
    refused = desk.bob(text=QUICK, KUBECONFIG=str(desk.plane.nobody))
    assert "no right to create leases" in refused["message"]
    assert desk.value("b") is None
    desk.plane.allow(desk.namespace, "create,update=leases.coordination.k8s.io")
    assert desk.bob(text=QUICK, KUBECONFIG=str(desk.plane.nobody))["exit"] == Exit.SUCCEEDED


def test_a_namespace_that_is_not_there_is_named(desk: Desk) -> None:
    refused = desk.bob(text=QUICK, LOCKS="k8s:no-such-namespace")
    assert refused["exit"] == Exit.REFUSED
    assert 'namespaces "no-such-namespace" not found' in refused["message"]


RACERS = """
import os, sys, time
from pathlib import Path
from runbook.actions._kube import leases as kube_leases
from runbook.runner.lease_api import Leases
from runbook.runner.lease_locks import LeaseLocks
from runbook.runner.locks import UnreachableError
kubeconfig, namespace, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
def say(line):
    os.write(1, f"{line}\\n".encode())  # whole, whoever writes beside us


children = []
for number in range(20):
    pid = os.fork()
    if pid:
        children.append(pid)
        continue
    run = f"run-{number}"
    environ = {"KUBECONFIG": kubeconfig}
    leases = Leases(lambda: kube_leases.connect(environ, "current", namespace, folder, 30.0), "here")
    mine = LeaseLocks(leases, run, run)
    while not (folder / "start").exists():
        time.sleep(0.001)
    held = mine.take(["one"])
    say(f"first {number} {'won' if held is None else held.run}")
    while held is not None:
        time.sleep(0.05)
        try:
            held = mine.take(["many"])
        except UnreachableError:  # somebody was quicker in every round: tried again, as a run does it
            continue
    if "many" in mine.tokens:
        (folder / "inside").mkdir()  # fails if anybody else is inside
        say(f"token {mine.tokens['many']}")
        (folder / "inside").rmdir()
        mine.release(["many"])
    os._exit(0)
(folder / "start").touch()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
sys.exit(max(codes))
"""


def test_of_twenty_racers_one_wins_and_no_token_is_given_twice(desk: Desk) -> None:
    argv = [sys.executable, "-c", RACERS, str(desk.plane.kubeconfig), desk.namespace, str(desk.alice.folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    first = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("first"))
    winners = [number for number, how in first.items() if how == "won"]
    assert len(first) == 20
    assert len(winners) == 1
    assert {how for how in first.values() if how != "won"} == {f"run-{winners[0]}"}, "the others are told who"
    tokens = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("token")]
    assert sorted(tokens) == list(range(1, 20))


# -- on the command line

SLOW = """\
runbook: 1
name: slow
locks: [production]
steps:
  - id: work
    action: shell.run
    idempotent: true
    with: {command: "touch in; while ! test -e go; do sleep 0.05; done"}
"""


def test_the_command_line_says_where_locks_live_and_who_holds_them(desk: Desk) -> None:
    environ = {"KUBECONFIG": str(desk.plane.kubeconfig)}
    alice = Commands(desk.alice.folder, environ)
    bob = Commands(desk.bob.folder, {**environ, "RUNBOOK_LOCKS": f"k8s:{desk.namespace}"})
    for laptop in (alice, bob):
        laptop.write("slow.yaml", SLOW)
    running = alice.start("run", "slow.yaml", "--yes", "--locks", f"k8s:{desk.namespace}")
    try:
        until((desk.alice.folder / "in").exists)
        refused = bob("run", "slow.yaml", "--yes")
        assert refused.code == Exit.REFUSED
        assert "held by run" in refused.out + refused.err
        assert f"({ME} on" in refused.out + refused.err
        assert f"({ME} on" in bob("plan", "slow.yaml").out
        assert f"({ME} on" in bob("doctor").out
        assert f"({ME} on" in bob("runs", "--locks", f"k8s:{desk.namespace}").out
        (desk.alice.folder / "go").touch()
        assert running.wait(PATIENCE) == Exit.SUCCEEDED
        (desk.bob.folder / "go").touch()
        assert bob("run", "slow.yaml", "--yes").code == Exit.SUCCEEDED
        assert f"({ME} on" not in bob("plan", "slow.yaml").out
        assert "no lock is held" in bob("runs", "--locks", f"k8s:{desk.namespace}").out
    finally:
        if running.poll() is None:
            end(running)
    assert bob("run", "slow.yaml", "--yes", "--locks", "here").code == Exit.INVALID


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("k8s", ("current", "default")),
        ("k8s:ops", ("current", "ops")),
        ("k8s:prod/ops", ("prod", "ops")),
        ("k8s:arn:aws:eks:eu-1:1:cluster/prod/ops", ("arn:aws:eks:eu-1:1:cluster/prod", "ops")),
    ],
)
def test_places_in_words(text: str, place: tuple[str, str]) -> None:
    found = lock_place.parse(text)
    assert found is not None
    assert (found.context, found.namespace) == place
    assert lock_place.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "k8s:", "k8s:prod/", "k8s:/ops", "redis:x", "k8s:Ops", "k8s:a_b"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="locks cannot live"):
        lock_place.parse(text)


IN_CLUSTER = """\
runbook: 1
name: p
import: [house.yaml]
locks: [production]
steps: [{id: a, action: flow.set, with: {values: {x: 1}}}]
"""


def test_a_playbook_says_where_its_locks_live_and_the_command_line_has_the_last_word(desk: Desk) -> None:
    environ = {"KUBECONFIG": str(desk.plane.kubeconfig), "RUNBOOK_LOCKS": "file"}
    cli = Commands(desk.alice.folder, environ)
    cli.write("house.yaml", f"runbook: 1\ndefaults: {{locks: k8s:{desk.namespace}}}\n")
    cli.write("p.yaml", IN_CLUSTER)
    assert cli("run", "p.yaml", "--yes", "--locks", "file").code == Exit.SUCCEEDED
    assert desk.plane.read(desk.namespace, "leases")["items"] == []
    planned = cli("plan", "p.yaml")
    assert "Locks: production, kept in k8s:" in planned.out
    assert f"/{desk.namespace}." in planned.out
    assert desk.plane.read(desk.namespace, "leases")["items"] == [], "a plan takes none"
    assert cli("run", "p.yaml", "--yes").code == Exit.SUCCEEDED
    assert desk.lease()["spec"]["leaseTransitions"] == 1
    assert "Leases in k8s:" in cli("doctor", "p.yaml").out
    nobody = {"KUBECONFIG": str(desk.plane.nobody)}
    desk.plane.allow(desk.namespace, "get=leases.coordination.k8s.io")
    forbidden = cli("plan", "p.yaml", environ=nobody)
    assert forbidden.code == Exit.REFUSED
    assert "no right to create and update leases" in forbidden.out
    assert "no right to create and update leases" in cli("doctor", "p.yaml", environ=nobody).out
    desk.plane.allow(desk.namespace, "create,update=leases.coordination.k8s.io")
    assert "no right to list leases" in cli("doctor", "p.yaml", environ=nobody).out
    cli.write("house.yaml", "runbook: 1\ndefaults: {locks: redis}\n")
    wrong = cli("validate", "p.yaml")
    assert wrong.code == Exit.INVALID
    assert "k8s:CONTEXT/NAMESPACE" in wrong.out + wrong.err


def test_a_saved_plan_is_applied_with_the_locks_that_it_was_made_with(desk: Desk) -> None:
    cli = Commands(desk.alice.folder, {"KUBECONFIG": str(desk.plane.kubeconfig)})
    cli.write("house.yaml", "runbook: 1\n")
    cli.write("p.yaml", IN_CLUSTER)
    assert cli("plan", "p.yaml", "-o", "plan.json", "--locks", f"k8s:{desk.namespace}").code == Exit.SUCCEEDED
    assert cli("apply", "plan.json", "--yes").code == Exit.SUCCEEDED
    assert desk.lease()["spec"]["leaseTransitions"] == 1


# -- in a rehearsal

ASKS = """\
runbook: 1
name: asks
defaults: {locks: k8s:default}
locks: [production]
steps: [{id: ask, action: manual.approve, with: {message: m}}]
"""


def test_in_a_sandbox_locks_are_leases_of_the_simulated_cluster(tmp_path: Path) -> None:
    """SIMULATED: two homes rehearse in one world, and the real cluster is never asked."""
    homes = [Commands(tmp_path / name) for name in ("alice", "bob")]
    for home in homes:
        home.folder.mkdir()
        home.write("p.yaml", ASKS)
    alice, bob = homes
    with surroundings.start() as sandbox:
        where = ("--sandbox", str(sandbox.coordinates))
        waiting = alice("run", "p.yaml", "--yes", *where)
        assert waiting.code == Exit.WAITING, waiting.out + waiting.err
        refused = bob("run", "p.yaml", "--yes", *where)
        assert refused.code == Exit.REFUSED
        assert f"({ME} on" in refused.out
        assert "it waits for a person" in refused.out
        assert alice("answer", "last", "ask", "approve").code == Exit.SUCCEEDED
        assert alice("resume", *where).code == Exit.SUCCEEDED
        assert any("leases" in str(asked) for asked in sandbox.asked)
        assert bob("run", "p.yaml", "--yes", *where).code == Exit.WAITING
