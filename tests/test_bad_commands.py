"""Bad input as commands: mutated playbooks, input files, plans and scenarios through the real command line.

Exit 0 or 2 (3 for a plan that is none of ours), a place where a file is wrong, never a traceback, at most two seconds
of processor time and 300 MiB. Most commands are forks of one process that has imported runbook (an import costs more
than a command); from argv to `os._exit` they are the command itself. Some are processes of their own, to show that.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter import inputs, source
from runbook.interpreter.errors import Exit, InvalidError, Place
from runbook.interpreter.load import load
from runbook.runner import registry
from runbook.runner.plan import Plan
from tests.command import Commands
from tests.mutations import mutated

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2.0  # of processor time: other tests run beside this one
MEMORY = 300 * 1024  # KiB
BARE = 64 * 1024  # KiB: more than a command holds that has imported everything
FORKED, FRESH = 200, 12
IN_PROCESS = int(os.environ.get("RUNBOOK_MUTATIONS", "10000")) // 4

TYPED = """\
runbook: 1
name: typed
inputs:
  colour: {type: string, enum: [blue, green]}
  name: {type: string, pattern: "[a-z-]{1,20}"}
  count: {type: integer, minimum: 0, maximum: 9}
  share: {type: number, minimum: 0.5}
  sure: {type: boolean}
  patience: {type: duration}
  since: {type: timestamp}
  services: {type: list, items: {type: string}}
  labels: {type: map}
  file: {type: path, default: null}
  token: {type: string, secret: true, default: null}
steps:
  - {id: says, action: flow.set, with: {values: {all: "{{ inputs.colour }} {{ inputs.count }} {{ inputs.services }}"}}}
outputs: {all: "{{ steps.says.outputs.all }}", more: "{{ inputs }}"}
"""

GIVEN = """\
# what the rollback is for
colour: blue
name: web-front
count: 3
share: 1.5
sure: true
patience: 1m30s
since: "2026-05-01T10:00:00+02:00"
services: [analysis, "file watcher", tracklist]
labels:
  tier: front
  'a b': {c: [1, 2, {d: null}]}
file: some/where.txt
token: {env: TOKEN}
"""

WORLD = """\
scenario: 1
description: A small one.
world:
  versions: {"2": {health: failing}}
  namespaces:
    shop:
      deployments:
        web: {image: "registry.invalid/web:2", replicas: 1, labels: {app: web}}
      services:
        web: {selector: {app: web}}
  metrics:
    - {match: requests, value: 3}
faults:
  - {verb: patch, resource: services, nth: 3, status: 500}
secrets: {TOKEN: simulated-token}
answers:
  - {action: shell.run, outputs: {rc: 0}}
"""


@dataclass(frozen=True)
class Ended:
    """How one command ended. `seconds`: of processor time; `memory`: the most that it held, KiB."""

    words: Sequence[str]
    code: int
    out: str
    err: str
    seconds: float
    memory: int


def forked(words: Sequence[str], folder: Path, name: str) -> Ended:
    """One command in a fork of this process, from its argv to its exit, within limits that the kernel holds."""
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    inherited = _resident()
    pid = os.fork()
    if pid == 0:
        _become(words, folder, out, err)
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    said, wrong = out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace")
    memory = BARE + max(0, used.ru_maxrss - inherited)  # the tests before this one are not the command's
    return Ended(words, code, said, wrong, used.ru_utime + used.ru_stime, memory)


def _resident() -> int:
    """KiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def _become(words: Sequence[str], folder: Path, out: Path, err: Path) -> None:
    """In the fork. Never returns."""
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        os.environ["RUNBOOK_HOME"] = str(folder / f"{out.stem}-home")
        resource.setrlimit(resource.RLIMIT_CPU, (4, 5))
        from runbook.cli.main import main

        main(list(words))
    finally:
        os._exit(99)


