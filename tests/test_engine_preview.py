"""Previews: the engine has no mode for them. Records that are not sure, and one `decide`, show what may happen."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from runbook.interpreter.effects import Call, Record
from runbook.interpreter.engine import Outcome
from runbook.interpreter.model import OnFailure, Playbook
from runbook.interpreter.values import to_wire
from runbook.runner.guard import Guard
from runbook.runner.plan import Plan, Row
from tests import law
from tests.effects_toy import Toy
from tests.fuzz import Maker, make
from tests.law import identity
from tests.playbooks_toy import (
    act,
    block,
    book,
    check,
    choose,
    engine,
    fallback,
    foreach,
    get,
    play,
    poll,
    put,
    run,
    tell,
    wait,
)


def previewed(playbook: Playbook, world: dict[str, Any] | None = None) -> tuple[Outcome, Toy]:
    toy = Toy(dict(world or {}), preview=True)
    return toy.play(engine(playbook, toy)), toy


def shown(toy: Toy) -> list[str]:
    """Steps that a plan would show, `?` where it does not know whether they run."""
    return [call.op + ("?" if call.maybe else "") for call in toy.calls]


UNKNOWN = run("ask_world")


def test_a_plan_changes_nothing() -> None:
    out, toy = previewed(book(put("a", "a"), put("quiet", "q", temporary=True), UNKNOWN), {"a": "old"})
    assert (out.status, out.sure, toy.world) == ("succeeded", False, {"a": "old"})


def test_when_that_is_not_known_is_maybe_and_so_is_what_follows_from_it() -> None:
    playbook = book(
        UNKNOWN,
        put("a", "a", when="steps.ask_world.outputs.rc == 0"),
        put("b", "b", when="steps.a.status == 'succeeded'"),
        put("c", "c"),
    )
    assert shown(previewed(playbook)[1]) == ["ask_world", "a?", "b?", "c"]


def test_choose_shows_the_branches_that_may_hold() -> None:
    branches = (
        ("steps.ask_world.outputs.rc == 0", (put("a", "a"),)),
        ("false", (put("b", "b"),)),
        (None, (put("c", "c"),)),
    )
    assert shown(previewed(book(UNKNOWN, choose("pick", *branches)))[1]) == ["ask_world", "pick/a?", "pick/c?"]


def test_fallback_shows_all_alternatives_until_one_is_sure() -> None:
    steps = (put("one", "x"), put("two", "y"), get("three", "k"), put("four", "z"))
    out, toy = previewed(book(fallback("f", *steps), put("after", "a", when="steps.f.outputs.chosen == 'one'")))
    assert shown(toy) == ["f/one", "f/two?", "f/three?", "after?"]
    assert out.status == "succeeded"


def test_foreach_over_unknown_items_shows_its_body_once() -> None:
    each = foreach(
        "each", "{{ steps.ask_world.outputs.pods }}", act("set", "toy.set", {"key": "{{ item }}", "value": 1})
    )
    assert shown(previewed(book(UNKNOWN, each))[1]) == ["ask_world", "each[0]/set?"]


def test_handlers_are_shown_as_maybe_and_finally_as_sure() -> None:
    guarded = block(
        "b", put("a", "a"), on_failure=OnFailure(undo=True, steps=(put("told", "t"),)), finally_=(put("f", "f"),)
    )
    assert shown(previewed(book(guarded))[1]) == ["b/a", "b!on_failure/told?", "b!finally/f"]


def test_a_checks_no_is_not_fatal_and_a_poll_looks_once() -> None:
    playbook = book(
        put("a", "k", 1),
        check("ok", False),
        act("wait", "toy.check", {"key": "k", "value": 1}, poll=poll("result.ok")),
        put("b", "b"),
    )
    out, toy = previewed(playbook)
    assert (out.status, shown(toy)) == ("succeeded", ["a", "ok", "wait", "b"])


def test_waits_and_people_do_not_hold_a_plan() -> None:
    out, _ = previewed(book(wait("nap", 3600), act("ok", "manual.approve", {"message": "?"}), put("a", "a")))
    assert (out.status, out.at) == ("succeeded", 0.0)


class Calm(Maker):
    """Playbooks in which nothing fails and nothing is unknown."""

    def step(self, depth: int) -> Any:
        kinds = ["put", "get", "nap", "restart"] + (["block", "parallel", "foreach", "choose"] if depth else [])
        kind = self.r.choice(kinds)
        return getattr(self, f"_deep_{kind}")(depth) if hasattr(self, f"_deep_{kind}") else getattr(self, f"_{kind}")()

    def leaf(self) -> dict[str, Any]:
        return {}

    def outer(self) -> dict[str, Any]:
        return {"finally_": self.steps(0, 1, 1)} if self.r.random() < 0.3 else {}

    def seconds(self, most: float = 5.0) -> float:
        return 300.0 if most >= 5 else 0.5


def test_law_a_preview_without_unknowns_makes_exactly_the_runs_calls() -> None:
    for seed in range(150):
        maker = Calm(seed)
        maker.r = random.Random(seed)
        playbook = book(*maker.steps(3, 1, 3))
        plain = _without_waiting(playbook)
        out, ran = play(plain)
        assert out.status in ("succeeded", "skipped"), seed
        _, seen = previewed(plain)
        assert not any(call.maybe for call in seen.calls), seed
        assert _calls(ran) == _calls(seen), seed


class Unsure(Toy):
    """A preview as the runner's is: nothing that it says is sure."""

    def _record(self, **what: Any) -> Record:
        return super()._record(**{**what, "sure": False})


