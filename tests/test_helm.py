"""Family helm with real Helm 3 and 4 on a real control plane."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._helm import client, pending
from runbook.actions._helm import work as working
from runbook.actions._helm.history import Release, numbered, target
from runbook.actions._helm.manifest import difference
from runbook.contract import Absent, PermanentError, TemporaryError
from tests.kube import Caller, change, meaning, opened
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


class App:
    """A release `app` with revisions 1 to 3, each with an image and a password of its own."""

    def __init__(self, plane: Plane, version: int, chart: Path, folder: Path) -> None:
        self.plane = plane
        self.version = version
        self.chart = chart
        self.space = plane.namespace()
        self.caller = Caller(plane, folder, helm=version)
        self.given = {"namespace": self.space, "release": "app"}
        for number in (1, 2, 3):
            self.deploy(number)

    def deploy(self, number: int, *options: str) -> None:
        values = [f"image.tag={number}", f"password=secret-no-{number}", "serviceAccount.create=false"]
        sets = [option for value in values for option in ("--set", value)]
        self.helm("upgrade", "--install", "app", str(self.chart), *sets, *options)

    def helm(self, *arguments: str) -> str:
        return self.plane.helm(self.version, "-n", self.space, *arguments)

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.helm("history", "app", "-o", "json"))
        return found

    def image(self) -> str:
        found = self.plane.read(self.space, "deployment", "app")
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    def spoil(self, status: str, description: str, **info: Any) -> None:
        """What a helm that was killed leaves: the newest revision's record, with another status."""
        newest = self.history()[-1]["revision"]
        name = f"sh.helm.release.v1.app.v{newest}"
        record = self.plane.read(self.space, "secret", name)
        raw = gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"])))
        release = json.loads(raw)
        release["info"] |= {"status": status, "description": description, **info}
        packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
        body = {"data": {"release": packed}, "metadata": {"labels": {"status": status}}}
        self.plane.kubectl("-n", self.space, "patch", "secret", name, "--type=merge", "-p", json.dumps(body))


@pytest.fixture
def app(control_plane: Plane, helm_version: int, helm_chart: Path, tmp_path: Path) -> App:
    return App(control_plane, helm_version, helm_chart, tmp_path)


def test_history_says_where_a_roll_back_goes(app: App) -> None:
    found = app.caller.read("helm.history", app.given)
    assert found["found"]
    assert (found["current"]["revision"], found["current"]["status"]) == (3, "deployed")
    assert found["current"]["images"] == ["nginx:3"]
    assert (found["target"]["revision"], found["target"]["images"]) == (2, ["nginx:2"])
    assert [entry["revision"] for entry in found["revisions"]] == [1, 2, 3]
    assert app.caller.read("helm.status", app.given) == {"status": "deployed", "revision": 3}
    absent = {**app.given, "release": "nope"}
    assert not app.caller.read("helm.history", {**absent, "optional": True})["found"]
    with pytest.raises(PermanentError, match="no release nope"):
        app.caller.read("helm.history", absent)


def test_rollback_and_back(app: App) -> None:
    whole = app.plane.read(app.space, "deployment", "app")
    planned = app.caller.plan("helm.rollback", app.given)
    assert app.history()[-1]["revision"] == 3
    assert app.caller.settle("helm.rollback", app.given, planned) == "not_done"
    made = app.caller.change("helm.rollback", app.given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"from_revision": 3, "revision": 2}
    assert app.image() == "nginx:2"
    assert app.caller.settle("helm.rollback", app.given, planned) == "done"
    again = app.caller.change("helm.rollback", {**app.given, "revision": 2})
    assert again.before == again.after
    assert len(app.history()) == 4
    app.caller.undo(made)
    assert meaning(app.plane.read(app.space, "deployment", "app")) == meaning(whole)


