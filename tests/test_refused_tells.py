"""A run that was refused before anything was begun: its handlers tell people, and do nothing else. As commands."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.interpreter.model import OnFailure, SecretSource
from runbook.runner.journal import Journal
from runbook.runner.store import Store
from tests.command import Commands, end, until
from tests.http_server import Asked, Server, reply, serving
from tests.law import Case, everywhere, undisturbed
from tests.playbooks_toy import act, block, book, put, sub, tell, template

TELLER = """\
runbook: 1
name: tell
inputs: {message: {type: string}}
secrets: {hook: {env: HOOK}}
locks: [telling]
steps:
  - {id: word, action: flow.set, with: {values: {text: "called: {{ inputs.message }}"}}}
  - {id: change, action: file.write, with: {to: called.txt, content: x}}
  - {id: post, action: slack.post, with: {webhook: "{{ secrets.hook }}", text: "{{ steps.word.outputs.text }}"}}
"""
PLAYBOOK = """\
runbook: 1
name: refused
secrets:
  hook: {env: HOOK}
  token: {env: TOKEN, optional: true}
vars: {who: "the team"}
locks: [rollback]
steps:
  - {id: act, action: shell.run, with: {command: [mytool, x]}, undo: none}
  - {id: write, action: file.write, with: {to: out.txt, content: new}}
on_failure:
  undo: true
  steps:
    - {id: look, action: http.check, with: {url: "http://127.0.0.1:1/"}}
    - {id: ask, action: manual.approve, with: {message: "Go on?"}}
    - {id: pause, action: flow.wait, with: {for: 1h}}
    - {id: repair, action: shell.run, with: {command: "touch repaired.txt"}, locks: [repair]}
    - id: which
      choose:
        - when: failure.kind == 'refused'
          steps:
            - id: post
              action: slack.post
              with:
                webhook: "{{ secrets.hook }}"
                text: "{{ failure.kind }} {{ failure.error.message }}, {{ vars.who }} {{ steps.look.outputs.status }}"
        - steps: [{id: other, action: slack.post, with: {webhook: "{{ secrets.hook }}", text: not refused}}]
    - {id: called, playbook: tell.yaml, with: {message: "{{ failure.error.message }}"}}
finally:
  steps:
    - {id: saved, action: artifact.save, with: {name: saved.txt, content: x}}
    - {id: last, action: slack.post, with: {webhook: "{{ secrets.hook }}", text: "finally {{ failure.kind }}"}}
