"""Canary secrets through every way out of a whole run, as commands: none of them flies out of any, in no encoding.

Declared by environment, file and Kubernetes Secret (of a SIMULATED API server); given to processes and servers that
tell them back in eight encodings, on both outputs, in errors, in the middle of cuts. Searched in raw bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.actions import _process
from runbook.interpreter.errors import Exit
from runbook.sandbox import scenario, surroundings
from tests import canary, site
from tests.canary import HOOK, ONE_LINE, TAG, VALUES, Search
from tests.command import Commands, Said, Screen, end, until
from tests.http_server import Asked, Server, reply, serving

WORLD = {
    "scenario": 1,
    "world": {
        "namespaces": {
            "shop": {
                "deployments": {
                    "web": {"image": f"registry.invalid/web:{TAG}", "labels": {"app": "web"}, "replicas": 1},
                },
                "config_maps": {"careless": {"password": ONE_LINE["by_k8s"], "url": f"https://u:{TAG}@db.invalid/"}},
                "secrets": {"canary": {"one": VALUES["by_k8s"], "many": VALUES["k8s_lines"]}},
            }
        },
    },
}

LEAK = """\
import os, sys
from tests import canary
for name, value in sorted(os.environ.items()):
    if name.startswith("LEAK_"):
        for line in canary.told(value):
            print(line)
            print(line, file=sys.stderr)