def test_two_roll_backs_in_a_row_never_return_to_the_bad_revision(app: App) -> None:
    assert app.caller.change("helm.rollback", app.given).outputs["revision"] == 2
    assert app.caller.change("helm.rollback", app.given).outputs["revision"] == 1
    assert app.image() == "nginx:1"
    with pytest.raises(PermanentError, match="no earlier revision that was ever deployed"):
        app.caller.plan("helm.rollback", app.given)
    app.deploy(4)
    # Revision 5 (`Rollback to 1`) served before the new one, not the bad 2 and 3.
    assert app.caller.change("helm.rollback", app.given).outputs == {"from_revision": 6, "revision": 1}
    assert app.image() == "nginx:1"


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_second_attempt_goes_where_the_first_one_went(app: App) -> None:
    with app.caller.context() as ctx:
        action, args = change("helm.rollback", app.given)
        action.apply(args, action.observe(args, ctx), ctx)  # and its answer is lost
        notes = dict(ctx.notes)
    second = app.caller.change("helm.rollback", app.given, notes=notes, attempt=2)
    assert second.before == second.after
    assert app.image() == "nginx:2"


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_the_plan_shows_the_manifests_but_no_secret(app: App) -> None:
    with app.caller.context() as ctx:
        action, args = change("helm.rollback", app.given)
        before = action.observe(args, ctx)
        text = action.preview(args, before, action.expect(args, before, ctx), ctx)
        assert action.preflight(args, ctx) == []
    assert text is not None
    assert "nginx:3" in text
    assert "nginx:2" in text
    assert "secret-no-" not in text
    assert "password: (not shown, changed)" in text
    assert "no hooks run" in text


