"""Which secrets are not there: in words, and all of a run's together before it begins.

Those of called playbooks as well: a run that breaks off at a sub-playbook's missing secret has changed half of it.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Mapping, Sequence

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter.effects import Call, Fault, SecretRef
from runbook.interpreter.errors import RunbookError
from runbook.interpreter.frozen import frozen
from runbook.interpreter.unknown import why_unknown
from runbook.interpreter.values import to_wire
from runbook.runner.host import Host
from runbook.runner.threads import Threads

HINT = "`runbook doctor FILE` says where each secret is looked for"


@frozen
class Wanted:
    """A secret that a playbook of the run declares. `at`: the step that calls this playbook, '' the run's own."""

    at: str
    ref: SecretRef


@frozen
class SecretLack:
    """One that cannot serve. `sentence` '' and `unchecked`: nobody could tell."""

    wanted: Wanted
    sentence: str = ""
    unchecked: str = ""

    @property
    def call(self) -> Call:
        """As what the other looks are weighed by: the step that would fail without it."""
        at, ref = self.wanted.at, self.wanted.ref
        return Call(at, at, at, action="", args={}, effect="read", maybe=ref.maybe, spare=ref.spare)


def looked_for(ref: SecretRef) -> str:
    """A secret, where it was looked for and where it is declared: its coordinates are no secret."""
    if isinstance(ref.where, Mapping):
        kind = "Kubernetes Secret"
        where = "/".join(str(ref.where[part]) for part in ("namespace", "secret", "key") if part in ref.where)
    else:
        kind, where = "environment variable" if ref.kind == "env" else "file", str(ref.where)
    declared = f", {ref.place.rpartition(':')[0]}" if ref.place else ""
    return f"{ref.name} ({kind} {where}{declared})"


def fault_of(host: Host, ref: SecretRef) -> tuple[bool, Fault | None]:
    """Whether it is there; the fault where it must be and is not, or cannot serve. In a thread; never raises."""
    try:
        there = host.secrets.resolve(ref)
    except TemporaryError as error:
        return False, Fault(error.message, "temporary", temporary=True)
    except (PermanentError, RunbookError) as error:
        return False, Fault(error.message, "permanent", hint=error.hint)
    except Exception as error:  # noqa: BLE001  # a resolver's bug is a failure with a sentence, not a crash
        return False, Fault(f"the secret {ref.name} could not be read: {type(error).__name__}", "bug")
    if there or ref.optional:
        return there, None
    return False, Fault(f"a secret is not there: {looked_for(ref)}", "refused", hint=HINT)


def together(found: Sequence[tuple[SecretRef, Fault]]) -> Fault | None:
    """All that is wrong with a playbook's secrets, as one fault."""
    if len(found) < 2:
        return found[0][1] if found else None
    absent = [looked_for(ref) for ref, fault in found if fault.kind == "refused"]
    lines = [f"{len(found)} secrets cannot be used:", *(f"not there: {one}" for one in absent)]
    lines += [f"{fault.message} ({looked_for(ref)})" for ref, fault in found if fault.kind != "refused"]
    kind = "refused" if absent else found[0][1].kind
    return Fault("\n".join(lines), kind, temporary=all(fault.temporary for _, fault in found), hint=HINT)


class SecretLooks:
    """Looks for all secrets that are needed, at the same time, each once; begun when it is made."""

    def __init__(self, host: Host, wanted: Sequence[Wanted]) -> None:
        self._wanted = {_coordinates(one.ref): one.ref for one in wanted if why_unknown(one.ref.where) is None}
        self._who = list({(one.at, one.ref.name): one for one in wanted}.values())
        self._found: dict[str, Fault | None] = {}
        self._all = threading.Event()
        threads = Threads("secrets")
        for where, ref in self._wanted.items():
            threads.submit(functools.partial(self._look, host, where, ref))

    def _look(self, host: Host, where: str, ref: SecretRef) -> None:
        self._found[where] = fault_of(host, ref)[1]
        if len(self._found) == len(self._wanted):
            self._all.set()

    def until(self, moment: float) -> list[SecretLack]:
        """What is not there, at this moment (monotonic) at the latest; of the others nobody could tell."""
        if self._wanted:
            self._all.wait(max(0.0, moment - time.monotonic()))
        return [lack for one in self._who if (lack := self._lack(one)) is not None]

    def _lack(self, one: Wanted) -> SecretLack | None:
        where = _coordinates(one.ref) if why_unknown(one.ref.where) is None else ""
        if where not in self._wanted:
            return None  # known only at the run
        if where not in self._found:
            return SecretLack(one, unchecked=f"the secret {looked_for(one.ref)}: no answer in time")
        fault = self._found[where]
        if fault is None:
            return None
        if fault.temporary or fault.kind == "bug":
            return SecretLack(one, unchecked=fault.message)
        if fault.kind == "refused":
            return SecretLack(one, f"a secret is not there: {looked_for(one.ref)}")
        return SecretLack(one, f"a secret cannot be used: {looked_for(one.ref)}: {fault.message}")


def _coordinates(ref: SecretRef) -> str:
    return f"{ref.kind} {json.dumps(to_wire(ref.where), sort_keys=True)}"
