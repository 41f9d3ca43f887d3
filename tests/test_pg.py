"""pg.query against a real PostgreSQL."""

from __future__ import annotations

import builtins
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runbook.actions.pg import Query
from runbook.contract import PermanentError, TemporaryError
from tests.context import LocalContext, call
from tests.http_server import serving
from tests.postgres import Postgres, postgres

__all__ = ["postgres"]

pytestmark = pytest.mark.postgres


def query(tmp_path: Path, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    with LocalContext(tmp_path, **options) as ctx:
        return call(Query, given, ctx)


def test_values_come_back_as_json(tmp_path: Path, postgres: Postgres) -> None:
    sql = """
        SELECT 7 AS i, 1.50 AS d, 3.0 AS whole, 'NaN'::float8 AS n, 'Infinity'::numeric AS inf, true AS b, NULL AS z,
        '2026-01-02T03:04:05+00'::timestamptz AS t, '1 hour'::interval AS iv, ARRAY[1,2] AS a,
        '{"k": [1]}'::jsonb AS j, '\\x00ff'::bytea AS raw, '10.0.0.0/8'::inet AS net"""
    out = query(tmp_path, {**postgres.with_, "sql": sql})
    assert out["count"] == 1
    assert out["value"] == 7
    assert out["rows"] == [
        {
            "i": 7,
            "d": 1.5,
            "whole": 3,
            "n": None,
            "inf": None,
            "b": True,
            "z": None,
            "t": "2026-01-02T03:04:05+00:00",
            "iv": 3600.0,
            "a": [1, 2],
            "j": {"k": [1]},
            "raw": "\\x00ff",
            "net": "10.0.0.0/8",
        }
    ]


def test_no_rows_and_parameters(tmp_path: Path, postgres: Postgres) -> None:
    assert query(tmp_path, {**postgres.with_, "sql": "SELECT 1 WHERE false"}) == {"value": None, "rows": [], "count": 0}
    given = {
        "sql": "SELECT $1::text || '%' AS x, $2::int + 1 AS y, $3::jsonb->>'a' AS z",
        "params": ["'; DROP", 41, {"a": "b"}],
    }
    assert list(query(tmp_path, {**postgres.with_, **given})["rows"][0].values()) == ["'; DROP%", 42, "b"]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE made (i int)",
        "COMMIT; CREATE TABLE made (i int)",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SET TRANSACTION READ WRITE",
        "COMMIT",
        "SELECT 1; DELETE FROM pg_class",
    ],
)
def test_nothing_is_ever_written(tmp_path: Path, postgres: Postgres, sql: str) -> None:
    with pytest.raises(PermanentError):
        query(tmp_path, {**postgres.with_, "sql": sql})
    assert postgres.execute("SELECT to_regclass('made')") == [(None,)]


def test_a_dsn_and_what_replaces_its_parts(tmp_path: Path, postgres: Postgres) -> None:
    dsn = f"postgresql://postgres:{postgres.password}@{postgres.host}:{postgres.port}/nowhere"
    assert (
        query(tmp_path, {"dsn": dsn, "database": "template1", "sql": "SELECT current_database()"})["value"]
        == "template1"
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"password": "canary-wrong"}, "password authentication failed"),
        ({"database": "nowhere"}, "does not exist"),
        ({"sql": "SELECT * FROM nowhere"}, "42P01"),
        ({"sql": "SELEC 1"}, "42601"),
        ({"sql": "SELECT 1/0"}, "22012"),
        ({"sql": "  "}, "sql: is empty"),
        ({"sql": "SELECT generate_series(1, 10001)"}, "more than 10000 rows"),
        ({"dsn": "canary canary"}, "dsn: neither"),
        ({"dsn": "postgresql://u:canary@h:notaport/x"}, "port is not a number"),
    ],
)
def test_what_will_not_pass_is_permanent(
    tmp_path: Path, postgres: Postgres, given: dict[str, Any], sentence: str
) -> None:
    base = {} if "dsn" in given else postgres.with_
    with pytest.raises(PermanentError, match=sentence) as caught:
        query(tmp_path, {**base, "sql": "SELECT 1", **given})
    assert "canary" not in str(caught.value)


def test_a_lock_is_not_waited_for_longer_than_said(tmp_path: Path, postgres: Postgres) -> None:
    import psycopg

    postgres.execute("CREATE TABLE IF NOT EXISTS held (i int)")
    login = {"host": postgres.host, "port": postgres.port, "user": "postgres", "password": postgres.password}
    with psycopg.connect(**login, dbname="postgres") as holder:  # type: ignore[arg-type]
        holder.execute("LOCK TABLE held")
        with pytest.raises(TemporaryError, match="55P03"):
            query(tmp_path, {**postgres.with_, "sql": "SELECT * FROM held", "lock_timeout": "200ms"})


def sleeping(postgres: Postgres) -> int:
    found = postgres.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
    )
    return int(found[0][0])


@pytest.mark.timed
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_query_ends_at_the_deadline_and_on_the_server_too(tmp_path: Path, postgres: Postgres, how: str) -> None:
    begun = time.monotonic()
    with LocalContext(tmp_path, seconds=0.5 if how == "deadline" else 30) as ctx:
        if how == "cancel":
            threading.Timer(0.5, ctx.stop).start()
        with pytest.raises(TemporaryError):
            call(Query, {**postgres.with_, "sql": "SELECT pg_sleep(30)"}, ctx)
    assert time.monotonic() - begun < 1.5
    until = time.monotonic() + 2
    while sleeping(postgres) and time.monotonic() < until:
        time.sleep(0.05)
    assert sleeping(postgres) == 0


@pytest.mark.timed
def test_a_server_that_says_nothing_is_left_at_the_deadline(tmp_path: Path) -> None:
    with serving(mute=True) as server:
        begun = time.monotonic()
        with pytest.raises(TemporaryError):
            query(tmp_path, {"host": "127.0.0.1", "port": server.port, "user": "x", "sql": "SELECT 1"}, seconds=0.5)
        assert time.monotonic() - begun < 1.5


def test_a_closed_port_is_temporary(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(TemporaryError, match="refused"):
        query(tmp_path, {"host": "127.0.0.1", "port": port, "user": "x", "sql": "SELECT 1"})


def test_through_a_port_forward(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward is SIMULATED; what goes through it is real."""

    @contextmanager
    def open_service(ctx: Any, host: str, port: int, *, context: str, namespace: str) -> Iterator[tuple[str, int]]:
        assert (host, port, namespace) == ("db.shop", 5432, "n")
        yield postgres.host, postgres.port

    stand_in = types.ModuleType("runbook.actions._kube.forward")
    stand_in.open_service = open_service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runbook.actions._kube.forward", stand_in)
    given = {"host": "db.shop", "user": "postgres", "password": postgres.password, "via": "k8s", "namespace": "n"}
    assert query(tmp_path, {**given, "sql": "SELECT 1"})["value"] == 1


def test_a_sandbox_refuses(tmp_path: Path, postgres: Postgres) -> None:
    with pytest.raises(PermanentError, match="sandbox"):
        query(tmp_path, {**postgres.with_, "sql": "SELECT 1"}, refused=("url",))


def test_without_the_driver_it_says_which_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("psycopg"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PermanentError) as caught:
        query(tmp_path, {"host": "x", "sql": "SELECT 1"})
    assert "runbook[postgres]" in str(caught.value.hint)
