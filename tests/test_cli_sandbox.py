"""Rehearsals from the command line: SIMULATED wherever one looks, answered by the scenario, resumed in its world."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands, Screen, end, until
from tests.http_server import serving
from tests.test_cli import the_run
from tests.test_registry import PLUGIN, install_editable

WORLD = """\
scenario: 1
world:
  namespaces:
    shop:
      deployments:
        web: {image: "registry.invalid/web:1", replicas: 2, labels: {app: web}}
answers:
  - {action: manual.approve, match: {message: careful}, decline: too risky}
  - {action: manual.approve, outputs: {}}
  - {action: manual.choose, outputs: {choice: blue}}
"""

SCALE = """\
runbook: 1
name: scale
defaults: {with: {k8s: {namespace: shop}}}
steps:
  - {id: up, action: k8s.scale, with: {name: web, replicas: 3}}
  - {id: wait, action: flow.wait, with: {for: 600ms}}
  - {id: ready, action: k8s.status, with: {names: [web]}, until: "result.workloads[0].ready == 3"}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path)
    commands.write("world.yaml", WORLD)
    commands.write("scale.yaml", SCALE)
    return commands


def test_a_rehearsal_says_simulated_everywhere(cli: Commands) -> None:
    said = cli("run", "scale.yaml", "--sandbox", "world.yaml")
    assert said.code == 0, said.out + said.err
    assert said.out.count("SIMULATED") == 2
    assert "replicas: 2 → 3" in said.out
    for words in (("show",), ("runs",), ("report",), ("report", "--format", "html")):
        assert "SIMULATED" in cli(*words).out
    assert json.loads(cli("report", "--format", "json").out)["simulated"] is True
    plan = cli("plan", "scale.yaml", "--sandbox", "world.yaml")
    assert plan.code == 0, plan.out + plan.err
    assert "SIMULATED" in plan.out
    assert "2 → 3" in plan.out


def test_the_scenario_answers_for_people(cli: Commands) -> None:
    cli.write(
        "ask.yaml",
        "runbook: 1\nname: ask\nsteps:\n"
        "  - {id: pick, action: manual.choose, with: {message: Which?, choices: {green: a, blue: b}}}\n"
        "  - {id: go, action: manual.approve, with: {message: Go on}}\n"
        "  - {id: no, action: manual.approve, with: {message: be careful}}\n",
    )
    said = cli("run", "ask.yaml", "--sandbox", "world.yaml")
    assert said.code == Exit.CANCELLED
    assert "too risky" in said.out
    people = json.loads(cli("report", "--format", "json").out)["people"]
    assert [person["status"] for person in people] == ["succeeded", "succeeded", "declined"]
    assert people[0]["answer"]["choice"] == "blue"


def test_what_the_scenario_does_not_answer_is_asked_on_the_terminal(cli: Commands) -> None:
    cli.write(
        "ask.yaml",
        "runbook: 1\nname: ask\nsteps:\n"
        "  - {id: list, action: manual.checklist, with: {sections: {Web: [it is up]}}}\n",
    )
    nobody = cli("run", "ask.yaml", "--sandbox", "world.yaml")
    assert nobody.code == Exit.WAITING
    assert "Next      rehearse it anew, on a terminal or with `answers:` in the scenario" in nobody.out
    assert "runbook answer" not in nobody.out, "its world is gone: no answer helps it"
    screen = Screen.start(cli, "run", "ask.yaml", "--sandbox", "world.yaml")
    screen.answer(("it is up:", "y\n"))
    assert screen.end() == Exit.SUCCEEDED, screen.shown
    assert "SIMULATED" in screen.shown