def test_a_release_that_somebody_left_pending(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether that helm was killed: it is waited for, then refused; a step may say more."""
    app.deploy(4)
    app.spoil("pending-upgrade", "Preparing upgrade", last_deployed="2026-01-01T00:00:00Z")
    patient = {**app.given, "repair_after": "1h"}
    for given in (app.given, patient):
        with pytest.raises(
            TemporaryError, match="another operation in progress: revision 4 is pending-upgrade for"
        ) as wait:
            app.caller.change("helm.rollback", given)  # its record was written just now, whatever it says itself
        assert wait.value.retry_after is not None
        assert lacks(app, "helm.rollback", given) == []
    monkeypatch.setattr(pending, "PATIENCE", 0.0)
    sentence = (
        r"release app is pending-upgrade for \d+s \(revision 4\), by a helm that is none of runbook's: whether it was"
        r" killed or is still at it cannot be seen"
    )
    for name, given in (
        ("helm.rollback", app.given),
        ("helm.upgrade", {**app.given, "chart": str(app.chart)}),
        ("helm.uninstall", app.given),
    ):
        with pytest.raises(PermanentError, match=f"^{sentence}$") as refused:
            app.caller.change(name, given)
        assert refused.value.hint is not None
        assert "`repair_after: 10m` repairs it, and so does `helm rollback app` by hand" in refused.value.hint
        (said,) = lacks(app, name, given)  # nothing is begun then, unless an earlier step may repair it
        assert re.match(sentence, said)
        assert isinstance(said, Absent)
    with pytest.raises(TemporaryError, match="another operation in progress"):
        app.caller.change("helm.rollback", patient)
    assert app.history()[-1]["status"] == "pending-upgrade"
    now = {**app.given, "repair_after": "0s"}
    planned = app.caller.plan("helm.rollback", now)
    assert any("pending-upgrade" in line for line in planned.log)
    assert lacks(app, "helm.rollback", now) == []
    made = app.caller.change("helm.rollback", now)
    assert any("longer than `repair_after`: its helm counts as killed, repaired" in line for line in made.log)
    assert made.outputs["revision"] == 3
    assert made.inverse is not None
    assert made.inverse.args["revision"] == 3  # a half-made upgrade is nothing to go back to: what served is
    assert app.image() == "nginx:3"


def lacks(app: App, name: str, given: dict[str, Any]) -> list[str]:
    with app.caller.context() as ctx:
        action, args = opened(name, given)
        return action.preflight(args, ctx)


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_an_uninstall_of_somebody_else_that_began_just_now(app: App) -> None:
    """Helm goes on saying when the release was deployed, which may be long ago."""
    app.spoil("uninstalling", "Deletion in progress (or silently failed)", last_deployed="2026-01-01T00:00:00Z")
    with pytest.raises(TemporaryError, match="another operation in progress: revision 3 is uninstalling"):
        app.caller.change("helm.rollback", {**app.given, "revision": 2, "repair_after": "1h"})
    assert app.image() == "nginx:3"


def test_our_own_killed_roll_back_is_repaired_and_repeated(app: App) -> None:
    planned = app.caller.plan("helm.rollback", app.given)
    with app.caller.context() as ctx:
        action, args = change("helm.rollback", app.given)
        action.apply(args, planned.before, ctx)
        notes = dict(ctx.notes)
    app.spoil("pending-rollback", "Rollback to 2")
    assert app.caller.settle("helm.rollback", app.given, planned, notes=notes) == "partial"
    assert app.caller.settle("helm.rollback", app.given, planned) == "unknown"  # somebody else's
    repaired = app.caller.change("helm.rollback", app.given, notes=notes)
    assert repaired.outputs["revision"] == 2
    assert app.history()[-1]["status"] == "deployed"
    assert app.image() == "nginx:2"


def test_helm_killed_at_its_work_leaves_nothing_that_cannot_be_repaired(app: App) -> None:
    """A real kill -9 of a real helm that waits for pods which never become ready."""
    app.deploy(4, "--set-json", 'nodeSelector={"no":"such-node"}')
    app.deploy(5)
    argv = ["helm", "-n", app.space, "rollback", "app", "4", "--wait", "--timeout", "60s"]
    process = subprocess.Popen(
        argv, env=app.plane.environ(app.version), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    app.plane.until(lambda: app.history()[-1]["status"] == "pending-rollback")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert app.history()[-1]["revision"] == 6
    with pytest.raises(TemporaryError, match="another operation in progress"):
        app.caller.change("helm.rollback", {**app.given, "revision": 3})  # somebody else's, as far as can be seen
    work = {"makes": 6, "content": "rollback to 4"}
    with app.caller.context(notes={"work": work}) as ctx:
        action, args = change("helm.rollback", {**app.given, "revision": 3})
        action.apply(args, action.observe(args, ctx), ctx)
        assert any("its helm was killed" in line for line in ctx.lines)
    assert app.image() == "nginx:3"
    assert app.history()[-1]["status"] == "deployed"


@pytest.mark.timed
def test_helm_ends_within_a_second_of_the_deadline(app: App) -> None:
    app.deploy(4, "--set-json", 'nodeSelector={"no":"such-node"}')
    app.deploy(5)
    began = time.monotonic()
    with pytest.raises(TemporaryError):
        app.caller.change("helm.rollback", {**app.given, "revision": 4}, seconds=2.5)
    assert time.monotonic() - began < 3.5
    listed = app.caller.read("helm.history", app.given)
    assert listed["current"]["status"] in ("pending-rollback", "failed")
    assert listed["target"]["revision"] == 4  # a roll-back that did not end counts as not tried: 5 still serves


def test_errors_by_their_text(app: App, control_plane: Plane, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"no revision 99 \(Helm keeps 1, 2, 3\)"):
        app.caller.plan("helm.rollback", {**app.given, "revision": 99})
    nobody = Caller(control_plane, tmp_path, helm=app.version, user="nobody")
    with pytest.raises(PermanentError, match='cannot list resource "secrets"'):
        nobody.read("helm.history", app.given)
    with nobody.context() as ctx:
        action, args = opened("helm.rollback", app.given)
        assert [sentence.partition(" in namespace")[0] for sentence in action.preflight(args, ctx)] == [
            "no right to list secrets", "no right to get secrets", "no right to create secrets",
            "no right to update secrets",
        ]  # fmt: skip
    with pytest.raises(PermanentError, match="the kubeconfig has no usable context 'other'; it has testbed"):
        app.caller.read("helm.history", {**app.given, "context": "other"})
    gone = tmp_path / "kubeconfig"
    gone.write_text(control_plane.kubeconfig.read_text().replace(f":{control_plane.port}", ":9"))
    app.caller.environ["KUBECONFIG"] = str(gone)
    with pytest.raises(TemporaryError, match="cluster unreachable"):
        app.caller.read("helm.history", app.given)
    app.caller.environ["PATH"] = str(tmp_path)
    with pytest.raises(PermanentError, match="helm: not found"):
        app.caller.read("helm.history", app.given)
    with app.caller.context() as ctx:
        assert action.preflight(args, ctx) == ["helm is not on PATH: install Helm 3 or 4"]


def test_fields_set_by_hand(app: App) -> None:
    app.plane.kubectl("-n", app.space, "scale", "deployment", "app", "--replicas=5")
    if app.version >= 4:
        with pytest.raises(PermanentError) as refused:
            app.caller.change("helm.rollback", app.given)
        assert refused.value.hint is not None
        assert "force_conflicts" in refused.value.hint
    made = app.caller.change("helm.rollback", {**app.given, "force_conflicts": True})
    assert made.outputs["revision"] == 2
    assert app.image() == "nginx:2"


# -- who is at it


def killed_earlier(app: App) -> dict[str, Any]:
    """A roll-back of an earlier run that was killed: Helm's record; and what that run had written down."""
    with app.caller.context() as ctx:
        action, args = change("helm.rollback", {**app.given, "revision": 2})
        action.apply(args, action.observe(args, ctx), ctx)
        op = ctx.op
    app.spoil("pending-rollback", "Rollback to 2")
    until = {"until": time.time() + 60, "seconds": 60.0}
    return {"makes": 4, "content": "rollback to 2", **until, **working.me(), "op": op}


def write_down(app: App, work: dict[str, Any]) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "runbook.helm.app"}}
    data = {"stringData": {"work": json.dumps(work)}}
    app.plane.kubectl("-n", app.space, "apply", "-f", "-", stdin=json.dumps(body | data))


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_who_cannot_be_seen_to_be_dead_is_waited_for(app: App) -> None:
    work = killed_earlier(app)
    op = f"run-7:held-{os.getpid()}-{app.version}"
    alive = subprocess.Popen(["sleep", "60"], env={"RUNBOOK_OP": op})
    somebody = r"revision 4 is pending-rollback for \d+s"
    try:
        write_down(app, work | {"op": op, "makes": 9})
        with pytest.raises(TemporaryError, match="another operation in progress: by run run-7 on"):
            working.run(app.caller.context(), client.HelmArgs(**app.given), 5, "rollback to 1", ["rollback", "app"])
        write_down(app, work | {"op": op})
        with pytest.raises(TemporaryError, match=r"another operation in progress: .*by run run-7 on"):  # an undo, too
            app.caller.change("helm.rollback", {**app.given, "revision": 3, "instead_of": "rollback to 2"})
        for changed, said in (
            ({"host": "elsewhere"}, "by run run-1 on elsewhere"),
            ({"space": "pid:[1]"}, "by run run-1 on"),  # another container
            ({"boot": "another"}, "by run run-1 on"),
            ({"op": op}, "by run run-7 on"),
            ({"makes": 5}, somebody),
            ({"content": "rollback to 1"}, somebody),
        ):
            write_down(app, work | changed)
            with pytest.raises(TemporaryError, match=f"another operation in progress: .*{said}") as refused:
                app.caller.change("helm.rollback", app.given)
            assert refused.value.retry_after is not None
            assert app.history()[-1]["status"] == "pending-rollback"
    finally:
        alive.kill()
        alive.wait()
    write_down(app, work | {"op": op})
    made = app.caller.change("helm.rollback", app.given)
    assert made.outputs == {"from_revision": 3, "revision": 2}
    assert made.inverse is not None
    assert made.inverse.args["revision"] == 3, "what served when that run began"
    assert app.image() == "nginx:2"


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_another_machine_is_waited_for_no_longer_than_its_time_out(app: App) -> None:
    work = killed_earlier(app) | {"host": "elsewhere", "until": time.time() - 3600, "seconds": -3600.0}
    write_down(app, work)
    with pytest.raises(TemporaryError, match=r"revision 4 is pending-rollback for \d+s"):
        app.caller.change("helm.rollback", app.given)  # it began when that one's time was over: somebody does the same
    app.spoil("pending-rollback", "Rollback to 2", last_deployed="2026-01-01T00:00:00Z")
    assert app.caller.change("helm.rollback", app.given).outputs["revision"] == 2


