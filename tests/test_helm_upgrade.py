"""helm.upgrade and helm.uninstall with real Helm 3 and 4 on a real control plane."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import PermanentError, Sensitive, TemporaryError
from runbook.sandbox import scenario, surroundings
from tests.helm_release import App
from tests.kube import change
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

PASSWORD = "correct-horse-battery"


@pytest.fixture
def app(control_plane: Plane, helm_version: int, tmp_path: Path) -> App:
    return App(control_plane, helm_version, tmp_path)


def preview(app: App, name: str, given: dict[str, Any]) -> str:
    with app.caller.context() as ctx:
        action, args = change(name, given)
        before = action.observe(args, ctx)
        return action.preview(args, before, action.expect(args, before, ctx), ctx) or ""


def test_install_upgrade_and_all_the_way_back(app: App) -> None:
    nothing = app.objects()
    first = app.upgrade({"tag": "1", "password": PASSWORD})
    installed = app.caller.change("helm.upgrade", first)
    assert installed.outputs == {"from_revision": 0, "revision": 1, "installed": True}
    assert next(iter(installed.before.values())) is None
    one = app.objects()
    assert app.image() == "1"
    second = app.upgrade({"tag": "2", "extra": True})
    planned = app.caller.plan("helm.upgrade", second)
    assert app.objects() == one
    assert app.caller.settle("helm.upgrade", second, planned) == "not_done"
    upgraded = app.caller.change("helm.upgrade", second)
    assert (upgraded.before, upgraded.after) == (planned.before, planned.after)
    assert upgraded.outputs == {"from_revision": 1, "revision": 2, "installed": False}
    assert app.image() == "2"
    assert set(app.objects()) - set(one) == {"ConfigMap/app-extra"}
    assert app.objects()["Secret/app-secret"] == one["Secret/app-secret"], "the values of before are kept"
    assert app.caller.settle("helm.upgrade", second, planned) == "done"
    again = app.caller.change("helm.upgrade", second)
    assert again.before == again.after
    assert len(app.history()) == 2
    app.caller.undo(upgraded)
    assert app.objects() == one
    app.caller.undo(installed)
    assert app.objects() == nothing
    assert app.caller.read("helm.history", {**app.given, "optional": True})["found"] is False


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_plan_names_what_changes_and_shows_no_secret(app: App) -> None:
    app.deploy(1, "--set-string", "hook=post-rollback")
    given = app.upgrade({"tag": "2", "password": PASSWORD, "hook": "pre-upgrade,post-rollback"})
    planned = app.caller.plan("helm.upgrade", given)
    name = f"helm:testbed/{app.space}/app#content"
    was, will = planned.before[name], planned.after[name]
    assert {title for title in will["objects"] if was["objects"][title] != will["objects"][title]} == {
        "Deployment/app", "Secret/app-secret",
    }  # fmt: skip
    assert set(will["hooks"]) == {"Job/app-migrate"}
    assert all(isinstance(value, Sensitive) for value in [will["values"], *will["objects"].values()])
    text = preview(app, "helm.upgrade", given)
    assert "app:1" in text
    assert "app:2" in text
    assert "password: (not shown, changed)" in text
    assert PASSWORD not in text + repr(planned)
    assert "secret-no-1" not in text + repr(planned)
    assert "hooks that run: Job/app-migrate (pre-upgrade,post-rollback)" in text
    app.deploy(2)
    assert "no hooks run" in preview(app, "helm.upgrade", app.upgrade({"tag": "3"}))
    assert "hooks that run: Job/app-migrate (post-rollback)" in preview(app, "helm.rollback", app.given)


LAMP = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lampsN.example.org}
spec:
  group: example.org
  names: {kind: LampN, plural: lampsN}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def test_a_chart_that_brings_its_own_kinds(app: App) -> None:
    """Helm's dry run does not know them; helm itself makes them first."""
    crd = app.chart / "crds/lamp.yaml"
    crd.parent.mkdir()
    kind = f"Lamp{app.space.rpartition('-')[2]}"
    crd.write_text(LAMP.replace("LampN", kind).replace("lampsN", f"lamps{kind[4:]}"))
    (app.chart / "templates/lamp.yaml").write_text(
        f"apiVersion: example.org/v1\nkind: {kind}\nmetadata: {{name: hall}}\nshines: {{{{ .Values.tag | quote }}}}\n"
    )
    given = app.upgrade({"tag": "1", "hook": "pre-rollback"})
    with app.caller.context() as ctx:
        action, args = change("helm.upgrade", given)
        assert action.preflight(args, ctx) == []
    planned = app.caller.plan("helm.upgrade", given)
    assert planned.computed is not None
    assert "defines kinds that are not there yet" in planned.computed
    text = preview(app, "helm.upgrade", given)
    assert f"+kind: {kind}" in text
    assert "no hooks run" in text
    made = app.caller.change("helm.upgrade", given)
    assert app.plane.read(app.space, kind.lower(), "hall")["shines"] == "1"
    again = app.caller.plan("helm.upgrade", given)
    assert again.before == again.after
    app.caller.undo(made)
    assert app.plane.read(app.space, kind.lower())["items"] == []