if "LEAK_C" in os.environ:
    print("Traceback: " + os.environ["LEAK_C"], file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""

FLOOD = """\
import os, sys, time
keep, line = {keep}, {line}
for name, value in sorted(os.environ.items()):
    if name.startswith("LEAK_"):
        half = value.replace("\\n", " ")[: len(value) // 2]
        half = value[: len(half)]
        sys.stdout.write("." * (line - len(half)) + value)  # a long line, cut inside
        sys.stdout.flush(); time.sleep(0.05)
        sys.stdout.write("\\n"); sys.stdout.flush()
        sys.stdout.write("." * (line + 5 - len(half)) + half)  # a long line in two writes
        sys.stdout.flush(); time.sleep(0.05)
        sys.stdout.write(value[len(half):] + "\\n"); sys.stdout.flush()
for name, value in sorted(os.environ.items()):
    if name == "LEAK_A":
        raw, half = value.encode(), len(value) // 2
        sys.stderr.buffer.write(b"." * (keep - half) + raw + b"." * 2 * keep + raw + b"." * (keep - half))
sys.stdout.flush()
"""

PLUGIN = '''\
"""leaky.*: actions with bugs that tell all they know."""

from dataclasses import dataclass

from runbook.contract import Change, Opaque, param


@dataclass(frozen=True, kw_only=True)
class Args:
    """Parameters."""

    token: str = param("A secret.", secret=True)
    name: str = param("What.", default="x")


class Bug(Opaque[Args]):
    """Breaks."""

    name = "leaky.bug"

    def run(self, args, ctx):
        ctx.progress(1, 2)
        raise RuntimeError(f"no such key: {args.token!r} in {args}")


class Observing(Change[Args]):
    """Sees a secret in the world and leaves it there."""

    name = "leaky.observing"
    returns = {"before": "what was seen"}

    def observe(self, args, ctx):
        return {f"leaky:{args.name}": {"text": f"token={args.token}", args.token: 1, "again": ctx.notes.get("n", "")}}

    def expect(self, args, before, ctx):
        return {name: {**state, "text": state["text"] + " and more"} for name, state in before.items()}

    def apply(self, args, before, ctx):
        ctx.note("n", args.token)
        ctx.keep(args.token.encode())

    def inverse(self, args, before, op):
        from runbook.contract import Call

        return Call("leaky.observing", {"token": args.token, "name": args.name})

    def outputs(self, args, before, after):
        return {"before": before, args.token: args.token}

    def preview(self, args, before, after, ctx):
        return f"it has {args.token}"


ACTIONS = (Bug, Observing)
'''

PLAYBOOK = """\
runbook: 1
name: canary
secrets:
  by_env: {env: CANARY_ONE}
  env_lines: {env: CANARY_LINES}
  by_file: {file: one.txt}
  file_lines: {file: lines.txt}
  by_k8s: {k8s: {namespace: shop, secret: canary, key: one}}
  k8s_lines: {k8s: {namespace: shop, secret: canary, key: many}}
  tag: {env: IMAGE}
  hook: {env: HOOK}
defaults: {with: {k8s: {namespace: shop}}}
steps:
  - id: leak
    action: shell.run
    effect: read
    with: &all
      command: ["{{ inputs.python }}", leak.py, "0"]
      env: &env {LEAK_A: "{{ secrets.by_env }}", LEAK_B: "{{ secrets.env_lines }}", LEAK_C: "{{ secrets.by_file }}",
            LEAK_D: "{{ secrets.file_lines }}", LEAK_E: "{{ secrets.by_k8s }}", LEAK_F: "{{ secrets.k8s_lines }}",
            LEAK_G: "{{ secrets.tag }}"}
  - {id: waits, action: flow.wait, with: {for: 300ms}}
  - {id: flood, action: shell.run, effect: read, with: {command: ["{{ inputs.python }}", flood.py], env: *env}}
  - {id: echo, action: shell.run, effect: read, with: {command: [cat], stdin: "{{ secrets.k8s_lines }}"}}
  - id: fails
    action: shell.run
    on_failure: continue
    undo: none
    with: {command: ["{{ inputs.python }}", leak.py, "3"], env: *env}
  - id: told
    action: flow.set
    with: {values: {all: "{{ steps.leak.outputs.stdout }}", error: "{{ steps.fails.error }}"}}
  - id: request
    action: http.request
    on_failure: continue
    undo: none
    with:
      url: "{{ inputs.server }}/echo"
      method: POST
      bearer: "{{ secrets.tag }}"
      json: {text: "{{ secrets.by_env }}", more: "x{{ secrets.by_k8s }}y"}
  - {id: check, action: http.check, with: {url: "{{ inputs.server }}/leak", contains: never}, on_failure: continue}
  - {id: secret, action: k8s.get, with: {kind: Secret, name: canary}}
  - {id: careless, action: k8s.get, with: {kind: ConfigMap, name: careless}}
  - {id: status, action: k8s.status, with: {names: [web]}}
  - {id: pods, action: k8s.get, with: {kind: Pod, selector: app=web}}
  - {id: logs, action: k8s.logs, with: {selector: app=web}}
  - id: annotate
    action: k8s.patch
    with:
      kind: Deployment
      name: web
      patch: {metadata: {annotations: {seen: "{{ steps.careless.outputs.object.data.password }}"}}}
  - id: refused
    action: k8s.patch
    on_failure: continue
    with: {kind: ConfigMap, name: careless, patch: {data: {other: x}}, expect: {data: {password: other}}}
  - id: write
    action: file.write
    with: {to: written.txt, content: "a {{ secrets.by_file }} b\\n{{ secrets.k8s_lines }}"}
  - {id: rewrite, action: file.write, with: {to: was.txt, content: "nothing any more"}}
  - {id: env_file, action: file.write, with: {to: app.env, content: "TOKEN={{ secrets.by_env }}\\nB=2\\n"}}
  - {id: observing, action: leaky.observing, with: {token: "{{ secrets.by_k8s }}"}}
  - {id: bug, action: leaky.bug, on_failure: continue, undo: none, with: {token: "{{ secrets.by_file }}"}}
  - {id: save, action: artifact.save, with: {name: all.json, content: "{{ steps.leak.outputs }}"}}
  - id: save_text
    action: artifact.save
    with: {name: all.txt, content: "{{ steps.flood.outputs.stdout }}{{ steps.echo.outputs.stdout }}"}
  - id: slack
    action: slack.post
    with:
      webhook: "{{ secrets.hook }}"
      title: "{{ steps.fails.error.message }}"
      text: "{{ steps.leak.outputs.stderr }} {{ steps.bug.error.message }}"
      fields: {careless: "{{ steps.careless.outputs.object }}", observed: "{{ steps.observing.outputs.before }}"}
  - {id: no_slack, action: slack.post, with: {webhook: "{{ secrets.hook }}/gone", text: "x"}}
  - {id: md, action: report.write, with: {name: report.md}}
  - {id: html, action: report.write, with: {name: report.html}}
  - {id: json, action: report.write, with: {name: report.json}}
  - id: ends
    action: shell.run
    undo: none
    with: {command: "if test -e go; then exit 0; fi; touch reached; echo \\"$LEAK_A\\"; sleep 60", env: *env}
outputs: {said: "{{ steps.leak.outputs.stdout }}", object: "{{ steps.careless.outputs.object }}"}
inputs: {python: {type: string}, server: {type: string}}
"""


@dataclasses.dataclass
class Flown:
    """Everything that came out of the commands, sink by sink."""

    cli: Commands
    server: Server
    said: dict[str, bytes] = dataclasses.field(default_factory=dict)
    codes: dict[str, int] = dataclasses.field(default_factory=dict)
    argvs: set[bytes] = dataclasses.field(default_factory=set)
    alive: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def note(self, name: str, said: Said) -> Said:
        self.said[f"{name}, stdout"] = said.out.encode()
        self.said[f"{name}, stderr"] = said.err.encode()
        self.codes[name] = said.code
        return said

    def words(self, *words: str) -> tuple[str, ...]:
        return (*words, "canary.yaml", "-i", f"python={sys.executable}", "-i", f"server={self.server.url('')}")


def _echo(_connection: Any, asked: Asked) -> Any:
    """A careless server: an error whose text and headers say what it was sent."""
    everything = "\n".join(line for value in VALUES.values() for line in canary.told(value))
    return reply(500, f"cannot authorize {asked.headers.get('authorization')}: {everything}", x_token=TAG)


def _leak(_connection: Any, asked: Asked) -> Any:
    return reply(200, "\n".join(line for value in VALUES.values() for line in canary.told(value)), x_token=TAG)


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flown]:
    """Plan, run to its end, run and kill, resume, undo, look at it in every way."""
    folder = tmp_path_factory.mktemp("canary")
    # what holds the canaries by right lies outside of what is searched
    given = scenario.parse(json.dumps(WORLD), "world.json")
    with surroundings.start(given) as world, serving() as server:
        server.answers |= {"/echo": _echo, "/leak": _leak, f"/{HOOK}": reply(200, "ok"), f"/{HOOK}/gone": _echo}
        cli = Commands(folder)
        cli.environ |= {
            "KUBECONFIG": str(world.kubeconfig),
            "CANARY_ONE": VALUES["by_env"],
            "CANARY_LINES": VALUES["env_lines"],
            "IMAGE": TAG,
            "HOOK": server.url(f"/{HOOK}"),
            "PYTHONPATH": os.pathsep.join(
                [str(site.install(folder, "leaky", PLUGIN)), str(Path(__file__).parent.parent)]
            ),
        }
        for name, text in {"one.txt": VALUES["by_file"], "lines.txt": VALUES["file_lines"]}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        cli.write("leak.py", LEAK)
        cli.write("flood.py", FLOOD.format(keep=_process.HEAD, line=_process.LINE))
        cli.write("canary.yaml", PLAYBOOK)
        found = Flown(cli, server)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch_argv, args=(found.argvs, stop))
        watcher.start()
        try:
            _fly(found)
        finally:
            stop.set()
            watcher.join()
        yield found


