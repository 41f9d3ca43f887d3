"""What each step kind and step key means, one promise a test. Times are virtual seconds."""

from __future__ import annotations

from typing import Any

from runbook.interpreter.model import OnFailure, Retry, SecretSource
from runbook.interpreter.outcome import Outcome
from tests.effects_toy import Toy
from tests.playbooks_toy import (
    CONTINUE,
    act,
    block,
    book,
    check,
    choose,
    fail,
    fallback,
    foreach,
    get,
    parallel,
    play,
    poll,
    put,
    run,
    template,
    wait,
)


def view(toy: Toy, step: str) -> dict[str, Any]:
    """`steps.<id>` at the end."""
    return dict(toy.engine.scope.at(0.0)["steps"][step])


def error_of(out: Outcome) -> str:
    assert out.error is not None
    return out.error.message


# --- values and scope


def test_every_step_exists_before_it_runs() -> None:
    out, toy = play(
        book(get("a", "k", when="steps.z.status == 'pending' and steps.z.outputs == {}"), get("z", "k")), {"k": 7}
    )
    assert out.status == "succeeded"
    assert view(toy, "a")["outputs"] == {"value": 7}


def test_a_view_has_all_listed_keys() -> None:
    _, toy = play(book(get("a", "k", takes=2), get("b", "k", when="false")))
    assert set(view(toy, "a")) == {"status", "undone", "outputs", "error", "started_at", "duration", "attempts"}
    assert (view(toy, "a")["started_at"], view(toy, "a")["duration"], view(toy, "a")["attempts"]) == (1000.0, 2.0, 1)
    assert view(toy, "b")["status"] == "skipped"


def test_vars_are_computed_once_from_top_to_bottom_and_elapsed_is_running_time() -> None:
    out, toy = play(
        book(
            wait("nap", 3),
            act(
                "now",
                "flow.set",
                {"values": {"at": "{{ run.elapsed }}", "by": "{{ run.initiator }}", "v": "{{ vars.b }}"}},
            ),
            vars={"a": "{{ inputs.n + 1 }}", "b": "{{ vars.a * 2 }}"},
            outputs={"at": "{{ steps.now.outputs.at }}", "missing": "{{ steps.now.outputs.nothing }}"},
        ),
        inputs={"n": 4},
    )
    assert view(toy, "now")["outputs"] == {"at": 3.0, "by": "ann", "v": 10}
    assert out.outputs == {"at": 3.0, "missing": None}


def test_a_var_that_cannot_be_computed_fails_the_run_before_it_begins() -> None:
    out, toy = play(book(put("a", "a"), vars={"x": "{{ inputs.none }}"}, finally_=(put("f", "f"),)))
    assert (out.status, toy.done) == ("failed", [])  # no lock is held yet: no handler may touch anything


def test_secrets_are_seals_and_an_absent_optional_one_is_null() -> None:
    sources = (
        SecretSource("token", "env", template("TOKEN")),
        SecretSource("hook", "env", template("HOOK"), optional=True),
    )
    out, toy = play(
        book(
            act("a", "flow.set", {"values": {"t": "Bearer {{ secrets.token }}", "h": "{{ secrets.hook }}"}}),
            secrets=sources,
        ),
        {"secret:token": True},
    )
    assert out.status == "succeeded"
    assert view(toy, "a")["outputs"] == {"t": view(toy, "a")["outputs"]["t"], "h": None}
    assert str(view(toy, "a")["outputs"]["t"]) == "Bearer ‹secret:token›"


def test_an_absent_secret_fails_the_run_before_its_first_step() -> None:
    out, toy = play(book(put("a", "a"), secrets=(SecretSource("token", "env", template("TOKEN")),)))
    assert (out.status, toy.world) == ("failed", {})
    assert "secrets.token" in error_of(out)


# --- when


def test_when_is_a_boolean_or_an_error() -> None:
    out, _ = play(book(get("a", "k", when="1")))
    assert (out.status, out.path) == ("failed", "a")
    assert "when" in error_of(out)


def test_all_children_skipped_is_skipped() -> None:
    out, toy = play(book(block("b", get("a", "k", when="false"), get("c", "k", when="false"))))
    assert (out.status, view(toy, "b")["status"]) == ("skipped", "skipped")


# --- outputs


def test_step_outputs_stand_beside_the_actions_own() -> None:
    _, toy = play(book(get("a", "k", outputs={"twice": "result.value * 2"})), {"k": 4})
    assert view(toy, "a")["outputs"] == {"value": 4, "twice": 8}