@pytest.mark.parametrize("helm_version", [3], indirect=True, ids=["helm3"])
def test_values_are_on_no_command_line(app: App, tmp_path: Path) -> None:
    """A shim before the real helm writes down what every process list would show."""
    shim = tmp_path / "shim"
    shim.mkdir()
    seen = tmp_path / "seen"
    real = app.caller.environ["PATH"].partition(":")[0]
    (shim / "helm").write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {seen}\nexec {real}/helm "$@"\n')
    (shim / "helm").chmod(0o755)
    app.caller.environ["PATH"] = f"{shim}:{app.caller.environ['PATH']}"
    app.caller.change("helm.upgrade", app.upgrade({"tag": "1", "password": PASSWORD}))
    assert "upgrade app" in seen.read_text()
    assert PASSWORD not in seen.read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


@pytest.mark.parametrize("helm_version", [3], indirect=True, ids=["helm3"])
def test_values_of_before_are_kept_or_not(app: App) -> None:
    app.caller.change("helm.upgrade", app.upgrade({"tag": "1", "level": "debug"}))
    app.caller.change("helm.upgrade", app.upgrade({"tag": "2"}))
    assert json.loads(app.helm("get", "values", "app", "-o", "json")) == {"tag": "2", "level": "debug"}
    app.caller.change("helm.upgrade", app.upgrade({"tag": "2"}, reuse_values=False))
    assert json.loads(app.helm("get", "values", "app", "-o", "json")) == {"tag": "2"}


def test_charts_by_folder_archive_and_repository(app: App, tmp_path: Path) -> None:
    import functools
    import http.server
    import threading

    shelf = tmp_path / "shelf"
    shelf.mkdir()
    app.helm("package", str(app.chart), "--destination", str(shelf))
    app.helm("package", str(app.chart), "--destination", str(shelf), "--version", "0.2.0")
    app.helm("repo", "index", str(shelf))
    relative = {**app.given, "values": {"tag": "1"}, "folder": str(tmp_path)}
    app.caller.change("helm.upgrade", {**relative, "chart": "app"})
    same = app.caller.plan("helm.upgrade", {**relative, "chart": "shelf/app-0.1.0.tgz"})
    assert same.before == same.after
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(shelf))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        made = app.caller.change("helm.upgrade", {**relative, "chart": "app", "repository": url, "version": "0.2.0"})
        assert app.history()[-1]["chart"] == "app-0.2.0"
        assert made.after[f"helm:testbed/{app.space}/app"]["chart"] == "app-0.2.0"
        with pytest.raises(PermanentError, match=r'version "?9"? not found|no chart version found'):
            app.caller.plan("helm.upgrade", {**relative, "chart": "app", "repository": url, "version": "9"})
    finally:
        server.shutdown()
        server.server_close()


def test_bad_input_is_one_sentence_and_changes_nothing(app: App, tmp_path: Path) -> None:
    app.deploy(1)
    before = app.objects()
    for given, sentence in (
        (app.upgrade({"tag": "broken"}), "execution error at .*no such tag"),
        (app.upgrade({"tag": None}, reuse_values=False), "tag is needed"),
        ({**app.upgrade({}), "chart": "./nowhere"}, r"there is no chart \./nowhere"),
        ({**app.upgrade({}), "chart": "nowhere"}, r"there is no chart nowhere \(in "),
        ({**app.upgrade({}), "chart": "nobody/nothing"}, "repo nobody not found"),
        ({**app.upgrade({}), "chart": "--kubeconfig"}, "is no chart"),
        ({**app.upgrade({}), "release": "--kubeconfig"}, "release: expected text that matches"),
        ({**app.upgrade({}), "namespace": "no-such-space"}, "no-such-space"),
    ):
        with pytest.raises(PermanentError, match=sentence) as refused:
            app.caller.change("helm.upgrade", given)
        assert "\n" not in refused.value.message
        assert "level=" not in refused.value.message
    assert app.objects() == before
    assert app.newest() == (1, "deployed")


