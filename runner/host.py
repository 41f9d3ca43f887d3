"""The action host: the one place where actions run and secrets are values. One method per phase of a call.

Every phase reveals, acts, masks or seals, and gives back a value; nothing that happens in the world is an exception
here. A change has two phases, `prepare` (observe, expect, inverse: reads only) and `apply`; between them its intent
gets on disk.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from runbook import contract
from runbook.contract import Change, Opaque, PermanentError, Read, TemporaryError
from runbook.interpreter.effects import Call, Fault
from runbook.interpreter.errors import RunbookError
from runbook.interpreter.unknown import Unknown, why_unknown
from runbook.runner import lacks, unsettled
from runbook.runner import outputs as output_limits
from runbook.runner.clients import Clients
from runbook.runner.context import HostContext, Outbox
from runbook.runner.diff import diff, masked
from runbook.runner.outcomes import Again, Intent, Result, Undoes
from runbook.runner.pins import Pins
from runbook.runner.rotated import beside
from runbook.runner.secrets import Secrets, is_sealed
from runbook.runner.surroundings import Surroundings

MESSAGE = 8192  # characters of an error's text that are kept
EFFECTIVE_EVERY = 1.0  # seconds between two looks whether an inverse has become effective; the first ones come sooner


class Registry(Protocol):
    """Where classes of actions come from: the module runbook.runner.registry, or a test's own."""

    def find(self, name: str) -> type[contract.Action[Any]]: ...

    def parse(self, action: type[contract.Action[Any]], given: Mapping[str, Any], base: str = "") -> Any: ...