def _watch_argv(seen: set[bytes], stop: threading.Event) -> None:
    """The command line of every process, again and again."""
    while not stop.wait(0.02):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    seen.add(Path("/proc", entry, "cmdline").read_bytes())
                except OSError:
                    continue


def _before(cli: Commands) -> None:
    """The files as they are before a run; one of them holds a secret."""
    (cli.folder / "was.txt").write_text(f"password: {VALUES['by_k8s']}\nencoded: {VALUES['by_file'].encode().hex()}\n")
    for name in ("written.txt", "app.env", "go", "reached"):
        (cli.folder / name).unlink(missing_ok=True)
    (cli.folder / "app.env").write_text(f"TOKEN={VALUES['by_file']}\nOTHER=undeclared\n")


def _fly(found: Flown) -> None:
    cli = found.cli
    _before(cli)
    found.note("validate", cli("validate", "canary.yaml"))
    planned = found.note("plan", cli(*found.words("plan"), "-o", "plan.json"))
    assert planned.code in (0, 1), planned.out[-3000:] + planned.err
    found.note("plan as json", cli(*found.words("plan"), "--output", "json"))
    found.said["saved plan"] = (cli.folder / "plan.json").read_bytes()
    (cli.folder / "go").touch()
    found.note("run as jsonl", cli(*found.words("run"), "--output", "jsonl"))
    for form in ("md", "html", "json"):
        found.note(f"report {form}", cli("report", "--format", form))
    found.note("undo", cli("undo", "--yes"))
    _before(cli)
    (cli.folder / "go").touch()
    found.note("run -v", cli(*found.words("run"), "-v"))
    _before(cli)
    killed = cli.start(*found.words("run"))
    until((cli.folder / "reached").exists)
    followed = cli.start("logs", "-f")
    time.sleep(0.5)
    found.alive = Search().files(cli.home)  # with what is in the write-ahead log now
    found.said["write-ahead log"] = b"".join(path.read_bytes() for path in cli.home.rglob("journal.db-wal"))
    code, out, err = end(killed, signal.SIGKILL)
    found.note("killed run", Said(code, out, err, 0))
    out, err = followed.communicate(timeout=20)
    found.note("logs -f", Said(followed.returncode, out, err, 0))
    found.note("show a killed run", cli("show", "-v"))
    found.note("resume", cli("resume", "--in-doubt", "fail"))
    _before(cli)
    (cli.folder / "go").touch()
    screen = Screen.start(cli, *found.words("run"))
    screen.answer(("Run it?", "y\n"))
    found.codes["terminal"] = screen.end(60)
    found.said["terminal"] = screen.shown.encode()
    for words in (
        ("show", "-v"),
        ("show", "--output", "json"),
        ("logs",),
        ("logs", "last", "leak"),
        ("runs",),
        ("verify",),
    ):
        found.note(" ".join(words), cli(*words))
    found.note("graph", cli("graph", "canary.yaml"))


