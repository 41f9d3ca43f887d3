"""The action host: phases give values, secrets stay inside, what was kept comes back, what hangs is cut."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbook.contract import Call as Inverse
from runbook.contract import (
    Change,
    Context,
    Observation,
    Opaque,
    Outputs,
    PermanentError,
    Read,
    Sensitive,
    TemporaryError,
)
from runbook.interpreter.effects import Call, SecretRef
from runbook.interpreter.errors import Exit
from runbook.interpreter.values import secret
from runbook.runner import outputs
from runbook.runner.clients import Clients
from runbook.runner.context import HostContext, cut_all
from runbook.runner.host import Host
from runbook.runner.journal import Journal
from runbook.runner.outcomes import Again, Intent, Result, Undoes
from runbook.runner.secrets import Secrets
from runbook.runner.surroundings import Real
from runbook.runner.threads import Threads
from tests.runner_toys import Args, Lab, Toys

TOKEN = SecretRef("token", "env", "TOKEN")


class Cell(Change[Args]):
    """A value in memory; its old value is secret."""

    name = "toy.cell"
    now: dict[str, Any] = {}

    def observe(self, args: Args, ctx: Context) -> Observation:
        return {args.name: {"value": self.now.get(args.name), "secret": Sensitive("hush-hush-hush")}}

    def expect(self, args: Args, before: Observation, ctx: Context) -> Observation:
        return {args.name: {**before[args.name], "value": args.value}}

    def apply(self, args: Args, before: Observation, ctx: Context) -> None:
        self.now[args.name] = args.value
        if args.fail:
            raise PermanentError(f"no: {args.text}", hint=f"about {args.text}")

    def inverse(self, args: Args, before: Observation, op: str) -> Inverse:
        old = before[args.name]
        return Inverse("toy.cell", {"name": args.name, "value": old["value"], "text": old["secret"]})


def host_at(folder: Path, *actions: Any, **environ: str) -> Host:
    around = {"TOKEN": "hunter2-hunter2", "WORLD": str(folder), **environ}
    secrets = Secrets(around, folder / "key")
    secrets.resolve(TOKEN)
    return Host(Toys([Cell, *actions]), secrets, Real(around), folder=folder, run_id="run-1")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    Cell.now = {}
    return host_at(tmp_path)


def call(action: str = "toy.cell", effect: str = "change", **args: Any) -> Call:
    return Call("a#1", "a", "a", action, args, effect, secret_at=("/text",))


def ready(host: Host, what: Call, seconds: float = 10.0) -> HostContext:
    return host.context(what, seconds)


def intent_of(host: Host, what: Call, **more: Any) -> Intent:
    found = host.prepare(what, ready(host, what), **more)
    assert isinstance(found, Intent), found
    return found


def test_a_change_is_described_before_it_is_made(host: Host) -> None:
    Cell.now = {"x": "old"}
    what = call(name="x", value="new")
    intent = intent_of(host, what)
    assert Cell.now == {"x": "old"}
    assert intent.inverse is not None
    assert intent.inverse.args["value"] == "old"
    assert "hush" not in repr((intent.before, intent.after, intent.inverse))
    done = host.apply(what, ready(host, what), intent)
    assert (done.status, done.changed, Cell.now) == ("succeeded", True, {"x": "new"})
    assert done.inverse == intent.inverse


def test_nothing_to_do_is_no_change_except_where_it_is_done_again(host: Host) -> None:
    Cell.now = {"x": "new"}
    found = host.prepare(call(name="x", value="new"), ready(host, call()))
    assert isinstance(found, Result)
    assert (found.ok, found.changed) == (True, False)
    again = replace(call(name="x", value="new"), again=True)
    intent = intent_of(host, again)
    assert intent.inverse is not None
    assert (intent.inverse.action, intent.inverse.args) == (again.action, again.args)


@pytest.mark.parametrize(("now", "verdict"), [("new", "done"), ("old", "again"), ("third", "in_doubt")])
def test_an_intent_without_a_result_is_settled_by_looking(host: Host, now: str, verdict: str) -> None:
    Cell.now = {"x": "old"}
    what = call(name="x", value="new")
    intent = intent_of(host, what)
    Cell.now = {"x": now}
    found = host.settle(what, ready(host, what), intent)
    if verdict == "again":
        assert isinstance(found, Again)
        return
    assert isinstance(found, Result)
    assert found.status == {"done": "succeeded", "in_doubt": "in_doubt"}[verdict]
    if verdict == "in_doubt":
        assert found.error is not None
        assert "x.value is third, neither old as before nor new as it was to become" in found.error.message
    assert found.inverse == intent.inverse


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(old=st.one_of(st.none(), st.integers(), st.text(max_size=5)), new=st.one_of(st.integers(), st.text(max_size=5)))
def test_an_inverse_leads_back(host: Host, old: Any, new: Any) -> None:
    Cell.now = {"x": old}
    what = call(name="x", value=new)
    found = host.prepare(what, ready(host, what))
    if isinstance(found, Result):
        assert old == new
        return
    host.apply(what, ready(host, what), found)
    assert found.inverse is not None
    back = replace(found.inverse, key="b#1", op="b", undoes=1)
    undoes = Undoes((found.first, found.after))
    host.apply(back, ready(host, back), intent_of(host, back, undoes=undoes))
    assert Cell.now == {"x": old}


def test_an_inverse_is_refused_where_the_object_is_nothing_that_this_run_left(host: Host) -> None:
    Cell.now = {"x": "old"}
    what = call(name="x", value="new")
    intent = intent_of(host, what)
    assert intent.inverse is not None
    back = replace(intent.inverse, key="b#1", op="b", undoes=1)
    for now, refused in (("new", False), ("theirs", True)):
        Cell.now = {"x": now}
        found = host.prepare(back, ready(host, back), undoes=Undoes((intent.before, intent.after)))
        assert isinstance(found, Result) == refused
        if isinstance(found, Result):
            assert found.error is not None
            assert found.error.kind == "refused"
    Cell.now = {"x": "later"}
    left = {"x": host.secrets.seal({"value": "later", "secret": Sensitive("hush-hush-hush")})}
    assert isinstance(host.prepare(back, ready(host, back), undoes=Undoes((intent.before, intent.after, left))), Intent)


def test_secrets_are_revealed_where_they_may_stand_and_masked_in_all_that_comes_back(host: Host) -> None:
    what = call(name="x", value="new", fail="yes", text=secret(TOKEN))
    failed = host.apply(what, ready(host, what), intent_of(host, what))
    assert failed.error is not None
    assert (failed.error.message, failed.error.hint) == ("no: ‹secret:token›", "about ‹secret:token›")
    elsewhere = call(name="x", value=secret(TOKEN))
    host.apply(elsewhere, ready(host, elsewhere), intent_of(host, elsewhere))
    assert Cell.now == {"x": "‹secret:token›"}


class Effective(Cell):
    """Takes a while to be effective."""

    name = "toy.effective"
    looks: list[float] = []

    def effective(self, args: Args, after: Observation, ctx: Context) -> bool:
        self.looks.append(time.monotonic())
        return len(self.looks) >= 2


def test_an_inverse_is_done_when_it_is_effective(tmp_path: Path) -> None:
    Effective.now, Effective.looks = {"x": "new"}, []
    host = host_at(tmp_path, Effective)
    forth = replace(call("toy.effective", name="x", value="newer"))
    host.apply(forth, ready(host, forth), intent_of(host, forth))
    assert Effective.looks == []
    back = replace(call("toy.effective", name="x", value="old"), inverse=True)
    host.apply(back, ready(host, back), intent_of(host, back))
    assert len(Effective.looks) == 2


class Keeper(Opaque[Args]):
    """Keeps bytes, or gives them back."""

    name = "toy.keeper"

    def run(self, args: Args, ctx: Context) -> Outputs:
        if args.value:
            return {"text": ctx.kept(args.value).decode()}
        return {"reference": ctx.keep(args.text.encode())}


def test_what_is_kept_is_sealed_on_disk_and_comes_back(tmp_path: Path) -> None:
    host = host_at(tmp_path, Keeper)
    keep = call("toy.keeper", "opaque", text="canary-in-a-coal-mine")
    reference = host.perform(keep, ready(host, keep)).outputs["reference"]
    file = next((tmp_path / "kept").iterdir())
    assert b"canary" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    back = call("toy.keeper", "opaque", value=reference)
    assert host.perform(back, ready(host, back)).outputs == {"text": "canary-in-a-coal-mine"}
    journal = Journal.create(tmp_path / "journal.db", "run-1")
    assert journal.verify() == []
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert journal.verify() == [f"the kept bytes {file.name[:12]} were changed"]
    broken = host.perform(back, ready(host, back))
    assert broken.error is not None
    assert "damaged" in broken.error.message
    for reference in ("kept:../../etc/passwd", "kept:", "kept:0"):
        assert not host.perform(call("toy.keeper", "opaque", value=reference), ready(host, back)).ok


class Raises(Read[Args]):
    """Raises."""

    name = "toy.raises"
    error: BaseException = ValueError("x")

    def read(self, args: Args, ctx: Context) -> Outputs:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "temporary"),
    [
        (TemporaryError("busy", retry_after=3.0), "temporary", True),
        (PermanentError("never"), "permanent", False),
        (KeyError("k"), "bug", False),
        (SystemExit(3), "bug", False),
        (KeyboardInterrupt(), "bug", False),
    ],
)
def test_whatever_an_action_raises_is_a_value(tmp_path: Path, error: BaseException, kind: str, temporary: bool) -> None:
    Raises.error = error
    host = host_at(tmp_path, Raises)
    what = call("toy.raises", "read")
    found = host.perform(what, ready(host, what))
    assert found.error is not None
    assert (found.status, found.error.kind, found.error.temporary) == ("failed", kind, temporary)
    assert found.error.retry_after == (3.0 if temporary else None)


def test_wrong_parameters_and_unknown_actions_are_failures_with_a_sentence(host: Host) -> None:
    for what in (call(nonsense=1), call("toy.nothing", name="x"), call("nothing.at_all")):
        found = host.prepare(what, ready(host, what))
        assert isinstance(found, Result)
        assert found.error is not None
        assert found.error.kind == "permanent"


# -- time


def test_a_stopped_context_wakes_cuts_and_poisons(host: Host) -> None:
    what = call()
    ctx = ready(host, what)
    cut, closed = threading.Event(), threading.Event()
    ctx.client("c", object, lambda _: closed.set())
    forget = ctx.on_stop(lambda: None)
    forget()
    ctx.on_stop(cut.set)
    woke: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        with pytest.raises(TemporaryError):
            ctx.sleep(30)
        woke.append(time.monotonic() - began)

    sleeper = threading.Thread(target=wait)
    sleeper.start()
    time.sleep(0.05)
    cut_all(ctx.stop())
    sleeper.join(5)
    assert woke[0] < 2
    assert cut.is_set()
    assert closed.is_set()
    assert ctx.remaining() == 0
    late = threading.Event()
    ctx.on_stop(late.set)  # registered too late: cut at once
    assert late.is_set()
    with pytest.raises(TemporaryError):
        ctx.note("k", 1)


def test_a_client_is_shared_and_a_poisoned_one_is_closed_when_its_last_user_left() -> None:
    clients = Clients()
    made: list[object] = []
    closed: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    one = clients.get("first", "k", make, closed.append)
    assert clients.get("second", "k", make, closed.append) is one
    clients.leave("first", poison=True)
    assert closed == []
    assert clients.get("third", "k", make, closed.append) is not one
    clients.leave("second")
    assert closed == [one]
    clients.leave("third")
    clients.close()
    assert closed == made


def test_threads_are_used_again_and_a_hanging_one_holds_nobody() -> None:
    threads, done = Threads(), threading.Event()
    threads.submit(lambda: time.sleep(3600))
    names: list[str] = []

    def job() -> None:
        names.append(threading.current_thread().name)
        done.set()

    for _ in range(5):
        done.clear()
        threads.submit(job)
        assert done.wait(5)
        time.sleep(0.02)
    assert set(names) == {"action-2"}
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("action-"))


@settings(max_examples=100)
@given(
    st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=20), st.integers(), st.lists(st.text(max_size=4))))
)
def test_small_outputs_pass_as_they_are(found: dict[str, Any]) -> None:
    assert outputs.limited(found) == found


def test_notes_are_on_disk_when_note_returns(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Noting(Opaque[Args]):
        """Notes, and looks whether it is on disk."""

        name = "toy.noting"

        def run(self, args: Args, ctx: Context) -> Outputs:
            ctx.note("xid", {"n": 7})
            seen.append([event.kind for event in lab.events()])
            raise (
                TemporaryError("again", retry_after=0.01) if ctx.attempt == 1 else PermanentError(str(ctx.notes["xid"]))
            )

    lab = Lab.at(tmp_path, Noting)
    ended = lab.run("""
runbook: 1
name: p
steps: [{id: a, action: toy.noting, with: {}, retry: {delay: 10ms, max_attempts: 2}}]
""")
    assert ended.exit == Exit.FAILED
    assert seen[0][-1] == "call.note"
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert ended.outcome.error.message == "{'n': 7}"


def test_the_simulated_answer_stands_for_the_call(tmp_path: Path) -> None:
    class Answers(Real):
        """SIMULATED: answers one action."""

        simulated = True

        def answer(self, action: str, args: Any) -> Any:
            return {"value": args["name"]} if action == "toy.hang" else None

    secrets = Secrets({}, tmp_path / "key")
    host = Host(Toys(), secrets, Answers({}), folder=tmp_path, run_id="r")
    what = call("toy.hang", "opaque", name="x")
    found = host.perform(what, ready(host, what))
    assert (found.outputs, found.changed) == ({"value": "x"}, True)
    assert ready(host, what).simulated