def test_a_hook_that_fails_is_final(app: App) -> None:
    app.deploy(1)
    with pytest.raises(PermanentError, match="pre-upgrade") as failed:
        app.caller.change("helm.upgrade", app.upgrade({"tag": "2", "hook": "pre-upgrade"}), seconds=20)
    assert "\n" not in failed.value.message
    assert app.newest() == (2, "failed")
    assert app.image() == "1"
    # The next one starts from what is deployed.
    made = app.caller.change("helm.upgrade", app.upgrade({"tag": "3"}))
    assert (made.outputs["revision"], app.image()) == (3, "3")


def test_fields_set_by_hand_are_taken_over_when_asked(app: App) -> None:
    app.deploy(1)
    app.plane.kubectl("-n", app.space, "scale", "deployment", "app", "--replicas=3")
    given = app.upgrade({"replicas": 2})
    if app.version >= 4:
        with pytest.raises(PermanentError) as refused:
            app.caller.change("helm.upgrade", given)
        assert "force_conflicts" in (refused.value.hint or "")
    app.caller.change("helm.upgrade", {**given, "force_conflicts": True})
    assert app.plane.read(app.space, "deployment", "app")["spec"]["replicas"] == 2


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_what_random_charts_render_is_settled_by_values(app: App) -> None:
    (app.chart / "templates/random.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: random}\ndata: {now: {{ randAlphaNum 20 | quote }}}\n"
    )
    with app.caller.context() as ctx:
        action, args = change("helm.upgrade", app.upgrade({"tag": "1"}))
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        action.apply(args, before, ctx)
        now = action.observe(args, ctx)
        assert now != after
        assert action.settle(args, before, after, now, ctx) == "done"
        assert action.expect(args, now, ctx) == now, "a second attempt of the same operation finds it done"


def test_uninstall_and_back(app: App) -> None:
    app.deploy(1)
    app.deploy(2)
    app.caller.change("helm.rollback", app.given)
    before = app.objects()
    assert "objects that go: Secret/app-secret, ConfigMap/app-settings, Deployment/app" in preview(
        app, "helm.uninstall", app.given
    )
    planned = app.caller.plan("helm.uninstall", app.given)
    made = app.caller.change("helm.uninstall", app.given)
    assert (made.before, made.after) == (planned.before, planned.after)
    assert made.outputs == {"existed": True, "revision": 1}
    assert app.objects() == {}
    assert app.caller.settle("helm.uninstall", app.given, planned) == "done"
    again = app.caller.change("helm.uninstall", app.given)
    assert again.before == again.after
    assert app.caller.read("helm.history", app.given)["target"] is None
    with pytest.raises(PermanentError, match="release app is uninstalled"):
        app.caller.plan("helm.rollback", app.given)
    app.caller.undo(made)
    assert app.objects() == before
    # Revision 4 is a `Rollback to 3`, that a `Rollback to 1`: the bad 2 is not where a roll-back goes.
    with pytest.raises(PermanentError, match="no earlier revision"):
        app.caller.plan("helm.rollback", app.given)


def test_uninstall_for_good(app: App) -> None:
    assert app.caller.plan("helm.uninstall", app.given).inverse is None
    app.deploy(1)
    made = app.caller.change("helm.uninstall", {**app.given, "keep_history": False})
    assert made.inverse is None
    assert app.objects() == {}
    assert app.caller.read("helm.history", {**app.given, "optional": True})["found"] is False


def test_an_uninstalled_release_is_installed_again_and_back(app: App) -> None:
    app.deploy(1)
    app.caller.change("helm.uninstall", app.given)
    made = app.caller.change("helm.upgrade", app.upgrade({"tag": "2"}))
    assert made.outputs == {"from_revision": 0, "revision": 2, "installed": True}
    app.caller.undo(made)
    assert app.objects() == {}
    assert app.newest() == (2, "uninstalled")


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_releases_that_are_kept_in_config_maps(app: App) -> None:
    app.caller.environ["HELM_DRIVER"] = "configmap"
    made = app.caller.change("helm.upgrade", app.upgrade({"tag": "1"}))
    assert not [line for line in made.log if "not written down" in line or "stays" in line]
    names = [item["metadata"]["name"] for item in app.plane.read(app.space, "configmaps")["items"]]
    assert "sh.helm.release.v1.app.v1" in names
    assert "runbook.helm.app" not in names, "helm came to its end"
    app.caller.undo(made)
    assert app.objects() == {}