def test_outputs_that_fail_fail_the_step_but_its_change_and_inverse_stay() -> None:
    out, toy = play(book(put("a", "x", outputs={"no": "result.nothing.at.all"}), on_failure=OnFailure(undo=True)))
    assert (out.status, out.path, toy.done) == ("failed", "a", ["0s x=1", "0s x=None"])


def test_a_blocks_outputs_are_counts_and_expressions_over_inner_steps() -> None:
    _, toy = play(
        book(
            block(
                "b", get("a", "k"), get("skipped", "k", when="false"), fail("bad", on_failure=CONTINUE),
                outputs={"v": "steps.a.outputs.value"},
            )
        ),
        {"k": 4},
    )  # fmt: skip
    outputs = view(toy, "b")["outputs"]
    assert {key: outputs[key] for key in ("total", "succeeded", "failed", "skipped", "v")} == {
        "total": 3, "succeeded": 1, "failed": 1, "skipped": 1, "v": 4,
    }  # fmt: skip
    assert [(one["id"], one["error"]["message"]) for one in outputs["failures"]] == [("bad", "bad broke")]


# --- retry


def test_temporary_errors_are_retried_with_backoff_and_the_step_counts_its_attempts() -> None:
    step = act(
        "a",
        "toy.get",
        {"key": "k", "fail": "busy", "temporary": True},
        retry=Retry(max_attempts=3, delay=2.0, backoff=3.0),
    )
    out, toy = play(book(step))
    assert (out.status, out.attempts, out.at) == ("failed", 3, 8.0)
    assert view(toy, "a")["error"] == {"message": "busy", "kind": "temporary", "temporary": True, "attempt": 3}


def test_permanent_errors_are_not_retried() -> None:
    out, _ = play(book(fail("a", retry=Retry())))
    assert out.attempts == 1


def test_max_duration_alone_has_no_other_bound_and_cuts_the_attempt() -> None:
    step = act(
        "a", "toy.get", {"key": "k", "fail": "busy", "temporary": True, "takes": 4.0},
        retry=Retry(max_attempts=None, delay=1.0, backoff=1.0, max_duration=17.0),
    )  # fmt: skip
    out, _ = play(book(step))
    assert (out.status, out.kind, out.at, out.attempts) == ("failed", "timed_out", 17.0, 4)


def test_a_timed_out_attempt_is_retried_unless_it_is_opaque() -> None:
    slow = get("a", "k", takes=9, attempt=2.0, retry=Retry(max_attempts=2, delay=1.0))
    out, toy = play(book(slow))
    assert (out.kind, out.attempts, out.at, out.path) == ("timed_out", 2, 5.0, "a")
    assert view(toy, "a")["status"] == "timed_out"
    opaque = run("a", takes=9, attempt=2.0, retry=Retry(max_attempts=2, delay=1.0))
    assert play(book(opaque))[0].attempts == 1
    idempotent = run("a", takes=9, attempt=2.0, idempotent=True, retry=Retry(max_attempts=2, delay=1.0))
    assert play(book(idempotent))[0].attempts == 2


# --- checks and polls


def test_a_check_that_says_no_fails_its_step() -> None:
    out, _ = play(book(act("a", "toy.check", {"ok": False, "message": "disk is full"})))
    assert (out.status, error_of(out)) == ("failed", "disk is full")


def test_until_decides_over_the_verdict() -> None:
    out, _ = play(book(check("a", False, poll=poll("not result.ok"))))
    assert out.status == "succeeded"


def test_a_poll_ends_when_its_condition_has_held_without_a_break() -> None:
    step = act("a", "toy.count", {}, poll=poll("result.n not in [1, 2, 5]", every=2.0, hold=3.0))
    out, toy = play(book(step))
    # true at 4 s and 6 s, broken at 7 s (the look that would have ended it), true from 9 s on: 9, 11, 12
    assert (out.status, out.at, view(toy, "a")["attempts"]) == ("succeeded", 12.0, 8)


def test_a_poll_that_never_comes_true_times_out_and_is_to_blame() -> None:
    out, _ = play(book(act("a", "toy.count", {}, poll=poll("result.n > 99", every=2.0, timeout=9.0))))
    assert (out.status, out.kind, out.path, out.at) == ("failed", "timed_out", "a", 9.0)
    assert "not yet" in error_of(out)


