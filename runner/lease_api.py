"""The Leases of one namespace, as the runner asks for them: what it needs of an API server, and what may go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from runbook.contract import PermanentError, TemporaryError
from runbook.runner.locks import LockError, UnreachableError

T = TypeVar("T")

REQUEST = 4.0  # seconds that one request may take


class LeaseApi(Protocol):
    """The Leases of one namespace. None: there is none, there is one already, or it was changed meanwhile.

    TemporaryError and PermanentError for everything else that the API server says, or does not.
    """

    def get(self, name: str) -> dict[str, Any] | None: ...
    def forbidden(self) -> list[str]: ...
    def all(self) -> list[dict[str, Any]]: ...
    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None: ...
    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None: ...
    def close(self) -> None: ...


class Leases:
    """The Leases of a place: reached when first asked, and what goes wrong with them is a LockError."""

    def __init__(self, connect: Callable[[], LeaseApi], where: str) -> None:
        self.where = where
        self._connect = connect
        self._api: LeaseApi | None = None

    def get(self, name: str) -> dict[str, Any] | None:
        return self._ask(lambda api: api.get(name))

    def check_rights(self) -> None:
        """LockError that names what this user may not do with them."""
        forbidden = self._ask(lambda api: api.forbidden())
        if forbidden:
            verbs = " and ".join(forbidden)
            hint = "bind a Role with get, create and update of leases.coordination.k8s.io to this user"
            raise LockError(f"the locks cannot be used ({self.where}): no right to {verbs} leases", hint)

    def all(self) -> list[dict[str, Any]]:
        return self._ask(lambda api: api.all())

    def create(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._ask(lambda api: api.create(lease))

    def replace(self, lease: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._ask(lambda api: api.replace(lease))

    def close(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            api.close()

    def _ask(self, request: Callable[[LeaseApi], T]) -> T:
        try:
            if self._api is None:
                self._api = self._connect()
            return request(self._api)
        except TemporaryError as error:
            raise UnreachableError(f"the locks cannot be reached ({self.where}): {error.message}") from error
        except PermanentError as error:
            raise LockError(f"the locks cannot be used ({self.where}): {error.message}", error.hint) from error
