"""The shipped rollbacks in the SIMULATED world: each scenario once, as a user has it: plan, run, undo.

`runbook run --sandbox` is a command of its own. The world runs in this process, so that a test sees what became of it;
plan and undo are made here, by the same functions as the commands'.
"""

from __future__ import annotations

import collections
import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import runbook
from runbook.runner import session
from runbook.runner.journal import Event
from runbook.runner.store import Store
from runbook.sandbox import kinds, scenario, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests import emergency
from tests.command import Commands
from tests.kube import meaning

SPACE = emergency.SPACE
TEAM, SENIOR = "simulated-routing-key", "simulated-senior-routing-key"
AT_ONCE = 6  # most of a run is waiting
KINDS = (kinds.SERVICE, kinds.DEPLOYMENT, kinds.HTTP_ROUTE, kinds.SECRET, kinds.CONFIG_MAP)


@dataclass
class Branch:
    """What one scenario came to."""

    exit: int
    said: str
    planned: dict[str, Any]
    sent_by_plan: list[Any]
    events: list[Event]
    states: dict[str, dict[str, Any]]
    undo: int | None
    told: list[str]
    pages: list[tuple[str, str]]
    course: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, str]:
        """Step path -> status."""
        return {event.key: event.data["status"] for event in self.events if event.kind == "step.ended"}

    @property
    def outputs(self) -> dict[str, Any]:
        (event,) = [event for event in self.events if event.kind == "run.ended"]
        return dict(event.data["outputs"])

    @property
    def warnings(self) -> dict[str, str]:
        return {event.key: event.data["message"] for event in self.events if event.kind == "warning"}

    def images(self, state: str = "after") -> dict[str, str]:
        """Deployment -> the tag that it asks for."""
        return {name: one["image"] for name, one in self._deployments(state).items()}

    def replicas(self, state: str = "after") -> dict[str, int]:
        return {name: one["replicas"] for name, one in self._deployments(state).items()}

    def weights(self, state: str = "after") -> dict[str, int]:
        """Of the HTTPRoute's backends."""
        route = self.states[state]["HTTPRoute/analysis-service"]
        return {one["name"]: one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]}

    def annotation(self, deployment: str, name: str) -> str | None:
        metadata = self.states["after"][f"Deployment/{deployment}"]["metadata"]
        return (metadata.get("annotations") or {}).get(name)

    def _deployments(self, state: str) -> dict[str, dict[str, Any]]:
        found = {}
        for key, item in self.states[state].items():
            kind, _, name = key.partition("/")
            if kind == "Deployment" and name != "prometheus":
                image = item["spec"]["template"]["spec"]["containers"][0]["image"]
                found[name] = {"image": image.rpartition(":")[2], "replicas": item["spec"]["replicas"]}
        return found