def test_the_canaries_were_there(flown: Flown) -> None:
    """The runs did what they were written for; where no mask shows, nothing was proven."""
    out = {name: raw.decode("utf-8", "replace") for name, raw in flown.said.items()}
    assert flown.codes["plan"] in (0, 1), out["plan, stdout"] + out["plan, stderr"]
    assert flown.codes["run -v"] == Exit.SUCCEEDED, out["run -v, stdout"][-3000:] + out["run -v, stderr"]
    assert flown.codes["terminal"] == Exit.SUCCEEDED, out["terminal"][-3000:]
    assert flown.codes["undo"] == Exit.SUCCEEDED, out["undo, stdout"] + out["undo, stderr"]
    assert flown.codes["killed run"] == -signal.SIGKILL
    commands = ("plan", "plan as json", "run as jsonl", "run -v", "logs", "logs -f", "logs last leak", "report md")
    looks = ("report html", "report json", "show -v", "show a killed run")
    for name in ("saved plan", "terminal", *(f"{command}, stdout" for command in (*commands, *looks))):
        assert "secret:" in out[name], f"{name} shows no mask:\n{out[name][:2000]}"
    for name in ("by_env", "env_lines", "by_file", "file_lines", "by_k8s", "k8s_lines", "tag"):
        assert f"‹secret:{name}›" in out["logs, stdout"], name
    assert len(flown.said["write-ahead log"]) > 10_000
    assert any(b"leak.py" in argv for argv in flown.argvs)
    assert sum(b"sleep\x0060" in argv for argv in flown.argvs) >= 1
    names = {path.name for path in flown.cli.home.rglob("*")}
    assert {"all.json", "all.txt", "report.md", "report.html", "report.json", "journal.db", "steps.jsonl"} <= names
    assert any(name.startswith("logs-app-web") for name in names)
    assert flown.cli.folder.joinpath("written.txt").read_text() == f"a {VALUES['by_file']} b\n{VALUES['k8s_lines']}"


def test_no_canary_on_any_output(flown: Flown) -> None:
    """Screen (plain, verbose, JSON lines, a terminal), plan, saved plan, reports, logs, errors."""
    search = Search()
    found = {name: hits for name, raw in flown.said.items() if (hits := search(raw))}
    assert found == {}


def test_no_canary_in_any_file_of_the_home(flown: Flown) -> None:
    """Journals, logs, artifacts, kept bytes, reports, keys: raw, while a run went on and after all of them."""
    assert flown.alive == {}
    assert Search().files(flown.cli.home) == {}


