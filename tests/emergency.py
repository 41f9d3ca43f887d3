"""The emergency rollback in the SIMULATED world: playbook, scenarios, what became of the cluster, what was told."""

from __future__ import annotations

import collections
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runbook.interpreter.errors import Place
from runbook.interpreter.inputs import coerce
from runbook.interpreter.load import Loaded
from runbook.runner import files, registry, session
from runbook.runner.journal import Event, Journal
from runbook.runner.store import RunFolder, Store
from runbook.runner.surroundings import Surroundings
from runbook.sandbox import kinds, scenario, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests.kube import meaning

PLAYBOOKS = Path(__file__).resolve().parent.parent / "playbooks"
SCENARIOS = PLAYBOOKS / "scenarios" / "emergency"
SPACE = "tracktion-production"
SERVICES = ("analysis-service", "file-watcher", "tracklist-service", "notification-service")

Edits = Mapping[str, Sequence[tuple[str, str]]]
IMPATIENT: Edits = {
    "validate.yaml": [("        every: 2s\n", "        fail_when: not result.ok\n        every: 300ms\n")]
}
"""The same playbooks, but a service that answers an error is given up at once instead of asked for 20 s."""


def playbook(folder: Path, edits: Edits | None = None) -> Path:
    """emergency.yaml: as it ships, or a copy of all playbooks in `folder` with other numbers in them."""
    if edits is None:
        return PLAYBOOKS / "emergency.yaml"
    copies = folder / "playbooks"
    copies.mkdir(parents=True)
    for path in PLAYBOOKS.glob("*.yaml"):
        text = path.read_text()
        for old, new in edits.get(path.name, ()):
            assert old in text, f"{path.name} has no {old!r} any more"
            text = text.replace(old, new)
        (copies / path.name).write_text(text)
    assert set(edits) <= {path.name for path in copies.iterdir()}
    return copies / "emergency.yaml"


def world(name: str, *edits: tuple[str, str], more: str = "") -> scenario.Scenario:
    """A scenario that ships, with some of its lines replaced, and with more lines."""
    text = (SCENARIOS / f"{name}.yaml").read_text()
    for old, new in edits:
        assert old in text, f"{name}.yaml has no {old!r} any more"
        text = text.replace(old, new)
    return scenario.parse(text + more, f"{name}.yaml")


def load(path: Path) -> Loaded:
    """A playbook without problems."""
    loaded = files.read_playbook(str(path), registry.catalogue())
    assert not [problem for problem in loaded.problems if problem.severity == "error"], loaded.problems
    return loaded


def start(
    path: Path,
    around: session.World,
    inputs: Mapping[str, Any],
    listeners: Sequence[Callable[[Event], None]] = (),
) -> session.Ended:
    """Run a playbook."""
    loaded = load(path)
    assert loaded.playbook is not None
    typed, problems = coerce(loaded.playbook.inputs, inputs, {}, Place("<test>"))
    assert not problems, problems
    return session.start(loaded, typed, world=around, listeners=listeners)


def events_of(folder: RunFolder) -> list[Event]:
    """The whole journal; its digests are right."""
    journal = Journal.open(folder.journal, readonly=True)
    try:
        assert journal.verify() == []
        return list(journal.events())
    finally:
        journal.close()


@dataclass
class Rehearsal:
    """One world, one home, and what is run there."""

    sandbox: Sandbox
    folder: Path
    edits: Edits | None = None
    seen: list[tuple[float, Event]] = field(default_factory=list)

    @classmethod
    def of(cls, given: scenario.Scenario, folder: Path, edits: Edits | None = None) -> Rehearsal:
        """Start the world; close it with `with`."""
        return cls(surroundings.start(given), folder, edits)

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()

    @property
    def around(self) -> session.World:
        simulated: Surroundings = self.sandbox.surroundings
        return session.World(store=Store(self.folder / "home"), surroundings=simulated)

    def run(self, **inputs: Any) -> session.Ended:
        """Run the playbook; `seen` gets every event with the time at which it was on disk."""
        return start(playbook(self.folder, self.edits), self.around, inputs, [self._see])

    def undo(self) -> session.Ended:
        return session.undo("last", world=self.around)

    def _see(self, event: Event) -> None:
        if event.seq:
            self.seen.append((time.monotonic(), event))

    @property
    def events(self) -> list[Event]:
        return events_of(self.around.store.find("last"))

    def steps(self) -> dict[str, str]:
        """Step path -> status."""
        return {event.key: event.data["status"] for event in self.events if event.kind == "step.ended"}

    def warnings(self) -> dict[str, str]:
        return {event.key: event.data["message"] for event in self.events if event.kind == "warning"}

    # -- what became of the world

    def slot(self) -> str:
        return str(self.sandbox.world.get(kinds.SERVICE, SPACE, "tracktion")["spec"]["selector"]["slot"])

    def replicas(self, colour: str) -> list[int]:
        """Of the four services, in their order; those that are not there are left out."""
        found = {item["metadata"]["name"]: item["spec"]["replicas"] for item in self._deployments()}
        return [found[f"{name}-{colour}"] for name in SERVICES if f"{name}-{colour}" in found]

    def tags(self, colour: str) -> set[str]:
        """The versions that a colour's Deployments ask for."""
        images = [
            item["spec"]["template"]["spec"]["containers"][0]["image"]
            for item in self._deployments()
            if item["metadata"]["name"].endswith(f"-{colour}")
        ]
        return {image.rpartition(":")[2] for image in images}

    def revisions(self) -> list[tuple[int, str, str]]:
        """Helm's: number, status, version."""
        found = self.sandbox.releases.history(SPACE, "tracktion")
        return [(one.revision, one.status, one.app_version) for one in found]

    def _deployments(self) -> list[dict[str, Any]]:
        return self.sandbox.world.list(kinds.DEPLOYMENT, SPACE)

    # -- what was told

    def slack(self) -> list[str]:
        """The first lines of what Slack got, without icons: `*EMERGENCY ROLLBACK* started (production)`."""
        found = [one.body["text"].splitlines()[0] for one in self.sandbox.received("slack") if one.status == 200]
        return [line.split(" ", 1)[1].removesuffix(" <!channel>") for line in found]

    def pages(self) -> list[tuple[str, str]]:
        """What PagerDuty took: who (the routing key) and what (trigger or resolve)."""
        found = [one for one in self.sandbox.received("pagerduty") if one.status == 202]
        return [(one.body["routing_key"], one.body["event_action"]) for one in found]

    def status_page(self) -> list[str]:
        found = [one for one in self.sandbox.received("statuspage") if one.method in ("POST", "PATCH", "PUT")]
        return [one.body["incident"]["status"] for one in found]