def test_fail_when_fails_at_once_also_without_until() -> None:
    polled = act("a", "toy.count", {}, poll=poll("false", every=2.0, fail_when="result.n == 3"))
    assert play(book(polled))[0].at == 4.0
    alone = get("a", "k", poll=poll(None, fail_when="result.value == 4"))
    out, _ = play(book(alone), {"k": 4})
    assert (out.status, "fail_when" in error_of(out)) == ("failed", True)


def test_temporary_errors_and_slow_attempts_are_not_yet_in_a_poll() -> None:
    flaky = act("a", "toy.get", {"key": "k", "fail": "busy", "temporary": True}, poll=poll("true", timeout=7.0))
    assert play(book(flaky))[0].kind == "timed_out"
    hung = act("a", "toy.get", {"key": "k", "hangs": True}, poll=poll("true", timeout=25.0))
    out, _ = play(book(hung))
    assert (out.attempts, out.at) == (3, 25.0)  # each attempt has max(every, 10 s)


# --- gathering


def test_fallback_takes_the_first_that_succeeds_and_its_outputs() -> None:
    _, toy = play(
        book(fallback("f", fail("one"), get("skipped", "k", when="false"), get("two", "k"), get("three", "k"))),
        {"k": 4},
    )
    outputs = view(toy, "f")["outputs"]
    assert (outputs["chosen"], outputs["value"]) == ("two", 4)
    assert view(toy, "three")["status"] == "pending"
    assert toy.events("warning") == {}  # a failed alternative is a note


def test_fallback_with_every_alternative_skipped_fails() -> None:
    out, _ = play(book(fallback("f", get("a", "k", when="false"))))
    assert (out.status, error_of(out)) == ("failed", "every alternative was skipped")


def test_fallback_that_nothing_helped_says_what_each_said() -> None:
    out, _ = play(book(fallback("f", fail("one"), fail("two"))))
    assert error_of(out) == "no alternative succeeded (one: one broke; two: two broke)"
    assert (out.kind, out.step, out.path) == ("failed", "f", "f")  # neither of them is to blame alone


def test_choose_takes_the_first_branch_that_holds() -> None:
    _, toy = play(book(choose("c", ("false", (fail("a"),)), ("true", (get("b", "k"),)), (None, (fail("d"),)))))
    assert view(toy, "c")["outputs"]["chosen"] == 1


def test_choose_without_a_branch_that_holds_fails() -> None:
    out, _ = play(book(choose("c", ("false", (get("a", "k"),)))))
    assert (out.status, error_of(out)) == ("failed", "no branch holds")


def test_foreach_gives_results_and_loop_variables() -> None:
    _, toy = play(
        book(
            foreach(
                "each", "{{ ['u', 'v'] }}",
                act(
                    "say",
                    "flow.set",
                    {"values": {"t": "{{ it }}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"}},
                ),
                as_="it", outputs={"t": "steps.say.outputs.t"},
            ),
            act(
                "after",
                "flow.set",
                {"values": {"all": "{{ steps.each.outputs.results | map(attribute='outputs.t') | list }}"}},
            ),
        )
    )  # fmt: skip
    assert view(toy, "after")["outputs"]["all"] == ["u1/2truefalse", "v2/2falsetrue"]
    results = view(toy, "each")["outputs"]["results"]
    assert [(one["item"], one["index"], one["status"], one["error"]) for one in results] == [
        ("u", 0, "succeeded", None),
        ("v", 1, "succeeded", None),
    ]
    assert results[0]["outputs"]["say"] == {"t": "u1/2truefalse"}


def test_nothing_to_repeat_is_success() -> None:
    out, toy = play(book(foreach("each", [], fail("a"))))
    assert (out.status, view(toy, "each")["outputs"]["results"]) == ("succeeded", [])


def test_items_must_be_a_list() -> None:
    out, _ = play(book(foreach("each", "{{ 'text' }}", get("a", "k"))))
    assert "foreach.items" in error_of(out)


def test_what_never_started_is_pending_in_the_results() -> None:
    _, toy = play(book(foreach("each", ["a", "b", "c"], fail("bad"))))
    assert [one["status"] for one in view(toy, "each")["outputs"]["results"]] == ["failed", "pending", "pending"]


def test_keep_going_runs_all_and_tolerates_so_many() -> None:
    def items(tolerance: Any) -> tuple[str, int]:
        step = foreach(
            "each", [1, 2, 3, 4],
            act("a", "toy.get", {"key": "k", "fail": "{{ 'odd' if item % 2 == 1 else '' }}"}),
            keep_going=tolerance,
        )  # fmt: skip
        out, toy = play(book(step), inputs={"n": 2})
        return out.status, view(toy, "each")["outputs"]["succeeded"]

    assert items(True) == ("failed", 2)
    assert items(1) == ("failed", 2)
    assert items(2) == ("succeeded", 2)
    assert items("50%") == ("succeeded", 2)
    assert items("25%") == ("failed", 2)
    assert items(template("{{ inputs.n }}")) == ("succeeded", 2)
    assert items(None) == ("failed", 0)


