"""How long somebody has been at a release is measured by the API server's clock, on a machine whose own is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runbook.contract import TemporaryError
from tests.test_helm import App, killed_earlier, write_down
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def app(control_plane: Plane, helm_version: int, helm_chart: Path, tmp_path: Path) -> App:
    return App(control_plane, helm_version, helm_chart, tmp_path)


def wrong_by(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """This process's wall clock is wrong by so much."""
    right = time.time
    patch.setattr(time, "time", lambda: right() + seconds)


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_a_living_helm_of_another_machine_is_waited_for_by_a_clock_that_is_ahead(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = killed_earlier(app) | {"host": "elsewhere", "seconds": 600.0, "until": time.time() + 600}
    write_down(app, work)
    with monkeypatch.context() as patch:
        wrong_by(3600, patch)
        with pytest.raises(TemporaryError, match=r"another operation in progress: .*by run run-1 on elsewhere"):
            app.caller.change("helm.rollback", app.given)
    assert app.history()[-1]["status"] == "pending-rollback"
    write_down(app, work | {"seconds": -60.0})  # its time-out is over for a minute
    with monkeypatch.context() as patch:
        wrong_by(-3600, patch)
        assert app.caller.change("helm.rollback", app.given).outputs["revision"] == 2


@pytest.mark.parametrize("helm_version", [4], indirect=True, ids=["helm4"])
def test_repair_after_is_no_shorter_by_a_clock_that_is_ahead(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.deploy(4)
    app.spoil("pending-upgrade", "Preparing upgrade")
    with monkeypatch.context() as patch:
        wrong_by(3600, patch)
        for more in ({}, {"repair_after": "30m"}):
            with pytest.raises(TemporaryError, match="another operation in progress: revision 4 is pending-upgrade"):
                app.caller.change("helm.rollback", app.given | more)
    assert app.history()[-1]["status"] == "pending-upgrade"