# -- what a helm that was killed leaves


def test_our_own_killed_upgrade_is_repaired_and_counts_as_what_was_promised(app: App) -> None:
    app.deploy(1)
    before = app.objects()
    given = app.upgrade({"tag": "2"})
    planned = app.caller.plan("helm.upgrade", given)
    with app.caller.context() as ctx:
        action, args = change("helm.upgrade", given)
        action.apply(args, planned.before, ctx)
        notes = dict(ctx.notes)
    app.spoil("pending-upgrade", "Preparing upgrade")
    assert app.caller.settle("helm.upgrade", given, planned, notes=notes) == "partial"
    assert app.caller.settle("helm.upgrade", given, planned) == "unknown"  # somebody else's
    with pytest.raises(TemporaryError, match="another operation in progress: revision 2 is pending-upgrade"):
        app.caller.change("helm.upgrade", given)
    with app.caller.context(notes=notes) as ctx:
        action, args = change("helm.upgrade", given)
        now = action.observe(args, ctx)
        action.apply(args, now, ctx)
        assert action.observe(args, ctx) == planned.after, "revision 4 repeats revision 2"
    assert app.newest() == (4, "deployed")
    assert app.image() == "2"
    assert app.caller.settle("helm.upgrade", given, planned, notes=notes) == "done"
    assert app.caller.plan("helm.rollback", app.given).after[f"helm:testbed/{app.space}/app"]["revision"] == 1
    app.caller.undo(planned)
    assert app.objects() == before


def test_an_installation_that_was_killed(app: App) -> None:
    given = app.upgrade({"tag": "1"})
    planned = app.caller.plan("helm.upgrade", given)
    with app.caller.context() as ctx:
        action, args = change("helm.upgrade", given)
        action.apply(args, planned.before, ctx)
        notes = dict(ctx.notes)
    app.spoil("pending-install", "Initial install underway")
    with pytest.raises(TemporaryError, match="another operation in progress"):
        app.caller.change("helm.upgrade", given)
    made = app.caller.change("helm.upgrade", given, notes=notes)
    assert made.computed is not None
    assert app.newest() == (1, "deployed"), "what was half there went first"
    # Somebody else's, that counts as killed: nothing is deleted.
    app.spoil("pending-install", "Initial install underway")
    uid = app.plane.read(app.space, "deployment", "app")["metadata"]["uid"]
    app.caller.change("helm.upgrade", app.upgrade({"tag": "2"}, repair_after="0s"))
    assert app.image() == "2"
    assert app.plane.read(app.space, "deployment", "app")["metadata"]["uid"] == uid


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_an_uninstallation_that_was_killed(app: App) -> None:
    app.deploy(1)
    app.spoil("uninstalling", "Deletion in progress (or silently failed)")
    with pytest.raises(TemporaryError, match="another operation in progress: revision 1 is uninstalling"):
        app.caller.change("helm.uninstall", app.given)
    made = app.caller.change("helm.uninstall", app.given, notes={"work": {"makes": 1, "content": "uninstall"}})
    assert app.newest() == (1, "uninstalled")
    assert made.inverse is None or made.inverse.args["revision"] == 1


def test_a_sandbox_says_that_it_does_not_know_upgrades() -> None:
    """SIMULATED: nothing pretends to have been upgraded."""
    revisions = 'revisions: [{tag: "1"}]'
    world = f"scenario: 1\nworld: {{namespaces: {{shop: {{releases: {{app: {{chart: app-0.1.0, {revisions}}}}}}}}}}}\n"
    with surroundings.start(scenario.parse(world)) as sandbox:
        for arguments in (["upgrade", "app", "./app", "--install", "--values", "-"], ["uninstall", "app"]):
            done = subprocess.run(
                ["helm", *arguments], env=dict(sandbox.environ), capture_output=True, text=True, check=False, timeout=30
            )
            assert done.returncode == 1
            assert f"SIMULATED helm does not model `helm {arguments[0]}`" in done.stderr
