"""A playbook becomes the model that the language promises, and no text whatever breaks the loader."""

# ruff: noqa: E501  # playbooks in one line each read as a table

from __future__ import annotations

import os
import pickle
import time
import tracemalloc
from pathlib import Path

import pytest

from runbook.cli.problems import render_text
from runbook.interpreter.load import Loaded, load
from runbook.interpreter.model import (
    Action,
    Bare,
    Block,
    Choose,
    Fallback,
    Foreach,
    OnFailure,
    Parallel,
    Playbook,
    Retry,
    Step,
    SubPlaybook,
    Template,
    Undo,
)
from runbook.interpreter.worst_case import worst_case

from .catalogue_toy import catalogue
from .mutations import mutated

CASES = Path(__file__).parent / "cases"
EVERY = CASES / "every-key"
SHIPPED = Path(__file__).parent.parent / "playbooks"
HEAD = "runbook: 1\nname: t\ndefaults: {with: {k8s: {namespace: shop}}}\n"


def loaded(text: str, **others: str) -> Loaded:
    files = {"playbook.yaml": text, **{f"{name}.yaml": body for name, body in others.items()}}

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return load("./playbook.yaml", read, catalogue())


def built(text: str, **others: str) -> Playbook:
    result = loaded(text, **others)
    assert result.problems == ()
    assert result.playbook is not None
    return result.playbook


def said(text: str, **others: str) -> list[str]:
    return [problem.message for problem in loaded(text, **others).problems]


@pytest.fixture(scope="module")
def every() -> Playbook:
    return built(
        *(EVERY / "playbook.yaml").read_text(encoding="utf-8").split("\0"),
        **{one: (EVERY / f"{one}.yaml").read_text(encoding="utf-8") for one in ("common", "check")},
    )


def find(playbook: Playbook, name: str) -> Step:
    todo = [*playbook.steps, *playbook.on_failure.steps, *playbook.finally_]
    while todo:
        step = todo.pop()
        if step.id == name:
            return step
        todo += [*getattr(step, "steps", ()), *step.on_failure.steps, *step.finally_, *step.undo.steps]
        todo += [child for branch in getattr(step, "branches", ()) for child in branch.steps]
    raise KeyError(name)


def action(playbook: Playbook, name: str) -> Action:
    step = find(playbook, name)
    assert isinstance(step, Action)
    return step


def test_the_root(every: Playbook) -> None:
    assert (every.name, every.file) == ("every-key", "playbook.yaml")
    assert isinstance(every.timeout, Template)
    assert every.cleanup == 120
    assert [one.name for one in every.inputs] == [
        "environment",
        "imported",
        "reason",
        "replicas",
        "share",
        "really",
        "soak",
        "detected_at",
        "hosts",
        "labels",
        "folder",
        "who",
        "token",
    ]
    by_name = {one.name: one for one in every.inputs}
    assert by_name["environment"].required
    assert by_name["environment"].enum == ("production", "staging")
    assert (by_name["reason"].required, by_name["reason"].default) == (False, None)
    assert by_name["who"].from_env == "USER"
    assert by_name["token"].secret
    assert by_name["hosts"].items is not None
    assert by_name["hosts"].items.type == "string"
    assert [(one.name, one.kind, one.optional) for one in every.secrets] == [
        ("slack", "env", True),
        ("password", "k8s", False),
        ("api_key", "file", False),
    ]
    assert [name for name, _ in every.vars] == ["namespace", "greeting", "hosts"]
    assert every.vars[0][1].data == "shop-{{ inputs.environment }}"
    assert [(one.name, one.within) for one in every.objectives] == [
        ("notified", 120),
        ("recovered", 900),
        ("validated", 300),
        ("check.serving", 300),
    ]
    assert isinstance(every.objectives[1].since, Template)
    assert [one.since for one in (every.objectives[0], *every.objectives[2:])] == [None, "recovered", None]
    assert [one.data for one in every.locks] == ["rollback/{{ inputs.environment }}"]
    assert every.outputs[1][1].reads == {"check", "each"}
    assert not every.on_failure.undo


