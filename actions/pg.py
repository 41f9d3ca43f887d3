"""pg.query: what a database says, in a transaction that cannot write (psycopg 3; PostgreSQL manual, chapter 13)."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast

from runbook.contract import Context, Duration, Outputs, PermanentError, Read, TemporaryError, param, shorten

if TYPE_CHECKING:
    import psycopg

ROWS = 10_000
CANCEL = 0.3  # seconds that a cancel request may take before the connection is cut

TEMPORARY = re.compile(r"08...|57P0[1-3]|53300|40001|40P01|55P03")
"""SQLSTATEs that may pass: connection, shutdown, start-up, too many clients, serialization, deadlock, lock time-out."""

REFUSED = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry|does not exist"
    r"|is not permitted to log in|permission denied|certificate verify failed|does not match host name"
    r"|does not support SSL|SSL off|root certificate"
    r"|invalid (?:integer value|connection option|sslmode value|port number)"
)
"""A failed connection has no SQLSTATE in libpq: these texts will not pass, all others may."""


@dataclass(frozen=True, kw_only=True)
class QueryArgs:
    """Parameters of pg.query."""

    sql: str = param("One statement; values are `$1`, `$2` ... of `params`, never pasted into the text.")
    params: list[Any] = param("Values for `$1`, `$2` ...", default_factory=list)
    dsn: str | None = param(
        "`postgresql://...` or `key=value ...`; the keys below replace parts of it.",
        default=None,
        secret=True,
        family=True,
    )
    host: str | None = param("Host name or socket folder; with `via: k8s` the Service.", default=None, family=True)
    port: int | None = param("Port.", default=None, family=True, minimum=1, maximum=65535)
    database: str | None = param("Database.", default=None, family=True)
    user: str | None = param("Role.", default=None, family=True)
    password: str | None = param("Its password.", default=None, secret=True, family=True)
    via: Literal["direct", "k8s"] = param("k8s: by port-forward through the API server.", default="direct", family=True)
    context: str = param("via k8s: context of the kubeconfig.", default="current", family=True)
    namespace: str = param("via k8s: namespace of the Service, if the host name has none.", default="", family=True)
    lock_timeout: Duration = param("The longest that it waits for a lock.", default=Duration(5), family=True)


class Query(Read[QueryArgs]):
    """Ask a database, in a READ ONLY transaction that is rolled back.

    `statement_timeout` is what is left of the step's time; at its end the query is cancelled, then the connection cut.
    More than 10,000 rows are an error.
    """

    name = "pg.query"
    world = "*"
    extra = "postgres"
    returns = {
        "value": "first column of the first row, or null",
        "rows": "[{column: value}]; numbers as numbers (NaN and infinity null), times as ISO 8601, the rest as text",
        "count": "how many rows",
    }

    def check(self, args: QueryArgs) -> Iterator[str]:
        if not args.sql.strip():
            yield "sql: is empty"

    def preflight(self, args: QueryArgs, ctx: Context) -> list[str]:
        try:
            driver()
        except PermanentError as missing:
            return [f"{missing.message}: {missing.hint}"]
        if args.via == "direct":
            return []
        from runbook.actions._kube.forward import lacking

        host, _ = _first(_coordinates(args, ctx))
        return lacking(ctx, host, context=args.context, namespace=args.namespace)

    def read(self, args: QueryArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        where = _coordinates(args, ctx)
        host, port = _first(where)
        ctx.permit("url", f"postgresql://{host}:{port}/{where.get('dbname', '')}")
        with _reached(args, host, port, ctx) as at:
            if at is not None:
                where |= {"hostaddr": at[0], "port": at[1]}  # `host` stays: certificates are checked against it
            connection = _connect(where, ctx)
            try:
                rows = _ask(connection, args, ctx)
            finally:
                connection.close()
        first = next(iter(rows[0].values()), None) if rows else None
        return {"value": first, "rows": rows, "count": len(rows)}


def driver() -> Any:
    """psycopg, or a sentence on how to get it."""
    try:
        import psycopg
    except ImportError:
        raise PermanentError(
            "pg.* needs the PostgreSQL driver, which is not installed", hint="pip install 'runbook[postgres]'"
        ) from None
    return psycopg


def _coordinates(args: QueryArgs, ctx: Context) -> dict[str, Any]:
    """libpq's parameters, of `dsn` and of what replaces its parts."""
    postgres = driver()
    try:
        where: dict[str, Any] = postgres.conninfo.conninfo_to_dict(args.dsn or "")
    except postgres.Error:
        raise PermanentError("dsn: neither postgresql://... nor key=value ...") from None  # its text quotes the dsn
    given = {
        "host": args.host,
        "port": args.port,
        "dbname": args.database,
        "user": args.user,
        "password": args.password,
    }
    where |= {name: value for name, value in given.items() if value is not None}
    where["application_name"] = f"runbook {ctx.op}"[:63]
    where.setdefault("connect_timeout", max(2, math.ceil(ctx.remaining())))
    return where