def test_the_failure_reported_is_the_first_in_the_journal() -> None:
    out, _ = play(book(parallel("p", fail("slow", after=5), fail("quick", after=1), keep_going=True)))
    assert out.path == "p/quick"


def test_max_concurrent_bounds_how_many_run_at_once() -> None:
    step = foreach(
        "each", [1, 2, 3, 4, 5], act("a", "toy.set", {"key": "k{{ item }}", "value": 1, "takes": 1.0}), max_concurrent=2
    )
    _, toy = play(book(step))
    assert toy.done == ["1s k1=1", "1s k2=1", "2s k3=1", "2s k4=1", "3s k5=1"]


# --- swallowing


def test_continue_swallows_a_failure_and_leaves_a_warning() -> None:
    out, toy = play(book(fail("a", on_failure=CONTINUE), put("b", "b")))
    assert (out.status, toy.world["b"]) == ("succeeded", 1)
    assert toy.events("warning")["a"]["message"] == "a broke"


def test_continue_swallows_its_own_time_out() -> None:
    out, _ = play(book(block("b", wait("nap", 9), timeout=2.0, on_failure=CONTINUE), put("c", "c")))
    assert out.status == "succeeded"


def test_then_continue_comes_after_undo_and_steps() -> None:
    handler = OnFailure(
        undo=True, steps=(put("told", "told", "{{ failure.step }} {{ failure.undo }}"),), then="continue"
    )
    out, toy = play(book(block("b", put("a", "a"), fail("bad"), on_failure=handler)))
    assert (out.status, toy.world) == ("succeeded", {"a": None, "told": "bad succeeded"})


def test_handlers_see_how_their_step_ended() -> None:
    handler = OnFailure(steps=(put("told", "told", "{{ steps.b.status }}: {{ steps.b.error.message }}"),))
    tidy = (put("f", "f", "{{ steps.b.outputs.failed }}"),)
    _, toy = play(book(block("b", fail("bad"), on_failure=handler, finally_=tidy)))
    assert toy.world == {"told": "failed: bad broke", "f": 1}


# --- locks, milestones


def test_locks_are_re_entrant_along_the_path_and_exclude_siblings() -> None:
    nested = block("a", put("x", "x", 1, takes=2, locks=["one"]), locks=["one"])
    out, toy = play(book(parallel("p", nested, put("y", "y", 1, takes=1, locks=["one"]))))
    assert (out.status, toy.done) == ("succeeded", ["2s x=1", "3s y=1"])


def test_a_lock_that_is_held_at_the_start_refuses_the_run() -> None:
    out, toy = play(
        book(put("a", "a", locks=["db/{{ inputs.env }}"]), finally_=(put("f", "f"),)),
        {"lock:db/prod": True},
        inputs={"env": "prod"},
    )
    assert (out.kind, toy.done) == ("refused", [])


def test_an_assertion_before_the_first_change_refuses_the_run_and_its_handlers_still_run() -> None:
    refusing = act("ok", "flow.assert", {"that": False, "message": "no good"})
    out, toy = play(book(get("a", "k"), refusing, on_failure=OnFailure(steps=(put("told", "told"),))))
    assert (out.status, out.kind, toy.world) == ("failed", "refused", {"told": 1})
    late, _ = play(book(put("a", "a"), refusing))
    assert late.kind == "failed"


def test_a_milestone_is_met_by_success_and_not_by_a_swallowed_failure() -> None:
    _, toy = play(
        book(
            get("a", "k", milestone="seen"),
            fail("b", on_failure=CONTINUE, milestone="never"),
            get("c", "k", when="false", milestone="skipped"),
            block("d", fail("e", on_failure=CONTINUE), milestone="tolerated"),
        )
    )
    assert sorted(data["name"] for data in toy.events("milestone").values()) == ["seen", "tolerated"]


def test_a_milestone_is_taken_back_when_its_step_is_undone() -> None:
    _, toy = play(book(block("b", put("a", "a", milestone="switched"), fail("bad"), on_failure=OnFailure(undo=True))))
    assert [data["name"] for data in toy.events("milestone.taken_back").values()] == ["switched"]
