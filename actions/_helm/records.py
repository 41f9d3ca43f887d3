"""A revision as Helm keeps it, read through the API: one request in the place of one helm for each part of it.

Helm's format since 3.0 (pkg/storage/driver, `encodeRelease`): JSON, gzip, base64, in a Secret or ConfigMap whose name
holds release and revision. What cannot be read so is asked of helm.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm.client import HelmArgs
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Ref
from runbook.contract import Context

_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b\x08"


def place(ctx: Context, args: HelmArgs, revision: int) -> Ref | None:
    """The object that holds a revision; None where it is no object of this cluster, or of a sandbox."""
    kind = client.storage(ctx)
    if ctx.simulated or kind is None:
        return None
    return Ref(kind, args.namespace, f"sh.helm.release.v1.{args.release}.v{revision}")


def record(ctx: Context, args: HelmArgs, revision: int) -> dict[str, Any] | None:
    """A revision: `manifest`, `hooks`, `config`, `apply_method`, as helm writes them. None where helm has to be asked.

    TemporaryError, and PermanentError where it may not be read: no more may helm.
    """
    ref = place(ctx, args, revision)
    found = connect(ctx, args.context).find(ctx, ref) if ref is not None else None
    return _decoded(found, ref.kind.kind) if found is not None and ref is not None else None


def _decoded(found: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    try:
        raw = base64.b64decode(str((found.get("data") or {})["release"]))
        raw = base64.b64decode(raw) if kind == "Secret" else raw
        release = json.loads(zlib.decompress(raw, _GZIP) if raw.startswith(_MAGIC) else raw)
    except (KeyError, ValueError, zlib.error):
        return None
    return release if isinstance(release, dict) and "manifest" in release else None


def hooks(release: Mapping[str, Any]) -> str:
    """A revision's hooks as `helm get hooks` prints them."""
    return "".join(
        f"---\n# Source: {hook.get('path')}\n{hook.get('manifest')}\n" for hook in release.get("hooks") or ()
    )