class Host:
    """Runs phases of actions. Thread-safe: each call has its own context, what they share is the clients."""

    def __init__(
        self,
        registry: Registry,
        secrets: Secrets,
        surroundings: Surroundings,
        *,
        folder: Path,
        run_id: str,
        cwd: str = "",
        pins: Pins | None = None,
    ) -> None:
        """`folder`: the run's own. `cwd`: the folder that the run was started in; its files are relative to it.

        `pins`: what is on record of a run; without them they last as long as this host.
        """
        self.registry = registry
        self.secrets = secrets
        self.surroundings = surroundings
        self._folder = folder
        self._run_id = run_id
        self._cwd = Path(cwd) if cwd else Path()
        self.clients = Clients()
        self._pins = pins or Pins()

    def context(
        self, call: Call, seconds: float, notes: Mapping[str, Any] | None = None, outbox: Outbox | None = None
    ) -> HostContext:
        """What one call needs, over all its phases. `notes`: sealed, of earlier attempts."""
        return HostContext(
            call.key,
            call.op,
            self._run_id,
            attempt=call.attempt,
            seconds=seconds,
            folder=self._folder,
            surroundings=self.surroundings,
            secrets=self.secrets,
            clients=self.clients,
            pins=self._pins,
            outbox=outbox or Outbox(),
            notes={name: self.secrets.reveal(value, None) for name, value in (notes or {}).items()},
            beside=self._cwd / Path(call.base).parent,
        )

    def effect(self, name: str) -> str:
        """The class of an action: read, check, local, change, opaque or notify."""
        return self.registry.find(name).effect

    # -- phases

    def perform(self, call: Call, ctx: HostContext) -> Result:
        """A call without an intent of its own to make: a read, check or local one, or an opaque one or a notification
        whose intent is on disk."""

        def act() -> Result:
            impl, args, answered = self._open(call, ctx)
            effective = isinstance(impl, Opaque)
            if answered is not None:
                found = answered
            elif isinstance(impl, Read | contract.Check):
                found = impl.read(args, ctx)
            elif isinstance(impl, Opaque):
                found = impl.run(args, ctx)
            else:
                raise PermanentError(f"{call.action} cannot be called")
            told = call.effect == "notify" or not effective or call.effect == "read"
            return Result(outputs=self._outputs(found), changed=not told, irreversible=not told and impl.irreversible)

        result: Result = self._guard(call, ctx, act)
        return result

    def prepare(
        self, call: Call, ctx: HostContext, first: Intent | None = None, undoes: Undoes | None = None
    ) -> Intent | Result:
        """Reads only: the intent of a change, or its result when there is nothing to do (or it cannot be).

        `first`: the intent of this operation's first attempt, whose observation and inverse stay. `undoes`: for an
        inverse, what it takes back; refused when an object is in a state that this run did not leave it in.
        """

        def look() -> Intent | Result:
            impl, args, answered = self._open(call, ctx)
            if answered is not None:
                return Result(outputs=self._outputs(answered), changed=True, irreversible=impl.irreversible)
            if not isinstance(impl, Change):
                raise PermanentError(f"{call.action} is not a change")
            before = plain(impl.observe(args, ctx))
            if undoes is not None and not call.again:
                self._unmoved(before, undoes)
            after = plain(impl.expect(args, before, ctx))
            if before == after and not call.again:
                return self._already(call, ctx, impl, args=args, after=after, first=first)
            before, after = beside(before, after, self.secrets.mask)
            inverse = first.inverse if first is not None else self._inverse(call, impl, args, before)
            seen = self.secrets.seal(before)
            version = impl.version(args, before)
            return Intent(
                before=seen,
                after=self.secrets.seal(after),
                inverse=inverse,
                origin=first.first if first is not None else None,
                version=None if version is None else self.secrets.fingerprint(plain(version)),
                irreversible=inverse is None or impl.irreversible,
                computed=impl.computed,
                diff=tuple(item.to_data() for item in masked(diff(before, after), self.secrets.mask)),
            )

        result: Intent | Result = self._guard(call, ctx, look)
        return result

    def apply(self, call: Call, ctx: HostContext, intent: Intent) -> Result:
        """Make the change; its intent is on disk."""

        def act() -> Result:
            impl, args, _ = self._open(call, ctx)
            assert isinstance(impl, Change)
            impl.apply(args, self.secrets.reveal(intent.before, None), ctx)
            return self._done(call, ctx, impl, args, intent)

        failed = self._guard(call, ctx, act)
        return failed if failed.ok else _with_inverse(failed, intent)

    def settle(self, call: Call, ctx: HostContext, intent: Intent) -> Result | Again:
        """An intent without a result: look whether it happened. `Again` when it is to be applied (again)."""

        def look() -> Result | Again:
            impl, args, _ = self._open(call, ctx)
            assert isinstance(impl, Change)
            before, after = self.secrets.reveal(intent.before, None), self.secrets.reveal(intent.after, None)
            now = plain(impl.observe(args, ctx))
            verdict = impl.settle(args, before, after, now, ctx)
            if verdict == "done":
                return self._done(call, ctx, impl, args, intent)
            if verdict == "unknown":
                return self._in_doubt(unsettled.told(call.action, before, after, now, self.secrets.mask))
            return Again(
                Intent(
                    before=self.secrets.seal(beside(now, after, self.secrets.mask)[0]),
                    after=intent.after,
                    inverse=intent.inverse,
                    origin=intent.first,
                    version=intent.version,
                    irreversible=intent.irreversible,
                    computed=intent.computed,
                    diff=intent.diff,
                )
            )

        settled = self._guard(call, ctx, look)
        return settled if isinstance(settled, Again) or settled.ok else _with_inverse(settled, intent)

    def preflight(self, call: Call, ctx: HostContext) -> list[str] | Result:
        """What this call lacks (programs, dependencies, rights, what is not there), as sentences. Reads only.

        And what is wrong with its parameters taken together, where all of them are known.

        Secrets stay sealed, and what is not known yet stays Unknown: where that is needed to tell, and where nobody
        could tell, it is a failed result (`kind` unknown, else why).
        """

        waits_for = why_unknown(call.args)

        def look() -> list[str]:
            kind = self.registry.find(call.action)
            if self.surroundings.answers(call.action):
                return []
            given = self.secrets.reveal(dict(call.args), None if call.inverse else ())
            try:
                args = self.registry.parse(kind, given, str(self._cwd / Path(call.base).parent))
            except PermanentError:
                return []  # its step says so, better: here secrets are still sealed
            impl = kind()
            try:
                self._may_rehearse(impl)
            except PermanentError as error:
                return [error.message]
            known = waits_for is None and not is_sealed(call.args)
            wrong = list(impl.check(args)) if known else []
            if wrong:
                return wrong  # the rest of the look would be about a call that makes no sense
            try:
                said = impl.preflight(args, ctx)
            except PermanentError as error:
                said = [contract.Absent(error.message)]
            tools = impl.needs(args).get("tools", ())
            return [*said, *lacks.tools(tools, self.surroundings.environ, said), *lacks.dependency(impl.extra, said)]

        try:
            found: list[str] | Result = self._guard(call, ctx, look)
        except Unknown.Reached as reached:
            return Result("failed", error=Fault(reached.unknown.why, kind="unknown"))
        if isinstance(found, list):
            return [lacks.masked(text, self.secrets.mask) for text in found]
        if waits_for is not None and found.error is not None and found.error.kind == "bug":
            return Result("failed", error=Fault(waits_for, kind="unknown"))  # an action that took it for a value
        return found

    # -- parts of phases

    def _may_rehearse(self, impl: contract.Action[Any]) -> None:
        """PermanentError in a sandbox for an action of somebody else's that does not say how it reaches out."""
        if not impl.rehearsed and not type(impl).__module__.startswith("runbook."):
            self.surroundings.permit("plug-in", impl.name)

    def _open(self, call: Call, ctx: HostContext) -> tuple[contract.Action[Any], Any, Mapping[str, Any] | None]:
        """The action with its parameters, revealed and checked; and its outputs, if the surroundings answer for it."""
        if ctx.opened is None:
            ctx.checkpoint()
            kind = self.registry.find(call.action)
            given = self.secrets.reveal(dict(call.args), None if call.inverse else call.secret_at)
            args = self.registry.parse(kind, given, str(self._cwd / Path(call.base).parent))
            impl = kind()
            wrong = list(impl.check(args))
            if wrong:
                raise PermanentError("; ".join(wrong))
            answered = self.surroundings.answer(call.action, given)
            if answered is None:
                self._may_rehearse(impl)
            ctx.opened = impl, args, answered
        found: tuple[contract.Action[Any], Any, Mapping[str, Any] | None] = ctx.opened
        return found

    def _inverse(self, call: Call, impl: Change[Any], args: Any, before: Mapping[str, Any]) -> Call | None:
        """What takes the change back, sealed, as a call that the engine can play."""
        if call.again:
            return _inverse_call(call, call.action, call.args, call.effect, impl.idempotent)
        found = impl.inverse(args, dict(before), f"{self._run_id}:{call.op}")
        if found is None:
            return None
        kind = self.registry.find(found.action)
        return _inverse_call(call, found.action, self.secrets.seal(plain(found.args)), kind.effect, kind.idempotent)

    def _already(
        self, call: Call, ctx: HostContext, impl: Change[Any], *, args: Any, after: Any, first: Intent | None
    ) -> Result:
        """Nothing to do: it was so, or an earlier attempt of this operation made it so."""
        if call.inverse:
            self._await_effect(ctx, impl, args, after)
        if first is None:
            return Result(outputs=self._outputs(impl.outputs(args, after, after)))
        before = self.secrets.reveal(first.first, None)
        outputs = self._outputs(impl.outputs(args, before, after))
        return _with_inverse(Result(outputs=outputs, changed=before != after), first)

    def _done(self, call: Call, ctx: HostContext, impl: Change[Any], args: Any, intent: Intent) -> Result:
        before, after = self.secrets.reveal(intent.first, None), self.secrets.reveal(intent.after, None)
        if call.inverse:
            self._await_effect(ctx, impl, args, after)
        return _with_inverse(Result(outputs=self._outputs(impl.outputs(args, before, after)), changed=True), intent)

    @staticmethod
    def _await_effect(ctx: HostContext, impl: Change[Any], args: Any, after: Any) -> None:
        """An inverse is done when it is effective: the time of its phase bounds the wait."""
        pause = EFFECTIVE_EVERY / 16
        while not impl.effective(args, after, ctx):
            ctx.sleep(pause)
            pause = min(2 * pause, EFFECTIVE_EVERY)

    def _unmoved(self, now: Mapping[str, Any], undoes: Undoes) -> None:
        """Nobody else changed what an inverse is about to change."""
        known = [self.secrets.reveal(states, None) for states in undoes.states]
        for name, state in now.items():
            states = [known_states[name] for known_states in known if name in known_states]
            if states and state not in states:
                raise RefusedUndoError(
                    f"{name} was changed by somebody else: it is neither as this run left it nor as it was before",
                    hint="look at it, put it right by hand, then undo again",
                )

    def _outputs(self, found: Any) -> Any:
        return output_limits.limited(self.secrets.mask(plain(found or {})))

    def _in_doubt(self, message: str) -> Result:
        return Result("in_doubt", error=Fault(str(self.secrets.mask(message)), kind="in_doubt"))

    def _guard(self, call: Call, ctx: HostContext, phase: Callable[[], Any]) -> Any:
        """Run a phase; whatever it raises becomes a failed result, masked."""
        try:
            return phase()
        except TemporaryError as error:
            kind = "timeout" if ctx.remaining() <= 0 else "temporary"
            return self._failed(
                call,
                error.message,
                kind,
                temporary=True,
                hint=error.hint,
                outputs=error.outputs,
                retry_after=error.retry_after,
            )
        except RefusedUndoError as error:
            return self._failed(call, error.message, "refused", hint=error.hint)
        except PermanentError as error:
            return self._failed(call, error.message, "permanent", hint=error.hint, outputs=error.outputs)
        except output_limits.TooLargeError as error:
            return self._failed(call, str(error), "permanent")
        except RunbookError as error:
            return self._failed(call, error.message, "permanent", hint=error.hint)
        except Unknown.Reached:
            raise
        except BaseException as error:  # noqa: BLE001  # an action's bug (even SystemExit) ends its step, not the run
            ctx.log(traceback.format_exc())
            hint = f"a bug in {call.action}; the step's log has the traceback"
            return self._failed(call, f"{type(error).__name__}: {error}", "bug", hint=hint)

    def _failed(
        self,
        call: Call,
        message: str,
        kind: str,
        *,
        temporary: bool = False,
        hint: str | None = None,
        outputs: Any = None,
        retry_after: float | None = None,
    ) -> Result:
        mask = self.secrets.mask
        shown = None if hint is None else str(mask(hint))
        fault = Fault(shortened(str(mask(message))), kind, temporary, call.attempt, shown, retry_after)
        try:
            known = self._outputs(outputs) if outputs else None
        except output_limits.TooLargeError:
            known = None
        return Result("failed", outputs=known, error=fault)


class RefusedUndoError(PermanentError):
    """Somebody else changed the object that an inverse was to take back."""


def _inverse_call(call: Call, action: str, args: Mapping[str, Any], effect: str, idempotent: bool) -> Call:
    """`key` and `op` are the engine's to give."""
    return Call(
        key="",
        op="",
        step=call.step,
        action=action,
        args=args,
        effect=effect,
        idempotent=idempotent,
        again=call.again,
        base=call.base,
        inverse=True,
    )


def _with_inverse(result: Result, intent: Intent) -> Result:
    """Whatever the status: the intent is on disk, so its inverse is known."""
    return Result(
        result.status,
        result.outputs,
        result.error,
        result.changed,
        intent.inverse,
        intent.irreversible and intent.inverse is None,
    )


def shortened(text: str) -> str:
    """An error's text, masked already: its head and its tail, where the reason mostly stands."""
    if len(text) <= MESSAGE:
        return text
    return f"{text[: MESSAGE // 2]}\n… {len(text) - MESSAGE} characters …\n{text[-MESSAGE // 2 :]}"


def plain(value: Any) -> Any:
    """JSON's own types, so that what was observed now and what was observed before a crash compare equal."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
