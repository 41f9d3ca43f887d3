"""The API server's clock, by which is judged how long somebody has been at a release.

Two machines differ by minutes, and the one that looks is no better than the one that wrote: so nothing is measured
between the clocks of two machines. What was written bears the server's stamp, and now is the server's, too.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from runbook.actions._kube.cluster import Cluster
from runbook.contract import Context

ROUNDING = 2.0
"""Seconds by which what is measured may be too short: stamps and dates are whole seconds."""


def now(ctx: Context, cluster: Cluster) -> float:
    """Seconds since the epoch, by the head of an answer; by this machine's clock where it says nothing.

    TemporaryError where there is no answer.
    """
    answer = cluster.transport.request(ctx, "GET", "/version", headers={"Accept": "application/json"})
    for name, value in answer.headers.items():
        if name.lower() == "date":
            try:
                return parsedate_to_datetime(value).timestamp()
            except ValueError:
                break
    return time.time()


def stamp(found: Mapping[str, Any]) -> float | None:
    """When an object was last written, by whoever; None where it does not say."""
    metadata = found.get("metadata") or {}
    entries = [entry.get("time") for entry in metadata.get("managedFields") or ()]
    texts = [str(text) for text in (metadata.get("creationTimestamp"), *entries) if text]
    return max((datetime.datetime.fromisoformat(text).timestamp() for text in texts), default=None)
