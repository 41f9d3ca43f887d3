"""Where a run's locks live: a file of this machine, or the Leases of a namespace; who says so, and who holds them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.contract import PermanentError
from runbook.interpreter.errors import InvalidError
from runbook.interpreter.frozen import frozen
from runbook.runner import locks
from runbook.runner.lock_store import Holding, LockStore
from runbook.runner.store import RunFolder
from runbook.runner.world import World

if TYPE_CHECKING:
    from runbook.runner.lease_api import LeaseApi, Leases

VARIABLE = "RUNBOOK_LOCKS"
"""Says where locks live, for playbooks that do not say it themselves."""
FILE = "file"
NAMESPACE = "default"
_HINT = "`file` (this machine), or k8s:NAMESPACE, or k8s:CONTEXT/NAMESPACE"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123, as namespaces are named


@frozen
class Place:
    """The Leases of a namespace. `context`: of the kubeconfig, `current` its own choice."""

    context: str
    namespace: str

    def __str__(self) -> str:
        return f"k8s:{self.context}/{self.namespace}"


def parse(text: str) -> Place | None:
    """`file` (None), `k8s`, `k8s:NAMESPACE`, `k8s:CONTEXT/NAMESPACE` (a context may hold slashes). InvalidError."""
    if text == FILE:
        return None
    kind, _, rest = text.partition(":") if text != "k8s" else ("k8s", ":", NAMESPACE)
    context, slash, namespace = rest.rpartition("/")
    if kind != "k8s" or (slash and not context) or not _LABEL.fullmatch(namespace):
        raise InvalidError(f"locks cannot live in {text!r}", hint=_HINT)
    return Place(context or "current", namespace)


def chosen(world: World, said: str, playbook: str = "") -> str:
    """Where the locks of a run live: the command line says it, else the playbook, else the environment, else `file`.

    The context is named, so that a run is resumed with the same cluster, whatever is current then. InvalidError.
    """
    text = said or playbook or world.surroundings.environ.get(VARIABLE) or FILE
    place = parse(text)
    if place is None:
        return text
    with contextlib.suppress(PermanentError):  # told when the first lock is wanted, if one is
        named = importlib.import_module("runbook.actions._kube.config").context_name
        place = Place(named(world.surroundings.environ, place.context), place.namespace)
    return str(place)


def opened(world: World, text: str, folder: RunFolder) -> LockStore:
    """The locks of one run; nothing is opened before the first one is wanted."""
    place = parse(text or FILE)
    if place is None:
        # a rehearsal must never hold up the real thing: its locks are its own
        path = folder.path / "locks.db" if world.surroundings.simulated else world.store.locks
        return locks.Locks(path, folder.id, folder.path)
    from runbook.runner.lease_api import Leases
    from runbook.runner.lease_locks import LeaseLocks

    leases = Leases(lambda: _connect(world, place, folder.path), str(place))
    return LeaseLocks(leases, folder.id, _owner(folder), seconds=world.lease_seconds)


def holders(world: World, text: str, names: Iterable[str] | None = None) -> list[Holding]:
    """Who holds these locks now (None: any). A Lease may belong to a run that is dead. LockError."""
    place = parse(text)
    if place is None and world.surroundings.simulated:
        return []
    if place is None:
        return [held for held in locks.holders(world.store.locks) if names is None or held.name in names]
    from runbook.runner.lease_record import holder_of, lease_name

    with _looking(world, place) as leases:
        found = leases.all() if names is None else [leases.get(lease_name(name)) for name in names]
    return [held for lease in found if lease is not None and (held := holder_of(lease)) is not None]


def look(world: World, text: str, names: Iterable[str]) -> list[str]:
    """For a plan: who holds these locks now, in sentences. LockError where this user could not take them."""
    place = parse(text)
    if place is not None:
        with _looking(world, place) as leases:
            leases.check_rights()
    return list(map(str, holders(world, text, names)))


@contextlib.contextmanager
def _looking(world: World, place: Place) -> Iterator[Leases]:
    import tempfile

    from runbook.runner.lease_api import Leases

    with tempfile.TemporaryDirectory(prefix="runbook-locks-") as scratch:
        leases = Leases(lambda: _connect(world, place, Path(scratch)), str(place))
        try:
            yield leases
        finally:
            leases.close()


def _connect(world: World, place: Place, folder: Path) -> LeaseApi:
    from runbook.runner.lease_api import REQUEST

    environ = world.surroundings.environ
    found: LeaseApi = _actions().connect(environ, place.context, place.namespace, folder, REQUEST)
    return found


def _actions() -> Any:
    """Found as actions are, by name: the runner imports no action's code."""
    return importlib.import_module("runbook.actions._kube.leases")


def _owner(folder: RunFolder) -> str:
    """Tells this run from one that began in the same moment on another machine; the same after a resume."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(f"{folder.id}\n{folder.path}\n{folder.path.stat().st_ino}".encode()).hexdigest()[:32]
    return hashlib.sha256(f"{folder.id}\n{folder.path}".encode()).hexdigest()[:32]