def observed(sandbox: Sandbox) -> dict[str, Any]:
    """The cluster's meaning: no uids, versions or times; pods by what they are, not by their names."""
    seen: dict[str, Any] = {}
    for kind in KINDS:
        for item in sandbox.world.list(kind, SPACE):
            seen[f"{kind.kind}/{item['metadata']['name']}"] = meaning(item)
    seen["pods"] = dict(
        collections.Counter(
            (pod["spec"]["containers"][0]["image"], pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"])
            for pod in sandbox.world.list(kinds.POD, SPACE)
        )
    )
    for name in sandbox.releases.names(SPACE):
        newest = sandbox.releases.history(SPACE, name)[-1]
        seen[f"release/{name}"] = (newest.status, newest.chart, newest.app_version, newest.manifest)
    return seen


def settled(sandbox: Sandbox, wanted: Mapping[str, Any], seconds: float = 15.0) -> dict[str, Any]:
    """What is there once the controllers are done: as wanted, or at the end of the patience."""
    until = time.monotonic() + seconds
    while True:
        found = observed(sandbox)
        if found == wanted or time.monotonic() > until:
            return found
        time.sleep(0.05)


def rehearse(name: str, case: str, folder: Path, edits: emergency.Edits | None = None) -> Branch:
    """Plan, run, and undo what stands then. `edits`: other numbers in the playbooks, as emergency.playbook has them."""
    folder.mkdir()
    playbooks = emergency.playbook(folder, edits).parent
    path = playbooks / f"{name}.yaml"
    text = (emergency.PLAYBOOKS / "scenarios" / name / f"{case}.yaml").read_text()
    given = scenario.parse(text, f"{case}.yaml")
    cli = Commands(folder)
    inputs = cli.write("inputs.yaml", yaml.safe_dump(dict(given.inputs)))
    with surroundings.start(given) as sandbox:
        around = session.World(store=Store(cli.home), surroundings=sandbox.surroundings)
        before = observed(sandbox)
        asked = len(sandbox.asked)
        planned = runbook.plan(path, given.inputs, world=around)
        sent = [one for one in sandbox.asked[asked:] if one.changes and one.resource != "pods/portforward"]
        planned_state = observed(sandbox)
        said = cli("run", str(path), "--sandbox", str(sandbox.coordinates), "--inputs", inputs, "--yes")
        emergency.at_rest(sandbox)
        after = observed(sandbox)
        events = emergency.events_of(around.store.find("last"))
        stands = any(event.kind == "call.result" for event in events) and after != before
        undo = int(session.undo("last", world=around).exit) if stands else None
        return Branch(
            exit=said.code,
            said=said.out + said.err,
            planned={row["key"]: row for row in json.loads(planned.to_json())["rows"]},
            sent_by_plan=sent,
            events=events,
            states={
                "before": before,
                "planned": planned_state,
                "after": after,
                "undone": settled(sandbox, before) if undo == 0 else observed(sandbox),
            },
            undo=undo,
            told=_slack(sandbox),
            pages=[
                (one.body["routing_key"], one.body["event_action"])
                for one in sandbox.received("pagerduty")
                if one.status == 202
            ],
            course=emergency.course(sandbox),
        )


@dataclass
class Stage:
    """One world in which several runs follow each other."""

    sandbox: Sandbox
    playbook: Path
    inputs: Mapping[str, Any]
    around: session.World

    def run(self, **inputs: Any) -> session.Ended:
        return emergency.start(self.playbook, self.around, {**self.inputs, "announce": False, **inputs})

    def image(self, deployment: str) -> str:
        item = self.sandbox.world.get(kinds.DEPLOYMENT, SPACE, deployment)
        return str(item["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]


@contextlib.contextmanager
def stage(name: str, case: str, folder: Path) -> Iterator[Stage]:
    """The world of a scenario."""
    text = (emergency.PLAYBOOKS / "scenarios" / name / f"{case}.yaml").read_text()
    given = scenario.parse(text, f"{case}.yaml")
    with surroundings.start(given) as sandbox:
        around = session.World(store=Store(folder / "home"), surroundings=sandbox.surroundings)
        yield Stage(sandbox, emergency.PLAYBOOKS / f"{name}.yaml", given.inputs, around)


def _slack(sandbox: Sandbox) -> list[str]:
    """What Slack got, without icons and titles: started, completed, failed ..."""
    found = [one.body["text"].splitlines()[0] for one in sandbox.received("slack") if one.status == 200]
    return [line.rpartition("* ")[2].partition(" (")[0] for line in found]


def rehearsals(
    request: pytest.FixtureRequest,
    folder: Path,
    name: str,
    edits: Mapping[str, emergency.Edits] | None = None,
) -> Iterator[Mapping[str, Future[Branch]]]:
    """All scenarios that the selected tests of this module want, several at once."""
    mine = [
        item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module
    ]
    params = [item.callspec.params for item in mine if hasattr(item, "callspec")]
    wanted = dict.fromkeys(str(given["case"]) for given in params if "case" in given)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case: pool.submit(rehearse, name, case, folder / case, (edits or {}).get(case)) for case in wanted}


def promised(planned: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that a plan (its rows by their keys) is certain of: key -> diff."""
    rows = planned.items()
    return {key: row.get("diff", []) for key, row in rows if row["verdict"] == "change" and not row.get("maybe")}


def made(events: Sequence[Event]) -> dict[str, Any]:
    """The changes of a run: key -> diff; those of an undo are left out."""
    return {
        event.data["op"]: event.data.get("diff", [])
        for event in events
        if event.kind == "call.intent" and event.data["effect"] == "change" and "undoes" not in event.data
    }


def broken(certain: Mapping[str, Any], changed: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    """Where the plan's diff is another than the run's."""
    both = certain.keys() & changed.keys() - set(but)
    return {key: (certain[key], changed[key]) for key in both if certain[key] != changed[key]}


def keeps_its_promises(branch: Branch, *, but: Sequence[str] = ()) -> None:
    """What holds in every branch: the plan changes nothing, its diff is the change, undo gives back what was.

    `but`: changes that the plan shows otherwise: what names the run, and second changes of one place, which a plan
    shows against what is there now.
    """
    assert branch.sent_by_plan == [], "a plan sends no changing request"
    assert branch.states["planned"] == branch.states["before"]
    certain, changed = promised(branch.planned), made(branch.events)
    assert broken(certain, changed, but) == {}, "the plan's diff is what the run changed"
    if branch.exit == 0:
        assert set(certain) <= set(changed), "what the plan was certain of was done"
    if branch.undo is not None:
        assert branch.undo == 0
        assert branch.states["undone"] == branch.states["before"], "undo gives back what was observed"


def shipped(name: str) -> set[str]:
    """The scenarios beside a playbook."""
    return {path.stem for path in (emergency.PLAYBOOKS / "scenarios" / name).glob("*.yaml")}