def test_every_kind_of_step(every: Playbook) -> None:
    assert [type(one) for one in every.steps] == [Block, Parallel, Fallback, Choose, Foreach, Block, SubPlaybook]
    block, look, recover, pick, each, meanwhile, check = every.steps
    assert isinstance(block, Block)
    assert block.when == Bare(
        "inputs.really and secrets.slack is defined", block.when.place if block.when else block.place
    )
    assert (block.timeout, block.keep_going, len(block.locks)) == (180, True, 2)
    assert (block.on_failure.undo, block.on_failure.then, block.finally_[0].id) == (True, "continue", "always")
    assert block.outputs[0][1].reads == {"live"}
    assert block.sees == frozenset()
    assert isinstance(look, Parallel)
    assert (look.max_concurrent, look.keep_going) == (2, "25%")
    assert isinstance(recover, Fallback)
    assert recover.steps[1].undo == Undo("again")
    assert isinstance(pick, Choose)
    assert [branch.when is None for branch in pick.branches] == [False, True]
    assert isinstance(each, Foreach)
    assert (each.as_, each.keep_going) == ("host", 1)
    assert isinstance(each.max_concurrent, Template)
    assert meanwhile.background
    assert isinstance(check, SubPlaybook)
    assert check.playbook.name == "check"
    assert (check.undo, check.milestone, check.on_failure) == (Undo("none"), "validated", OnFailure())


def test_actions_have_their_defaults_and_their_nature(every: Playbook) -> None:
    live, grow, healthy, ready = (action(every, one) for one in ("live", "grow", "healthy", "ready"))
    assert live.with_.data == {"kind": "Service", "name": "web", "namespace": "{{ vars.namespace }}", "context": "prod"}
    assert (live.effect, live.attempt, live.timeout, live.retry) == ("read", 60, None, None)
    assert live.poll is not None
    assert (live.poll.until, live.poll.fail_when is not None) == (None, True)
    assert [name for name, _ in live.outputs] == ["colour", "fixed"]
    assert grow.retry == Retry(5, 2, 1.5, 10, 60, ("temporary",))
    assert (grow.attempt, grow.temporary, grow.milestone, sorted(grow.sees)) == (20, True, "recovered", ["live"])
    assert healthy.poll is not None
    assert (healthy.poll.every, healthy.poll.timeout, healthy.timeout) == (5, 600, None)
    assert isinstance(healthy.poll.hold, Template)
    assert ready.poll is not None
    assert ready.poll.until is not None
    assert (ready.poll.until.source, ready.poll.timeout) == ("result.ok", 300)
    assert action(every, "by_restart").undo == Undo("again")
    run, peek, asked = (action(every, one) for one in ("run", "peek", "asked"))
    assert (run.effect, run.idempotent, run.undo.kind) == ("opaque", True, "steps")
    assert run.retry == Retry(max_attempts=None, max_duration=60)
    assert (peek.effect, asked.effect, asked.idempotent) == ("read", "read", True)
    assert set(run.secret_at) == {"/env", "/env/*", "/stdin"}
    page, tell, cry = (action(every, one) for one in ("page", "tell", "cry"))
    assert (page.lane, page.attempt, page.retry) == ("page", 10, None)
    assert (tell.lane, tell.attempt) == ("slack", 10)
    assert (cry.attempt, cry.retry) == (3, Retry(4))
    ask, pause = action(every, "ask"), action(every, "pause")
    assert (ask.effect, ask.timeout) == ("ask", 3600)
    assert (pause.timeout, pause.effect) == (None, "read")


