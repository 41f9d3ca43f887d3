"""What a plan promises: it sends no changing request, shows just what the run then does, and holds the run to it.

On the SIMULATED API and, for a user without rights, with its access reviews; the real control plane is in
test_emergency_real.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter import inputs
from runbook.interpreter.errors import Exit, InvalidError, Place, RefusedError
from runbook.interpreter.load import Loaded
from runbook.runner import files, planning, registry, session
from runbook.runner.journal import Event
from runbook.runner.plan import Plan
from runbook.runner.plan_text import render
from runbook.runner.session import Ended, World
from runbook.runner.store import Store
from runbook.sandbox import scenario, surroundings
from runbook.sandbox.surroundings import Sandbox

ROOT = Path(__file__).resolve().parent.parent
EMERGENCY = ROOT / "playbooks" / "emergency.yaml"
TRAFFIC = ROOT / "playbooks" / "scenarios" / "emergency" / "traffic.yaml"
SERVICE = ("k8s:simulated/tracktion-production/Service/tracktion", "slot")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with surroundings.start(TRAFFIC) as running:
        yield running


def world(sandbox: Any, folder: Path) -> World:
    return World(store=Store(folder / "home"), surroundings=sandbox)


def load(file: Path) -> Loaded:
    loaded = files.read_playbook(str(file), registry.catalogue())
    assert loaded.playbook is not None, loaded.problems
    return loaded


def given(loaded: Loaded, **values: Any) -> Mapping[str, Any]:
    assert loaded.playbook is not None
    typed, problems = inputs.coerce(loaded.playbook.inputs, values, {}, Place("test"))
    assert not problems
    return typed


def make(loaded: Loaded, where: World, **values: Any) -> Plan:
    return planning.make(loaded, given(loaded, **values), world=where)


def playbook(folder: Path, steps: str, **root: str) -> Loaded:
    more = "".join(f"{key}: {value}\n" for key, value in root.items())
    file = folder / "playbook.yaml"
    defaults = "defaults: {with: {k8s: {namespace: tracktion-production}}}\n"
    file.write_text(f"runbook: 1\nname: test\n{more}{defaults}steps:\n{steps}", encoding="utf-8")
    return load(file)


SWITCH = """\
  - {id: read, action: k8s.get, with: {kind: Service, name: tracktion}}
  - id: error_rate
    action: prometheus.query
    with: {url: "http://prometheus.tracktion-production:9090", via: k8s, query: "sum(rate(http_requests_total[1m]))"}
  - id: switch
    action: k8s.patch
    with: {kind: Service, name: tracktion, patch: {spec: {selector: {slot: blue}}}}
  - id: grow
    action: k8s.scale
    with: {kind: Deployment, name: file-watcher-blue, replicas: "{{ inputs.size }}"}
"""
MEDDLE = """\
  - id: meddle
    action: k8s.patch
    with: {kind: Service, name: tracktion, patch: {spec: {selector: {slot: red}}}}