@pytest.mark.parametrize("helm_version", [3], indirect=True, ids=["helm3"])
def test_nothing_is_forgotten_by_a_roll_back(app: App) -> None:
    """Helm keeps as many revisions as it is told, ten by default; a roll-back's `Rollback to N` must mean something."""
    app.caller.environ["HELM_MAX_HISTORY"] = "3"
    app.caller.change("helm.rollback", {**app.given, "revision": 1})
    assert [entry["revision"] for entry in app.history()] == [1, 2, 3, 4]
    app.deploy(5, "--history-max", "2")
    assert [entry["revision"] for entry in app.history()] == [4, 5]
    made = app.caller.change("helm.rollback", app.given)
    assert made.outputs == {"from_revision": 5, "revision": 1}, "revision 4 has the content of 1"
    assert app.image() == "nginx:1"
    app.caller.undo(made)
    assert app.image() == "nginx:5"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("v3.9.4", "helm is version 3.9; 3.14 or newer is needed"),
        ("v5.0.0", "helm is version 5.0; versions 3 and 4 are known to work"),
        ("what?", "helm does not say which version it is; 3.14 or newer is needed"),
    ],
)
def test_a_helm_that_is_too_old(control_plane: Plane, tmp_path: Path, words: str, said: str) -> None:
    """SIMULATED: a program that says only which version it is."""
    program = tmp_path / "bin/helm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{words}'\n")
    program.chmod(0o755)
    caller = Caller(control_plane, tmp_path)
    caller.environ["PATH"] = f"{program.parent}:/usr/bin:/bin"
    with caller.context() as ctx:
        given = {"namespace": "default", "release": "app", "chart": "some/chart"}
        action, args = opened("helm.upgrade", given)
        assert action.preflight(args, ctx) == [said]


