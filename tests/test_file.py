"""file.*: whole files, replaced atomically and put back exactly."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runbook.actions.file import ACTIONS, FileFind, FileRestore, FileRevert, FileStat, FileWrite
from runbook.contract import Change, PermanentError, Sensitive
from runbook.runner.parameters import parse
from runbook.runner.secrets import Secrets
from tests.context import LocalContext, call


def looked_at(path: Path) -> Any:
    """What a file is to the world."""
    if not path.exists():
        return None
    found = path.stat()
    return path.read_bytes(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def change(
    action: type[Change[Any]], given_: dict[str, Any], ctx: LocalContext
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Observe, expect, inverse, apply; the inverse with both observations."""
    one = action()
    args = parse(action, given_)
    assert list(one.check(args)) == []
    before = json.loads(json.dumps(one.observe(args, ctx)))
    after = json.loads(json.dumps(one.expect(args, before, ctx)))
    inverse = one.inverse(args, before, ctx.op)
    one.apply(args, before, ctx)
    assert json.loads(json.dumps(one.observe(args, ctx))) == after, "expect says what apply does"
    return inverse, before, after


def by_name(name: str) -> type[Change[Any]]:
    found = next(action for action in ACTIONS if action.name == name)
    assert issubclass(found, Change)
    return cast("type[Change[Any]]", found)