def _first(where: Mapping[str, Any]) -> tuple[str, int]:
    """The first host and port; libpq takes lists of them."""
    host = str(where.get("host") or "localhost").split(",")[0]
    port = str(where.get("port") or 5432).split(",")[0]
    if not port.isdigit():
        raise PermanentError("dsn: the port is not a number")
    return host, int(port)


@contextlib.contextmanager
def _reached(args: QueryArgs, host: str, port: int, ctx: Context) -> Iterator[tuple[str, int] | None]:
    """Where to connect: None is the host itself."""
    if args.via == "direct":
        yield None
        return
    from runbook.actions._kube.forward import open_service

    with open_service(ctx, host, port, context=args.context, namespace=args.namespace) as at:
        yield at


def _connect(where: Mapping[str, Any], ctx: Context) -> psycopg.Connection[Any]:
    """libpq cannot be interrupted while it connects: it does so in a thread of its own, left there at the deadline."""
    postgres = driver()
    over = threading.Event()
    turn = threading.Lock()
    found: list[Any] = []
    abandoned = False

    def connect() -> None:
        try:
            made = postgres.connect(**where, autocommit=False)
        except postgres.Error as failure:
            made = failure
        with turn:
            found.append(made)
            late = abandoned
        over.set()
        if late and not isinstance(made, postgres.Error):
            made.close()

    ctx.checkpoint()
    forget = ctx.on_stop(over.set)
    try:
        threading.Thread(target=connect, daemon=True, name="pg-connect").start()
        over.wait(ctx.remaining())
    finally:
        forget()
    with turn:
        abandoned = not found
    if abandoned:
        ctx.checkpoint()
        raise TemporaryError("PostgreSQL: no connection in time")
    if isinstance(found[0], postgres.Error):
        raise _told(found[0], connecting=True)
    return cast("psycopg.Connection[Any]", found[0])


def _ask(connection: psycopg.Connection[Any], args: QueryArgs, ctx: Context) -> list[dict[str, Any]]:
    """The rows, streamed, by the extended protocol: it takes one statement only, so none can end the transaction."""
    postgres = driver()
    forget = ctx.on_stop(lambda: _cut(connection))
    try:
        connection.read_only = True
        with postgres.RawCursor(connection) as cursor:
            limits = "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true)"
            left = max(1, int(ctx.remaining() * 1000))
            cursor.execute(limits, [str(left), str(min(left, int(args.lock_timeout * 1000)))])
            rows: list[dict[str, Any]] = []
            for row in cursor.stream(args.sql, [_parameter(value) for value in args.params] or None):
                if len(rows) == ROWS:
                    raise PermanentError(f"more than {ROWS} rows", hint="aggregate, or add a LIMIT")
                names = [column.name for column in cursor.description or ()]
                rows.append(dict(zip(names, map(plain, row), strict=True)))
            return rows
    except postgres.Error as failure:
        ctx.checkpoint()
        raise _told(failure, connecting=False) from None
    finally:
        forget()


def _parameter(value: Any) -> Any:
    """Lists and maps travel as JSON; everything else as the driver has it."""
    if isinstance(value, dict | list):
        from psycopg.types.json import Jsonb

        return Jsonb(value)
    return value


def _cut(connection: psycopg.Connection[Any]) -> None:
    """Ask the server to stop; then cut, whether it heard or not."""
    with contextlib.suppress(Exception):  # whatever it is, the cut below does not depend on it
        connection.cancel_safe(timeout=CANCEL)
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def _told(failure: psycopg.Error, *, connecting: bool) -> TemporaryError | PermanentError:
    state = failure.sqlstate or ""
    text = shorten(" ".join(str(failure).split()), 500)
    sentence = f"PostgreSQL: {text}" + (f" ({state})" if state else "")
    if state == "25006":
        return PermanentError(sentence, hint="pg.query only reads; a change needs an action that says so")
    if not connecting and not state and not isinstance(failure, driver().OperationalError):
        return PermanentError(sentence)  # what is wrong is the call: no result, a parameter that has no type
    if connecting or not state:
        return PermanentError(sentence) if REFUSED.search(text) else TemporaryError(sentence)
    return TemporaryError(sentence) if TEMPORARY.fullmatch(state) else PermanentError(sentence)


def plain(value: Any) -> Any:
    """A value of the database as JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return "\\x" + bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)


ACTIONS = (Query,)