def test_places_lead_back_to_the_file(every: Playbook) -> None:
    lines = (EVERY / "playbook.yaml").read_text(encoding="utf-8").split("\n")
    grow = action(every, "grow")
    assert lines[grow.place.line - 1][grow.place.column - 1 :].startswith("id: grow")
    place = grow.with_.places["/name"]
    assert lines[place.line - 1][place.column - 1 :].startswith('"web-{{')
    assert (EVERY / "common.yaml").name != grow.with_.places["/namespace"].file


def test_a_playbook_is_a_value(every: Playbook) -> None:
    assert pickle.loads(pickle.dumps(every)) == every
    again = built(
        (EVERY / "playbook.yaml").read_text(encoding="utf-8"),
        **{one: (EVERY / f"{one}.yaml").read_text(encoding="utf-8") for one in ("common", "check")},
    )
    assert again == every


def test_cleanup_is_the_worst_case_and_at_least_a_minute() -> None:
    text = HEAD + (
        "steps:\n"
        "  - id: quick\n    steps: [{id: a, action: k8s.scale, with: {name: w, replicas: 1}, timeout: 10s, temporary: true}]\n"
        "  - id: slow\n    on_failure: undo\n    steps:\n"
        "      - {id: b, action: k8s.scale, with: {name: w, replicas: 1}}\n"
        "      - {id: c, action: k8s.scale, with: {name: w, replicas: 1}, timeout: 2m}\n"
        "finally: {steps: [{id: d, action: flow.wait, with: {for: 90s}}]}\n"
    )
    playbook = built(text)
    assert [step.cleanup for step in playbook.steps] == [60, 420]
    assert playbook.cleanup == 90
    assert {step.cleanup for step in built("cleanup: 30s\n" + text).steps} == {30}


def test_the_worst_case_adds_up() -> None:
    text = HEAD + (
        "steps:\n"
        "  - {id: a, action: k8s.scale, with: {name: w, replicas: 1}, timeout: 10s, retry: {max_attempts: 3, delay: 1s, backoff: 1}}\n"
        "  - id: b\n    parallel:\n"
        "      - {id: b1, action: flow.wait, with: {for: 5s}}\n      - {id: b2, action: flow.wait, with: {for: 7s}}\n"
        "  - id: c\n    foreach: {items: [1, 2, 3], as: x, max_concurrent: 2}\n    steps: [{id: c1, action: flow.wait, with: {for: 4s}}]\n"
        "  - {id: d, action: http.check, with: {url: 'http://x'}, until: result.ok}\n"
        "  - {id: e, action: slack.post, with: {webhook: x, text: y}}\n"
        "  - {id: f, action: manual.approve, with: {message: m}}\n"
        "  - id: g\n    foreach: {items: '{{ range(9) | list }}', as: x}\n    steps: [{id: g1, action: flow.wait, with: {for: 1s}}]\n"
        "finally: {steps: [{id: h, action: flow.wait, with: {for: 11s}}]}\n"
    )
    found = worst_case(built(text))
    assert found.work == pytest.approx((30 + 2 * 1.2) + 7 + 8 + 300 + 0 + 0 + 1)
    assert found.cleanup == 11
    assert [one.partition(":")[0] for one in found.assumes] == ["f", "g repeats once"]
    assert worst_case(built("timeout: 60s\n" + text)).work == 60


def test_imports_are_merged_by_name_and_what_stands_here_wins() -> None:
    playbook = built(
        "runbook: 1\nimport: [lib/common.yaml]\nvars: {b: mine}\ndefaults: {timeout: 5s}\nsteps:\n"
        "  - {id: a, action: shell.run, with: {command: [echo, '{{ vars.c }} {{ secrets.s is defined }}']}}\n",
        **{
            "lib/common": "runbook: 1\nsecrets: {s: {file: keys/s}}\nvars: {b: theirs, c: '{{ vars.b }}'}\ndefaults: {timeout: 9s, with: {shell: {script: run.sh}}}\n"
        },
    )
    assert [(name, one.data) for name, one in playbook.vars] == [("b", "mine"), ("c", "{{ vars.b }}")]
    step = action(playbook, "a")
    assert step.attempt == 5
    assert step.with_.data["script"] == "lib/run.sh"
    assert (playbook.secrets[0].where.data, playbook.secrets[0].place.file) == ("keys/s", "lib/common.yaml")


