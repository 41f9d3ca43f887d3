"""At its deadline work is over within a second: whole runs, as commands, against what does not want to end.

Process trees that ignore TERM, servers that drip a byte a second, threads that never return (also at exit); the time
of a step, of the whole run and of a clean-up, and both cancels. What a bare command costs is measured and taken off.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner import processes
from runbook.runner.journal import Event, Journal
from runbook.runner.store import Store
from tests import site
from tests.command import Commands, Said, until
from tests.http_server import Asked, Server, serving

pytestmark = pytest.mark.timed

SECOND = 1.0  # what the language promises
MARGIN = 0.8  # more, for a machine that does other things as well

STUCK = '''\
"""stuck.*: actions that do not come back."""

import concurrent.futures
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from runbook.contract import Change, Opaque, Read, param


@dataclass(frozen=True, kw_only=True)
class Args:
    """Parameters."""

    file: Path = param("Made when it begins.", path=True)


def forever(args):
    args.file.touch()
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            pass


class Hang(Opaque[Args]):
    """A thread that is deaf."""

    name = "stuck.hang"

    def run(self, args, ctx):
        forever(args)


class Look(Read[Args]):
    """Looks for ever."""

    name = "stuck.look"

    def read(self, args, ctx):
        forever(args)


class Turn(Change[Args]):
    """Changes for ever: what it does is done, and it does not come back."""

    name = "stuck.turn"

    def observe(self, args, ctx):
        return {f"stuck:{args.file}": args.file.exists()}

    def expect(self, args, before, ctx):
        return dict.fromkeys(before, True)

    def apply(self, args, before, ctx):
        forever(args)

    def inverse(self, args, before, op):
        from runbook.contract import Call

        return Call("stuck.back", {"file": str(args.file)})


class Back(Change[Args]):
    """The way back."""

    name = "stuck.back"

    def observe(self, args, ctx):
        return {f"stuck:{args.file}": args.file.exists()}

    def expect(self, args, before, ctx):
        return dict.fromkeys(before, False)

    def apply(self, args, before, ctx):
        args.file.unlink()


class Legacy(Opaque[Args]):
    """Comes back, and leaves threads that do not, which Python would join at exit, and a connection that hangs."""

    name = "stuck.legacy"

    def run(self, args, ctx):
        threading.Thread(target=forever, args=(args,)).start()
        concurrent.futures.ThreadPoolExecutor(2).submit(forever, args)
        ctx.client("x", object, lambda _: time.sleep(3600))
        return {}


class Cut(Opaque[Args]):
    """Whose cutting hangs, too."""

    name = "stuck.cut"

    def run(self, args, ctx):
        ctx.on_stop(lambda: time.sleep(3600))
        ctx.client("x", object, lambda _: time.sleep(3600))
        forever(args)


ACTIONS = (Hang, Look, Turn, Back, Legacy, Cut)
'''

TREE = """\
trap '' TERM INT HUP
(trap '' TERM INT; echo $$ > /dev/null; sleep 61) &
(exec setsid sh -c 'trap "" TERM; echo $$ >> pids; sleep 62' strayed) &
echo $$ $! >> pids
while :; do sleep 1; done
"""

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: slow
contexts: [{{name: slow, context: {{cluster: slow, user: me}}}}]
clusters: [{{name: slow, cluster: {{server: "{url}"}}}}]
users: [{{name: me, user: {{token: t}}}}]
"""


