"""Preflight refuses exactly the runs that would fail for what is missing: a law over random playbooks, with toys."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.contract import Absent, Check, Context, ForUndo, Notify, Outputs, PermanentError, TemporaryError
from runbook.interpreter.errors import Exit
from runbook.interpreter.unknown import Unknown
from runbook.runner import lacks, session
from runbook.runner.session import Ended, Options
from tests.runner_toys import Args, Lab, Note


class Needs(Check[Args]):
    """Needs what `name` says: something that begins with `lack` is missing, for preflight and for the call itself."""

    name = "toy.needs"

    def preflight(self, args: Args, ctx: Context) -> list[str]:
        if args.name.startswith("bug"):
            raise ZeroDivisionError("a bug")
        if args.name.startswith("away"):
            raise TemporaryError("nobody answers")
        if args.name.startswith("absent"):
            return [Absent(f"{args.name} is not there")]
        if args.name.startswith("back"):
            return [ForUndo(f"{args.name} is missing")]
        return [f"{args.name} is missing"] if args.name.startswith("lack") else []

    def read(self, args: Args, ctx: Context) -> Outputs:
        if args.name.startswith("lack"):
            raise PermanentError(f"{args.name} is missing")
        return {"ok": True, "name": args.name}


class Tells(Notify[Args]):
    """A notification that needs something."""

    name = "toy.tells"

    def preflight(self, args: Args, ctx: Context) -> list[str]:
        return ["nobody can be told"]

    def run(self, args: Args, ctx: Context) -> Outputs:
        return {}


KINDS = (Needs, Tells)
NAMES = st.sampled_from(["there", "there", "lack"])


def made(step: dict[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    """The same tree with ids."""
    inner = {
        key: [made(child, numbers) for child in value] if key in ("steps", "fallback", "parallel") else value
        for key, value in step.items()
    }
    if "choose" in step:
        inner["choose"] = [
            {**branch, "steps": [made(child, numbers) for child in branch["steps"]]} for branch in step["choose"]
        ]
    return {"id": f"s{next(numbers)}", **inner}


LEAF = st.builds(
    lambda name, more: {"action": "toy.needs", "with": {"name": name}, **more},
    NAMES,
    st.sampled_from([{}, {}, {}, {"on_failure": "continue"}, {"when": "false"}, {"when": "true"}]),
)


def blocks(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(children, min_size=1, max_size=3)
    going = st.sampled_from([{}, {}, {"keep_going": 1}, {"keep_going": 2}, {"on_failure": "continue"}])
    return st.one_of(
        st.builds(lambda steps, more: {"steps": steps, **more}, several, going),
        st.builds(lambda steps, more: {"parallel": steps, **more}, several, going),
        st.builds(lambda steps: {"fallback": [*steps, {"steps": [steps[0]]}]}, several),
        st.builds(
            lambda items, more: {
                "foreach": {"items": items, "as": "one"},
                "steps": [{"action": "toy.needs", "with": {"name": "{{ one }}"}}],
                **more,
            },
            st.lists(NAMES, min_size=1, max_size=4),
            going,
        ),
        st.builds(
            lambda first, steps, others: {"choose": [{"when": first, "steps": steps}, {"steps": others}]},
            st.sampled_from(["true", "false"]),
            several,
            several,
        ),
    )


def text(steps: list[Any]) -> str:
    numbers = itertools.count(1)
    return json.dumps({"runbook": 1, "name": "p", "steps": [made(step, numbers) for step in steps]})


def refused(ended: Ended) -> bool:
    return ended.exit == Exit.REFUSED


@settings(max_examples=120)
@given(st.lists(st.recursive(LEAF, blocks, max_leaves=8), min_size=1, max_size=3))
def test_a_run_is_refused_exactly_when_it_would_fail_for_what_is_missing(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab.at(Path(folder), *KINDS)
        playbook = text(steps)
        blind = lab.run(playbook, options=Options(preflight=False))
        error = blind.outcome.error if blind.outcome is not None else None
        if error is not None and "every alternative was skipped" in error.message:
            return  # it fails, and not for what is missing
        assert refused(lab.run(playbook)) == (blind.exit == Exit.FAILED), playbook


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.at(tmp_path, *KINDS)


def told(lab: Lab, ended: Ended) -> list[str]:
    return [f"{event.key}: {event.data['message']}" for event in lab.events(ended) if event.kind == "warning"]


def book(*steps: str, head: str = "") -> str:
    return f"runbook: 1\nname: p\n{head}steps:\n" + "".join(f"  - {{{step}}}\n" for step in steps)


LACK = "id: a, action: toy.needs, with: {name: lack}"


def test_a_notification_that_cannot_be_told_refuses_nothing(lab: Lab) -> None:
    ended = lab.run(book("id: t, action: toy.tells, with: {}"))
    assert ended.exit == Exit.SUCCEEDED
    assert told(lab, ended) == ["t: nobody can be told (a notification never fails a run)"]


def test_what_is_decided_by_a_read_is_only_a_warning(lab: Lab) -> None:
    read = "id: r, action: toy.get, with: {value: 1}"
    for step in (
        f"{LACK}, when: steps.r.outputs.value == 2",
        f"id: c, choose: [{{when: steps.r.outputs.value == 2, steps: [{{{LACK}}}]}}, {{steps: []}}]",
        f"id: f, foreach: {{items: '{{{{ [1] if steps.r.outputs.value == 2 else [] }}}}', as: i}}, steps: [{{{LACK}}}]",
    ):
        if "steps: []" in step:
            step = step.replace("steps: []", "steps: [{id: n, action: flow.set, with: {values: {}}}]")  # noqa: PLW2901
        ended = lab.run(book(read, step))
        assert ended.exit == Exit.SUCCEEDED, step
        assert any(line.endswith("lack is missing (perhaps not needed)") for line in told(lab, ended)), step


def test_what_a_called_playbook_lacks_counts_and_its_own_tolerance_too(lab: Lab) -> None:
    inner = book(LACK)
    outer = book("id: call, playbook: inner.yaml, with: {}")
    loaded = lab.load(outer, inner_yaml=inner)
    ended = session.start(loaded, {}, world=lab.around)
    assert ended.exit == Exit.REFUSED
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert ended.outcome.error.message == "nothing was begun: call/a: lack is missing"
    for outer_more, inner_more in ((", on_failure: continue", ""), ("", ", on_failure: continue")):
        loaded = lab.load(
            book(f"id: call, playbook: inner.yaml, with: {{}}{outer_more}"), inner_yaml=book(LACK + inner_more)
        )
        assert session.start(loaded, {}, world=lab.around).exit == Exit.SUCCEEDED


def test_what_an_earlier_step_may_bring_is_not_missed_and_rights_are(lab: Lab) -> None:
    absent = "id: b, action: toy.needs, with: {name: absent}"
    assert refused(lab.run(book(absent)))
    made_before = f"id: n, action: {Note.name}, with: {{name: x}}"
    ended = lab.run(book(made_before, absent))
    assert ended.exit == Exit.SUCCEEDED
    assert told(lab, ended) == ["b: absent is not there (an earlier step may bring it)"]
    assert refused(lab.run(book(made_before, LACK))), "a shell command grants no rights"
    assert refused(lab.run(book(absent, made_before))), "what comes later brings nothing"


def test_what_only_an_undo_needs_is_a_warning(lab: Lab) -> None:
    ended = lab.run(book("id: a, action: toy.needs, with: {name: back}"))
    assert ended.exit == Exit.SUCCEEDED
    assert told(lab, ended) == ["a: back is missing (only its undo needs it)"]


def test_nobody_can_tell_or_a_bug_refuses_nothing(lab: Lab) -> None:
    for name, words in (("away", "nobody answers"), ("bug", "ZeroDivisionError: a bug")):
        ended = lab.run(book(f"id: a, action: toy.needs, with: {{name: {name}}}"))
        assert ended.exit == Exit.SUCCEEDED
        assert told(lab, ended) == [f": not checked: a: {words}"]


def test_a_bug_of_preflight_itself_refuses_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (ZeroDivisionError("ours"), Unknown.Reached(Unknown("never"))):

        def raise_it(*_: object, broken: BaseException = broken) -> None:
            raise broken

        monkeypatch.setattr("runbook.runner.preflight.look", raise_it)
        ended = lab.run(book("id: a, action: toy.needs, with: {name: there}"))
        assert ended.exit == Exit.SUCCEEDED
        assert told(lab, ended)[0].startswith(": not checked: what the steps need")


def test_a_secret_stays_sealed_while_preflight_looks(lab: Lab) -> None:
    lab.environ["TOKEN"] = "c4n4ry-value-of-a-secret"
    ended = lab.run(
        book(
            "id: a, action: toy.needs, with: {name: lack, text: '{{ secrets.t }}'}", head="secrets: {t: {env: TOKEN}}\n"
        )
    )
    assert refused(ended)
    assert b"c4n4ry" not in ended.folder.journal.read_bytes()


def test_a_run_that_was_killed_in_preflight_looks_again_and_one_that_had_begun_does_not(lab: Lab) -> None:
    from runbook.runner.journal import Event

    class KilledError(BaseException):
        pass

    def kill(event: Event) -> None:
        if event.kind == "run.begun":
            raise KilledError

    text = book(LACK)
    with pytest.raises(KilledError):
        lab.run(text, listeners=[kill])
    assert lab.resume().exit == Exit.REFUSED
    ended = lab.run(
        book("id: a, action: toy.needs, with: {name: there}", "id: w, action: manual.approve, with: {message: m}")
    )
    assert ended.exit == Exit.WAITING
    assert lab.resume().exit == Exit.WAITING
    assert [event.kind for event in lab.events(ended)].count("preflight") == 1


def test_an_optional_dependency_and_programs_are_looked_for_by_the_host() -> None:
    assert list(lacks.dependency("postgres")) == []
    assert list(lacks.dependency("no_such_extra")) == [
        "no_such_extra is not installed: pip install 'runbook[no_such_extra]'"
    ]
    assert list(lacks.dependency("no_such_extra", ["x: pip install 'runbook[no_such_extra]'"])) == [], "said already"
    assert list(lacks.tools(["sh", "no-such-tool"], {"PATH": "/bin:/usr/bin"})) == ["no-such-tool is not on PATH"]


def test_a_command_is_looked_for_unless_it_brings_its_own_path(lab: Lab) -> None:
    step = "id: a, action: shell.run, with: {command: [only-in-bin]%s}"
    assert refused(lab.run(book(step % "")))
    program = lab.world / "only-in-bin"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert lab.run(book(step % f", env: {{PATH: '{lab.world}:/bin'}}")).exit == Exit.SUCCEEDED
    assert lab.run(book("id: a, action: shell.run, with: {command: only-in-shell || true}")).exit == Exit.SUCCEEDED


def test_a_loop_that_is_too_long_is_looked_at_as_far_as_it_goes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.runner.walk.MANY", 3)
    body = "steps: [{id: a, action: toy.needs, with: {name: '{{ one }}'}}]"
    loop = f"id: f, foreach: {{items: [there, there, there, lack], as: one}}, {body}"
    ended = lab.run(book(loop))
    assert ended.exit == Exit.FAILED, "the step itself says it"
    (found,) = [event.data for event in lab.events(ended) if event.kind == "preflight"]
    assert found == {"later": ["what comes after 3 calls: too many to look at before the run"]}
    assert refused(lab.run(book(loop.replace("there, there, there, lack", "there, there, lack, there"))))
