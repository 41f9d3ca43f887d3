"""`runbook verify` proves artifacts, reports and kept bytes, too. The cluster is SIMULATED, the files are real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner import artifacts
from runbook.runner.journal import Journal
from runbook.runner.store import RunFolder, Store
from runbook.sandbox import surroundings
from tests import emergency
from tests.command import Commands

PLAYBOOK = f"""\
runbook: 1
name: kept
defaults: {{with: {{k8s: {{namespace: {emergency.SPACE}}}}}}}
steps:
  - {{id: early, action: artifact.save, with: {{name: notes.txt, content: early}}}}
  - {{id: notes, action: artifact.save, with: {{name: notes.txt, content: late}}}}
  - {{id: deep, action: artifact.save, with: {{name: a/b.json, content: {{x: 1}}}}}}
  - {{id: report, action: report.write, with: {{name: report.html}}}}
  - {{id: manifests, action: k8s.export, with: {{kinds: [configmap], selector: app, name: saved.yaml}}}}
  - {{id: logs, action: k8s.logs, with: {{selector: app}}}}
  - {{id: over, action: file.write, with: {{to: data.bin, content: text now}}}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    cli = Commands(tmp_path_factory.mktemp("verify"))
    with surroundings.start(emergency.world("traffic")) as sandbox:
        cli.environ["KUBECONFIG"] = str(sandbox.kubeconfig)
        cli.write("p.yaml", PLAYBOOK)
        (cli.folder / "data.bin").write_bytes(bytes(range(256)) * 40)
        ran = cli("run", "p.yaml", "--yes")
        assert ran.code == Exit.SUCCEEDED, ran.out + ran.err
    return cli


def files(cli: Commands) -> dict[str, Path]:
    folder = Store(cli.home).find("last")
    journal = Journal.open(folder.journal, readonly=True)
    try:
        return {one.step: one.path for one in artifacts.recorded(folder.path, journal.events())}
    finally:
        journal.close()


def test_every_file_that_the_journal_names_is_proved(done: Commands) -> None:
    assert sorted(files(done)) == ["deep", "logs", "manifests", "notes", "over", "report"]
    said = done("verify")
    assert said.code == Exit.SUCCEEDED, said.err
    assert " events and 6 files, unchanged; head " in said.out


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def elsewhere(path: Path) -> None:
    """The same content, but somebody else's file."""
    other = path.parents[4] / "other"
    shutil.copy(path, other)
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    ("spoil", "what"), [(longer, "was changed"), (Path.unlink, "is missing"), (elsewhere, "is a link now")]
)
@pytest.mark.parametrize("step", ["deep", "logs", "manifests", "notes", "over", "report"])
def test_a_file_that_is_not_as_it_was_recorded_is_named_with_its_step(
    done: Commands, step: str, spoil: Callable[[Path], None], what: str
) -> None:
    path = files(done)[step]
    content = path.read_bytes()
    spoil(path)
    try:
        folder = Store(done.home).find("last")
        assert found(folder) == [f"{step}: {_called(path)} {what}"]
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert found(folder) == []


def found(folder: RunFolder) -> list[str]:
    journal = Journal.open(folder.journal, readonly=True)
    try:
        return artifacts.problems(artifacts.recorded(folder.path, journal.events()))
    finally:
        journal.close()


def _called(path: Path) -> str:
    return f"the kept bytes {path.name[:12]}" if path.parent.name == "kept" else str(path)


def test_the_command_names_all_of_them_and_ends_with_70(done: Commands) -> None:
    kept = {step: files(done)[step].read_bytes() for step in ("deep", "report", "over")}
    longer(files(done)["deep"])
    files(done)["report"].unlink()
    files(done)["over"].unlink()
    try:
        said = done("verify")
    finally:
        for step, content in kept.items():
            files(done)[step].write_bytes(content)
    assert said.code == Exit.BUG
    assert "are not what its journal records:\n" in said.err
    assert [line.split(":")[0].strip() for line in said.err.splitlines()[1:4]] == ["deep", "report", "over"]
    assert done("verify").code == Exit.SUCCEEDED


def test_runs_that_were_moved_are_proved_where_they_are(done: Commands, tmp_path: Path) -> None:
    shutil.copytree(done.home, tmp_path / "home")
    os.chmod(tmp_path / "home", 0o700)
    moved = {"RUNBOOK_HOME": str(tmp_path / "home")}
    assert done("verify", environ=moved).code == Exit.SUCCEEDED
    longer(next((tmp_path / "home").rglob("notes.txt")))
    assert "notes: " in done("verify", environ=moved).err
    assert done("verify").code == Exit.SUCCEEDED
