"""Playbooks with k8s.apply as commands, on a real control plane: applied, failed, undone; no secret left behind."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from tests.command import Commands
from tests.manifests import NEXT, SET, Keeper, objects, same
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

PLAYBOOK = """
runbook: 1
name: release
inputs:
  namespace: {type: string}
  healthy: {type: boolean, default: true}
secrets:
  password: {env: SHOP_PASSWORD}
defaults:
  with: {k8s: {namespace: "{{ inputs.namespace }}"}}
on_failure: {undo: true}
steps:
  - id: keep
    action: k8s.export
    with: {kinds: [configmap, secret, deployment, service], selector: set=shop, name: before.yaml}
  - id: look
    action: k8s.diff
    with: {path: next.yaml, prune: set=shop}
  - id: release
    action: k8s.apply
    with: {path: next.yaml, prune: set=shop}
  - id: login
    action: k8s.apply
    with:
      manifest:
        - apiVersion: v1
          kind: Secret
          metadata: {name: session}
          stringData: {token: "{{ secrets.password }}"}
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {by: "{{ inputs.namespace }}"}}
  - id: proof
    action: flow.assert
    with: {that: "{{ inputs.healthy }}", message: the release does not serve}
"""
PASSWORD = "hunter2-of-the-shop"


class Shop:
    """A namespace with the first version, and a playbook that brings the next."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self.plane, self.space = plane, plane.namespace()
        Keeper(plane, folder).change("k8s.apply", {"namespace": self.space, "manifest": SET, "prune": "set=shop"})
        self.cli = Commands(folder, {**plane.environ(), "SHOP_PASSWORD": PASSWORD})
        self.cli.write("release.yaml", PLAYBOOK)
        self.cli.write("next.yaml", "---".join(NEXT.split("---")[:3]))  # without the Service

    def objects(self) -> object:
        return objects(self.plane, self.space, owners=True)

    def run(self, *words: str) -> tuple[int, str]:
        done = self.cli("run", "release.yaml", "-i", f"namespace={self.space}", "--yes", *words)
        return done.code, done.out + done.err

    def runs(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.cli("runs", "--output", "json").out)
        return found

    def left_behind(self) -> bytes:
        """All that the runs and plans left on disk."""
        return b"".join(path.read_bytes() for path in self.cli.home.rglob("*") if path.is_file())


@pytest.fixture
def shop(control_plane: Plane, tmp_path: Path) -> Shop:
    return Shop(control_plane, tmp_path)


def test_a_release_that_fails_is_taken_back(shop: Shop) -> None:
    whole = shop.objects()
    code, said = shop.run("-i", "healthy=false")
    assert code == Exit.FAILED, said
    assert "the release does not serve" in said
    same(whole, shop.objects())
    left = shop.left_behind()
    for secret in ("correct-horse", "battery-staple", PASSWORD):
        assert secret.encode() not in left
        assert base64.b64encode(secret.encode()).rstrip(b"=")[:-1] not in left


def test_a_release_that_stays_is_taken_back_later(shop: Shop) -> None:
    whole = shop.objects()
    code, said = shop.run()
    assert code == Exit.SUCCEEDED, said
    now = objects(shop.plane, shop.space)
    assert "Service/web" not in now
    assert now["ConfigMap/app"]["data"] == {"level": "info", "new": "no"}
    assert now["Secret/session"]["data"]["token"] == "aHVudGVyMi1vZi10aGUtc2hvcA=="
    assert b"battery-staple" not in shop.left_behind()
    assert PASSWORD.encode() not in shop.left_behind()
    run = shop.runs()[0]["run"]
    shown = shop.cli("show", run).out
    assert "battery" not in shown

    undone = shop.cli("undo", run, "--yes")
    assert undone.code == Exit.SUCCEEDED, undone.out + undone.err
    same(whole, shop.objects())


