"""k8s.export: objects as manifests, kept beside the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._kube import kinds
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._manifest.back import creatable
from runbook.actions._manifest.documents import CREATED_BY, SEALED, SERVERS
from runbook.contract import Context, Local, Outputs, PermanentError, param

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MARKS = (CREATED_BY, _LAST_APPLIED)
_METADATA = (*SERVERS, "ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds")


@dataclass(frozen=True, kw_only=True)
class ExportArgs(KubeArgs):
    """Parameters of k8s.export."""

    kinds: list[str] = param("Kinds of the objects, as kubectl spells them: `[deployment, configmap]`.")
    selector: str = param("Label selector of the objects; never empty.")
    name: str = param("Name of the file in the run's artifacts.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Export(Rights, Local[ExportArgs]):
    """Save objects as manifests that can be applied again, into one file of the run's folder.

    Without status, uid and what else only the server writes. The data of Secrets is not in the file: it is kept beside
    it, sealed; a k8s.apply of the file in the same run puts it in again.
    """

    name = "k8s.export"
    returns = {"path": "the file", "sha256": "its digest", "objects": "names of the objects: `ConfigMap/app`"}

    def check(self, args: ExportArgs) -> Iterator[str]:
        if not args.selector.strip():
            yield "selector: empty, it would mean every object"
        if not args.kinds:
            yield "kinds: empty, there is nothing to export"

    def rights(self, args: ExportArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        return [("list", Ref(kind, args.namespace)) for kind in _kinds(args, cluster, ctx)]

    def read(self, args: ExportArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        cluster = connect(ctx, args.context)
        found = [
            (kind, entry)
            for kind in _kinds(args, cluster, ctx)
            for entry in cluster.select(ctx, Ref(kind, args.namespace), args.selector)
        ]
        found.sort(key=lambda pair: (pair[0].title, str(pair[1]["metadata"]["name"])))
        documents = [_manifest(kind, entry, ctx) for kind, entry in found]
        content = _text(documents, ctx)
        path = ctx.folder / "artifacts" / args.name
        _write(path, content)
        return {
            "path": str(path),
            "sha256": hashlib.sha256(content).hexdigest(),
            "objects": [f"{kind.title}/{entry['metadata']['name']}" for kind, entry in found],
        }


def _kinds(args: ExportArgs, cluster: Cluster, ctx: Context) -> list[kinds.Kind]:
    try:
        return list(dict.fromkeys(cluster.kind(ctx, word) for word in args.kinds))
    except PermanentError as error:
        if not error.message.startswith("kind: "):
            raise
        raise PermanentError(f"kinds: {error.message.removeprefix('kind: ')}", error.hint) from None


def _manifest(kind: kinds.Kind, found: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    metadata = {key: value for key, value in found["metadata"].items() if key not in _METADATA}
    annotations = {key: value for key, value in (metadata.pop("annotations", None) or {}).items() if key not in _MARKS}
    rest = {key: value for key, value in found.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    if kind == kinds.SECRET and rest.get("data"):
        annotations[SEALED] = ctx.keep(json.dumps(rest.pop("data")).encode())
    if annotations:
        metadata["annotations"] = annotations
    return creatable({"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata, **rest})


def _text(documents: list[dict[str, Any]], ctx: Context) -> bytes:
    import yaml

    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120) if documents else ""
    return ctx.mask(text).encode()


def _write(path: Path, content: bytes) -> None:
    """Private, and complete or not there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(path)