OUTSIDE = """\
runbook: 1
name: outside
secrets: {hook: {env: HOOK}}
steps:
  - id: all
    keep_going: "100%"
    steps:
      - {id: shell, action: shell.run, undo: none, with: {command: [touch, made-by-shell]}}
      - {id: container, action: k8s.exec, undo: none, with: {namespace: shop, pod: web, command: [ls]}}
      - {id: request, action: http.request, undo: none, with: {url: "SERVER/x", method: POST}}
      - {id: check, action: http.check, with: {url: "SERVER/x"}}
      - {id: writes, action: file.write, with: {to: written.txt, content: x}}
      - {id: copies, action: file.restore, with: {from: world.yaml, to: copied.yaml}}
      - {id: image, action: registry.image_exists, with: {images: ["HOST/app:1"]}}
      - {id: database, action: pg.query, with: {dsn: "postgresql://x@HOST/x", sql: select 1}}
      - {id: metric, action: prometheus.query, with: {url: SERVER, query: up}}
  - {id: tells, action: slack.post, with: {webhook: "{{ secrets.hook }}", text: x}}
"""


def test_a_rehearsal_reads_nothing_but_what_stands_beside_its_playbook(cli: Commands) -> None:
    elsewhere = cli.folder.parent / f"{cli.folder.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.txt").write_text("as it is")
    (cli.folder / "link.txt").symlink_to(elsewhere / "real.txt")
    cli.write("beside.txt", "as it is")
    outside, inside = elsewhere / "real.txt", "beside.txt"
    steps = "".join(
        f"  - {{id: {name}, action: {action}, on_failure: continue, with: {parameters}}}\n"
        for name, action, parameters in (
            ("fine", "file.stat", f"{{paths: [{inside}]}}"),
            ("stat", "file.stat", f"{{paths: [{outside}]}}"),
            ("link", "file.stat", "{paths: [link.txt]}"),
            ("find", "file.find", f"{{dir: {elsewhere}, pattern: '*', sha256: if_present}}"),
            ("linked", "file.find", "{dir: ., pattern: 'link*', sha256: if_present}"),
            ("same", "file.write", f"{{to: {outside}, content: as it is}}"),
            ("copy", "file.write", f"{{to: {inside}, from: {outside}}}"),
            ("back", "file.restore", f"{{to: {inside}, from: {elsewhere}}}"),
        )
    )
    cli.write("reads.yaml", f"runbook: 1\nname: reads\nsteps:\n{steps}")
    said = cli("run", "reads.yaml", "--sandbox", "world.yaml", "--yes", "--output", "jsonl")
    results = [json.loads(line) for line in said.out.splitlines()]
    told = {one["key"]: one["data"]["error"]["message"] for one in results if _failed(one)}
    assert sorted(key.partition("#")[0] for key in told) == ["back", "copy", "find", "link", "linked", "same", "stat"]
    assert [text for text in told.values() if "SIMULATED: refused in the sandbox: read" not in text] == []


def test_what_would_reach_anything_else_is_refused(cli: Commands) -> None:
    """Files, processes, and a server that listens on this very machine: each is named, and nothing came to it."""
    with serving() as server:
        host = server.url("").partition("://")[2]
        cli.write("outside.yaml", OUTSIDE.replace("SERVER", server.url("")).replace("HOST", host))
        cli.write("world.yaml", WORLD + f"secrets: {{HOOK: {server.url('/hook')}}}\n")
        before = {path.name for path in cli.folder.iterdir()}
        said = cli("run", "outside.yaml", "--sandbox", "world.yaml", "--yes", "--output", "jsonl")
        assert server.asked == []
    assert said.code == 0, said.out + said.err
    results = [json.loads(line) for line in said.out.splitlines()]
    told = {one["key"]: one["data"]["error"]["message"] for one in results if _failed(one)}
    assert len(told) == OUTSIDE.count("action:") - 1, "Slack's stand-in took the message; nothing else had one"
    assert [key for key, message in told.items() if "SIMULATED" not in message] == []
    assert {path.name for path in cli.folder.iterdir()} - before <= {"home"}
    assert not [one for one in results if one["kind"] == "call.intent" and one["data"]["effect"] == "change"]
    planned = cli("plan", "outside.yaml", "--sandbox", "world.yaml", "--output", "json")
    rows = {row["id"]: row for row in json.loads(planned.out)["rows"]}
    assert [rows[name]["verdict"] for name in ("writes", "copies")] == ["failed", "failed"], "a plan says so, too"