def test_no_canary_in_any_command_line(flown: Flown) -> None:
    assert len(flown.argvs) > 5
    assert Search()(b"\n".join(flown.argvs)) == []


def test_no_canary_in_what_slack_got(flown: Flown) -> None:
    posted = [asked for asked in flown.server.asked if asked.path == f"/{HOOK}"]
    assert len(posted) >= 2
    for asked in posted:
        assert "‹secret:by_env›" in asked.body.decode() or "secret:by_env" in json.dumps(asked.json, ensure_ascii=False)
        assert Search()(asked.body) == []
        assert Search()(json.dumps(asked.json, ensure_ascii=False).encode()) == []
        assert Search()(json.dumps(asked.headers).encode()) == []
    sent = [asked for asked in flown.server.asked if asked.path == "/echo"]
    assert sent[0].json == {"text": VALUES["by_env"], "more": f"x{VALUES['by_k8s']}y"}, "where it may stand, it stands"


def test_undo_gave_back_files_that_hold_secrets(flown: Flown) -> None:
    """What was sealed for the way back is whole: the second `before` equals the first, secrets included."""
    assert f"password: {VALUES['by_k8s']}" in _restored(flown, "was.txt")
    assert f"TOKEN={VALUES['by_file']}" in _restored(flown, "app.env")


def _restored(flown: Flown, name: str) -> str:
    """Undo the last run of the fixture, and look."""
    if not flown.codes.get("last undo"):
        said = flown.note("last undo", flown.cli("undo", "--yes"))
        assert said.code == 0, said.out + said.err
        assert Search()(said.out.encode() + said.err.encode()) == []
    return (flown.cli.folder / name).read_text()


BUG = """\
import os
import runbook.runner.calls as calls
import runbook.runner.host as host
from tests import canary

def told():
    values = [os.environ["CANARY_ONE"], open(os.environ["CANARY_FILE"]).read(), os.environ["SEEN_IN_K8S"]]
    return " ".join(line for value in values for line in canary.told(value))

def broken(*args, **more):
    raise RuntimeError("this cannot be: " + told())

if os.environ["BUG"] == "loop":
    calls.Calls._came = broken
elif os.environ["BUG"] == "thread":
    host.Host.perform = broken
"""

CRASHES = """\
runbook: 1
name: crashes
secrets:
  by_env: {env: CANARY_ONE}
  by_file: {file: one.txt}
  by_k8s: {k8s: {namespace: shop, secret: canary, key: one}}
steps:
  - id: uses
    action: shell.run
    with: {command: ["true"], env: {A: "{{ secrets.by_env }}{{ secrets.by_file }}{{ secrets.by_k8s }}"}}
"""


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_no_canary_in_a_crash_log(tmp_path: Path, where: str) -> None:
    """A bug in runbook itself, whose message holds secrets: of all kinds, in all encodings."""
    with surroundings.start(scenario.parse(json.dumps(WORLD), "world.json")) as world:
        cli = Commands(tmp_path)
        cli.write("one.txt", VALUES["by_file"])
        cli.write("crashes.yaml", CRASHES)
        (tmp_path / "bugs").mkdir()
        cli.write("bugs/sitecustomize.py", BUG)
        said = cli(
            "run",
            "crashes.yaml",
            environ={
                "KUBECONFIG": str(world.kubeconfig),
                "CANARY_ONE": VALUES["by_env"],
                "CANARY_FILE": str(tmp_path / "one.txt"),
                "SEEN_IN_K8S": VALUES["by_k8s"],
                "PYTHONPATH": os.pathsep.join([str(tmp_path / "bugs"), str(Path(__file__).parent.parent)]),
                "BUG": where,
            },
        )
    assert said.code == Exit.BUG, said.out + said.err
    assert "this is a bug in runbook (RuntimeError)" in said.err
    assert "Traceback" not in said.err
    path = Path(said.err.partition("crash log: ")[2].splitlines()[0])
    crash = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "RuntimeError: this cannot be: " in crash
    assert "in broken" in crash, "the traceback is there"
    assert crash.count("‹secret:by_") >= 3 * 8
    assert Search()(crash.encode()) == []
    assert Search()(said.out.encode() + said.err.encode()) == []
    assert Search().files(cli.home) == {}
    assert cli("resume", environ={"CANARY_ONE": VALUES["by_env"]}).code == Exit.IN_DOUBT, "nothing was said to be done"