def drip(connection: socket.socket, asked: Asked) -> None:
    """A byte a second: each one in time for any client's own time-out."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(1)


def drip_head(connection: socket.socket, asked: Asked) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000:
        connection.sendall(bytes([letter]))
        time.sleep(1)


@dataclass(frozen=True)
class Stubborn:
    """One that does not want to end. `kind`: of its error; `left`: it was left behind."""

    step: str
    kind: str = "timeout"

    def steps(self, where: str, more: str = "") -> str:
        return f"{{id: slow, {self.step.replace('SERVER', where)}{more}}}"


STUBBORN = {
    "a tree that ignores TERM": Stubborn("action: shell.run, with: {command: [sh, tree.sh]}"),
    "a server that drips its body": Stubborn("action: http.request, with: {url: SERVER/body, method: POST}"),
    "a server that drips its head": Stubborn("action: http.check, with: {url: SERVER/head}"),
    "an API server that drips": Stubborn("action: k8s.get, with: {kind: Pod, namespace: x}"),
    "a hook that drips": Stubborn("action: slack.post, with: {webhook: '{{ secrets.hook }}', text: x}, timeout: 700ms"),
    "a thread": Stubborn("action: stuck.hang, with: {file: begun}", "abandoned"),
    "a thread that reads": Stubborn("action: stuck.look, with: {file: begun}", "abandoned"),
    "a thread that changes": Stubborn("action: stuck.turn, with: {file: begun}", "abandoned"),
    "a thread whose cutting hangs": Stubborn("action: stuck.cut, with: {file: begun}", "abandoned"),
}
AWAY = {name: one for name, one in STUBBORN.items() if name != "a hook that drips"}  # a notification holds nobody


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        found.answers |= {
            "/body": drip,
            "/head": drip_head,
            "/hook": drip,
            "/version": drip,
            "/api": drip,
            "/apis": drip,
        }
        for path in ("/api/v1", "/api/v1/namespaces/x/pods"):
            found.answers[path] = drip
        yield found


@pytest.fixture
def cli(tmp_path: Path, server: Server) -> Commands:
    cli = Commands(tmp_path)
    cli.write("tree.sh", TREE)
    cli.write("kubeconfig", KUBECONFIG.format(url=server.url("")))
    cli.environ |= {
        "PYTHONPATH": str(site.install(tmp_path, "stuck", STUCK)),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "HOOK": server.url("/hook"),
    }
    return cli


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What a run costs that does next to nothing, in seconds; with the clients that the slow ones import."""
    cli = Commands(tmp_path_factory.mktemp("bare"))
    cli.environ["KUBECONFIG"] = "/nowhere"
    cli.write(
        "bare.yaml",
        "runbook: 1\nname: bare\nsteps:\n"
        "  - {id: a, action: k8s.get, on_failure: continue, with: {kind: Pod, namespace: x}}\n"
        "  - {id: b, action: http.check, on_failure: continue, with: {url: 'http://127.0.0.1:9/'}}\n",
    )
    return min(cli("run", "bare.yaml").seconds for _ in range(3))


def book(*steps: str, **root: str) -> str:
    lines = [
        "runbook: 1",
        "name: slow",
        "secrets: {hook: {env: HOOK}}",
        *(f"{key}: {value}" for key, value in root.items()),
    ]
    return "\n".join([*lines, "steps:", *(f"  - {step}" for step in steps)]) + "\n"


def events_of(cli: Commands) -> list[Event]:
    journal = Journal.open(Store(cli.home).find("last").journal, readonly=True)
    try:
        assert journal.verify() == []
        return list(journal.events())
    finally:
        journal.close()


def one(events: list[Event], kind: str, key: str) -> Event:
    return next(event for event in events if event.kind == kind and event.key == key)


def nothing_lives(cli: Commands) -> None:
    """Every process of the tree is gone."""
    pids = cli.folder / "pids"
    if pids.exists():
        listed = [int(pid) for pid in pids.read_text().split()]
        assert len(listed) == 3
        assert [pid for pid in listed if processes.started(pid)] == []


@pytest.mark.parametrize("name", STUBBORN)
def test_a_step_is_over_within_a_second_of_its_time(cli: Commands, server: Server, bare: float, name: str) -> None:
    stubborn = STUBBORN[name]
    more = "" if "timeout" in stubborn.step else ", timeout: 700ms"
    cli.write(
        "slow.yaml", book(stubborn.steps(server.url(""), more), "{id: after, action: flow.set, with: {values: {x: 1}}}")
    )
    said = cli("run", "slow.yaml", "--no-preflight")  # whose own seconds are in test_preflight
    events = events_of(cli)
    told = name == "a hook that drips"
    began, ended = one(events, "step.started", "slow"), one(events, "step.ended", "slow")
    last = one(events, "call.result", "slow#2" if told else "slow#1")
    attempts = 2 if told else 1
    assert ended.at - began.at < (0.7 + SECOND + MARGIN / 2) * attempts + (2 if told else 0)
    assert said.seconds - bare < (0.7 + SECOND + MARGIN) * attempts + (2 if told else 0)
    assert said.code == (Exit.SUCCEEDED if told else Exit.FAILED), said.out + said.err
    assert last.data["error"]["kind"] == stubborn.kind
    assert bool(last.data.get("abandoned")) == (stubborn.kind == "abandoned")
    report = json.loads(cli("report", "--format", "json").out)
    step = next(step for step in _steps(report) if step["id"] == "slow")
    assert step["status"] == "timed_out"
    if not told:
        assert f"✗ slow failed after {_first_word(said.out)}" in said.out
        assert "slow" in said.out[said.out.index("Where") :].splitlines()[0]
        if stubborn.kind == "abandoned":
            assert "did not come back and was left behind" in said.out
        assert not any(event.key == "after" for event in events)
    nothing_lives(cli)


def _first_word(out: str) -> str:
    return out[out.index("✗ slow failed after ") :].split()[4]


