"""A real PostgreSQL on loopback for tests: started once in a session, as the user postgres, in a folder of its own.

    from tests.postgres import postgres, Postgres      # the fixture, session-wide

Without the server's programs the tests that want it are skipped with the reason, or fail where everything is required.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "max_connections": "20",
    "timezone": "UTC",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
}
PASSWORD = "correct-horse"


@dataclass(frozen=True)
class Postgres:
    """A running server; `with_` is what its superuser connects with."""

    host: str
    port: int
    password: str
    bin: Path
    data: Path

    @property
    def with_(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "user": "postgres",
            "password": self.password,
            "database": "postgres",
        }

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the superuser, outside of any transaction."""
        import psycopg

        login = {"host": self.host, "port": self.port, "user": "postgres", "password": self.password}
        with psycopg.connect(**login, dbname=database, autocommit=True) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


def programs() -> Path | None:
    """The newest installed server's folder of programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _as_postgres(arguments: list[str]) -> list[str]:
    """The server does not run as root."""
    return ["runuser", "-u", "postgres", "--", *arguments] if os.geteuid() == 0 else arguments


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    where = programs()
    if where is None:
        reason = "PostgreSQL's server is not installed (apt-get install postgresql)"
        if os.environ.get("RUNBOOK_TEST_REQUIRE") == "all":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="runbook-pg-"))
    data, port = folder / "data", _free_port()
    (folder / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        who = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, who.pw_uid, who.pw_gid)
    _run(
        [
            str(where / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(folder / "password"),
            "-E",
            "UTF8",
            "--no-sync",
        ]
    )
    options = " ".join(f"-c {name}='{value}'" for name, value in SETTINGS.items())
    control = [str(where / "pg_ctl"), "-D", str(data), "-w", "-t", "30"]
    _run([*control, "-l", str(folder / "log"), "-o", f"-p {port} {options}", "start"])
    try:
        yield Postgres("127.0.0.1", port, PASSWORD, where, data)
    finally:
        _run([*control, "-m", "immediate", "stop"])
        shutil.rmtree(folder, ignore_errors=True)


def _run(arguments: list[str]) -> None:
    done = subprocess.run(
        _as_postgres(arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        cwd="/",
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments[0]}: {done.stdout}"