def test_a_plan_says_it_and_is_stale_when_the_manifest_is_another(shop: Shop) -> None:
    whole = shop.objects()
    saved = str(shop.cli.folder / "release.plan")
    given = ["release.yaml", "-i", f"namespace={shop.space}"]
    planned = shop.cli("plan", *given, "-o", saved)
    assert planned.code == Exit.SUCCEEDED, planned.out + planned.err
    assert "registry.invalid/web:2" in planned.out
    assert "battery" not in planned.out
    same(whole, shop.objects())
    shop.cli.write("next.yaml", "---".join(NEXT.split("---")[:3]).replace("web:2", "web:3"))
    refused = shop.cli("apply", saved, "--yes")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    same(whole, shop.objects())
    shop.cli.write("next.yaml", "---".join(NEXT.split("---")[:3]))
    applied = shop.cli("apply", saved, "--yes")
    assert applied.code == Exit.SUCCEEDED, applied.out + applied.err
    assert "battery" not in Path(saved).read_text()


def test_an_undo_is_refused_where_somebody_else_was(shop: Shop) -> None:
    code, said = shop.run()
    assert code == Exit.SUCCEEDED, said
    shop.plane.kubectl("-n", shop.space, "set", "image", "deployment/web", "web=registry.invalid/web:hotfix")
    run = shop.runs()[0]["run"]
    undone = shop.cli("undo", run, "--yes")
    assert undone.code == Exit.FAILED, undone.out + undone.err
    assert "containers[name=web].image was changed by somebody else" in undone.out + undone.err
    image = objects(shop.plane, shop.space)["Deployment/web"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.invalid/web:hotfix"


ROTATED = """
runbook: 1
name: rotated
secrets: {password: {env: SHOP_PASSWORD}}
inputs: {namespace: {type: string}, level: {type: string}}
steps:
  - id: it
    action: k8s.apply
    with:
      namespace: "{{ inputs.namespace }}"
      manifest:
        - {apiVersion: v1, kind: Secret, metadata: {name: session}, stringData: {token: "{{ secrets.password }}"}}
        - apiVersion: v1
          kind: ConfigMap
          metadata: {name: open}
          data: {dsn: "db://u:{{ secrets.password }}@h", level: "{{ inputs.level }}"}
        - apiVersion: apps/v1
          kind: Deployment
          metadata: {name: worker}
          spec:
            replicas: 0
            selector: {matchLabels: {app: worker}}
            template:
              metadata: {labels: {app: worker}}
              spec:
                containers:
                  - name: it
                    image: "registry.invalid/it:1"
                    env: [{name: PW, value: "{{ secrets.password }}"}]
outputs: {all: "{{ steps }}"}
"""


def test_a_secret_that_was_rotated_shows_on_neither_side(control_plane: Plane, tmp_path: Path) -> None:
    """What stood there is declared nowhere any more. Rotated once more, the undo puts it back all the same."""
    space, passwords = control_plane.namespace(), ["walnut-old-one", "cherry-new-one", "birch-third-one"]
    cli = Commands(tmp_path, control_plane.environ())
    cli.write("rotated.yaml", ROTATED)
    said, shown = [], []
    for password, level in zip(passwords[:2], ("low", "high"), strict=True):
        cli.environ["SHOP_PASSWORD"] = password
        given = ("rotated.yaml", "-i", f"namespace={space}", "-i", f"level={level}")
        shown = [cli("plan", *given, "-o", "plan.json"), cli("run", *given, "--yes"), cli("report", "--format", "html")]
        said += shown
    for one in shown[:2]:
        assert "ConfigMap/open#data.dsn: (changed)" in one.out
        assert re.search(r"Deployment/worker#\S*env\S*value: \(changed\)", one.out)
        assert "ConfigMap/open#data.level: low → high" in one.out
    cli.environ["SHOP_PASSWORD"] = passwords[2]
    said += [cli("undo", "--yes"), cli("show", "-v")]
    assert {one.code for one in said} == {Exit.SUCCEEDED}, said[-2].out + said[-2].err
    now = objects(control_plane, space)
    assert now["ConfigMap/open"]["data"] == {"dsn": f"db://u:{passwords[0]}@h", "level": "low"}
    assert base64.b64decode(now["Secret/session"]["data"]["token"]) == passwords[0].encode()
    left = [path.read_bytes() for path in [*cli.home.rglob("*"), tmp_path / "plan.json"] if path.is_file()]
    for password in passwords:
        assert not [one for one in said if password in one.out + one.err]
        assert not [one for one in left if password.encode() in one]
