"""Helm killed with SIGKILL in the middle of its work: the next run repairs and ends right, and undo works."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import TemporaryError
from tests.helm_release import App
from tests.kube import Made, change
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

WANTED = {"tag": "1", "level": "level-1", "password": "secret-no-1", "replicas": 0, "extra": True}
KILLS = {
    "rollback": {3: 20, 4: 20},
    "upgrade": {3: 4, 4: 8},
    "install": {3: 3, 4: 6},
    "uninstall": {3: 3, 4: 6},
}
"""How often helm really dies, by what it was at and its version."""


@dataclass(frozen=True)
class Killed:
    """A call whose helm was killed, or was too quick for that.

    `notes`: what it left for its own next attempt. `seconds`: how long helm was at it.
    """

    op: str
    planned: Made
    notes: dict[str, Any]
    died: bool
    seconds: float


class Mortal(App):
    """A release whose helm can be killed after a time."""

    def __init__(self, plane: Plane, version: int, folder: Path, case: str) -> None:
        super().__init__(plane, version, folder)
        self.action = "helm.upgrade" if case == "install" else f"helm.{case}"
        self.parameters: dict[str, Any] = dict(self.given)
        # The Deployment stays as it is: all of the work is writing. (A helm that waits is killed in test_helm.)
        if case == "rollback":
            self._first()
            self.deploy(2, *self._calm, "--set", "extra=true")
            self.deploy(3, *self._calm)
            self.parameters["revision"] = 2
        elif case == "upgrade":
            self._first()
            self.parameters = self.upgrade(WANTED)
        elif case == "install":
            self.parameters = self.upgrade(WANTED)
        else:
            self._first()
        self.before = self.objects()
        self._shim = folder / "shim"
        self._shim.mkdir()
        self._path = self.caller.environ["PATH"]
        shim, pid = self._shim / "helm", self._shim / "pid"
        shim.write_text(
            "#!/bin/sh\n"
            'case "$*" in *--dry-run*) ;; rollback\\ *|upgrade\\ *|uninstall\\ *)'
            f" echo $$ > {pid}.new && mv {pid}.new {pid} ;; esac\n"
            f'exec {self._path.partition(":")[0]}/helm "$@"\n'
        )
        shim.chmod(0o755)

    _calm = ("--set-string", "tag=1", "--set", "replicas=0")

    def _first(self) -> None:
        self.deploy(1, *self._calm)

    def last(self) -> tuple[int, str]:
        """Number and status of the newest revision; (0, "") where there is none."""
        labels = [
            item["metadata"]["labels"] for item in self.plane.read(self.space, "secrets", "-lowner=helm")["items"]
        ]
        return max(((int(found["version"]), str(found["status"])) for found in labels), default=(0, ""))

    def killed(self, seconds: float, *, at_work: bool) -> Killed:
        """Call the action; helm gets SIGKILL so long after it began, or after it wrote down that it is at it."""
        planned = self.caller.plan(self.action, self.parameters)
        number, _ = self.last()
        (self._shim / "pid").unlink(missing_ok=True)
        over = threading.Event()
        thread = threading.Thread(target=self._strike, args=(over, number, seconds, at_work))
        self.caller.environ["PATH"] = f"{self._shim}:{self._path}"
        died = False
        with self.caller.context() as ctx:
            action, args = change(self.action, self.parameters)
            thread.start()
            try:
                action.apply(args, planned.before, ctx)
            except TemporaryError as error:
                assert "ended by signal 9" in error.message  # noqa: PT017  # of any other error the test shall hear
                died = True
            finally:
                over.set()
                thread.join()
                self.caller.environ["PATH"] = self._path
            lived = time.time() - (self._shim / "pid").stat().st_mtime
            return Killed(ctx.op, planned, dict(ctx.notes), died, lived)

    def resumed(self, first: Killed) -> None:
        """The operation's own next attempt, as the host makes it."""
        with self.caller.context(op=first.op, notes=first.notes, attempt=2) as ctx:
            action, args = change(self.action, self.parameters)
            now = action.observe(args, ctx)
            verdict = action.settle(args, first.planned.before, first.planned.after, now, ctx)
            assert verdict != "unknown"
            if verdict != "done":
                action.apply(args, now, ctx)
                now = action.observe(args, ctx)
            assert {name: now.get(name) for name in first.planned.after} == first.planned.after

    def _strike(self, over: threading.Event, number: int, seconds: float, at_work: bool) -> None:
        with self.caller.context() as ctx:
            begun = self._begun(ctx, number) if at_work else lambda: True
            while not (self._shim / "pid").exists() or not begun():
                if over.wait(0.002):
                    return
        if not over.wait(seconds):
            with contextlib.suppress(OSError):
                os.kill(int((self._shim / "pid").read_text()), signal.SIGKILL)

    def _begun(self, ctx: Any, number: int) -> Callable[[], bool]:
        """Whether Helm's own record says that it is at it: a new revision, or the old one marked."""
        cluster = connect(ctx, "current")
        if self.action != "helm.uninstall":
            record = Ref(kinds.SECRET, self.space, f"sh.helm.release.v1.app.v{number + 1}")
            return lambda: cluster.find(ctx, record) is not None
        marked = Ref(kinds.SECRET, self.space, f"sh.helm.release.v1.app.v{number}")

        def begun() -> bool:
            found = cluster.find(ctx, marked)
            return found is None or found["metadata"]["labels"].get("status") != "deployed"

        return begun


@pytest.fixture
def app(control_plane: Plane, helm_version: int, tmp_path: Path, case: str) -> Mortal:
    return Mortal(control_plane, helm_version, tmp_path, case)


@pytest.mark.parametrize("case", list(KILLS))
def test_killed_at_random_instants(app: Mortal, case: str, record_property: Any) -> None:
    """Half of them from its start on, half of them while it writes. Then another run, its own next attempt, its undo.

    Another run has none of the notes of the one that was killed.
    """
    calm = app.killed(3600.0, at_work=False)
    wanted = app.objects()
    assert wanted != app.before
    app.caller.undo(calm.planned)
    assert app.objects() == app.before, "nothing of ours is left either"
    chance = random.Random(app.version)
    whole = {True: calm.seconds, False: 0.1}  # in which it is killed: from its start, at its work; less if too late
    seen: collections.Counter[str] = collections.Counter()
    kills = KILLS[case][app.version]
    for turn in range(6 * kills + 12):  # on a loaded machine many come too early or too late
        last = app.last()
        early = turn % 2 == 0
        first = app.killed(chance.uniform(0.0, whole[early]), at_work=not early)
        now = app.last()
        done = now != last and now[1] in ("deployed", "uninstalled")
        if first.died:
            seen["done" if done else now[1] if now != last else "not begun"] += 1
        if done:
            whole[early] *= 0.8
        back = first.planned
        if turn % 3 == 0:
            again = app.caller.change(app.action, app.parameters)
            assert without_ours(app.objects()) == wanted
            back = again if again.inverse is not None else back
        elif turn % 3 == 1:
            app.resumed(first)
            assert without_ours(app.objects()) == wanted
        app.caller.undo(back)
        assert without_ours(app.objects()) == app.before
        amid = sum(count for status, count in seen.items() if status not in ("done", "not begun"))
        if sum(seen.values()) >= kills and amid >= max(1, kills // 7):
            break
    record_property("killed at", dict(seen))
    assert sum(seen.values()) >= kills
    assert amid >= max(1, kills // 7), seen


def without_ours(objects: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is written down while helm is at it: it may stay where helm was killed after it was done."""
    return {name: found for name, found in objects.items() if name != "Secret/runbook.helm.app"}
