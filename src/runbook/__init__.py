"""runbook: a declarative runbook interpreter that previews, runs, survives and undoes rollbacks.

The public surface for embedding is `run`, `plan` and `load` (resolved lazily: importing `runbook` costs nothing);
plug-ins import `runbook.contract` and nothing else.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name in ("load", "plan", "run"):
        from runbook.runner import api

        return getattr(api, name)
    raise AttributeError(f"module 'runbook' has no attribute {name!r}")