# -- without a cluster


def release(revision: int, origin: int | None = None, status: str = "superseded", description: str = "") -> Release:
    return Release(revision, origin or revision, status, "app-0.1.0", "1", "", description)


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ([], None),
        ([release(1, status="deployed")], None),
        ([release(1), release(2, status="deployed")], 1),
        ([release(1), release(2, status="failed"), release(3, status="deployed")], 1),
        ([release(1, status="deployed"), release(2, status="failed")], 1),
        ([release(1, status="deployed"), release(2, status="pending-upgrade")], 1),
        ([release(1), release(2), release(3, 1, "deployed", "Rollback to 1")], None),
        # Helm has forgotten revisions 1 to 3; what 3 went back to is known from when it did
        ([release(4, 2, description="Rollback to 2"), release(5, 3, "deployed", "Rollback to 3")], 4),
        ([release(1), release(2), release(3), release(4, 2, "deployed", "Rollback to 2")], 1),
        ([release(1), release(2), release(3, 1, description="Rollback to 1"), release(4, status="deployed")], 3),
        ([release(1), release(2), release(3, status="failed", description='Rollback "app" failed: ...')], 1),
        ([release(1), release(2), release(3, status="failed", description='Release "app" failed: ...')], 1),
        ([release(1), release(2, status="failed", description='Upgrade "app" failed: ...')], 1),
        ([release(1, status="failed", description='Release "app" failed: ...')], None),
        ([release(1), release(2, status="deployed"), release(3, 1, "pending-rollback", "Rollback to 1")], 1),
    ],
)
def test_the_target_of_a_roll_back(listed: list[Release], wanted: int | None) -> None:
    found = target(listed)
    assert (found.revision if found else None) == wanted


def test_a_revision_that_was_pruned_is_the_newest_with_its_content() -> None:
    listed = [release(9, 2), release(10, 2, "failed"), release(11, 2, "pending-rollback", "Rollback to 9")]
    assert [getattr(numbered(listed, wanted), "revision", None) for wanted in (9, 2, 3)] == [9, 9, None]
    found = numbered(listed[1:], 2)
    assert found is not None
    assert found.revision == 11, "one that was never deployed, where there is no other"


def test_a_diff_without_secrets_stays_as_helm_wrote_it() -> None:
    assert difference("kind: A\nx: 1\n", "kind: A\nx: 2\n", ("old", "new")) == (
        "--- old\n+++ new\n@@ -1,2 +1,2 @@\n kind: A\n-x: 1\n+x: 2"
    )
    assert difference("kind: A\n", "kind: A\n", ("old", "new")) == ""
