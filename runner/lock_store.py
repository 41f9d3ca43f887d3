"""What a run wants of where locks live: a file of this machine (`locks`), or Leases of a cluster (`lease_locks`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class Holding(Protocol):
    """Who holds a lock. As text it is a sentence: the lock, the run, the user, the machine, since when."""

    @property
    def name(self) -> str: ...

    @property
    def run(self) -> str: ...

    def way_out(self) -> str:
        """What to do about it, for the hint of a refusal."""
        ...


class LockStore(Protocol):
    """The locks of one run. Its methods raise LockError where the place cannot be used, LockLostError for a lost lock.

    What may talk over a network is called in a thread when `remote`; `beat`, `sure` and `demanded` never block.
    """

    remote: bool
    where: str
    """For the journal: where the locks are, '' for this machine's file."""
    tokens: dict[str, int]
    """What this run holds: a number for each name that grows with every change of its owner."""

    def take(self, names: Iterable[str]) -> Holding | None:
        """Take the names in sorted order, as far as they are free; who holds the first that is not, else None."""
        ...

    def retake(self, tokens: Mapping[str, int]) -> list[str]:
        """After a resume: take back what is on record as ours. Returns the names that others have held meanwhile."""
        ...

    def release(self, names: Iterable[str]) -> None:
        """Give names back; those that are not ours are left alone."""
        ...

    def park(self) -> None:
        """Nobody runs us now, and still they are ours: a person is waited for."""
        ...

    def beat(self, *, acting: bool) -> None:
        """In every turn: see to it that the locks live on. LockLostError when one is lost, or when an effect is on its
        way (`acting`) and none can be sure of them any more."""
        ...

    def sure(self) -> bool:
        """Whether everything held is surely still ours: nobody else can have it yet."""
        ...

    def assure(self) -> str | None:
        """Before an effect: be sure, if need be by asking. A sentence when that is impossible."""
        ...

    def demand(self, held: Holding) -> None:
        """Ask a holder to cancel its run, clean up and give way (`--preempt`). LockError when it cannot be told."""
        ...

    def demanded(self) -> str | None:
        """Who asked us to give way, once."""
        ...

    def close(self) -> None:
        """Let go of files and connections; what is held stays held."""
        ...