states = st.none() | st.tuples(st.binary(max_size=200), st.sampled_from([0o600, 0o644, 0o755, 0o400]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    was=states,
    content=st.text(max_size=50),
    mode=st.sampled_from(["keep", "0640", "600"]),
    name=st.sampled_from(["a.txt", ".env", "x.pem"]),
)
def test_the_inverse_gives_back_what_was(tmp_path: Path, was: Any, content: str, mode: str, name: str) -> None:
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if was is not None:
        path.write_bytes(was[0])
        path.chmod(was[1])
    before = looked_at(path)
    with LocalContext(tmp_path / "run") as ctx:
        inverse, _, _ = change(FileWrite, {"to": str(path), "content": content, "mode": mode}, ctx)
        assert path.read_bytes() == content.encode()
        redo, _, _ = change(by_name(inverse.action), dict(inverse.args), ctx)
        assert looked_at(path) == before
        change(by_name(redo.action), dict(redo.args), ctx)
        assert path.read_bytes() == content.encode(), "the inverse of the inverse is the change"
    assert {one.name for one in tmp_path.iterdir()} <= {"run", "a.txt", ".env", "x.pem"}, "no temporary file is left"


def test_mode_and_owner_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    with LocalContext(tmp_path / "run") as ctx:
        out = call(FileWrite, {"to": str(path), "content": "new"}, ctx)
    assert out == {"path": str(path), "sha256": hashlib.sha256(b"new").hexdigest(), "existed": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    if os.geteuid() == 0:
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with LocalContext(tmp_path / "run") as ctx:
        call(FileWrite, {"to": str(tmp_path / "link"), "content": "new"}, ctx)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_is_already_so_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("same")
    inode = path.stat().st_ino
    with LocalContext(tmp_path / "run") as ctx:
        call(FileWrite, {"to": str(path), "content": "same"}, ctx)
    assert path.stat().st_ino == inode
    assert [what for what, _ in ctx.permitted if what != "read"] == []


def test_a_reader_sees_the_old_or_the_new_whole(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    old, new = "a" * 2_000_000, "b" * 2_000_000
    path.write_text(old)
    torn: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            text = path.read_text()
            if text not in (old, new):
                torn.append(f"{len(text)} bytes")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        with LocalContext(tmp_path / "run") as ctx:
            for content in (new, old) * 5:
                call(FileWrite, {"to": str(path), "content": content}, ctx)
    finally:
        over.set()
        reader.join()
    assert torn == []


def test_apply_refuses_what_somebody_else_changed(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("one")
    with LocalContext(tmp_path / "run") as ctx:
        write = FileWrite()
        args = parse(FileWrite, {"to": str(path), "content": "two"})
        before = write.observe(args, ctx)
        path.write_text("theirs")
        with pytest.raises(PermanentError, match="changed by somebody else"):
            write.apply(args, before, ctx)
        assert path.read_text() == "theirs"
        path.write_text("two")
        write.apply(args, before, ctx)


def test_sensitive_files_show_names_and_never_values(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("export TOKEN=canary-old\nHOST=db\n")
    with LocalContext(tmp_path / "run") as ctx:
        write = FileWrite()
        args = parse(FileWrite, {"to": str(path), "content": "TOKEN=canary-new\nHOST=db\nEXTRA=canary\n"})
        before = write.observe(args, ctx)
        after = write.expect(args, before, ctx)
    assert "canary" not in json.dumps([before, after])
    (was,), (becomes,) = before.values(), after.values()
    assert set(becomes["keys"]) == {"TOKEN", "HOST", "EXTRA"}
    assert was["keys"]["HOST"] == becomes["keys"]["HOST"]
    assert was["keys"]["TOKEN"] != becomes["keys"]["TOKEN"]
    assert all(isinstance(one, Sensitive) for one in (*was["keys"].values(), was["sha256"]))


def test_what_is_sensitive_stays_so_when_it_is_revealed(tmp_path: Path) -> None:
    """The host seals observations and reveals them again; what it then shows is masked by the type."""
    secrets = Secrets({}, tmp_path / "key")
    state = {"sha256": Sensitive("canary-digest"), "keys": {"TOKEN": Sensitive("canary-value")}, "mode": "0600"}
    revealed = secrets.reveal(secrets.seal(state), None)
    assert revealed == state
    assert "canary" not in str(secrets.mask(revealed))


def test_a_plain_text_is_shown_and_a_binary_is_not(tmp_path: Path) -> None:
    with LocalContext(tmp_path / "run") as ctx:
        for content, shown in ((b"text\n", True), (b"\x00\xff", False)):
            (tmp_path / "x").write_bytes(content)
            (state,) = FileWrite().observe(parse(FileWrite, {"to": str(tmp_path / "x"), "content": ""}), ctx).values()
            assert ("content" in state) is shown


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"content": "x", "from": "/y"}, "one of content and from"),
        ({}, "one of content and from"),
        ({"content": "x", "mode": "rw"}, "mode"),
        ({"content": "x", "owner": "nobody-by-this-name"}, "knows no user"),
        ({"content": "x", "host": "web-1"}, "later version"),
        ({"from": "/no/such/file"}, "no such file"),
        ({"content": "x", "to": "/no/such/folder/file"}, "No such file or directory"),
        ({"content": "x", "to": "/etc"}, "(?i)directory|no regular file"),
    ],
)
def test_what_makes_no_sense_is_permanent(tmp_path: Path, given_: dict[str, Any], sentence: str) -> None:
    with LocalContext(tmp_path / "run") as ctx, pytest.raises(PermanentError, match=sentence):
        call(FileWrite, {"to": str(tmp_path / "x"), **given_}, ctx)
    assert not (tmp_path / "x").exists()


def test_preflight_says_where_nothing_can_be_written(tmp_path: Path) -> None:
    with LocalContext(tmp_path / "run") as ctx:
        for to, sentence in (
            (tmp_path / "x", None),
            (tmp_path / "no" / "x", f"no folder {tmp_path}/no"),
            (Path("/proc/x"), "right"),
        ):
            said = FileWrite().preflight(parse(FileWrite, {"to": str(to), "content": ""}), ctx)
            if to.parent != Path("/proc") or os.geteuid() != 0:  # root's right is not told by access(2) there
                assert (said == []) if sentence is None else sentence in said[0]


def test_a_sandbox_refuses_outside_the_run_s_folder_only(tmp_path: Path) -> None:
    inside = tmp_path / "run"
    inside.mkdir()
    with LocalContext(inside, refused=("write",)) as ctx:
        call(FileWrite, {"to": str(inside / "x"), "content": "x"}, ctx)
        with pytest.raises(PermanentError, match="sandbox"):
            call(FileWrite, {"to": str(tmp_path / "x"), "content": "x"}, ctx)
    assert (inside / "x").exists()
    assert not (tmp_path / "x").exists()


def test_a_folder_is_restored_file_by_file_and_back(tmp_path: Path) -> None:
    source, target = tmp_path / "old", tmp_path / "live"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (target / "sub").mkdir()
    (source / "a.json").write_text("1")
    (source / "sub" / "b.json").write_text("2")
    (source / "c.txt").write_text("not this")
    (target / "a.json").write_text("9")
    (target / "own").write_text("stays")
    with LocalContext(tmp_path / "run") as ctx:
        inverse, before, after = change(FileRestore, {"from": str(source), "to": str(target), "glob": "**/*.json"}, ctx)
        assert (target / "a.json").read_text() == "1"
        assert (target / "sub" / "b.json").read_text() == "2"
        assert (target / "own").read_text() == "stays"
        assert not (target / "c.txt").exists()
        assert FileRestore().outputs(parse(FileRestore, {"from": "x", "to": "y"}), before, after)["restored"] == 2
        change(FileRevert, dict(inverse.args), ctx)
    assert (target / "a.json").read_text() == "9"
    assert not (target / "sub" / "b.json").exists()


def test_stat(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    with LocalContext(tmp_path) as ctx:
        files = call(FileStat, {"paths": [str(tmp_path / "x"), str(tmp_path), str(tmp_path / "no")]}, ctx)["files"]
        assert files[str(tmp_path / "x")]["sha256"] == hashlib.sha256(b"abc").hexdigest()
        assert files[str(tmp_path / "x")]["size"] == 3
        assert files[str(tmp_path)]["sha256"] is None
        assert files[str(tmp_path / "no")] == {"exists": False, "size": 0, "sha256": None, "mode": None, "mtime": 0}
        with pytest.raises(PermanentError, match=r"missing: .*/no"):
            call(FileStat, {"paths": [str(tmp_path / "no")], "must_exist": True}, ctx)


def backup(path: Path, content: bytes, at: float, digest: str | None = "right") -> None:
    path.write_bytes(content)
    os.utime(path, (at, at))
    if digest is not None:
        value = hashlib.sha256(content).hexdigest() if digest == "right" else "0" * 64
        path.with_name(path.name + ".sha256").write_text(f"{value}  {path.name}\n")


def test_find_gives_the_newest_whole_one(tmp_path: Path) -> None:
    backup(tmp_path / "b1.tar", b"1", 1000)
    backup(tmp_path / "b2.tar", b"2", 3000)
    backup(tmp_path / "b3.tar", b"3", 2000)
    with LocalContext(tmp_path) as ctx:
        assert call(FileFind, {"dir": str(tmp_path), "pattern": "b*.tar"}, ctx) == {
            "path": str(tmp_path / "b2.tar"),
            "at": 3000.0,
        }


@pytest.mark.parametrize(("digest", "sentence"), [(None, "has no new.tar.sha256"), ("wrong", "damaged or incomplete")])
def test_find_does_not_pass_over_a_newest_that_is_not_whole(tmp_path: Path, digest: str | None, sentence: str) -> None:
    backup(tmp_path / "old.tar", b"1", 1000)
    backup(tmp_path / "new.tar", b"2", 2000, digest)
    with LocalContext(tmp_path) as ctx, pytest.raises(PermanentError, match=sentence):
        call(FileFind, {"dir": str(tmp_path), "pattern": "*.tar"}, ctx)


def test_find_stays_below_its_folder_and_says_when_there_is_nothing(tmp_path: Path) -> None:
    with LocalContext(tmp_path) as ctx:
        for pattern in ("../*", "/etc/*", ""):
            with pytest.raises(PermanentError, match="pattern"):
                call(FileFind, {"dir": str(tmp_path), "pattern": pattern}, ctx)
        with pytest.raises(PermanentError, match="nothing in"):
            call(FileFind, {"dir": str(tmp_path), "pattern": "*.tar"}, ctx)


def tar_of(*members: tuple[str, bytes | str]) -> bytes:
    """Members as (name, content); a text content makes a link to it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_find_unpacks_into_the_run_s_folder(tmp_path: Path, pack: Any) -> None:
    backups, run = tmp_path / "backups", tmp_path / "run"
    backups.mkdir()
    backup(backups / "b.tgz", pack(("./app/.env", b"A=1"), ("app/conf/x", b"x"), ("other", b"o")), 1000)
    with LocalContext(run) as ctx:
        for _ in range(2):
            path = Path(call(FileFind, {"dir": str(backups), "pattern": "*", "extract": "app"}, ctx)["path"])
            assert path.is_relative_to(run)
            assert (path / ".env").read_bytes() == b"A=1"
            assert (path / "conf" / "x").read_bytes() == b"x"
            assert not (path.parent / "other").exists()
        with pytest.raises(PermanentError, match="holds no missing"):
            call(FileFind, {"dir": str(backups), "pattern": "*", "extract": "missing"}, ctx)
        with pytest.raises(PermanentError, match="leads out"):
            call(FileFind, {"dir": str(backups), "pattern": "*", "extract": "../x"}, ctx)


@pytest.mark.parametrize(
    "packed",
    [
        tar_of(("../../evil", b"x")),
        tar_of(("/tmp/evil", b"x")),
        tar_of(("a", "/etc"), ("a/passwd", b"x")),
        tar_of(("ok/../../../evil", b"x")),
        zip_of(("../../evil", b"x")),
        zip_of(("..\\..\\evil", b"x")),
        zip_of(("C:\\evil", b"x")),
        b"no archive at all",
        tar_of(("a", b"x" * 5000))[:60],
    ],
    ids=["up", "absolute", "link", "up_inside", "zip_up", "zip_backslashes", "zip_drive", "no_archive", "cut"],
)
def test_a_hostile_or_damaged_archive_is_refused_whole(tmp_path: Path, packed: bytes) -> None:
    backups, run = tmp_path / "backups", tmp_path / "deep" / "er" / "run"
    backups.mkdir()
    backup(backups / "b.tgz", packed, 1000)
    with LocalContext(run) as ctx, pytest.raises(PermanentError):
        call(FileFind, {"dir": str(backups), "pattern": "*", "extract": "."}, ctx)
    assert list(tmp_path.rglob("*evil*")) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "conf"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with LocalContext(tmp_path / "run") as ctx, pytest.raises(PermanentError, match="No space left"):
        call(FileWrite, {"to": str(path), "content": "new"}, ctx)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["conf"]
