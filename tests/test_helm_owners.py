"""Plans of helm's changes warn of who will put them back: Flux, Argo CD, an autoscaler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube.transport import Transport
from tests.helm_release import App
from tests.kube import Caller, opened
from tests.test_helm_upgrade import preview
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

FLUX = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: rendered-by-flux
  labels: {helm.toolkit.fluxcd.io/name: web, helm.toolkit.fluxcd.io/namespace: fleet}
"""


@pytest.fixture
def app(control_plane: Plane, tmp_path: Path) -> App:
    """A release with an object as Flux renders it, one that Argo CD has marked, and an autoscaler; two revisions."""
    app = App(control_plane, 4, tmp_path)
    (app.chart / "templates/flux.yaml").write_text(FLUX)
    app.deploy(1)
    app.deploy(2)
    live = ("-n", app.space)
    mark = f"argocd.argoproj.io/tracking-id=shop:apps/Deployment:{app.space}/app"
    app.plane.kubectl(*live, "annotate", "deployment", "app", mark)
    app.plane.kubectl(*live, "autoscale", "deployment", "app", "--min=1", "--max=4")
    return app


def lacks(caller: Caller, app: App) -> list[str]:
    with caller.context() as ctx:
        action, args = opened("helm.history", app.given)
        return action.preflight(args, ctx)


def told(lines: list[str]) -> list[str]:
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


ARGO = "Argo CD (application shop) owns Deployment/app of release app, and may put back what helm changes"
RENDERED = (
    "Flux (HelmRelease fleet/web) owns ConfigMap/rendered-by-flux of release app, and may put back what helm changes"
)


def test_who_will_put_it_back(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = (
        "HorizontalPodAutoscaler app (1 to 4 replicas) owns the replica count of deployments 'app' in namespace"
        f" '{app.space}', and may set it again"
    )
    for name, given, expected in (
        ("helm.rollback", app.given, {ARGO, RENDERED, scaler}),
        ("helm.upgrade", app.upgrade({"tag": "3"}), {ARGO, RENDERED, scaler}),
        ("helm.uninstall", app.given, {ARGO, RENDERED}),
    ):
        assert set(told(app.caller.plan(name, given).log)) == expected
        assert {line for line in preview(app, name, given).splitlines() if line.startswith("warning: ")} == {
            f"warning: {sentence}" for sentence in expected
        }
    assert told(app.caller.plan("helm.rollback", {**app.given, "revision": 2}).log) == [], "it is already so"
    asked: list[str] = []
    request = Transport.request

    def counted(self: Transport, bounds: Any, method: str, path: str, **more: Any) -> Any:
        asked.append(path)
        return request(self, bounds, method, path, **more)

    monkeypatch.setattr(Transport, "request", counted)
    app.caller.plan("helm.rollback", app.given)
    objects = [path for path in asked if "/namespaces/" in path]
    assert len(objects) <= 7, "two revisions, the three objects that change, and the autoscalers: two lists"


def test_who_may_not_look_is_not_warned_and_not_stopped(app: App, tmp_path: Path) -> None:
    """What the manifests themselves say needs no right but Helm's own."""
    app.plane.allow(app.space, "get,list=secrets")
    nobody = Caller(app.plane, tmp_path, user="nobody")
    app.plane.until(lambda: lacks(nobody, app) == [])
    planned = nobody.plan("helm.rollback", app.given)
    assert planned.before != planned.after
    assert told(planned.log) == [RENDERED]