def _steps(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for step in report["steps"]:
        yield step
        yield from _steps({"steps": step.get("steps") or step.get("children") or []})


def test_the_box_of_the_whole_run_ends_all_of_them_at_once(cli: Commands, server: Server, bare: float) -> None:
    branches = [
        one.steps(server.url("")).replace("id: slow", f"id: s{n}").replace("begun", f"begun{n}")
        for n, one in enumerate(AWAY.values())
    ]
    cli.write(
        "slow.yaml",
        book(f"{{id: all, parallel: [{', '.join(branches)}]}}", timeout="1s")
        + "finally: {steps: [{id: tidy, action: shell.run, with: {command: [touch, tidied]}}]}\n",
    )
    said = cli("run", "slow.yaml")
    events = events_of(cli)
    assert said.code == Exit.FAILED, said.out + said.err
    assert (cli.folder / "tidied").exists()
    assert said.seconds - bare < 1 + SECOND + MARGIN
    for number in range(len(AWAY)):
        result = one(events, "call.result", f"all/s{number}#1")
        assert result.data["status"] == "timed_out"
        assert result.at < 1 + SECOND + MARGIN / 2
    nothing_lives(cli)


@pytest.mark.parametrize("name", ["a tree that ignores TERM", "a server that drips its body", "a thread"])
def test_a_clean_up_has_its_time_and_no_more(cli: Commands, server: Server, bare: float, name: str) -> None:
    slow = STUBBORN[name].steps(server.url(""))
    cli.write(
        "slow.yaml",
        book("{id: x, action: flow.set, with: {values: {x: 1}}}", cleanup="1s") + f"finally: {{steps: [{slow}]}}\n",
    )
    said = cli("run", "slow.yaml")
    assert said.code == Exit.FAILED, said.out + said.err
    assert said.seconds - bare < 1 + SECOND + MARGIN
    nothing_lives(cli)


@pytest.mark.parametrize("name", AWAY)
def test_a_cancel_ends_it_within_a_second_too(cli: Commands, server: Server, name: str) -> None:
    cli.write("slow.yaml", book(AWAY[name].steps(server.url(""), ", timeout: 50s")))
    asked = len(server.asked)
    process = cli.start("run", "slow.yaml", "--no-preflight")
    begun = [cli.folder / "begun", cli.folder / "pids"]
    until(lambda: any(path.exists() for path in begun) or len(server.asked) > asked)
    time.sleep(0.2)
    said = cancelled(process)
    assert said.code == Exit.CANCELLED, said.out + said.err
    assert said.seconds < SECOND + MARGIN
    result = one(events_of(cli), "call.result", "slow#1")
    assert result.data["status"] == "cancelled"
    assert bool(result.data.get("abandoned")) == (AWAY[name].kind == "abandoned")
    nothing_lives(cli)


def test_a_second_cancel_ends_the_clean_up_within_a_second(cli: Commands) -> None:
    cli.write(
        "slow.yaml",
        book("{id: slow, action: stuck.hang, with: {file: begun}}")
        + "finally: {steps: [{id: tidy, action: shell.run, with: {command: [sh, tree.sh]}}]}\n",
    )
    process = cli.start("run", "slow.yaml")
    until((cli.folder / "begun").exists)
    process.send_signal(signal.SIGINT)
    until((cli.folder / "pids").exists)
    time.sleep(1.1)  # a second cancel sooner than a second after the first is the same one
    said = cancelled(process)
    assert said.code == Exit.CANCELLED, said.out + said.err
    assert said.seconds < SECOND + MARGIN
    assert "tidy" in said.out[said.out.index("Left") :]
    nothing_lives(cli)


def cancelled(process: Any) -> Said:
    """Ctrl-C, and how long it then takes until the process is gone."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return Said(process.returncode, out, err, time.monotonic() - began)


def test_threads_that_never_return_do_not_hold_the_exit(cli: Commands, bare: float) -> None:
    """They are not even ours: what a library left running, which Python would join at its exit."""
    cli.write("slow.yaml", book("{id: legacy, action: stuck.legacy, with: {file: begun}}"))
    said = cli("run", "slow.yaml")
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    assert said.seconds - bare < SECOND


def test_what_a_hung_change_did_is_looked_at_before_it_is_undone(cli: Commands, bare: float) -> None:
    cli.write(
        "slow.yaml", book("{id: slow, action: stuck.turn, with: {file: begun}, timeout: 700ms}", on_failure="undo")
    )
    said = cli("run", "slow.yaml")
    assert said.code == Exit.FAILED, said.out + said.err
    assert not (cli.folder / "begun").exists(), "it was done, although nobody came back to say so: undone"
    assert "Undone" in said.out
    assert said.seconds - bare < 0.7 + SECOND + MARGIN