WEATHER = """\
runbook: 1
name: weather
steps:
  - {id: look, action: weather.dry, with: {file: flag}}
  - {id: rain, action: weather.set, with: {file: flag, to: rain}}
"""


def test_a_plug_in_that_says_nothing_of_rehearsals_is_refused_in_one(cli: Commands) -> None:
    """And in the plan; what says that it is rehearsed runs, what the scenario answers, too."""
    flag = cli.folder / "flag"
    flag.write_text("sun")
    cli.write("weather.yaml", WEATHER)
    path = os.pathsep.join([str(PLUGIN / "src"), str(install_editable(cli.folder / "site"))])
    installed = {"PYTHONPATH": path}
    refused = cli("run", "weather.yaml", "--sandbox", "world.yaml", "--yes", environ=installed)
    assert refused.code == Exit.FAILED
    assert "✓ look" in refused.out
    assert "SIMULATED: refused in the sandbox: plug-in weather.set" in refused.out
    planned = cli("plan", "weather.yaml", "--sandbox", "world.yaml", "--output", "json", environ=installed)
    verdicts = {row["id"]: row["verdict"] for row in json.loads(planned.out)["rows"]}
    assert verdicts == {"look": "yes", "rain": "failed"}
    cli.write("answering.yaml", WORLD + "  - {action: weather.set, outputs: {previous: sun}}\n")
    answered = cli("run", "weather.yaml", "--sandbox", "answering.yaml", "--yes", environ=installed)
    assert answered.code == 0, answered.out + answered.err
    assert flag.read_text() == "sun"
    real = cli("run", "weather.yaml", "--yes", environ=installed)
    assert real.code == 0, real.out + real.err
    assert flag.read_text() == "rain"


def _failed(event: dict[str, Any]) -> bool:
    return event["kind"] == "call.result" and bool(event["data"].get("error"))


def test_a_wrong_scenario_is_exit_2(cli: Commands) -> None:
    cli.write("bad.yaml", WORLD.replace("answers:", "anwsers:"))
    for name in ("bad.yaml", "gone.yaml"):
        said = cli("run", "scale.yaml", "--sandbox", name)
        assert said.code == Exit.INVALID
        assert name in said.err
        assert "Traceback" not in said.err


def test_a_run_in_a_served_world_is_killed_resumed_and_undone_there(cli: Commands) -> None:
    served = cli.start("sandbox", "up", "world.yaml", "--kubeconfig", "kube")
    try:
        until((cli.folder / "kube").exists)
        assert (cli.folder / "kube").stat().st_mode & 0o077 == 0
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(3)]
        assert "SIMULATED" in lines[0]
        world = lines[2].split()[-1]
        process = cli.start("run", "scale.yaml", "--sandbox", world, "--output", "jsonl")
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["kind"] == "step.ended":
                break
        end(process, signal.SIGKILL)
        shown = cli("show")
        assert "stopped" in shown.out
        assert f"runbook resume {the_run(cli)} --cleanup --sandbox {world}   (only" in shown.out
        (going_on,) = re.findall(r"runbook (resume .*?)   \(goes on where it was\)", shown.out)
        refused = cli("resume")
        assert refused.code == Exit.REFUSED  # not in the real world
        assert f"it goes on in its own world only: --sandbox {world}" in refused.err
        said = cli(*shlex.split(going_on))
        assert said.code == 0, said.out + said.err
        undone = cli("undo", "--sandbox", world)
        assert undone.code == 0, undone.out + undone.err
        assert "Undone    up (k8s.scale)" in undone.out
        plan = cli("plan", "scale.yaml", "--sandbox", world)
        assert "2 → 3" in plan.out
        elsewhere = cli("undo", "--sandbox", "world.yaml")
        assert elsewhere.code == Exit.REFUSED
        assert "was rehearsed in another simulated world: what it did is not in this one" in elsewhere.err
    finally:
        code, out, err = end(served, signal.SIGINT)
    assert code == 0, err
    assert "is gone" in out
    assert not (cli.folder / "kube").exists()
    gone = cli("undo", "--sandbox", world)
    assert gone.code == Exit.REFUSED, gone.out + gone.err
    assert f"the simulated world of {world} has ended" in gone.err