REHEARSED = """\
runbook: 1
name: rehearsed
secrets:
  by_env: {env: CANARY_ONE}
  by_file: {file: /run/canary}
  by_k8s: {k8s: {namespace: shop, secret: canary, key: one}}
  tag: {env: IMAGE}
defaults: {with: {k8s: {namespace: shop}, slack: {token: "{{ secrets.tag }}", channel: "#ops"}}}
steps:
  - id: answered
    action: shell.run
    undo: none
    with: {command: ["leak"], env: {A: "{{ secrets.by_env }}{{ secrets.by_file }}"}}
  - {id: logs, action: k8s.logs, with: {selector: app=web}}
  - {id: careless, action: k8s.get, with: {kind: ConfigMap, name: careless}}
  - {id: up, action: k8s.scale, with: {name: web, replicas: 2}}
  - {id: refused, action: file.write, on_failure: continue, with: {to: /nowhere, content: "{{ secrets.by_k8s }}"}}
  - id: kept
    action: file.write
    on_failure: continue
    with: {to: "HOME/runs/{{ run.id }}/kept", content: "{{ secrets.by_env }} {{ secrets.by_k8s }}"}
  - {id: tell, action: slack.post, with: {text: "{{ steps.answered.outputs.stdout }} {{ steps.careless.outputs }}"}}
outputs: {all: "{{ steps }}"}
"""


def test_no_canary_in_a_rehearsal(tmp_path: Path) -> None:
    """The sandbox: secrets that a scenario sets are secrets, too."""
    cli = Commands(tmp_path)
    everything = "\n".join(line for name in ("by_env", "by_file") for line in canary.told(VALUES[name]))
    world = {
        **WORLD,
        "secrets": {"CANARY_ONE": VALUES["by_env"], "/run/canary": VALUES["by_file"], "IMAGE": TAG},
        "answers": [{"action": "shell.run", "outputs": {"rc": 0, "stdout": everything, "stderr": "", "json": None}}],
    }
    cli.write("world.json", json.dumps(world))
    cli.write("rehearsed.yaml", REHEARSED.replace("HOME", str(cli.home)))
    found = {}
    for words in (
        ("plan", "rehearsed.yaml", "--sandbox", "world.json"),
        ("run", "rehearsed.yaml", "--sandbox", "world.json", "-v"),
        ("run", "rehearsed.yaml", "--sandbox", "world.json", "--output", "jsonl"),
        ("report", "--format", "html"),
        ("show", "-v"),
        ("logs",),
    ):
        said = cli(*words)
        assert said.code == 0, said.out + said.err
        found[" ".join(words)] = Search()(said.out.encode() + said.err.encode())
        assert words[0] in ("plan", "logs") or "secret:" in said.out, words
    for kept in cli.home.rglob("kept"):  # the file that a step was told to write the secrets into
        kept.unlink()
    assert {words: hits for words, hits in found.items() if hits} == {}
    assert Search().files(cli.home) == {}
    assert any(path.name.startswith("logs-app-web") for path in cli.home.rglob("*"))


OLD: Mapping[str, str] = {
    "by_env": "old-one+C4n/ry <was> 27d1f0a8b3",
    "by_file": "old-two+C4n/ry <was> 90c6e4d215",
}
NEW: Mapping[str, str] = {name: VALUES[name] for name in OLD}

ROTATED = """\
runbook: 1
name: rotated
secrets: {by_env: {env: CANARY_ONE}, by_file: {file: one.txt}}
steps:
  - {id: whole, action: file.write, with: {to: whole.txt, content: "{{ secrets.by_env }}"}}
  - {id: partly, action: file.write, with: {to: partly.conf, content: "a=1\\npass={{ secrets.by_file }}\\nb: 2\\n"}}
  - {id: copied, action: file.restore, with: {from: whole.txt, to: copy.txt}}
  - {id: seen, action: rotating.diff, with: {token: "{{ secrets.by_env }}"}}
  - {id: open, action: file.write, with: {to: open.txt, content: "{{ inputs.seen }}"}}
inputs: {seen: {type: string}}
outputs: {all: "{{ steps }}"}
"""