def test_law_a_saved_plan_holds_every_call_of_a_run_that_goes_otherwise() -> None:
    """Steps fail, time out and are undone; the world that the plan was made of stands still."""
    for seed in range(150):
        case = dataclasses.replace(make(seed), cancels=(), rounds=())
        seen = Unsure(dict(case.world), preview=True)
        seen.play(engine(case.playbook, seen))
        guard = Guard(_plan([call for call in seen.calls if not call.inverse]))
        for call in law.play(case, dict(case.world)).toy.calls:
            assert guard.refusal(call, None) is None, (seed, call)


def _plan(calls: list[Call]) -> Plan:
    rows = tuple(
        Row(one.op, "", 0, "opaque", action=one.action, effect=one.effect, args=to_wire(one.args), maybe=one.maybe)
        for one in calls
    )
    return Plan("p", "p.yaml", {}, {}, rows, 0.0, "", "", None, None)


def _without_waiting(playbook: Playbook) -> Playbook:
    def calm(step: Any) -> Any:
        changes: dict[str, Any] = {"timeout": None, "background": False, "outputs": ()}
        if hasattr(step, "attempt"):
            changes["attempt"] = 300.0
        if hasattr(step, "steps"):
            changes["steps"] = tuple(calm(child) for child in step.steps)
        if hasattr(step, "branches"):
            changes["branches"] = tuple(
                dataclasses.replace(branch, steps=tuple(calm(child) for child in branch.steps))
                for branch in step.branches
            )
        if hasattr(step, "with_"):
            data = {key: value for key, value in step.with_.data.items() if key not in ("takes", "back", "back_fails")}
            if step.action == "flow.wait":
                data["for"] = 1.0
            changes["with_"] = dataclasses.replace(step.with_, data=data)
        return dataclasses.replace(step, **changes, finally_=tuple(calm(child) for child in step.finally_))

    return dataclasses.replace(playbook, steps=tuple(calm(step) for step in playbook.steps))


def _calls(toy: Toy) -> list[tuple[Any, ...]]:
    """Which calls, without the numbers of records in the keys of inverses."""
    import re

    return sorted((re.sub(r"\[\d+\](?=#)", "[]", key), *rest) for key, *rest in map(identity, toy.calls))


def test_notifications_are_shown() -> None:
    assert shown(previewed(book(tell("news", "hello"), put("a", "a")))[1]) == ["a", "news"]
