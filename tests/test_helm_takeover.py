"""A release that Helm 3 made, in the hands of Helm 4: what others set by hand, and taking it over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helm_release import App
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def app(control_plane: Plane, helm_version: int, tmp_path: Path) -> App:
    """Revisions 1 to 3 by Helm 3 (`helm_version`); from then on all is Helm 4."""
    app = App(control_plane, helm_version, tmp_path, revisions=3)
    app.version = 4
    app.caller.environ = control_plane.environ(4)
    return app


def by_hand(app: App) -> None:
    """Somebody else becomes the manager of a field: a conflict for who applies it on the server."""
    app.plane.kubectl("-n", app.space, "scale", "deployment", "app", "--replicas=3")


def replicas(app: App) -> int:
    return int(app.plane.read(app.space, "deployment", "app")["spec"]["replicas"])


@pytest.mark.parametrize("helm_version", [3], indirect=True, ids=["helm3to4"])
@pytest.mark.parametrize("forced", [False, True], ids=["plain", "forced"])
@pytest.mark.parametrize("name", ["rollback", "upgrade"])
def test_a_release_of_helm_3_goes_on_under_helm_4(app: App, name: str, forced: bool) -> None:
    """Without the flag it stays applied by the client, which knows no conflicts; with it the server takes over."""
    before = app.objects()
    by_hand(app)
    more = {"force_conflicts": forced}
    given = {**app.given, "revision": 1, **more} if name == "rollback" else app.upgrade({"tag": "4"}, **more)
    made = app.caller.change(f"helm.{name}", given)
    assert (app.newest(), app.image(), replicas(app)) == ((4, "deployed"), "1" if name == "rollback" else "4", 1)
    by_hand(app)
    if not forced:
        app.plane.kubectl("-n", app.space, "scale", "deployment", "app", "--replicas=1")
    app.caller.undo(made)
    assert app.objects() == before
    assert app.newest() == (5, "deployed")
