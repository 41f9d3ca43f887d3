"""Write on condition that nobody else has written, and read again when somebody has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from runbook.actions._kube.cluster import ConflictError
from runbook.actions._kube.kinds import Ref
from runbook.contract import Context, PermanentError, TemporaryError

ATTEMPTS = 5
"""How often a conflict (409) is read again before it is reported."""
PAUSE = 0.02
"""Seconds before the second look; each one later waits twice as long. A controller's writes come in bursts."""

T = TypeVar("T")


def write(ctx: Context, ref: Ref, look: Callable[[], T | None], send: Callable[[T], object]) -> None:
    """Send what `look` finds to be sent, until it is done.

    `look` reads the object: None where it is as wanted, PermanentError where somebody else has changed what is to be
    changed here. `send` is refused with a conflict when the object has moved since. TemporaryError when that happens
    again and again, or no answer came and it cannot be seen whether it was done.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            ctx.sleep(PAUSE * 2 ** (attempt - 1))
        body = look()
        if body is None:
            return
        try:
            send(body)
        except ConflictError:
            continue  # somebody changed another field
        except TemporaryError:
            # No answer does not mean that nothing was done; whoever only knows that tries it, or takes it back.
            if not _arrived(look):
                raise
            return
        else:
            return
    raise TemporaryError(f"{ref} was changed by others {ATTEMPTS} times while it was to be written")


def _arrived(look: Callable[[], object | None]) -> bool:
    try:
        return look() is None
    except (TemporaryError, PermanentError):
        return False