# -- the state of the cluster, so that two can be compared


def observed(sandbox: Sandbox) -> dict[str, Any]:
    """The cluster's meaning: no uids, versions or times; pods by what they are, not by their names."""
    seen: dict[str, Any] = {}
    for kind in (kinds.SERVICE, kinds.DEPLOYMENT, kinds.SECRET, kinds.CONFIG_MAP, kinds.LEASE):
        for item in sandbox.world.list(kind, SPACE):
            seen[f"{kind.kind}/{item['metadata']['name']}"] = meaning(item)
    sets = {item["metadata"]["name"]: item for item in sandbox.world.list(kinds.REPLICA_SET, SPACE)}
    seen["ReplicaSets"] = _counted(
        (_owner(item), _image(item["spec"]["template"]), item["spec"]["replicas"]) for item in sets.values()
    )
    seen["Pods"] = _counted(
        (_owner(sets[_owner(pod)]), _image(pod), pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"])
        for pod in sandbox.world.list(kinds.POD, SPACE)
    )
    newest = sandbox.releases.history(SPACE, "tracktion")[-1]
    seen["release"] = (newest.status, newest.chart, newest.app_version, newest.manifest)
    return seen


def _owner(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["ownerReferences"][0]["name"])


def _image(item: Mapping[str, Any]) -> str:
    return str(item["spec"]["containers"][0]["image"])


def _counted(items: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], int]:
    return dict(collections.Counter(items))


def settles(
    sandbox: Sandbox, wanted: Mapping[str, Any], seconds: float = 10.0, *, only: Iterable[str] | None = None
) -> list[str]:
    """Wait until the cluster is as wanted; what is not so in the end. `only`: these parts of it, else all."""
    until = time.monotonic() + seconds
    while True:
        found = observed(sandbox)
        differ = [name for name in sorted(only or {*found, *wanted}) if found.get(name) != wanted.get(name)]
        if not differ or time.monotonic() > until:
            return [f"{name}: {found.get(name)!r}, not {wanted.get(name)!r}" for name in differ]
        time.sleep(0.05)


def course(sandbox: Sandbox) -> dict[str, list[Any]]:
    """What every object was asked to be, one after the other: a change that is made twice shows."""
    seen: dict[str, list[Any]] = collections.defaultdict(list)
    for change in sandbox.world.history(0):
        if change.kind not in (kinds.SERVICE, kinds.DEPLOYMENT):
            continue
        spec = meaning(change.after["spec"])
        states = seen[f"{change.kind.kind}/{change.after['metadata']['name']}"]
        if not states or states[-1] != spec:
            states.append(spec)
    return dict(seen)


def pods(sandbox: Sandbox, colour: str) -> set[str]:
    """The uids of a colour's pods."""
    found = sandbox.world.list(kinds.POD, SPACE)
    return {pod["metadata"]["uid"] for pod in found if pod["metadata"]["labels"].get("slot") == colour}


def asked(sandbox: Sandbox) -> collections.Counter[str]:
    """Changing requests that the API took, by verb and object; dry runs, reviews and port-forwards are none."""
    return collections.Counter(
        f"{one.verb} {one.resource} {one.name}"
        for one in sandbox.asked
        if one.changes and one.status < 300 and one.resource != "pods/portforward"
    )


def wipe(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def at_rest(sandbox: Sandbox, seconds: float = 10.0) -> None:
    """Wait until the controllers are done: each Deployment has the pods that it asks for, and no other."""
    until = time.monotonic() + seconds
    while True:
        deployments = sandbox.world.list(kinds.DEPLOYMENT, SPACE)
        wanted = sum(item["spec"]["replicas"] for item in deployments)
        pods = sandbox.world.list(kinds.POD, SPACE)
        over = [
            pod for pod in pods if "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") != "Running"
        ]
        if len(pods) == wanted and not over:
            return
        assert time.monotonic() < until, f"{len(pods)} pods, {wanted} are wanted"
        time.sleep(0.05)