ROTATING = '''\
"""rotating.diff: an action whose preview is a text of its own, of two versions, as Helm's manifests are."""

from dataclasses import dataclass
from pathlib import Path

from runbook.contract import Call, Change, param


@dataclass(frozen=True, kw_only=True)
class Args:
    """Parameters."""

    token: str = param("A secret.", secret=True)


class Diff(Change[Args]):
    """Sets a token."""

    name = "rotating.diff"
    rehearsed = True

    def _file(self, ctx):
        return Path(ctx.environ["HOME"]) / "rotating"

    def _was(self, ctx):
        file = self._file(ctx)
        return file.read_text() if file.exists() else "nothing"

    def observe(self, args, ctx):
        return {"rotating:it": {"args": ["--x", f"--token={self._was(ctx)}"]}}

    def expect(self, args, before, ctx):
        return {"rotating:it": {"args": ["--x", f"--token={args.token}"]}}

    def apply(self, args, before, ctx):
        self._file(ctx).write_text(args.token)

    def inverse(self, args, before, op):
        return Call(self.name, {"token": before["rotating:it"]["args"][1].removeprefix("--token=")})

    def preview(self, args, before, after, ctx):
        was, now = (state["rotating:it"]["args"][1] for state in (before, after))
        return f"--- 1\\n+++ 2\\n@@ -1 +1 @@\\n same: 1\\n-arg: {was}\\n+arg: {now}\\n+more: 1"


ACTIONS = (Diff,)
'''


def test_no_canary_of_what_a_secret_was_before_it_was_rotated(tmp_path: Path) -> None:
    """Nobody declares the old value any more; it is known by what stands in its place. Undone, it is back."""
    cli = Commands(tmp_path)
    paths = [str(site.install(tmp_path, "rotating", ROTATING)), str(Path(__file__).parent.parent)]
    cli.environ |= {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path)}
    cli.write("rotated.yaml", ROTATED)
    (tmp_path / "one.txt").touch(0o600)
    said: list[Said] = []
    for seen, values in (("first", OLD), ("then", NEW)):
        cli.environ["CANARY_ONE"] = values["by_env"]
        cli.write("one.txt", values["by_file"])
        for words in (("plan", "-o", "plan.json"), ("plan", "--output", "json"), ("run", "-v")):
            said.append(cli(*words, "rotated.yaml", "-i", f"seen={seen}"))
            assert said[-1].code in (0, int(words[0] == "plan")), said[-1].out + said[-1].err
    planned, ran = said[-3].out, said[-1].out
    looks = [("show", "-v"), ("show", "--output", "json"), ("logs",)]
    looks += [("report", "--format", form) for form in ("md", "html", "json")]
    said += [cli(*words) for words in looks]
    cli.environ["CANARY_ONE"] = "third-one 55aa66bb"
    cli.write("one.txt", "third-two 55aa66bb")
    said += [cli("undo", "--dry-run"), cli("undo", "--yes"), *(cli(*words) for words in looks)]
    assert {one.code for one in said[6:]} == {Exit.SUCCEEDED}, [one.out + one.err for one in said[6:] if one.code]
    assert (tmp_path / "whole.txt").read_text() == (tmp_path / "copy.txt").read_text() == OLD["by_env"]
    assert (tmp_path / "partly.conf").read_text() == f"a=1\npass={OLD['by_file']}\nb: 2\n"
    for shown in (planned, ran):
        assert "whole.txt.sha256: (changed)" in shown
        assert "partly.conf.keys.pass: (changed)" in shown
        assert "partly.conf.keys.a: " not in shown, "equal"
        assert "it.args: (changed)" in shown
        assert "open.txt.content: first → then" in shown, "what is no secret is shown"
    assert "copy.txt.sha256: (changed)" in ran
    assert "- (not shown)" in planned
    assert " same: 1" in planned
    search = Search({**OLD, **NEW, "third": "third-one 55aa66bb", "fourth": "third-two 55aa66bb"})
    assert [hits for one in said if (hits := search((one.out + one.err).encode()))] == []
    assert search((tmp_path / "plan.json").read_bytes()) == []
    assert search.files(cli.home) == {}
