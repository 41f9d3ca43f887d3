"""Secrets are looked up in a thread, for no longer than a minute; their values stay in the host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.effects import Fault, Record, SecretRef, Status
from runbook.interpreter.errors import RunbookError
from runbook.runner.host import Host
from runbook.runner.records import fault_to_wire

if TYPE_CHECKING:
    from runbook.runner.local import Local

PATIENCE = 60.0  # seconds for all secrets of a playbook


class SecretWaits:
    """Secrets on their way."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self.open = 0

    async def resolve(self, key: str, refs: tuple[SecretRef, ...]) -> Record:
        """Which of them are there. Also when that is on record: the values must be in this process's host."""
        local = self._local
        known = local.past.answer("secrets", key)
        future = local.future()
        self.open += 1

        def look() -> None:
            found = _resolve(local.host, refs)
            local.post(lambda: self._done(key, future, found, known))

        late = Fault(f"the secrets were not found within {PATIENCE:g} s", "timeout", temporary=True)
        local.alarm(local.clock.running() + PATIENCE, lambda: self._done(key, future, ({}, late), known))
        local.later(lambda: local.threads.submit(look))
        return await future

    def _done(
        self,
        key: str,
        future: asyncio.Future[Record],
        found: tuple[Mapping[str, bool], Fault | None],
        known: Record | None,
    ) -> None:
        if future.done():
            return
        self.open -= 1
        if known is not None:
            future.set_result(known)
            return
        present, fault = found
        data: dict[str, Any] = dict(present)
        if fault is not None:
            data["@error"] = fault_to_wire(fault)  # no secret can have this name
        seq, at, wall = self._local.add("secrets", key, data)
        status: Status = "failed" if fault is not None else "succeeded"
        future.set_result(Record(seq, at, wall, status, outputs=dict(present), error=fault))


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