"""
SIZE = "{size: {type: integer, default: 3}}"


def diffs(events: list[Event]) -> dict[str, Any]:
    """What the run changed, as its journal has it: operation -> differences."""
    return {
        event.data["op"]: event.data.get("diff", [])
        for event in events
        if event.kind == "call.intent" and event.data["effect"] == "change"
    }


def run(loaded: Loaded, where: World, plan: Plan | None = None) -> tuple[Ended, list[Event]]:
    events: list[Event] = []
    if plan is None:
        return session.start(loaded, given(loaded), world=where, listeners=[events.append]), events
    return planning.apply(plan.to_json(), loaded, world=where, listeners=[events.append]), events


def test_a_plan_sends_no_changing_request(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = make(load(EMERGENCY), world(sandbox, tmp_path))
    changing = [asked for asked in sandbox.asked if asked.changes and not asked.dry_run]
    assert [one for one in changing if one.resource != "selfsubjectaccessreviews"] == []
    assert any(asked.dry_run for asked in sandbox.asked), "the server's own dry run was asked"
    assert sandbox.receivers.received == [] or all(one.service == "prometheus" for one in sandbox.receivers.received)
    assert plan.outcome == "succeeded"
    assert {row.key for row in plan.changes if not row.maybe} >= {"recover/by_traffic/switch_over/switch"}
    assert not (tmp_path / "home" / "runs").exists(), "a plan leaves no run"


def test_the_plans_diff_is_what_the_run_then_changes_for_every_step(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = load(EMERGENCY), world(sandbox, tmp_path)
    plan = make(loaded, where)
    ended, events = run(loaded, where)
    assert ended.exit == Exit.SUCCEEDED
    planned = {row.key: [item.to_data() for item in row.diff] for row in plan.changes if not row.maybe}
    assert diffs(events) == planned
    assert len(planned) == 5


def test_a_saved_plan_is_applied_and_makes_the_same_changes(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = load(EMERGENCY), world(sandbox, tmp_path)
    plan = Plan.from_json(make(loaded, where).to_json())
    ended, events = run(loaded, where, plan)
    assert ended.exit == Exit.SUCCEEDED
    assert set(diffs(events)) == {row.key for row in plan.changes if not row.maybe}


def test_a_saved_plan_is_refused_after_the_object_moved(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = playbook(tmp_path, SWITCH, inputs=SIZE), world(sandbox, tmp_path)
    plan = make(loaded, where)
    assert run(playbook(tmp_path, MEDDLE), where)[0].exit == Exit.SUCCEEDED
    playbook(tmp_path, SWITCH, inputs=SIZE)
    ended, events = run(loaded, where, plan)
    assert ended.exit == Exit.REFUSED
    assert diffs(events) == {}
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert "moved" in ended.outcome.error.message


def test_a_saved_plan_is_accepted_when_only_a_metric_moved(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = playbook(tmp_path, SWITCH, inputs=SIZE), world(sandbox, tmp_path)
    plan = make(loaded, where)
    rate = [row for row in plan.rows if row.key == "error_rate"]
    assert rate[0].verdict == "read"
    text = TRAFFIC.read_text(encoding="utf-8")
    moved = text.replace('{"2.4.0": 42}', '{"2.4.0": 7}')
    assert moved != text
    with surroundings.start(scenario.parse(moved)) as other:  # the same objects, another error rate
        ended, events = run(loaded, world(other, tmp_path), plan)
    assert ended.exit == Exit.SUCCEEDED
    read = next(event for event in events if event.kind == "call.result" and event.key == "error_rate#1")
    assert read.data["outputs"]["value"] == 7
    assert rate[0].detail != "7", "it was another one when the plan was made"
    assert set(diffs(events)) == {"switch", "grow"}


def test_a_saved_plan_refuses_a_call_that_it_does_not_hold(sandbox: Sandbox, tmp_path: Path) -> None:
    steps = """\
  - {id: live, action: k8s.get, with: {kind: Service, name: tracktion}}
  - id: grow
    when: steps.live.outputs.object.spec.selector.slot == 'blue'
    action: k8s.scale
    with: {kind: Deployment, name: file-watcher-blue, replicas: 3}
"""
    loaded, where = playbook(tmp_path, steps), world(sandbox, tmp_path)
    plan = make(loaded, where)
    assert plan.row("grow") is not None
    assert plan.changes == ()
    run(playbook(tmp_path, MEDDLE.replace("red", "blue")), where)
    playbook(tmp_path, steps)
    ended, events = run(loaded, where, plan)
    assert ended.exit == Exit.REFUSED
    assert diffs(events) == {}


def test_a_saved_plan_refuses_other_arguments(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = playbook(tmp_path, SWITCH, inputs=SIZE), world(sandbox, tmp_path)
    data = json.loads(make(loaded, where).to_json())
    for row in data["rows"]:
        if row["key"] == "grow":
            row["args"]["replicas"] = 4
    ended, events = run(loaded, where, Plan.from_json(json.dumps(data)))
    assert ended.exit != Exit.SUCCEEDED
    assert set(diffs(events)) == {"switch"}


def test_a_saved_plan_is_refused_when_its_files_changed_or_it_expired(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded, where = playbook(tmp_path, SWITCH, inputs=SIZE), world(sandbox, tmp_path)
    plan = make(loaded, where)
    changed = playbook(tmp_path, SWITCH.replace("blue}}}", "red}}}"), inputs=SIZE)
    with pytest.raises(RefusedError, match="changed since"):
        run(changed, where, plan)
    data = json.loads(plan.to_json())
    data["made"] -= 4000
    with pytest.raises(RefusedError, match="expired"):
        run(loaded, where, Plan.from_json(json.dumps(data)))
    with pytest.raises(InvalidError, match="not a saved plan"):
        Plan.from_json('{"rows": 1}')


def test_who_may_only_read_gets_the_same_plan_computed_with_the_missing_verbs(sandbox: Sandbox, tmp_path: Path) -> None:
    loaded = playbook(tmp_path, SWITCH, inputs=SIZE)
    full = make(loaded, world(sandbox, tmp_path))
    reader = (
        "world:\n  forbidden: [{verb: patch}, {verb: update}, {verb: create, resource: services}, {verb: delete}]\n"
    )
    text = TRAFFIC.read_text(encoding="utf-8").replace("world:\n", reader, 1)
    with surroundings.start(scenario.parse(text)) as limited:
        poor = make(loaded, world(limited, tmp_path))
    assert {row.key: row.diff for row in poor.changes} == {row.key: row.diff for row in full.changes}
    switch = poor.row("switch")
    assert switch is not None
    assert switch.computed, "the server's dry run needs the verb itself: computed here, and marked so"
    assert not any(row.computed for row in full.changes)
    said = " ".join(poor.missing)
    assert "patch" in said
    assert "services" in said
    assert "deployments/scale" in said
    assert full.missing == ()


def test_a_check_that_says_no_now_does_not_end_the_plan(sandbox: Sandbox, tmp_path: Path) -> None:
    steps = """\
  - {id: ready, action: flow.assert, with: {that: false, message: not yet}}
  - {id: grow, action: k8s.scale, with: {kind: Deployment, name: file-watcher-blue, replicas: 3}}