def test_a_file_that_may_only_be_imported_is_checked_as_such() -> None:
    fine = loaded("runbook: 1\ninputs: {a: {type: string}}\nvars: {b: '{{ inputs.a }} {{ inputs.from_elsewhere }}'}\n")
    assert (fine.playbook, fine.problems, fine.ok) == (None, (), True)
    assert said("runbook: 1\nvars: {b: '{{ inputs.a | }}'}\n") != []


def test_a_key_that_an_import_would_pass_over_is_told_where_it_stands() -> None:
    importing = "runbook: 1\nimport: [common.yaml]\nsteps: [{id: a, action: shell.run, with: {command: ls}}]\n"
    (problem,) = loaded(importing, common="runbook: 1\nlocks: [x]\n").problems
    assert (str(problem.place), problem.message) == ("common.yaml:2:1", "`locks` in a file without `steps`")
    whole = "runbook: 1\nlocks: [x]\nsteps: [{id: b, action: shell.run, with: {command: ls}}]\n"
    assert loaded(importing, common=whole).problems == ()  # a playbook of its own, whose inputs and vars are shared


def test_what_was_read_is_the_snapshot() -> None:
    result = loaded(
        "runbook: 1\nimport: [c.yaml]\nsteps: [{id: a, playbook: sub/b.yaml}]\n",
        c="runbook: 1\n",
        **{"sub/b": "runbook: 1\nsteps: [{id: a, playbook: ../d.yaml}]\n"},
        d="runbook: 1\nsteps: [{id: w, action: flow.wait, with: {for: 1s}}]\n",
    )
    assert result.problems == ()
    assert sorted(result.files) == ["c.yaml", "d.yaml", "playbook.yaml", "sub/b.yaml"]


SCOPES = [
    ("a block's steps are seen after it", "[{id: b, steps: [{id: x, action: flow.wait, with: {for: 1s}}]}, {id: y, when: steps.x.status == 'failed', action: flow.wait, with: {for: 1s}}]", True),
    ("an alternative sees the one before", "[{id: b, fallback: [{id: x, action: flow.wait, with: {for: 1s}}, {id: y, when: steps.x.undone, action: flow.wait, with: {for: 1s}}]}]", True),
    ("an alternative never sees the one after", "[{id: b, fallback: [{id: x, when: steps.y.undone, action: flow.wait, with: {for: 1s}}, {id: y, action: flow.wait, with: {for: 1s}}]}]", False),
    ("a handler sees the body, run or not", "[{id: b, steps: [{id: x, action: flow.wait, with: {for: 1s}}], on_failure: {steps: [{id: y, when: steps.x.status == 'failed' and steps.b.undone, action: flow.wait, with: {for: 1s}}]}}]", True),
    ("finally sees on_failure", "[{id: b, steps: [{id: x, action: flow.wait, with: {for: 1s}}], on_failure: {steps: [{id: y, action: flow.wait, with: {for: 1s}}]}, finally: {steps: [{id: z, when: steps.y.undone, action: flow.wait, with: {for: 1s}}]}}]", True),
    ("undo sees the step itself", "[{id: b, action: shell.run, with: {command: x}, undo: {steps: [{id: y, when: steps.b.outputs.rc == 0, action: flow.wait, with: {for: 1s}}]}}]", True),
    ("siblings of a parallel do not see each other's insides", "[{id: b, parallel: [{id: c, steps: [{id: x, action: flow.wait, with: {for: 1s}}]}, {id: y, when: steps.x.undone, action: flow.wait, with: {for: 1s}}]}]", False),
    ("an iteration sees itself", "[{id: b, foreach: {items: [1], as: i}, steps: [{id: x, action: flow.wait, with: {for: 1s}}, {id: y, when: steps.x.undone, action: flow.wait, with: {for: 1s}}]}]", True),
    ("the handler of a foreach does not see into iterations", "[{id: b, foreach: {items: [1], as: i}, steps: [{id: x, action: flow.wait, with: {for: 1s}}], finally: {steps: [{id: y, when: steps.x.undone, action: flow.wait, with: {for: 1s}}]}}]", False),
    ("an inner iteration sees the outer one", "[{id: b, foreach: {items: [1], as: i}, steps: [{id: x, action: flow.wait, with: {for: 1s}}, {id: c, foreach: {items: [1], as: j}, steps: [{id: y, when: steps.x.undone and i == j, action: flow.wait, with: {for: 1s}}]}]}]", True),
    ("the item is not known in the list", "[{id: b, foreach: {items: '{{ i }}', as: i}, steps: [{id: x, action: flow.wait, with: {for: 1s}}]}]", False),
    ("a block's own outputs see its steps", "[{id: b, steps: [{id: x, action: flow.wait, with: {for: 1s}}], outputs: {o: steps.x.status}}]", True),
    ("a block's condition does not", "[{id: b, when: steps.x.undone, steps: [{id: x, action: flow.wait, with: {for: 1s}}]}]", False),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "fine"), [pytest.param(steps, fine, id=name) for name, steps, fine in SCOPES])