def judge(ended: Ended, codes: Sequence[int] = (Exit.SUCCEEDED, Exit.INVALID)) -> str | None:
    """What is wrong with this end; None when it is as promised."""
    said = ended.out + ended.err
    if ended.code not in codes:
        return f"exit {ended.code}: {said[-800:]}"
    if "Traceback" in said or "crash log" in said:
        return f"a traceback: {said[-800:]}"
    if ended.seconds > SECONDS:
        return f"{ended.seconds:.1f}s of processor time"
    if ended.memory > MEMORY:
        return f"{ended.memory // 1024} MiB"
    if ended.code and not ended.err.strip():
        return "exit 2 without a word"
    return None


PLACE = re.compile(r"\S+\.(yaml|json)(:\d+:\d+)|<command line>")


def playbooks() -> list[str]:
    found = [path.read_text() for path in sorted((ROOT / "playbooks").glob("*.yaml"))]
    return [*found, (ROOT / "tests" / "cases" / "every-key" / "playbook.yaml").read_text(), TYPED]


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """What commands import, once; nothing of it may have started a thread (a fork would not have it)."""
    import importlib

    for part, names in {
        "cli": "main writing preparing running planning problems telling",
        "interpreter": "load engine",
        "runner": "session report planning builtins compiled",
    }.items():
        for name in names.split():
            importlib.import_module(f"runbook.{part}.{name}")
    registry.catalogue()


