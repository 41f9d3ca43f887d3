"""Helm killed with SIGKILL in the middle of its work: the next run repairs and ends right, and undo works."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import TemporaryError
from tests.helm_release import App
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

KILLS = 20


class Mortal(App):
    """A release whose helm can be killed after a time."""

    def __init__(self, plane: Plane, version: int, folder: Path) -> None:
        super().__init__(plane, version, folder)
        # The Deployment stays as it is: all of a roll-back is writing. (A helm that waits is killed in test_helm.)
        self.deploy(1, "--set-string", "tag=1")
        self.deploy(2, "--set-string", "tag=1", "--set", "extra=true")
        self.two = self.objects()
        self.deploy(3, "--set-string", "tag=1")
        self.plane.rolled_out(self.space, "app")
        self.three = self.objects()
        self._shim = folder / "shim"
        self._shim.mkdir()
        self._path = self.caller.environ["PATH"]
        shim, pid = self._shim / "helm", self._shim / "pid"
        shim.write_text(
            f'#!/bin/sh\n[ "$1" = rollback ] && echo $$ > {pid}.new && mv {pid}.new {pid}\n'
            f'exec {self._path.partition(":")[0]}/helm "$@"\n'
        )
        shim.chmod(0o755)

    def killed(self, given: Mapping[str, Any], record: str, seconds: float) -> bool:
        """Roll back; helm gets SIGKILL so long after it began, or after its record `record` appeared. Did it die?"""
        (self._shim / "pid").unlink(missing_ok=True)
        over = threading.Event()
        thread = threading.Thread(target=self._strike, args=(over, record, seconds))
        self.caller.environ["PATH"] = f"{self._shim}:{self._path}"
        thread.start()
        try:
            self.caller.change("helm.rollback", given)
        except TemporaryError as error:
            return "ended by signal 9" in error.message
        else:
            return False
        finally:
            over.set()
            thread.join()
            self.caller.environ["PATH"] = self._path

    def _strike(self, over: threading.Event, record: str, seconds: float) -> None:
        with self.caller.context() as ctx:
            ref = Ref(kinds.SECRET, self.space, record)
            cluster = connect(ctx, "current") if record else None
            while not (self._shim / "pid").exists() or (cluster is not None and cluster.find(ctx, ref) is None):
                if over.wait(0.002):
                    return
        if not over.wait(seconds):
            with contextlib.suppress(OSError):
                os.kill(int((self._shim / "pid").read_text()), signal.SIGKILL)


@pytest.fixture
def app(control_plane: Plane, helm_version: int, tmp_path: Path) -> Mortal:
    return Mortal(control_plane, helm_version, tmp_path)


def test_killed_at_random_instants_of_a_rollback(app: Mortal, record_property: Any) -> None:
    """Half of them from its start on, half of them while it writes."""
    chance = random.Random(app.version)
    whole = {True: 0.4, False: 0.1}  # seconds in which it is killed: from its start, from its record; less if too late
    seen: collections.Counter[str] = collections.Counter()
    for turn in range(3 * KILLS):
        last, _ = app.newest()
        early = turn % 2 == 0
        record = "" if early else f"sh.helm.release.v1.app.v{last + 1}"
        killed = app.killed({**app.given, "revision": 2}, record, chance.uniform(0.0, whole[early]))
        number, status = app.newest()
        done = number > last and status == "deployed"
        if killed:
            seen["done" if done else status if number > last else "not begun"] += 1
        if done:
            whole[early] *= 0.8
        # The next run has none of the notes of the one before.
        repaired = app.caller.change("helm.rollback", {**app.given, "revision": 2})
        assert without_ours(app.objects()) == app.two
        if repaired.inverse is not None:
            app.caller.undo(repaired)
        else:
            assert done
            app.caller.change("helm.rollback", {**app.given, "revision": 3})
        assert app.objects() == app.three, "nothing of ours is left either"
        if sum(seen.values()) == KILLS:
            break
    record_property("killed at", dict(seen))
    assert sum(seen.values()) == KILLS
    assert seen["pending-rollback"] >= 3


def without_ours(objects: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is written down while helm is at it: it may stay where helm was killed after it was done."""
    return {name: found for name, found in objects.items() if name != "Secret/runbook.helm.app"}
