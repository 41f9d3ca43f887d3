"""Kubeconfigs for tests, and one object to read with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.kube import Caller, opened
from tests.testbed.plane import Plane


def kubeconfig(path: Path, **changes: Any) -> Path:
    """A file with context `here`; `changes` replace its parts."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(content | {name.replace("_", "-"): value for name, value in changes.items()}))
    return path


def runner_space(plane: Plane) -> str:
    """A namespace with ConfigMap flag, and a service account `runner` that may do anything there."""
    name = plane.namespace()
    plane.kubectl("-n", name, "create", "configmap", "flag", "--from-literal=mark=0")
    plane.kubectl("-n", name, "create", "serviceaccount", "runner")
    plane.kubectl(
        "-n", name, "create", "rolebinding", "r", "--clusterrole=cluster-admin", f"--serviceaccount={name}:runner"
    )
    return name


def flag(space: str, context: str = "current") -> dict[str, Any]:
    """What reads that object."""
    return {"namespace": space, "kind": "configmap", "name": "flag", "context": context}


def reads(caller: Caller, space: str, times: int = 1, **options: Any) -> None:
    """So many reads of one run."""
    with caller.context(**options) as ctx:
        for _ in range(times):
            action, args = opened("k8s.get", flag(space))
            assert action.read(args, ctx)["object"]["data"] == {"mark": "0"}  # type: ignore[attr-defined]


def credential(status: dict[str, Any]) -> dict[str, Any]:
    """What a plug-in prints; without what is empty."""
    kept = {name: value for name, value in status.items() if value}
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": kept}