def test_a_rehearsal_that_was_killed_does_not_go_on_in_a_new_world(cli: Commands) -> None:
    """Its world ended with it: to go on in a new one would rehearse something that never happens."""
    cli.write("scale.yaml", SCALE.replace("600ms", "1h"))
    process = cli.start("run", "scale.yaml", "--sandbox", "world.yaml", "--output", "jsonl")
    assert process.stdout is not None
    assert any('"sleep.began"' in line for line in process.stdout)
    end(process, signal.SIGKILL)
    before = cli("show").out
    assert "Next      its simulated world ended with the command" in before
    assert "runbook resume" not in before
    for words in (("resume",), ("resume", "--cleanup")):
        for more in ((), ("--sandbox", "world.yaml")):
            refused = cli(*words, *more)
            assert refused.code == Exit.REFUSED, refused.out + refused.err
            assert "start the rehearsal anew" in refused.err
            assert "`runbook sandbox up SCENARIO`" in refused.err
    assert cli("show").out == before, "nothing is lost"
    assert "its world is gone" in cli("runs").out
    cli.write("coordinates.json", "{}")
    assert cli("run", "scale.yaml", "--sandbox", "coordinates.json").code == Exit.INVALID


def test_a_rehearsal_that_waits_for_ever_is_said_to_and_can_be_deleted(cli: Commands) -> None:
    """Its world ended with its command: nothing can go on with it, so it is no run that is to be kept."""
    asks = "runbook: 1\nname: ask\nsteps:\n  - {id: list, action: manual.checklist, with: {sections: {Web: [up]}}}\n"
    cli.write("ask.yaml", asks)
    assert cli("run", "ask.yaml").code == Exit.WAITING
    real = the_run(cli)
    assert cli("run", "ask.yaml", "--sandbox", "world.yaml").code == Exit.WAITING
    rehearsed = the_run(cli)
    assert "waiting, its world is gone SIMULATED" in cli("runs").out
    assert cli("prune", "--yes").out == "nothing to delete\n", "it is new"
    deleted = cli("prune", "--keep", "0", "--older-than", "0s", "--yes")
    assert deleted.out == f"{rehearsed}\ndeleted 1\n"
    assert the_run(cli) == real, "a real one that waits is kept"


@pytest.mark.timed
def test_sandbox_takes_the_word_after_it(cli: Commands) -> None:
    said = cli("run", "--sandbox", "scale.yaml")
    assert said.code == Exit.INVALID
    assert "--sandbox took scale.yaml as its scenario" in said.err
    began = time.monotonic()
    assert cli("run", "scale.yaml", "--sandbox", "--yes").code != Exit.INVALID
    assert time.monotonic() - began < 30


def test_a_scenario_answers_machines_too(cli: Commands) -> None:
    """`--output jsonl` asks nobody at the terminal; the scenario's people answer all the same."""
    cli.write("asks.yaml", "runbook: 1\nname: asks\nsteps: [{id: ok, action: manual.approve, with: {message: Go?}}]\n")
    cli.write("yes.yaml", "scenario: 1\nanswers: [{action: manual.approve, outputs: {by: ada}}]\n")
    said = cli("run", "asks.yaml", "--sandbox", "yes.yaml", "--output", "jsonl")
    assert said.code == Exit.SUCCEEDED
    refused = cli("resume", "last")
    assert refused.code == Exit.REFUSED
    assert "is a simulated one" in refused.err
    assert "ends with its command: start the rehearsal anew" in refused.err
