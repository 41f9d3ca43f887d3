"""What stands around a run: the real environment, or a sandbox's in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Surroundings(Protocol):
    """Where actions reach out to. `Real` is the machine as it is; a sandbox replaces every part of it."""

    @property
    def simulated(self) -> bool:
        """True in a sandbox: said on the screen, in the journal and in the report."""
        ...

    @property
    def world_id(self) -> str:
        """Which simulated world it is; '' the real one. Only in the same one can a rehearsal go on."""
        ...

    @property
    def place(self) -> str:
        """What `--sandbox` takes to get into this simulated world again; '' if it ends with its command, or is real."""
        ...

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of actions and their child processes."""
        ...

    def address(self, service: str, url: str) -> str:
        """Where `service` is: `url`, or its stand-in."""
        ...

    def permit(self, what: str, target: str) -> None:
        """Allow reaching out (`what`: process, url, write, read, plug-in), or raise contract.PermanentError.

        `plug-in`: an action that may reach anything, as its class does not say that it asks.
        """
        ...

    def secret(self, kind: str, where: Any) -> str | None:
        """In a sandbox, the simulated value of a secret by its coordinates; None = the scenario has none."""
        ...

    def answer(self, action: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The outputs of a call that is answered without being made; None = make it. May raise contract's errors."""
        ...

    def answers(self, action: str) -> bool:
        """Whether there are answers for calls of this action."""
        ...


class Real:
    """The world as it is."""

    simulated = False
    world_id = ""
    place = ""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ`: what actions see; hand a copy in."""
        self.environ = environ

    def address(self, service: str, url: str) -> str:
        return url

    def permit(self, what: str, target: str) -> None:
        """Everything is allowed."""

    def secret(self, kind: str, where: Any) -> str | None:
        return None

    def answer(self, action: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return None

    def answers(self, action: str) -> bool:
        return False
