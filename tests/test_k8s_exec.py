"""k8s.exec on a real control plane: the API server and kwok's kubelet are real, the command runs on this machine.

What that kubelet cannot show (exit statuses, the end of the input) is shown against a server that is SIMULATED.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.actions._process import HEAD
from runbook.actions.k8s_exec import Exec
from runbook.contract import PermanentError, TemporaryError
from runbook.runner.parameters import parameters
from runbook.runner.session import Options, World
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests import exec_server
from tests.command import Commands, end
from tests.context import LocalContext, call
from tests.kube import Caller, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Caller:
    return Caller(control_plane, tmp_path)


@pytest.fixture(scope="module")
def space(control_plane: Plane) -> str:
    name = control_plane.namespace()
    control_plane.deployment(name, "web", "r/web:1", replicas=2)
    return name


def run(caller: Caller, space: str, *command: str, seconds: float = 30.0, **given: Any) -> Any:
    with caller.context(seconds=seconds) as ctx:
        return call(Exec, {"namespace": space, "deployment": "web", "command": list(command), **given}, ctx)


def test_a_command_says_how_it_ended(control_plane: Plane, caller: Caller, space: str) -> None:
    done = run(caller, space, "sh", "-c", "echo out; echo err >&2")
    names = sorted(pod["metadata"]["name"] for pod in control_plane.read(space, "pods")["items"])
    assert done == {"rc": 0, "stdout": "out\n", "stderr": "err\n", "truncated": False, "pod": names[0]}
    there = run(caller, space, "true", deployment=None, pod=names[1], container="web")
    assert (there["rc"], there["pod"]) == (0, names[1])


def test_arguments_arrive_as_they_are(caller: Caller, space: str) -> None:
    hostile = ["", "a b", "$HOME", "`id`", "&command=rm", "ä€\u2028", "a\nb", "%41+", "--"]
    done = run(caller, space, "printf", "%s\\0", *hostile)
    assert done["stdout"].split("\N{REPLACEMENT CHARACTER}")[:-1] == hostile


@pytest.mark.parametrize("size", [1, 124, 126, 65_000, 3_000_000])
def test_input_of_any_size_goes_in_while_it_comes_out(size: int, caller: Caller, space: str) -> None:
    text = ("é" * size)[:size]
    length = len(text.encode())
    # kwok's kubelet never ends a command's input (utils/exec: it copies into a pipe that nobody closes).
    done = run(caller, space, "sh", "-c", f"head -c {length} | tee /dev/stderr | sha256sum", stdin=text)
    assert done["stdout"].split()[0] == hashlib.sha256(text.encode()).hexdigest()
    assert done["truncated"] == (length > 2 * HEAD)
    if not done["truncated"]:
        assert done["stderr"] == text


def test_without_input_there_is_none(caller: Caller, space: str) -> None:
    assert run(caller, space, "wc", "-c")["stdout"].strip() == "0"


def test_long_output_keeps_its_head_and_its_tail(caller: Caller, space: str) -> None:
    done = run(caller, space, "sh", "-c", "echo first; yes line | head -n 1000000; echo last")
    assert done["truncated"]
    assert done["stdout"].startswith("first\nline\n")
    assert done["stdout"].endswith("line\nlast\n")
    assert "bytes left out]" in done["stdout"]
    assert len(done["stdout"]) < 300_000


@pytest.mark.timed
@pytest.mark.parametrize("command", ["echo begun; exec sleep 5.{}", "echo begun; exec yes {}"], ids=["quiet", "loud"])
def test_a_command_is_cut_at_the_deadline(command: str, control_plane: Plane, caller: Caller, space: str) -> None:
    marked = f"{os.getpid()}{time.monotonic_ns()}"
    began = time.monotonic()
    with pytest.raises(TemporaryError, match=r"had not ended when it was stopped.*not known") as late:
        run(caller, space, "sh", "-c", command.format(marked), seconds=2)
    assert time.monotonic() - began < 3
    assert late.value.outputs is not None
    assert late.value.outputs["rc"] is None
    assert late.value.outputs["stdout"].startswith("begun\n")
    # A command that writes is ended by its broken pipe; one that does not goes on in most runtimes, as it does here.
    control_plane.until(lambda: "sleep" in command or not _running(marked))


def _running(marked: str) -> bool:
    def command_line(folder: Path) -> bytes:
        try:
            return (folder / "cmdline").read_bytes()
        except OSError:
            return b""

    return any(marked.encode() in command_line(folder) for folder in Path("/proc").glob("[0-9]*"))


def test_what_cannot_run_says_why(control_plane: Plane, caller: Caller, space: str) -> None:
    pod = control_plane.read(space, "pods")["items"][0]["metadata"]["name"]
    base = {"deployment": None, "pod": pod}
    cases: list[tuple[dict[str, Any], str]] = [
        ({**base, "command": ["/no/such/program"]}, "cannot run '/no/such/program' in pods"),
        ({**base, "pod": "gone"}, "cannot create pods/exec 'gone'.*\"gone\" not found"),
        ({**base, "container": "nope"}, "container nope"),
        ({"deployment": "gone"}, 'deployments.apps "gone" not found'),
        ({"pod": pod}, "pod, deployment: give one of them"),
        ({"command": []}, "command: names nothing"),
    ]
    for given, sentence in cases:
        with pytest.raises(PermanentError, match=sentence):
            run(caller, space, "true", **given)
    control_plane.deployment(space, "none", "r/web:1", replicas=0, wait=False)
    with pytest.raises(TemporaryError, match=r"no pod of deployments 'none' in namespace .* is ready"):
        run(caller, space, "true", deployment="none")


def test_rights_are_asked_for(control_plane: Plane, space: str, tmp_path: Path) -> None:
    nobody = Caller(control_plane, tmp_path, user="nobody")
    given = {"namespace": space, "deployment": "web", "command": ["true"]}

    def lacking() -> list[str]:
        with nobody.context() as ctx:
            action, args = opened("k8s.exec", given)
            return action.preflight(args, ctx)

    assert [sentence.partition(" in ")[0] for sentence in lacking()] == [
        "no right to get deployments 'web'",
        "no right to list pods",
        "no right to get pods/exec",
        "no right to create pods/exec",
    ]
    control_plane.allow(space, "get=deployments.apps", "list=pods", "get,create=pods/exec")
    with nobody.context() as ctx:
        assert call(Exec, given, ctx)["rc"] == 0


def test_a_step_that_runs_out_of_time_says_what_is_known(control_plane: Plane, space: str, tmp_path: Path) -> None:
    given = {"namespace": space, "deployment": "web", "command": ["sh", "-c", "echo half way; exec sleep 5"]}
    step = {"id": "it", "action": "k8s.exec", "with": given, "timeout": "2s", "retry": {"delay": "1ms"}}
    (tmp_path / "one.yaml").write_text(json.dumps({"runbook": 1, "name": "one", "steps": [step]}))
    world = World(store=Store(tmp_path / "home"), surroundings=Real(control_plane.environ()))
    ended = runbook.run(tmp_path / "one.yaml", world=world, options=Options(yes=True))
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert (ended.outcome.kind, ended.outcome.attempts) == ("timed_out", 1), "`retry` does not run it twice"
    assert "whether it goes on is not known" in ended.outcome.error.message


@pytest.mark.parametrize(("decision", "code", "times"), [("done", 0, 1), ("repeat", 0, 2), ("fail", 1, 1)])
def test_after_a_crash_a_person_is_asked(
    decision: str, code: int, times: int, control_plane: Plane, space: str, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    script = f"echo x >> {marks}; until test -e {tmp_path}/go; do sleep 0.1; done"
    step = {"id": "it", "action": "k8s.exec", "with": {
        "namespace": space, "deployment": "web", "command": ["sh", "-c", script]}}  # fmt: skip
    cli = Commands(tmp_path, dict(control_plane.environ()))
    cli.write("one.yaml", json.dumps({"runbook": 1, "name": "one", "steps": [step]}))
    running = cli.start("run", "one.yaml", "--yes")
    control_plane.until(marks.exists)
    end(running)
    (tmp_path / "go").touch()
    asked = cli("resume")
    assert asked.code == 6, asked.out + asked.err
    assert marks.read_text().count("x") == 1, "not run again by itself"
    decided = cli("resume", "--in-doubt", decision)
    assert decided.code == code, decided.out + decided.err
    assert marks.read_text().count("x") == times


# -- SIMULATED: a server that gives exit statuses and breaks


def simulated(environ: dict[str, str], folder: Path, *command: str, seconds: float = 30.0, **given: Any) -> Any:
    with LocalContext(folder, environ=environ, seconds=seconds) as ctx:
        return call(Exec, {"namespace": "shop", "pod": "web", "command": list(command), **given}, ctx)


def test_an_exit_status_is_the_steps_verdict(tmp_path: Path) -> None:
    with exec_server.serving(tmp_path) as environ:
        with pytest.raises(PermanentError, match=r"^exit status 3: no such table$") as failed:
            simulated(environ, tmp_path, "sh", "-c", "echo half; echo no such table >&2; exit 3")
        assert failed.value.outputs == {
            "rc": 3, "stdout": "half\n", "stderr": "no such table\n", "truncated": False, "pod": "web",
        }  # fmt: skip
        assert simulated(environ, tmp_path, "sh", "-c", "exit 3", rc=[0, 3])["rc"] == 3
        with pytest.raises(PermanentError, match=r"^exit status 0$"):
            simulated(environ, tmp_path, "true", rc=[1])


@pytest.mark.parametrize("size", [0, 125, 70_000, 1_000_000])
def test_a_command_sees_the_end_of_its_input(size: int, tmp_path: Path) -> None:
    with exec_server.serving(tmp_path) as environ:
        done = simulated(environ, tmp_path, "sh", "-c", "tee /dev/stderr | sha256sum", stdin="x" * size)
    assert done["stdout"].split()[0] == hashlib.sha256(b"x" * size).hexdigest()
    assert done["truncated"] == (size > 2 * HEAD)


def test_a_server_that_could_not_end_the_input_is_refused(tmp_path: Path) -> None:
    with exec_server.serving(tmp_path, protocol="v4.channel.k8s.io") as environ:
        with pytest.raises(PermanentError, match=r"speaks v4\.channel\.k8s\.io, not v5"):
            simulated(environ, tmp_path, "cat", stdin="x")


def test_frames_may_come_in_pieces_and_between_pings(tmp_path: Path) -> None:
    asked: list[Any] = []

    def behave(peer: exec_server.Peer, command: list[str]) -> None:
        asked.append(peer)
        peer.send(1, b"\x01")
        peer.send(2, b"\x01one ", last=False)
        peer.send(9, b"are you there")
        peer.send(0, b"two ", last=False)
        peer.send(0, b"three")
        status = b'\x03{"status": "Success"}'
        peer.send(2, status[:9], last=False)
        peer.send(0, status[9:])
        peer.send(2, b"\x02the last words come after the outcome")
        threading.Thread(target=peer.feed, args=(io.BytesIO(),), daemon=True).start()
        Plane.until(lambda: bool(peer.pongs))
        peer.send(8, b"")

    with exec_server.serving(tmp_path, behave) as environ:
        done = simulated(environ, tmp_path, "say")
    assert (done["rc"], done["stdout"]) == (0, "one two three")
    assert done["stderr"] == "the last words come after the outcome"
    assert asked[0].pongs == [b"are you there"]


@pytest.mark.parametrize("goodbye", [b"", b"\x88\x00", b"\x82\xff" + b"\xff" * 12, b"\x82\x7f" + b"\x7f" * 8])
def test_a_connection_that_breaks_leaves_the_command_unknown(goodbye: bytes, tmp_path: Path) -> None:
    def behave(peer: exec_server.Peer, command: list[str]) -> None:
        peer.send(2, b"\x01half")
        peer.wire.sendall(goodbye)

    with exec_server.serving(tmp_path, behave) as environ, pytest.raises(PermanentError) as lost:
        simulated(environ, tmp_path, "migrate")
    assert "was lost" in lost.value.message
    assert "whether it goes on is not known" in lost.value.message
    assert lost.value.outputs is not None
    assert (lost.value.outputs["rc"], lost.value.outputs["stdout"]) == (None, "half")


@pytest.mark.timed
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Swi", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_server_that_does_not_answer_is_cut_at_the_deadline(said: bytes, tmp_path: Path) -> None:
    with exec_server.saying(tmp_path, said, then_silent=True) as environ:
        began = time.monotonic()
        with pytest.raises((TemporaryError, PermanentError)) as late:
            simulated(environ, tmp_path, "migrate", seconds=1)
        assert time.monotonic() - began < 2
    assert ("was cut, and whether it goes on is not known" in str(late.value)) == (b"200" not in said)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Swi", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 OK\r\nA: b\r\n\r\n"])
def test_a_server_that_closes_or_talks_nonsense_is_no_reason_to_try_again(said: bytes, tmp_path: Path) -> None:
    with exec_server.saying(tmp_path, said) as environ, pytest.raises(PermanentError):
        simulated(environ, tmp_path, "migrate")


@pytest.mark.parametrize(("status", "kind"), [(429, TemporaryError), (503, TemporaryError), (403, PermanentError)])
def test_a_refused_upgrade_started_nothing(
    status: int, kind: type[TemporaryError | PermanentError], tmp_path: Path
) -> None:
    body = b'{"kind": "Status", "message": "not now"}'
    said = b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    with exec_server.saying(tmp_path, said) as environ, pytest.raises(kind, match="not now") as refused:
        simulated(environ, tmp_path, "migrate")
    if isinstance(refused.value, TemporaryError):
        assert refused.value.retry_after == 7


def test_a_sandbox_runs_no_command(tmp_path: Path) -> None:
    with exec_server.serving(tmp_path) as environ, LocalContext(tmp_path, environ=environ, refused=("process",)) as ctx:
        with pytest.raises(PermanentError, match="process reboot is not answered by this sandbox"):
            call(Exec, {"namespace": "shop", "pod": "web", "command": ["reboot"]}, ctx)


def test_secrets_go_in_by_stdin_only() -> None:
    assert {item.wire for item in parameters(Exec.args) if item.doc["secret"]} == {"stdin"}
    assert (Exec.effect, Exec.idempotent) == ("opaque", False)
