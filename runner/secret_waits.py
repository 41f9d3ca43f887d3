"""Secrets are looked up in threads, for no longer than a minute; their values stay in the host.

An optional one in a Kubernetes Secret that cannot be read, or not at once, counts as absent, with a warning: what can
do without it (an emergency's first message) does not wait for a cluster that is down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.effects import Fault, Record, SecretRef, Status
from runbook.interpreter.errors import RunbookError
from runbook.runner.host import Host
from runbook.runner.quiet import Future
from runbook.runner.records import fault_to_wire

if TYPE_CHECKING:
    from runbook.runner.local import Local

PATIENCE = 60.0  # seconds for all secrets of a playbook
BRIEFLY = 3.0  # seconds for those that it can do without


@dataclass(eq=False, slots=True)
class _Search:
    """The secrets of one playbook."""

    key: str
    future: Future[Record]
    known: Record | None
    waited: set[str]  # optional ones that are still looked for
    needed: bool = True  # are the others still looked for
    present: dict[str, bool] = field(default_factory=dict)
    fault: Fault | None = None
    warnings: list[str] = field(default_factory=list)


class SecretWaits:
    """Secrets on their way."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._given_up: set[str] = set()  # coordinates that another playbook of this run waited for in vain
        self.open = 0

    async def resolve(self, key: str, refs: tuple[SecretRef, ...]) -> Record:
        """Which of them are there. Also when that is on record: the values must be in this process's host."""
        local = self._local
        spare = [ref for ref in refs if ref.optional and ref.kind == "k8s"]
        needed = [ref for ref in refs if ref not in spare]
        search = _Search(key, local.future(), local.past.answer("secrets", key), {ref.name for ref in spare})
        self.open += 1
        late = Fault(f"the secrets were not found within {PATIENCE:g} s", "timeout", temporary=True)
        now = local.clock.running()
        local.alarm(now + PATIENCE, lambda: self._found(search, {}, late))
        self._look(needed, lambda present, fault: self._found(search, present, fault))
        for ref in spare:
            self._look_briefly(search, ref)
        return await search.future

    def _look(self, refs: Sequence[SecretRef], came: Any) -> None:
        local = self._local

        def look() -> None:
            found = _resolve(local.host, refs)
            local.post(lambda: came(*found))

        local.later(lambda: local.threads.submit(look))

    def _look_briefly(self, search: _Search, ref: SecretRef) -> None:
        where = _looked_for(ref)
        slow = Fault(f"not found within {BRIEFLY:g} s", "timeout")

        def came(present: Mapping[str, bool], fault: Fault | None) -> None:
            if ref.name not in search.waited or search.future.done():
                return
            search.waited.discard(ref.name)
            search.present[ref.name] = present.get(ref.name, False)
            if fault is not None:
                self._given_up |= {where} if fault is slow else set()
                search.warnings.append(f"the optional secret {where} counts as absent: {fault.message}")
            self._maybe_done(search)

        wait = 0.0 if where in self._given_up else BRIEFLY
        self._local.alarm(self._local.clock.running() + wait, lambda: came({}, slow))
        self._look([ref], came)

    def _found(self, search: _Search, present: Mapping[str, bool], fault: Fault | None) -> None:
        if not search.needed or search.future.done():
            return
        search.needed = False
        search.present |= present
        search.fault = fault
        if fault is not None:
            search.waited.clear()
        self._maybe_done(search)

    def _maybe_done(self, search: _Search) -> None:
        if search.needed or search.waited:
            return
        self.open -= 1
        if search.known is not None:
            search.future.set_result(search.known)
            return
        data: dict[str, Any] = dict(search.present)
        if search.fault is not None:
            data["@error"] = fault_to_wire(search.fault)  # no secret can have this name
        seq, at, wall = self._local.add("secrets", search.key, data)
        for message in search.warnings:
            self._local.emit("warning", search.key.removesuffix("@secrets"), {"message": message})
        status: Status = "failed" if search.fault is not None else "succeeded"
        search.future.set_result(Record(seq, at, wall, status, outputs=dict(search.present), error=search.fault))


def _resolve(host: Host, refs: Sequence[SecretRef]) -> tuple[dict[str, bool], Fault | None]:
    """In a thread: find every secret; the values stay in the host."""
    present: dict[str, bool] = {}
    for ref in refs:
        try:
            present[ref.name] = host.secrets.resolve(ref)
        except TemporaryError as error:
            return present, Fault(error.message, "temporary", temporary=True)
        except PermanentError as error:
            return present, Fault(error.message, "permanent", hint=error.hint)
        except RunbookError as error:
            return present, Fault(error.message, "permanent", hint=error.hint)
        except Exception as error:  # noqa: BLE001  # a resolver's bug is a failure with a sentence, not a crash
            return present, Fault(f"the secret {ref.name} could not be read: {type(error).__name__}", "bug")
    absent = [_looked_for(ref) for ref in refs if not ref.optional and not present[ref.name]]
    if not absent:
        return present, None
    hint = "`runbook doctor FILE` says where each is looked for"
    return present, Fault(f"a secret is not there: {'; '.join(absent)}", "refused", hint=hint)


def _looked_for(ref: SecretRef) -> str:
    """Where a secret was looked for: its coordinates are no secret."""
    if isinstance(ref.where, Mapping):
        where = "/".join(str(ref.where[part]) for part in ("namespace", "secret", "key") if part in ref.where)
        return f"{ref.name} (Kubernetes Secret {where})"
    return f"{ref.name} ({'environment variable' if ref.kind == 'env' else 'file'} {ref.where})"