def test_scope(steps: str, fine: bool) -> None:
    assert (said(f"runbook: 1\nsteps: {steps}\n") == []) == fine


UNDOABLE = [
    ("an inner block with undo steps stands for what is in it", "{id: i, undo: {steps: [{id: u, action: flow.wait, with: {for: 1s}}]}, steps: [{id: x, action: shell.run, with: {command: x}}]}", True),
    ("an opaque step that only reads needs none", "{id: x, action: shell.run, with: {command: x}, effect: read}", True),
    ("a GET is a read", "{id: x, action: http.request, with: {url: x, method: GET}}", True),
    ("a POST is not", "{id: x, action: http.request, with: {url: x}}", False),
    ("a notification needs none", "{id: x, action: slack.post, with: {webhook: x, text: y}}", True),
    ("a sub-playbook is looked into", "{id: x, playbook: sub.yaml}", False),
    ("handlers inside count", "{id: i, steps: [{id: w, action: flow.wait, with: {for: 1s}}], finally: {steps: [{id: x, action: k8s.delete, with: {name: w}}]}}", False),
]  # fmt: skip


@pytest.mark.parametrize(("step", "fine"), [pytest.param(step, fine, id=name) for name, step, fine in UNDOABLE])
def test_what_an_undo_can_reach(step: str, fine: bool) -> None:
    text = HEAD + f"steps:\n  - id: b\n    on_failure: undo\n    steps:\n      - {step}\n"
    assert (said(text, sub="runbook: 1\nsteps: [{id: s, action: shell.run, with: {command: x}}]\n") == []) == fine


def test_read_errors_are_problems() -> None:
    def read(path: str) -> str:
        if path == "playbook.yaml":
            return (
                "runbook: 1\nimport: [a.yaml, b.yaml]\nsteps: [{id: s, playbook: c.yaml}, {id: t, playbook: c.yaml}]\n"
            )
        if path == "a.yaml":
            raise PermissionError(13, "Permission denied")
        if path == "b.yaml":
            return b"runbook: 1\n\xff".decode("utf-8")
        raise IsADirectoryError(21, "Is a directory")

    found = load("playbook.yaml", read, catalogue())
    assert [(str(one.place), one.message) for one in found.problems] == [
        ("playbook.yaml:2:10", "a.yaml cannot be read: Permission denied"),
        ("playbook.yaml:3:27", "c.yaml cannot be read: Is a directory"),
        ("b.yaml:2:1", "byte 0xff is no UTF-8"),
    ]
    gone = load("gone.yaml", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)), catalogue())
    assert [(str(one.place), one.message) for one in gone.problems] == [("gone.yaml", "there is no file gone.yaml")]