"""
    plan = make(playbook(tmp_path, steps), world(sandbox, tmp_path))
    assert [(row.key, row.verdict) for row in plan.rows] == [("ready", "no"), ("grow", "change")]
    assert "does not hold now" in render(plan)


def test_what_a_planned_change_would_alter_is_unknown_to_decisions(sandbox: Sandbox, tmp_path: Path) -> None:
    steps = """\
  - {id: switch, action: k8s.patch, with: {kind: Service, name: tracktion, patch: {spec: {selector: {slot: blue}}}}}
  - {id: live, action: k8s.get, with: {kind: Service, name: tracktion}}
  - id: grow
    when: steps.live.outputs.object.spec.selector.slot == 'blue'
    action: k8s.scale
    with: {kind: Deployment, name: file-watcher-blue, replicas: 3}
  - id: either
    choose:
      - {when: steps.live.outputs.found, steps: [{id: one, action: flow.set, with: {values: {a: 1}}}]}
      - {steps: [{id: two, action: flow.set, with: {values: {a: 2}}}]}
  - id: each
    foreach: {items: "{{ steps.live.outputs.objects }}", as: it}
    steps: [{id: name, action: flow.set, with: {values: {n: "{{ it.metadata.name }}"}}}]
"""
    plan = make(playbook(tmp_path, steps), world(sandbox, tmp_path))
    rows = {row.key: row for row in plan.rows}
    assert rows["live"].detail.startswith("as of now")
    assert rows["grow"].maybe
    assert rows["grow"].verdict == "change"
    branches = [row for row in plan.rows if row.id in ("one", "two")]
    assert [row.id for row in branches] == ["one", "two"]
    assert all(row.maybe for row in branches)
    assert [row.maybe for row in plan.rows if row.id == "name"] == [True]
    assert plan.outcome == "succeeded"


def test_a_secret_in_a_plan_shows_only_that_it_changes(sandbox: Sandbox, tmp_path: Path) -> None:
    steps = """\
  - id: put
    action: k8s.patch
    with:
      kind: Secret
      name: db-credentials
      type: merge
      patch: {stringData: {url: canary-in-the-plan}, data: {extra: Y2FuYXJ5LWluLXRoZS1wbGFu}}
"""
    plan = make(playbook(tmp_path, steps), world(sandbox, tmp_path))
    shown = render(plan) + json.dumps([item.to_data() for row in plan.rows for item in row.diff])
    assert "simulated-password" not in shown
    assert "Y2FuYXJ5LWluLXRoZS1wbGFu" not in shown
    assert plan.changes[0].diff


def test_what_would_fail_now_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    steps = "  - {id: gone, action: k8s.scale, with: {kind: Deployment, name: no-such, replicas: 3}}\n"
    plan = make(playbook(tmp_path, steps), world(sandbox, tmp_path))
    assert plan.outcome == "failed"
    assert plan.rows[0].verdict == "failed"
    assert "no-such" in plan.rows[0].error
    assert "would end failed" in render(plan)
