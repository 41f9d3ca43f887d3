"""Runs of one playbook on a real control plane, in processes that can be killed at their requests."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.runner import people, session
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests import emergency, kube_cases
from tests.command import Commands, Said
from tests.kube_cases import Case, Seen
from tests.test_emergency_kill import Nursery
from tests.testbed.plane import Plane


@dataclass
class Place:
    """A namespace with the objects, and processes that run one playbook in it."""

    plane: Plane
    space: str
    nursery: Nursery
    folder: Path
    count: int = 0

    @classmethod
    def install(cls, plane: Plane, nursery: Nursery, folder: Path) -> Place:
        space = plane.namespace()
        kube_cases.install(plane, space)
        return cls(plane, space, nursery, folder)

    @property
    def home(self) -> Path:
        """The folder of the run in hand."""
        return self.folder / f"run-{self.count}"

    def start(self, case: Case, **request: Any) -> dict[str, Any]:
        """A new run. `request`: at which of its requests it is killed, and when."""
        self.count += 1
        home = emergency.wipe(self.home)
        (home / "coordinates.json").write_text(json.dumps({"environ": self.plane.environ()}))
        (home / "one.yaml").write_text(case.playbook(self.space))
        return self.again("start", **request)

    def again(self, what: str, in_doubt: str = "ask", **request: Any) -> dict[str, Any]:
        """Another process of the run in hand."""
        playbook, given = self.home / "one.yaml", request or None
        found: dict[str, Any] = self.nursery.order(self.home, playbook, what, request=given, in_doubt=in_doubt)
        return found

    def go_on_from(self, number: int) -> None:
        """Take a copy of an earlier run in hand, as it stands."""
        self.count += 1
        shutil.copytree(self.folder / f"run-{number}", emergency.wipe(self.home), dirs_exist_ok=True)

    def answer(self, choice: str) -> None:
        """What `runbook answer last it CHOICE` does."""
        world = session.World(store=Store(self.home / "home"), surroundings=Real(self.plane.environ()))
        assert not session.answer("last", "it", people.Answer(choice, "ann", time.time()), world=world)

    def command(self, *words: str) -> Said:
        """What a command line says of the run in hand."""
        return Commands(self.home, self.plane.environ())(*words)

    def look(self) -> Seen:
        return kube_cases.look(self.plane, self.space)

    def rest(self) -> None:
        kube_cases.rest(self.plane, self.space)


def without_marks(seen: Seen) -> Any:
    """Objects without the marks of the run that made or restarted them: each run has its own."""

    def plain(found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        return {key: plain(value) for key, value in found.items() if "restarted" not in key and "created-by" not in key}

    return plain(seen.objects)