def test_mutated_playbooks_are_validated(tmp_path: Path) -> None:
    for path in (ROOT / "playbooks").glob("*.yaml"):  # what the mutated ones call and import
        (tmp_path / path.name).write_text(path.read_text())
    originals, wrong, codes = playbooks(), {}, Counter[int]()
    for seed in range(FORKED // 2):
        name = f"mutant{seed}"
        (tmp_path / f"{name}.yaml").write_text(
            mutated(originals[seed % len(originals)], 77_000 + seed), errors="surrogatepass"
        )
        ended = forked(["validate", f"{name}.yaml"], tmp_path, name)
        codes[ended.code] += 1
        problem = judge(ended)
        if problem is None and ended.code and not re.search(r"\.yaml:\d+:\d+", ended.err):
            problem = f"no place: {ended.err[:300]}"
        if problem is not None:
            wrong[seed] = problem
    assert wrong == {}
    assert codes[0] > 5
    assert codes[2] > 30


def test_mutated_inputs_are_typed_or_told(tmp_path: Path) -> None:
    (tmp_path / "typed.yaml").write_text(TYPED)
    (tmp_path / "given.yaml").write_text(GIVEN)
    os.environ["TOKEN"] = "a-token-of-nobody"
    calm = forked(["run", "typed.yaml", "--inputs", "given.yaml"], tmp_path, "calm")
    assert calm.code == 0, calm.out + calm.err
    wrong, codes = {}, Counter[int]()
    for seed in range(FORKED // 2):
        name = f"inputs{seed}"
        words = ["run", "typed.yaml", "--inputs", f"{name}.yaml"]
        if seed % 3 == 2:  # as words, not as a file
            words = ["run", "typed.yaml", "--inputs", "given.yaml", *_words(seed)]
        (tmp_path / f"{name}.yaml").write_text(mutated(GIVEN, 5_000 + seed), errors="surrogatepass")
        ended = forked(words, tmp_path, name)
        codes[ended.code] += 1
        problem = judge(ended)
        where = (
            r"<command line>|-i "
            if seed % 3 == 2
            else rf"{name}\.yaml(:\d+:\d+|: a map)|at: inputs\.|expected: required"
        )
        if problem is None and ended.code and not re.search(where, ended.err):
            problem = f"no place: {ended.err[:300]}"
        if problem is None and ended.code and (tmp_path / f"{name}-home" / "runs").exists():
            problem = "exit 2, and a run was begun"
        if problem is not None:
            wrong[seed] = (problem, words)
    assert wrong == {}
    assert codes[0] > 3
    assert codes[2] > 30


def test_a_wrong_input_is_shown_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "typed.yaml").write_text(TYPED)
    (tmp_path / "given.yaml").write_text(GIVEN.replace("count: 3", "count: many\nwhere: here"))
    os.environ["TOKEN"] = "a-token-of-nobody"
    said = forked(["run", "typed.yaml", "--inputs", "given.yaml", "-i", "share=none"], tmp_path, "placed")
    assert said.code == Exit.INVALID
    assert "given.yaml:4:8: error: `count` cannot be many" in said.err
    assert "4 | count: many" in said.err
    assert "given.yaml:5:8: error: there is no input `where`" in said.err
    assert "<command line>: error: `share`" in said.err
    assert "3 errors" in said.err


def _words(seed: int) -> list[str]:
    dice = random.Random(seed)
    names = ("colour", "count", "share", "sure", "patience", "since", "services", "labels", "nmae", "", "a b", "file")
    plain = ("blue", "red", "7", "-1", "1e999", "nan", "5", "5m", "", "null", "2026-05-01", "é" * 5000)
    values = (*plain, "{{ 1 }}", "[1, [", "{a: *b}", "a=b=c", "!x y", "|", "\t", "\udcff")
    found = []
    for _ in range(dice.choice((1, 1, 2, 4))):
        found += [
            "-i",
            dice.choice((f"{dice.choice(names)}={dice.choice(values)}", dice.choice(values), dice.choice(names))),
        ]
    return found


def test_mutated_scenarios_and_plans(tmp_path: Path) -> None:
    (tmp_path / "typed.yaml").write_text(TYPED)
    (tmp_path / "given.yaml").write_text(GIVEN)
    os.environ["TOKEN"] = "a-token-of-nobody"
    made = forked(["plan", "typed.yaml", "--inputs", "given.yaml", "-o", "plan.json"], tmp_path, "made")
    assert made.code == 0, made.out + made.err
    plan = (tmp_path / "plan.json").read_text()
    wrong, codes = {}, Counter[int]()
    for seed in range(FORKED * 2 // 5):
        name = f"m{seed}"
        if seed % 2:
            (tmp_path / f"{name}.json").write_text(_flipped(plan, seed), errors="surrogatepass")
            ended = forked(["apply", f"{name}.json"], tmp_path, name)
            problem = judge(ended, (Exit.SUCCEEDED, Exit.INVALID, Exit.REFUSED))
        else:
            (tmp_path / f"{name}.yaml").write_text(mutated(WORLD, seed), errors="surrogatepass")
            words = ["plan", "typed.yaml", "--inputs", "given.yaml", "--sandbox", f"{name}.yaml"]
            ended = forked(words, tmp_path, name)
            problem = judge(ended)
        codes[ended.code] += 1
        if problem is not None:
            wrong[seed] = (problem, ended.words)
    assert wrong == {}
    assert len(codes) >= 2


def test_every_field_of_a_saved_plan_is_checked(tmp_path: Path) -> None:
    (tmp_path / "typed.yaml").write_text(TYPED)
    (tmp_path / "given.yaml").write_text(GIVEN)
    os.environ["TOKEN"] = "a-token-of-nobody"
    made = forked(["plan", "typed.yaml", "--inputs", "given.yaml", "-o", "plan.json"], tmp_path, "made")
    assert made.code == 0, made.out + made.err
    data = json.loads((tmp_path / "plan.json").read_text())
    assert Plan.from_json(json.dumps(data)).name == data["name"]
    row = next(number for number, row in enumerate(data["rows"]) if row.get("args"))
    places: list[tuple[tuple[str | int, ...], str]] = [((name,), name) for name in data if name != "plan"]
    places += [(("rows", row, name), f"rows[{row}].{name}") for name in data["rows"][row] if name != "args"]
    assert len(places) > 20
    for path, name in places:
        for wrong in (None, True, -1, 3, 1e400, "x", [1], ["x"], [None], {"a": 1}):
            changed = json.loads(json.dumps(data))
            inner: Any = changed
            for part in path[:-1]:
                inner = inner[part]
            inner[path[-1]] = wrong
            refused = _refusal(changed)
            if refused is None:
                again = json.loads(Plan.from_json(json.dumps(changed)).to_json())
                assert type(again.get(path[0])) is type(changed[path[0]])
            else:
                assert f"`{name}" in refused, (path, wrong)
    (tmp_path / "bad.json").write_text(json.dumps({**data, "made": "x"}))
    said = forked(["apply", "bad.json"], tmp_path, "bad")
    assert said.code == Exit.INVALID
    assert "`made` must be a number" in said.err
    (tmp_path / "later.json").write_text(json.dumps({**data, "made": data["made"] + 9e8}))
    said = forked(["apply", "later.json", "--yes"], tmp_path, "later")
    assert said.code == Exit.REFUSED
    assert "made in the future" in said.err


def _refusal(plan: Any) -> str | None:
    try:
        Plan.from_json(json.dumps(plan))
    except InvalidError as error:
        return error.message
    return None


def _flipped(text: str, seed: int) -> str:
    """JSON that was edited, cut, or is of another version."""
    dice = random.Random(seed)
    at = dice.randrange(len(text))
    shape = dice.randrange(6)
    if shape == 5:
        data = json.loads(text)
        where = dice.choice((data, dice.choice(data["rows"])))
        where[dice.choice(sorted(where))] = dice.choice((None, True, -1, 3, 1e400, "x", [1], ["x"], {"a": 1}, {}))
        return json.dumps(data)
    if shape == 0:
        return text[:at]
    if shape == 1:
        return text[:at] + dice.choice('{}[]",:x0\0é') + text[at + 1 :]
    if shape == 2:
        return re.sub(
            r":\s*\d+",
            lambda _: f": {dice.choice(('null', '[]', '-1', 'true', '1e400'))}",
            text,
            count=dice.randrange(1, 4),
        )
    if shape == 3:
        return re.sub(r'"(\w+)":', lambda found: f'"{found[1][::-1]}":', text, count=dice.randrange(1, 6))
    return dice.choice(("", "null", "[]", "{}", '"x"', "[" * 100_000, '{"plan": 1}', text + text))


@pytest.mark.parametrize("seed", range(FRESH))
def test_a_process_of_its_own_does_the_same(tmp_path: Path, seed: int) -> None:
    """No fork, no warm import: `python -m runbook.cli` says the same, exit code and words."""
    cli = Commands(tmp_path)
    originals = playbooks()
    cli.write(
        "mutant.yaml", mutated(originals[seed % len(originals)], 99_000 + seed).encode("utf-8", "replace").decode()
    )
    said = cli("validate", "mutant.yaml")
    fork = forked(["validate", "mutant.yaml"], tmp_path, "fork")
    assert said.code in (Exit.SUCCEEDED, Exit.INVALID), said.err
    assert (said.code, said.out, said.err) == (fork.code, fork.out, fork.err)


def test_mutated_input_files_in_process() -> None:
    """Thousands: read, typed or told, each wrong value at its place."""
    declared = load("typed.yaml", lambda _: TYPED, registry.catalogue()).playbook
    assert declared is not None
    told, fine = Counter[str](), 0
    for seed in range(IN_PROCESS):
        text = mutated(GIVEN, 200_000 + seed)
        begun = time.thread_time()
        try:
            document = source.parse(text, "given.yaml")
            problems = [problem for problem in document.problems if problem.severity == "error"]
            if not problems and isinstance(document.data, dict):
                _, found = inputs.coerce(declared.inputs, document.data, {}, Place("given.yaml"))
                problems += found
                fine += not problems
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        assert time.thread_time() - begun < SECONDS, seed
        for problem in problems:
            assert problem.message, seed
            assert problem.place.file == "given.yaml", seed
            told[problem.rule] += 1
    assert fine > IN_PROCESS // 100
    assert len(told) > 5