"""
SENTENCE = "nothing was begun: act: mytool is not on PATH"


@pytest.fixture
def slack() -> Iterator[Server]:
    with serving() as server:
        server.answers["/hook"] = reply(200, "ok")
        yield server


@pytest.fixture
def cli(tmp_path: Path, slack: Server) -> Commands:
    made = Commands(tmp_path / "here", {"HOOK": slack.url("/hook")})
    made.folder.mkdir()
    made.write("p.yaml", PLAYBOOK)
    made.write("tell.yaml", TELLER)
    return made


def told(slack: Server) -> list[str]:
    return [one.json["text"] for one in slack.asked if one.path == "/hook"]


def untouched(cli: Commands) -> bool:
    return not list(cli.folder.glob("*.txt")) and not list(cli.home.rglob("saved.txt"))


def kinds(cli: Commands) -> list[str]:
    journal = Journal.open(Store(cli.home).find("last").journal, readonly=True)
    try:
        return [event.kind for event in journal.events()]
    finally:
        journal.close()


def test_preflight_refuses_and_only_notifications_are_played(cli: Commands, slack: Server) -> None:
    refused = cli("run", "p.yaml", "--yes")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert told(slack) == [
        f"refused {SENTENCE}, the team <unknown: steps.look.outputs.status>",
        f"called: {SENTENCE}",
        "finally refused",
    ]
    assert untouched(cli)
    assert "locked" not in kinds(cli), "what tells takes no lock"
    assert "asked" not in kinds(cli)
    assert "sleep.began" not in kinds(cli)
    assert f"  What      {SENTENCE}" in refused.out
    run = Store(cli.home).find("last").id
    assert cli("undo", run).code == Exit.REFUSED
    assert len(told(slack)) == 3


def test_a_missing_secret_is_told_by_those_that_are_there(cli: Commands, slack: Server) -> None:
    cli.write("p.yaml", PLAYBOOK.replace("{env: TOKEN, optional: true}", "{env: TOKEN}"))
    for more in ((), ("--no-preflight",)):
        slack.asked.clear()
        refused = cli("run", "p.yaml", "--yes", *more)
        assert refused.code == Exit.REFUSED, refused.out + refused.err
        first, second, third = told(slack)
        assert "token (environment variable TOKEN, p.yaml:5)" in first
        assert ("mytool" in first) == (not more)
        assert second.startswith("called: ")
        assert third == "finally refused"
        assert untouched(cli)


def test_a_held_lock_is_told_by_who_holds_it(cli: Commands, slack: Server) -> None:
    """A page that the rollback failed, while it runs, would be wrong."""
    cli.write(
        "holds.yaml",
        "runbook: 1\nname: holds\nlocks: [rollback]\nsteps:\n  - {id: w, action: flow.wait, with: {for: 10m}}\n",
    )
    holder = cli.start("run", "holds.yaml", "--yes", "--output", "jsonl")
    try:
        assert holder.stdout is not None
        assert any('"sleep.began"' in line for line in holder.stdout)
        tools = cli.folder / "tools"
        tools.mkdir()
        (tools / "mytool").write_text("#!/bin/sh\n")
        (tools / "mytool").chmod(0o755)
        refused = cli("run", "p.yaml", "--yes", environ={"PATH": f"{tools}:{cli.variables()['PATH']}"})
    finally:
        end(holder, signal.SIGKILL)
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert "rollback" in refused.out
    assert told(slack) == []
    assert untouched(cli)


def test_killed_while_it_tells_it_goes_on_telling_and_begins_nothing(cli: Commands, slack: Server) -> None:
    """Also if nothing is missing any more: it was refused, and is not begun by a resume."""

    def hangs(connection: socket.socket, _asked: Asked) -> None:
        connection.recv(1)

    slack.answers["/hook"] = hangs
    process = cli.start("run", "p.yaml", "--yes")
    until(lambda: len(told(slack)) == 1, 60)
    end(process, signal.SIGKILL)
    slack.answers["/hook"] = reply(200, "ok")
    slack.asked.clear()
    tools = cli.folder / "tools"
    tools.mkdir()
    (tools / "mytool").write_text("#!/bin/sh\ntouch ran.txt\n")
    (tools / "mytool").chmod(0o755)
    resumed = cli("resume", environ={"PATH": f"{tools}:{cli.variables()['PATH']}"})
    assert resumed.code == Exit.REFUSED, resumed.out + resumed.err
    assert told(slack)[-2:] == [f"called: {SENTENCE}", "finally refused"]
    assert untouched(cli)


def test_the_engine_replays_it_wherever_it_was_killed() -> None:
    """The law of the engine, over effects that die at any write."""
    inner = book(put("inside", "inside"), tell("word", "inner"), locks=["l"])
    playbook = book(
        put("a", "a"),
        secrets=(SecretSource("token", "env", template("TOKEN")), SecretSource("other", "env", template("OTHER"))),
        on_failure=OnFailure(
            True,
            (
                put("repair", "repair"),
                block("b", act("may", "manual.approve", {"message": "?"}), tell("tell", "{{ failure.kind }}")),
                sub("s", inner),
            ),
        ),
        finally_=(put("last", "last"), tell("end", "over")),
    )
    case = Case(playbook, {"secret:other": True})
    played, world, facts = undisturbed(case)
    assert (facts["status"], facts["kind"]) == ("failed", "refused")
    assert world == {"secret:other": True}
    assert {call.action for call in played.toy.calls} == {"toy.tell"}
    assert len(played.toy.calls) == 3
    assert everywhere(case) > 20
