"""k8s.export on a real control plane: manifests that can be applied again, and no secret in the file."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from runbook.actions._manifest.documents import SEALED
from runbook.contract import PermanentError
from tests.kube import Caller, opened
from tests.manifests import SET, Keeper, objects
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Keeper:
    return Keeper(control_plane, tmp_path)


@pytest.fixture
def space(control_plane: Plane, caller: Keeper) -> str:
    space = control_plane.namespace()
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    control_plane.rolled_out(space, "web")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "migrate", "labels": {"set": "shop"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "m", "image": "r/m:1"}]}}},
    }
    control_plane.kubectl("-n", space, "apply", "-f", "-", stdin=json.dumps(job))
    return space


def test_what_was_exported_can_be_applied_elsewhere(control_plane: Plane, caller: Keeper, space: str) -> None:
    kinds = ["deployment", "configmaps", "Service", "job", "secret", "deploy"]
    found = caller.read("k8s.export", {"namespace": space, "kinds": kinds, "selector": "set=shop", "name": "shop.yaml"})
    assert found["objects"] == ["ConfigMap/app", "Deployment/web", "Job/migrate", "Secret/login", "Service/web"]
    path = Path(found["path"])
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == found["sha256"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(content))
    for document in documents:
        assert "status" not in document
        server = {"uid", "resourceVersion", "managedFields", "generation", "creationTimestamp", "ownerReferences"}
        assert not server & document["metadata"].keys()
    assert b"runbook/created-by" not in content
    assert b"last-applied" not in content

    own = control_plane.namespace()
    for document in documents:
        del document["metadata"]["namespace"]
        if document["kind"] == "Service":
            del document["spec"]["clusterIP"], document["spec"]["clusterIPs"]
    caller.change("k8s.apply", {"namespace": own, "manifest": documents})
    control_plane.rolled_out(own, "web")
    before, after = objects(control_plane, space), objects(control_plane, own)
    for name in ("ConfigMap/app", "Deployment/web"):
        for entry in (before[name], after[name]):
            entry["metadata"] = {"labels": entry["metadata"]["labels"]}
        assert before[name] == after[name]


def test_the_data_of_secrets_is_kept_sealed_and_nowhere_else(caller: Keeper, space: str) -> None:
    found = caller.read(
        "k8s.export", {"namespace": space, "kinds": ["secret"], "selector": "set=shop", "name": "secrets.yaml"}
    )
    content = Path(found["path"]).read_bytes()
    encoded = base64.b64encode(b"correct-horse-1")
    assert b"correct-horse" not in content
    assert encoded not in content
    document = yaml.safe_load(content)
    assert "data" not in document
    reference = document["metadata"]["annotations"][SEALED]
    assert json.loads(caller.kept[reference]) == {"password": encoded.decode()}


def test_a_secret_comes_back_in_the_same_run_and_in_no_other(
    control_plane: Plane, caller: Keeper, space: str, tmp_path: Path
) -> None:
    whole = objects(control_plane, space)["Secret/login"]
    given = {"namespace": space, "kinds": ["secret"], "selector": "set=shop", "name": "secrets.yaml"}
    path = caller.read("k8s.export", given)["path"]
    control_plane.kubectl("-n", space, "patch", "secret", "login", "-p", '{"data": {"password": "YQ=="}}')
    with pytest.raises(PermanentError, match="was sealed by another run"):
        Keeper(control_plane, tmp_path).change("k8s.apply", {"namespace": space, "path": path})
    caller.change("k8s.apply", {"namespace": space, "path": path, "force": True})
    assert objects(control_plane, space)["Secret/login"] == whole


def test_nothing_found_is_an_empty_file(caller: Keeper, space: str) -> None:
    given = {"namespace": space, "kinds": ["configmap"], "selector": "set=none", "name": "none.yaml"}
    found = caller.read("k8s.export", given)
    assert found["objects"] == []
    assert Path(found["path"]).read_bytes() == b""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"selector": " "}, "selector: empty, it would mean every object"),
        ({"kinds": []}, "kinds: empty, there is nothing to export"),
        ({"name": "../up.yaml"}, "name: expected text that matches"),
        ({"kinds": ["confgimap"]}, r"no kind 'confgimap'; did you mean configmap"),
    ],
)
def test_bad_input(given: dict[str, Any], says: str, caller: Caller, control_plane: Plane) -> None:
    whole = {"namespace": "default", "kinds": ["configmap"], "selector": "a=b", "name": "x.yaml", **given}
    with pytest.raises(PermanentError, match=says):
        caller.read("k8s.export", whole)


def test_preflight_names_what_may_not_be_listed(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    control_plane.allow(space, "list=configmaps")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    given = {"namespace": space, "kinds": ["configmap", "secret"], "selector": "a=b", "name": "x.yaml"}
    with nobody.context() as ctx:
        action, args = opened("k8s.export", given)
        assert action.preflight(args, ctx) == [f"no right to list secrets in namespace '{space}' (context 'testbed')"]
