"""The cache of compiled playbooks: a hit is what a load gives, and whatever is not surely that is loaded anew."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter import load as loading
from runbook.interpreter.model import Loaded
from runbook.runner import compiled, files, registry
from runbook.runner.store import Store

MAIN = "runbook: 1\nname: x\nimport: [common.yaml]\nsteps:\n  - {id: a, action: flow.set, with: {values: {n: 1}}}\n"
COMMON = "runbook: 1\nvars: {v: 1}\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    (tmp_path / "common.yaml").write_text(COMMON)
    (tmp_path / "x.yaml").write_text(MAIN)
    return tmp_path / "x.yaml"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were really loaded."""
    seen: list[str] = []
    real = loading.load

    def load(file: str, read: Callable[[str], str], catalogue: Any) -> Loaded:
        seen.append(file)
        return real(file, read, catalogue)

    monkeypatch.setattr(loading, "load", load)
    return seen


def entries(store: Store) -> list[Path]:
    return sorted((store.home / "cache").iterdir())


def test_the_second_time_gives_the_same_without_loading(playbook: Path, store: Store, loads: list[str]) -> None:
    first = compiled.read_playbook(str(playbook), store)
    second = compiled.read_playbook(str(playbook), store)
    assert loads == [str(playbook)]
    assert second == first == files.read_playbook(str(playbook), registry.catalogue())
    assert set(second.files) == {str(playbook), str(playbook.parent / "common.yaml")}


@pytest.mark.parametrize("name", ["x.yaml", "common.yaml"])
def test_any_changed_file_is_read_anew(playbook: Path, store: Store, loads: list[str], name: str) -> None:
    compiled.read_playbook(str(playbook), store)
    path = playbook.parent / name
    path.write_text(path.read_text().replace("1}", "2}"))
    again = compiled.read_playbook(str(playbook), store)
    assert len(loads) == 2
    assert again == files.read_playbook(str(playbook), registry.catalogue())


def test_a_vanished_import_is_a_problem_again(playbook: Path, store: Store) -> None:
    compiled.read_playbook(str(playbook), store)
    (playbook.parent / "common.yaml").unlink()
    assert not compiled.read_playbook(str(playbook), store).ok


def test_playbooks_with_problems_or_warnings_are_never_kept(tmp_path: Path, store: Store, loads: list[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(MAIN.replace("import: [common.yaml]\n", "") + "  - {id: a, action: flow.fail}\n")
    for _ in range(2):
        assert compiled.read_playbook(str(bad), store).problems
    assert len(loads) == 2
    assert not (store.home / "cache").exists()
    assert compiled.read_playbook(str(tmp_path / "absent.yaml"), store).problems


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.chmod(0o640),
        lambda path: path.parent.chmod(0o755),
        lambda path: (path.rename(path.with_suffix(".moved")), path.symlink_to(path.with_suffix(".moved"))),
    ],
    ids=["cut", "empty", "open to others", "in a folder that is open", "a link"],
)
def test_an_entry_that_is_not_surely_ours_is_ignored(
    playbook: Path, store: Store, loads: list[str], harm: Callable[[Path], Any]
) -> None:
    first = compiled.read_playbook(str(playbook), store)
    harm(entries(store)[0])
    assert compiled.read_playbook(str(playbook), store) == first
    assert len(loads) == 2


def test_an_entry_can_call_nothing(playbook: Path, store: Store, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    first = compiled.read_playbook(str(playbook), store)
    content = pickle.dumps(({}, Evil()))
    entries(store)[0].write_bytes(hashlib.sha256(content).digest() + content)
    assert compiled.read_playbook(str(playbook), store) == first
    assert not (tmp_path / "harm").exists()


def test_what_a_plugin_says_is_not_kept(playbook: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FAMILIES", {name: at for name, at in registry.FAMILIES.items() if name != "flow"})
    catalogue = compiled._Asked({"flow.set": registry.catalogue()["file.write"]})
    assert catalogue.only_shipped()
    assert catalogue["flow.set"]
    assert not catalogue.only_shipped()


def test_a_pipe_is_read_once(playbook: Path, store: Store) -> None:
    text = MAIN.replace("import: [common.yaml]\n", "")
    for _ in range(2):
        read, write = os.pipe()
        os.write(write, text.encode())
        os.close(write)
        found = compiled.read_playbook(f"/dev/fd/{read}", store)
        os.close(read)
        assert found.playbook is not None
        assert list(found.files.values()) == [text]


def test_a_run_of_a_playbook_seen_before_imports_nothing_heavy(playbook: Path, store: Store) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "runbook.cli", "run", str(playbook), "--yes"]
    environ = {**os.environ, "RUNBOOK_HOME": str(store.home)}
    for seen in (False, True):
        run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
        assert "sqlite3" in imported
        assert ("ruamel" in imported) != seen
    assert imported.isdisjoint({"asyncio", "jinja2", "jsonschema", "ssl", "kubernetes", "cryptography", "rich"})


def test_old_entries_make_room(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MOST", 3)
    for number in range(5):
        one = tmp_path / f"p{number}.yaml"
        one.write_text(MAIN.replace("import: [common.yaml]\n", ""))
        compiled.read_playbook(str(one), store)
    assert len(entries(store)) == 3
