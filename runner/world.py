"""Where a run happens: the home, the surroundings, the actions, the secrets."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.interpreter.frozen import frozen
from runbook.runner.secrets import ReadK8s, Secrets
from runbook.runner.store import Store, home
from runbook.runner.surroundings import Real, Surroundings


@frozen(kw_only=True)
class World:
    """Where a run happens: everything of it can be replaced. `registry` None: the installed actions.

    `lease_seconds`: how long a lock in a cluster outlives its last renewal.
    """

    store: Store
    surroundings: Surroundings
    registry: Any = None
    read_k8s: ReadK8s | None = None
    lease_seconds: int = 15


def here(environ: Mapping[str, str] | None = None) -> World:
    """This machine: the home and the environment of this process."""
    found = dict(os.environ if environ is None else environ)
    return World(store=Store(home(found)), surroundings=Real(found))


def secrets_of(world: World, folder: Path, cwd: str) -> Secrets:
    """The host's secrets of one run or plan; `folder`: its own. Plans and runs of one home make equal fingerprints."""
    environ = world.surroundings.environ
    read = world.read_k8s or functools.partial(_read_k8s, environ)
    around = world.surroundings
    stand_in = around.secret if around.simulated else None
    return Secrets(environ, folder / "key", read, base=cwd, fingerprint_key=world.store.key_file, stand_in=stand_in)


def _read_k8s(environ: Mapping[str, str], context: str | None, namespace: str, name: str, key: str) -> str | None:
    """One key of a Kubernetes Secret. Found as actions are, by name: the runner imports no action's code."""
    kube = importlib.import_module("runbook.actions._kube.cluster")
    found: str | None = kube.read_secret(environ, context or "current", namespace, name, key)
    return found