def test_playbooks_that_call_each_other_without_end_are_bounded() -> None:
    def read(path: str) -> str:
        number = int(path.removesuffix(".yaml"))
        deep = "".join(f"{'  ' * depth}  - id: s{depth}\n{'  ' * depth}    steps:\n" for depth in range(20))
        return f"runbook: 1\nsteps:\n{deep}{'  ' * 20}  - {{id: x, playbook: {number + 1}.yaml}}\n"

    found = load("1.yaml", read, catalogue())
    assert len(found.problems) == 1
    assert found.problems[0].rule == "depth"


def texts() -> list[tuple[str, str]]:
    found = [(path.name, path.read_text(encoding="utf-8")) for path in sorted(SHIPPED.glob("*.yaml"))]
    found += [("playbook.yaml", (EVERY / "playbook.yaml").read_text(encoding="utf-8"))] * 2
    found += [
        ("playbook.yaml", path.read_text(encoding="utf-8"))
        for path in sorted(CASES.glob("bad-[f-u]*/playbook.yaml"))[::6]
    ]
    return found


MUTATED = int(os.environ.get("RUNBOOK_MUTATIONS", "10000"))


@pytest.mark.slow
def test_ten_thousand_mutated_playbooks() -> None:
    """Never a traceback, always a place, never over two seconds; memory stays where it was."""
    from runbook.runner.registry import catalogue as real

    actions = {**catalogue(), **real()}
    originals = texts()
    others = {path.name: path.read_text(encoding="utf-8") for path in [*SHIPPED.glob("*.yaml"), EVERY / "check.yaml"]}
    kinds: set[str] = set()
    fine = 0
    for seed in range(MUTATED):
        name, text = originals[seed % len(originals)]
        broken = mutated(text, seed)

        def read(path: str, name: str = name, broken: str = broken) -> str:
            if path != name and path not in others:
                raise FileNotFoundError(path)
            return broken if path == name else others[path]

        begun = time.thread_time()
        try:
            found = load(name, read, actions)
            page = render_text(found.problems, found.files, color=False)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {name}") from error
        assert time.thread_time() - begun < 2, f"seed {seed} of {name}"
        assert found.ok == all(problem.severity == "warning" for problem in found.problems)
        for problem in found.problems:
            assert problem.message, seed
            assert problem.place.line > 0 or problem.place.file not in found.files or problem.rule == "yaml-size", (
                seed,
                problem,
            )
            assert str(problem.place) in page, seed
            kinds.add(problem.rule)
        if found.playbook is not None:
            fine += 1
            assert worst_case(found.playbook).work >= 0
    assert len(kinds) > min(30, MUTATED // 100)
    assert fine > MUTATED // 100


def test_memory_is_bounded() -> None:
    hostile = [
        "a: " + "[" * 1_000_000,
        "runbook: 1\nsteps: " + "[{id: a}," * 50_000,
        "a: &a [" + "x," * 20_000 + "]\nb: [" + "*a," * 20_000 + "]",
        "runbook: 1\nname: '" + "{{ x }}" * 20_000 + "'\nsteps: []\n",
        "runbook: 1\nvars:\n" + "".join(f"  v{n}: '{{{{ vars.v{n - 1} }}}}'\n" for n in range(20_000)) + "steps: []\n",
    ]
    for text in hostile:
        tracemalloc.start()
        begun = time.thread_time()
        assert not loaded(text).ok
        taken, (_, peak) = time.thread_time() - begun, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 250 * 1024 * 1024, text[:30]
        assert taken < 10, text[:30]  # tracemalloc itself makes it several times slower
