"""The step kinds and step keys of the language, in the order of its manual (docs/language.md)."""

# ruff: noqa: E501  # steps in one line each read as a table

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.language import Exit, Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.at(tmp_path)


OK = "{id: ok, action: toy.note, with: {name: ok}}"
BAD = "{id: bad, action: toy.note, with: {name: bad, fail: broken}}"


# --- kinds

# name: steps, status of the step `it`, what happened in order
KINDS: dict[str, tuple[str, str, list[str]]] = {
    "a block runs its steps in order": (
        "{id: it, steps: [{id: a, action: toy.note, with: {name: a}}, {id: b, action: toy.note, with: {name: b}}]}",
        "succeeded", ["a", "b"],
    ),
    "parallel steps run at once": (
        "{id: it, parallel: [{id: a, action: toy.note, with: {name: slow, seconds: 0.3}}, {id: b, action: toy.note, with: {name: quick}}]}",
        "succeeded", ["quick", "slow"],
    ),
    "max_concurrent: 1 makes a list of them": (
        "{id: it, max_concurrent: 1, parallel: [{id: a, action: toy.note, with: {name: slow, seconds: 0.2}}, {id: b, action: toy.note, with: {name: quick}}]}",
        "succeeded", ["slow", "quick"],
    ),
    "max_concurrent may be a template": (
        "{id: it, max_concurrent: '{{ 2 - 1 }}', parallel: [{id: a, action: toy.note, with: {name: slow, seconds: 0.2}}, {id: b, action: toy.note, with: {name: quick}}]}",
        "succeeded", ["slow", "quick"],
    ),
    "after a failure nothing new starts in parallel, and what is in flight runs to its end": (
        f"{{id: it, max_concurrent: 2, parallel: [{BAD}, {{id: slow, steps: [{{id: s1, action: toy.note, with: {{name: s1, seconds: 0.3}}}}, {{id: s2, action: toy.note, with: {{name: s2}}}}]}}, {{id: never, action: toy.note, with: {{name: never}}}}]}}",
        "failed", ["s1", "s2"],
    ),
    "fallback: in order until one succeeds": (
        f"{{id: it, fallback: [{{id: one, action: toy.note, with: {{name: one, fail: x}}, on_failure: abort}}, {{id: two, action: toy.note, with: {{name: two}}, on_failure: abort}}, {OK}]}}",
        "succeeded", ["two"],
    ),
    "fallback: a skipped alternative is no success, the next has its turn": (
        f"{{id: it, fallback: [{{id: one, when: 'false', action: toy.note, with: {{name: one}}, on_failure: abort}}, {OK}]}}",
        "succeeded", ["ok"],
    ),
    "fallback: all skipped is a failure": (
        "{id: it, fallback: [{id: one, when: 'false', action: toy.get}, {id: two, when: 'false', action: toy.get}]}",
        "failed", [],
    ),
    "fallback: a failed alternative keeps its changes unless it says undo": (
        f"{{id: it, fallback: [{{id: one, on_failure: abort, steps: [{{id: s, action: toy.set, with: {{name: x, value: 1}}}}, {{id: f, action: toy.get, fail_when: 'true'}}]}}, {OK}]}}",
        "succeeded", ["x=1", "ok"],
    ),
    "fallback: what says undo is unwound before the next one starts": (
        f"{{id: it, fallback: [{{id: one, on_failure: undo, steps: [{{id: s, action: toy.set, with: {{name: x, value: 1}}}}, {{id: f, action: toy.get, fail_when: 'true'}}], finally: {{steps: [{{id: z, action: toy.note, with: {{name: tidy}}}}]}}}}, {OK}]}}",
        "succeeded", ["x=1", "x=None", "tidy", "ok"],
    ),
    "choose: the first that holds, no falling through": (
        f"{{id: it, choose: [{{when: 1 == 2, steps: [{BAD}]}}, {{when: 1 == 1, steps: [{OK}]}}, {{when: 1 == 1, steps: [{{id: third, action: toy.note, with: {{name: third}}}}]}}]}}",
        "succeeded", ["ok"],
    ),
    "choose: the branch without when is for the rest": (
        f"{{id: it, choose: [{{when: 1 == 2, steps: [{BAD}]}}, {{steps: [{OK}]}}]}}",
        "succeeded", ["ok"],
    ),
    "choose: none holds = failed": (
        f"{{id: it, choose: [{{when: 1 == 2, steps: [{BAD}]}}]}}",
        "failed", [],
    ),
    "foreach over nothing = succeeded": (
        f"{{id: it, foreach: {{items: [], as: i}}, steps: [{BAD}]}}",
        "succeeded", [],
    ),
    "foreach goes one by one unless max_concurrent says otherwise": (
        "{id: it, foreach: {items: [2, 1], as: n}, steps: [{id: a, action: toy.note, with: {name: 'n{{ n }}', seconds: '{{ n / 10 }}'}}]}",
        "succeeded", ["n2", "n1"],
    ),
    "foreach with max_concurrent": (
        "{id: it, foreach: {items: [3, 1], as: n, max_concurrent: 2}, steps: [{id: a, action: toy.note, with: {name: 'n{{ n }}', seconds: '{{ n / 10 }}'}}]}",
        "succeeded", ["n1", "n3"],
    ),
    "canary stages: a foreach in a foreach": (
        "{id: it, foreach: {items: \"{{ ['a', 'b', 'c', 'd', 'e'] | stages(1, '40%', '100%') }}\", as: stage}, steps: [{id: pods, foreach: {items: '{{ stage }}', as: pod}, steps: [{id: a, action: toy.note, with: {name: '{{ pod }}'}}]}, {id: look, action: toy.note, with: {name: 'looked at {{ stage | length }}'}}]}",
        "succeeded", ["a", "looked at 1", "b", "looked at 1", "c", "d", "e", "looked at 3"],
    ),
    "all children skipped = skipped": (
        "{id: it, steps: [{id: a, when: 'false', action: toy.get}, {id: b, when: 'false', action: toy.get}]}",
        "skipped", [],
    ),
    "all iterations skipped = skipped": (
        "{id: it, foreach: {items: [1, 2], as: i}, steps: [{id: a, when: i > 2, action: toy.get}]}",
        "skipped", [],
    ),
    "when: false = skipped, and nothing inside happens": (
        f"{{id: it, when: 1 > 2, steps: [{OK}]}}",
        "skipped", [],
    ),
    "when: a boolean without quotes": (
        f"{{id: it, when: false, steps: [{OK}]}}",
        "skipped", [],
    ),
    "when: what is not a boolean is an error": (
        f"{{id: it, when: \"'yes'\", steps: [{OK}]}}",
        "failed", [],
    ),
    "a block's timeout ends its work": (
        f"{{id: it, timeout: 300ms, steps: [{{id: w, action: flow.wait, with: {{for: 9s}}}}, {OK}]}}",
        "timed_out", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str, room: Room) -> None:
    step, status, done = KINDS[name]
    played = room.played(f"steps:\n  - {step}\n")
    assert (played.steps["it"], list(played.done)) == (status, done)
    assert played.exit == (Exit.SUCCEEDED if status in ("succeeded", "skipped") else Exit.FAILED)


def test_the_failure_reported_is_the_first_in_the_journal(room: Room) -> None:
    played = room.played("""
steps:
  - id: p
    keep_going: true
    parallel:
      - {id: slow, action: toy.note, with: {name: slow, seconds: 0.3, fail: slow broke}}
      - {id: quick, action: toy.note, with: {name: quick, fail: quick broke}}
""")
    assert played.error().startswith("quick broke")


def test_all_branches_settle_before_the_block_unwinds(room: Room) -> None:
    played = room.played("""
steps:
  - id: p
    on_failure: undo
    parallel:
      - {id: bad, action: toy.get, fail_when: "true"}
      - {id: slow, action: toy.set, with: {name: x, value: 1, seconds: 0.3}}
""")
    assert list(played.done) == ["x=1", "x=None"]


def test_a_fallbacks_outputs_are_the_winners_and_its_failure_is_a_note(room: Room) -> None:
    played = room.played("""
steps:
  - id: f
    fallback:
      - {id: one, action: toy.get, with: {value: 1}, fail_when: "true"}
      - {id: two, action: toy.get, with: {value: 2}}
      - {id: three, action: toy.get, with: {value: 3}}
  - {id: use, action: flow.set, with: {values: {chosen: "{{ steps.f.outputs.chosen }}", value: "{{ steps.f.outputs.value }}", third: "{{ steps.three.status }}"}}}
""")
    assert played.values("use") == {"chosen": "two", "value": 2, "third": "pending"}
    assert played.warnings == {}
    assert played.step("f/one")["status"] == "failed"


def test_a_choices_outputs_are_the_branchs_and_its_index(room: Room) -> None:
    played = room.played("""
steps:
  - {id: c, choose: [{when: 1 == 2, steps: [{id: a, action: toy.get}]}, {steps: [{id: b, action: toy.get, with: {value: 7}}]}], outputs: {v: steps.b.outputs.value}}
  - {id: use, action: flow.set, with: {values: {chosen: "{{ steps.c.outputs.chosen }}", v: "{{ steps.c.outputs.v }}"}}}
""")
    assert played.values("use") == {"chosen": 1, "v": 7}


# --- retry

# name: (keys of the step, status, attempts, error kind or None)
RETRY: dict[str, tuple[str, str, int, str | None]] = {
    "without retry there is one attempt": ("with: {name: n, fail: temporary}", "failed", 1, "temporary"),
    "temporary errors are tried again": ("with: {name: n, fail: temporary}, retry: {delay: 10ms}", "failed", 3, "temporary"),
    "max_attempts counts the first": ("with: {name: n, fail: temporary}, retry: {max_attempts: 2, delay: 10ms}", "failed", 2, "temporary"),
    "a permanent error is not": ("with: {name: n, fail: broken}, retry: {delay: 10ms}", "failed", 1, "permanent"),
    "on: [timeout] leaves temporary errors alone": ("with: {name: n, fail: temporary}, retry: {delay: 10ms, on: [timeout]}, idempotent: true", "failed", 1, "temporary"),
    "an opaque action is not tried again on time-out": ("timeout: 200ms, retry: {max_attempts: 2, delay: 10ms}", "timed_out", 1, None),
    "unless the author calls it idempotent": ("timeout: 200ms, idempotent: true, retry: {max_attempts: 2, delay: 10ms}", "timed_out", 2, None),
    "max_duration alone has no other bound, and cuts the attempt": ("with: {name: n, fail: temporary}, retry: {max_duration: 500ms, delay: 50ms, backoff: 1, max_delay: 50ms}", "timed_out", 4, None),
    "whichever bound comes first ends it": ("with: {name: n, fail: temporary}, retry: {max_duration: 20s, max_attempts: 2, delay: 10ms}", "failed", 2, "temporary"),
}  # fmt: skip


@pytest.mark.timed
@pytest.mark.parametrize("name", RETRY)
def test_retry(name: str, room: Room) -> None:
    keys, status, attempts, kind = RETRY[name]
    action = "toy.note" if keys.startswith("with") else "toy.polite"
    played = room.played(f"steps:\n  - {{id: a, action: {action}, {keys}}}\n")
    step = played.step("a")
    assert step["status"] == status
    if "no other bound" in name:
        assert step["attempts"] >= attempts
        assert 0.4 <= step["duration"] < 1.5
    else:
        assert step["attempts"] == attempts
    assert kind in (None, step["error"]["kind"])


@pytest.mark.timed
def test_max_duration_cuts_the_attempt_that_runs(room: Room) -> None:
    began = time.monotonic()
    played = room.played(
        'steps: [{id: a, action: shell.run, with: {command: "sleep 30"}, retry: {max_duration: 400ms}, idempotent: true}]'
    )
    assert played.steps["a"] == "timed_out"
    assert time.monotonic() - began < 4


# --- polls and checks

# name: (keys of a toy.get of 7, status, what stands in the error)
POLLS: dict[str, tuple[str, str, str]] = {
    "until holds at once": ("until: result.value == 7", "succeeded", ""),
    "until never holds: the whole poll has its timeout": ("until: result.value == 8, every: 50ms, timeout: 300ms", "timed_out", "not yet"),
    "until holds, but not for so long": ("until: result.value == 7, every: 50ms, for: 9s, timeout: \"{{ '300ms' }}\"", "timed_out", "its time of 300ms (it holds, but not yet for 9s: result.value == 7)"),
    "for: without a break": ("until: result.value == 7, every: 50ms, for: 300ms", "succeeded", ""),
    "fail_when fails at once": ("until: result.value == 8, fail_when: result.value == 7, timeout: 60s", "failed", "fail_when"),
    "fail_when without until": ("fail_when: result.value == 7", "failed", "fail_when"),
    "fail_when that does not hold": ("fail_when: result.value == 8", "succeeded", ""),
    "until is no boolean": ("until: result.value", "failed", "true or false"),
}  # fmt: skip


@pytest.mark.timed
@pytest.mark.parametrize("name", POLLS)
def test_polls(name: str, room: Room) -> None:
    keys, status, said = POLLS[name]
    played = room.played(f"steps:\n  - {{id: a, action: toy.get, with: {{value: 7}}, {keys}}}\n")
    step = played.step("a")
    assert (step["status"], said in (step["error"] or {"message": ""})["message"]) == (status, True)
    if "without a break" in name:
        assert 0.3 <= step["duration"] < 3


def test_what_breaks_for_starts_its_time_again(room: Room) -> None:
    """The file says yes, no for a moment, and yes again: `for` counts from the last yes."""
    played = room.played("""
steps:
  - id: p
    parallel:
      - {id: look, action: toy.get, with: {name: x}, until: result.value == 'yes', every: 50ms, for: 500ms, timeout: 20s}
      - id: world
        steps:
          - {id: y1, action: toy.set, with: {name: x, value: "yes"}}
          - {id: w1, action: flow.wait, with: {for: 250ms}}
          - {id: no1, action: toy.set, with: {name: x, value: "no"}}
          - {id: w2, action: flow.wait, with: {for: 150ms}}
          - {id: y2, action: toy.set, with: {name: x, value: "yes"}}
""")
    assert played.step("p/look")["status"] == "succeeded"
    assert played.step("p/look")["duration"] >= 0.9


def test_a_check_that_says_no_fails_its_step_unless_until_decides(room: Room) -> None:
    played = room.played("""
steps:
  - {id: no, action: flow.assert, with: {that: false, message: no good}, on_failure: continue}
  - {id: decided, action: flow.assert, with: {that: false, message: no good}, until: not result.ok}
  - {id: again, action: flow.assert, with: {that: false, message: no good}, retry: {max_attempts: 5}, on_failure: continue}
""")
    assert played.steps == {"no": "failed", "decided": "succeeded", "again": "failed"}
    assert played.step("again")["attempts"] == 1  # permanent: it looks at nothing that could have changed
    assert played.error("no") == "no good"


# --- keep_going

KEEP_GOING: dict[str, tuple[str, str]] = {  # of four, two fail
    "keep_going: true": ("failed", "all run, then the block fails if any failed"),
    "keep_going: 1": ("failed", "two are more than one"),
    "keep_going: 2": ("succeeded", "so many may fail"),
    "keep_going: 25%": ("failed", "one of four"),
    "keep_going: 50%": ("succeeded", "two of four"),
    'keep_going: "{{ inputs.most }}"': ("succeeded", "a template of a number"),
    "keep_going: \"{{ '50%' }}\"": ("succeeded", "a template of a percentage"),
    'keep_going: "{{ 1 == 1 }}"': ("failed", "a template of true"),
}
INNER = "{id: a, action: toy.note, with: {name: 'n{{ i }}', fail: \"{{ 'odd' if i % 2 else '' }}\"}}"


@pytest.mark.parametrize("key", KEEP_GOING)
def test_keep_going_of_a_foreach(key: str, room: Room) -> None:
    status, why = KEEP_GOING[key]
    played = room.played(
        "inputs: {most: {type: integer, default: 2}}\n"
        f"steps:\n  - {{id: it, foreach: {{items: [1, 2, 3, 4], as: i}}, {key}, steps: [{INNER}]}}\n"
    )
    outputs = played.values("it")
    assert (played.steps["it"], list(played.done)) == (status, ["n2", "n4"]), why
    assert (outputs["total"], outputs["succeeded"], outputs["failed"], outputs["skipped"]) == (4, 2, 2, 0)


@pytest.mark.parametrize("kind", ["steps", "parallel"])
def test_keep_going_of_a_block_and_of_parallel(kind: str, room: Room) -> None:
    played = room.played(f"""
steps:
  - id: it
    keep_going: 1
    {kind}:
      - {{id: one, name: the first, action: toy.note, with: {{name: one, fail: broken}}}}
      - {{id: two, action: toy.note, with: {{name: two, seconds: 0.1}}}}
  - {{id: after, action: toy.note, with: {{name: after}}}}
""")
    assert played.steps == {"it/one": "failed", "it/two": "succeeded", "it": "succeeded", "after": "succeeded"}
    (failure,) = played.values("it")["failures"]
    assert (failure["id"], failure["name"]) == ("one", "the first")
    assert failure["error"]["message"].startswith("broken")


# --- timeouts and defaults


def test_defaults_timeout_is_of_attempts_not_of_people_waits_blocks_and_polls(room: Room) -> None:
    played = room.played("""
defaults: {timeout: 250ms}
steps:
  - {id: wait, action: flow.wait, with: {for: 350ms}}
  - {id: block, steps: [{id: a, action: toy.note, with: {name: a, seconds: 0.15}}, {id: b, action: toy.note, with: {name: b, seconds: 0.15}}]}
  - {id: poll, action: toy.get, with: {value: 1}, until: result.value == 1, every: 50ms, for: 350ms}
  - {id: own, action: toy.polite, with: {seconds: 0.35}, timeout: 5s}
  - {id: late, action: toy.polite}
""")
    assert played.steps == {
        "wait": "succeeded", "block/a": "succeeded", "block/b": "succeeded", "block": "succeeded",
        "poll": "succeeded", "own": "succeeded", "late": "timed_out",
    }  # fmt: skip


@pytest.mark.timed
def test_a_timeout_may_be_a_template(room: Room) -> None:
    played = room.played("""
inputs: {limit: {type: duration, default: 200ms}}
steps:
  - {id: a, action: toy.polite, timeout: "{{ inputs.limit }}", on_failure: continue}
  - {id: b, timeout: "{{ inputs.limit * 2 }}", on_failure: continue, steps: [{id: w, action: flow.wait, with: {for: 9s}}]}
""")
    assert (played.steps["a"], played.steps["b"]) == ("timed_out", "timed_out")
    assert 0.2 <= played.step("a")["duration"] < 0.39
    assert 0.4 <= played.step("b")["duration"] < 2


def test_defaults_with_are_as_if_written_in_each_step_and_a_steps_own_key_replaces_them(room: Room) -> None:
    played = room.played("""
vars: {where: "/"}
defaults: {with: {shell: {env: {A: "from {{ vars.where }}"}}}}
steps:
  - {id: a, action: shell.run, with: {command: "echo $A"}, effect: read}
  - {id: b, action: shell.run, with: {command: "echo $A-$B", env: {B: own}}, effect: read}
""")
    assert played.values("a")["stdout"].strip() == "from /"
    assert played.values("b")["stdout"].strip() == "-own"


# --- background

BACKGROUND = """
steps:
  - {id: side, action: toy.get, with: {value: 5, seconds: 0.4}, background: true}
  - {id: first, action: toy.note, with: {name: first}}
  - {id: use, action: toy.note, with: {name: "read {{ steps.side.outputs.value }}"}}
"""


def test_the_run_goes_on_beside_a_background_step_and_its_first_reader_waits(room: Room) -> None:
    played = room.played(BACKGROUND)
    assert list(played.steps) == ["first", "side", "use"]
    assert list(played.done) == ["first", "read 5"]


def test_a_background_step_that_nobody_names_is_joined_at_its_blocks_end(room: Room) -> None:
    played = room.played("""
steps:
  - id: b
    steps:
      - {id: side, action: toy.get, with: {seconds: 0.3}, background: true}
      - {id: first, action: toy.note, with: {name: first}}
  - {id: after, action: toy.note, with: {name: after}}
""")
    assert list(played.steps) == ["b/first", "b/side", "b", "after"]


OWN_OUTPUTS = {
    "of a block": "steps: [{id: a, action: toy.note, with: {name: a}}], outputs: {seen: steps.side.outputs.value}",
    "of an iteration": "foreach: {items: [1], as: i}, steps: [{id: a, action: toy.note, with: {name: a}}], outputs: {seen: steps.side.outputs.value}",
    "of an alternative": "fallback: [{id: a, action: toy.note, with: {name: a}}], outputs: {seen: steps.side.outputs.value}",
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_OUTPUTS)
def test_outputs_that_name_a_background_step_join_it_when_they_are_computed(name: str, room: Room) -> None:
    """What it reads must not depend on how far the step beside it happened to be."""
    side = "{id: side, action: toy.get, with: {value: 5, seconds: 0.4}, background: true}"
    played = room.played(
        f"steps: [{side}, {{id: b, {OWN_OUTPUTS[name]}}}, {{id: c, action: toy.note, with: {{name: c}}}}]"
    )
    assert [step for step in played.steps if step in ("side", "b", "c")] == ["side", "b", "c"]
    outputs = played.values("b")
    assert (outputs["results"][0]["outputs"] if "results" in outputs else outputs)["seen"] == 5


def test_outputs_that_name_a_background_step_that_failed_fail_with_it(room: Room) -> None:
    side = "{id: side, action: toy.get, with: {seconds: 0.2}, fail_when: 'true', background: true}"
    played = room.played(
        f"steps: [{side}, {{id: b, steps: [{OK}], outputs: {{seen: steps.side.status}}}}, {{id: c, action: toy.note}}]"
    )
    assert (played.exit, played.steps["b"], "c" in played.steps) == (Exit.FAILED, "failed", False)
    assert played.error() == played.error("b") == played.error("side")


@pytest.mark.parametrize(("more", "status"), [("", "failed"), (", on_failure: continue", "succeeded")])
def test_a_background_steps_failure_is_its_blocks(more: str, status: str, room: Room) -> None:
    played = room.played(f"""
steps:
  - id: b
    steps:
      - {{id: side, action: toy.get, with: {{seconds: 0.2}}, fail_when: "true", background: true{more}}}
      - {OK}
""")
    assert (played.steps["b"], list(played.done)) == (status, ["ok"])


# --- opaque actions and the author's word


def test_effect_read_lets_an_opaque_action_be_polled(room: Room) -> None:
    played = room.played(
        "steps: [{id: a, action: shell.run, with: {command: 'echo ready'}, effect: read, until: \"'ready' in result.stdout\"}]"
    )
    assert played.steps["a"] == "succeeded"
    assert not played.all("call.intent")


# --- milestones

MILESTONES: dict[str, tuple[str, list[str]]] = {
    "met when the step succeeds": ("{id: a, action: toy.get, milestone: m}", ["m"]),
    "a failure swallowed by its own continue does not meet it": ("{id: a, action: toy.get, fail_when: 'true', on_failure: continue, milestone: m}", []),
    "skipped does not": ("{id: a, when: 'false', action: toy.get, milestone: m}", []),
    "failures tolerated inside do not matter: continue": ("{id: b, milestone: m, steps: [{id: a, action: toy.get, fail_when: 'true', on_failure: continue}]}", ["m"]),
    "nor do those of keep_going": ("{id: b, milestone: m, keep_going: 1, steps: [{id: a, action: toy.get, fail_when: 'true'}, {id: c, action: toy.get}]}", ["m"]),
    "nor those of a fallback": ("{id: b, milestone: m, fallback: [{id: a, action: toy.get, fail_when: 'true'}, {id: c, action: toy.get}]}", ["m"]),
    "nor those of notify": ("{id: b, milestone: m, steps: [{id: a, action: toy.tell, with: {name: x, seconds: 9}, timeout: 100ms, retry: {max_attempts: 1}}]}", ["m"]),
    "a notification's own is met when it is told": ("{id: a, action: toy.tell, with: {name: x}, milestone: m}", ["m"]),
    "taken back if undone": ("{id: b, on_failure: {undo: true, then: continue}, steps: [{id: a, action: toy.set, with: {name: x, value: 1}, milestone: m}, {id: f, action: toy.get, fail_when: 'true'}]}", []),
}  # fmt: skip


@pytest.mark.parametrize("name", MILESTONES)
def test_milestones(name: str, room: Room) -> None:
    step, met = MILESTONES[name]
    played = room.played(f"steps:\n  - {step}\n")
    assert (played.exit, played.milestones) == (Exit.SUCCEEDED, met)


def test_the_first_milestone_counts(room: Room) -> None:
    played = room.played("""
objectives: {m: 1m}
steps:
  - {id: a, action: toy.get, milestone: m}
  - {id: w, action: flow.wait, with: {for: 200ms}}
  - {id: b, action: toy.get, milestone: m}
""")
    (entry,) = played.of("run.ended", "")["objectives"]
    first = next(event.data["wall"] for event in played.all("milestone"))
    assert (entry["verdict"], entry["at"]) == ("met", pytest.approx(first, abs=0.05))


# name: steps and handlers, verdict of the objective `m`
NOT_NEEDED: dict[str, tuple[str, str]] = {
    "its step was skipped": ("steps: [{id: a, when: 'false', action: toy.get, milestone: m}]", "n/a"),
    "so was the block that it is in": ("steps: [{id: b, when: 'false', steps: [{id: a, action: toy.get, milestone: m}]}]", "n/a"),
    "another branch held": ("steps: [{id: c, choose: [{when: 1 == 2, steps: [{id: a, action: toy.get, milestone: m}]}, {steps: [{id: d, action: toy.get}]}]}]", "n/a"),
    "no other alternative was needed": ("steps: [{id: f, fallback: [{id: d, action: toy.get}, {id: a, action: toy.get, milestone: m}]}]", "n/a"),
    "there was nothing to repeat": ("steps: [{id: e, foreach: {items: [], as: i}, steps: [{id: a, action: toy.get, milestone: m}]}]", "n/a"),
    "nothing failed, so no handler ran": ("steps: [{id: d, action: toy.get}]\non_failure: {steps: [{id: a, action: toy.get, milestone: m}]}", "n/a"),
    "of several steps one would have been needed": ("steps: [{id: b, on_failure: continue, steps: [{id: d, action: toy.get, fail_when: 'true'}, {id: a, action: toy.get, milestone: m}]}, {id: c, when: 'false', action: toy.get, milestone: m}]", "missed"),
    "the run failed before": ("steps: [{id: d, action: toy.get, fail_when: 'true'}, {id: a, action: toy.get, milestone: m}]", "missed"),
    "what it is in failed before": ("steps: [{id: b, steps: [{id: d, action: toy.get, fail_when: 'true'}, {id: k, steps: [{id: a, action: toy.get, milestone: m}]}]}]", "missed"),
    "it failed": ("steps: [{id: a, action: toy.get, fail_when: 'true', milestone: m, on_failure: continue}]", "missed"),
    "one iteration met it": ("steps: [{id: e, foreach: {items: [1, 2], as: i}, steps: [{id: a, when: i > 1, action: toy.get, milestone: m}]}]", "met"),
    "met in a handler": ("steps: [{id: d, action: toy.get, fail_when: 'true'}]\non_failure: {steps: [{id: a, action: toy.get, milestone: m}]}", "met"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_NEEDED)
def test_an_objective_that_nothing_needed_to_meet_is_not_missed(name: str, room: Room) -> None:
    text, verdict = NOT_NEEDED[name]
    played = room.played(f"objectives: {{m: 1m}}\n{text}\n")
    assert [entry["verdict"] for entry in played.of("run.ended", "")["objectives"]] == [verdict]


def test_steps_of_two_files_that_have_one_id_are_two_steps(room: Room) -> None:
    called = "steps: [{id: a, when: 'false', action: toy.get}]\n"
    text = "objectives: {m: 1m, s.m: 1m}\nsteps: [{id: s, playbook: sub.yaml}, {id: a, action: toy.get, fail_when: 'true', milestone: m}]\n"
    played = room.played(text, files={"sub.yaml": called.replace("toy.get}", "toy.get, milestone: m}")})
    assert [entry["verdict"] for entry in played.of("run.ended", "")["objectives"]] == ["missed", "n/a"]


# name: the step `a`, what is said of an output of it that is not there
NO_OUTPUT: dict[str, tuple[str, str]] = {
    "skipped": ("{id: a, when: 'false', action: toy.get}", "steps.a.outputs.value is not defined: a was skipped, in"),
    "failed": ("{id: a, on_failure: continue, action: toy.note, undo: none, with: {fail: x}, outputs: {value: result.name}}", "steps.a.outputs.value is not defined: a failed, in"),
    "in another branch": ("{id: c, choose: [{when: 1 == 2, steps: [{id: a, action: toy.get}]}, {steps: [{id: b, action: toy.get}]}]}", "steps.a.outputs.value is not defined: a has not run, in"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_OUTPUT)
def test_an_output_that_is_not_there_says_how_its_step_ended(name: str, room: Room) -> None:
    step, said = NO_OUTPUT[name]
    use = "{id: use, action: toy.note, undo: none, with: {name: '{{ steps.a.outputs.value }}'}}"
    assert room.played(f"steps: [{step}, {use}]").error().startswith(said)


def test_every_step_exists_from_the_start_with_all_its_keys(room: Room) -> None:
    played = room.played("""
steps:
  - {id: good, action: toy.get, with: {value: 1}}
  - {id: bad, action: toy.note, with: {name: bad, fail: broken}, on_failure: continue}
  - {id: slow, action: toy.polite, timeout: 100ms, on_failure: continue}
  - {id: c, choose: [{when: "true", steps: [{id: x, action: toy.get}]}, {steps: [{id: y, action: toy.get}]}]}
  - {id: no, when: "false", action: toy.get}
  - {id: all, action: flow.set, with: {values: {good: "{{ steps.good }}", bad: "{{ steps.bad }}", slow: "{{ steps.slow }}", no: "{{ steps.no }}", y: "{{ steps.y }}"}}}
""")
    values = played.values("all")
    keys = {"status", "undone", "outputs", "error", "started_at", "duration", "attempts"}
    assert {name: set(view) for name, view in values.items()} == dict.fromkeys(values, keys)
    assert {name: view["status"] for name, view in values.items()} == {
        "good": "succeeded", "bad": "failed", "slow": "timed_out", "no": "skipped", "y": "pending",
    }  # fmt: skip
    assert (values["good"]["attempts"], values["good"]["error"], values["good"]["undone"]) == (1, None, False)
    error = values["bad"]["error"]
    assert set(error) == {"message", "kind", "temporary", "attempt"}
    assert (error["kind"], error["temporary"], error["attempt"]) == ("permanent", False, 1)
    assert values["bad"]["outputs"] == {"rc": 3}  # a failed step keeps what outputs it has
    assert (values["y"]["outputs"], values["y"]["error"], values["y"]["attempts"]) == ({}, None, 0)
