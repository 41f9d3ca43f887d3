"""What a plan promises, as commands: exit 3 with the missing verbs named, no changing request, and no other change.

The API is SIMULATED; the files and the processes are real.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner.journal import Journal
from runbook.runner.store import Store
from tests import emergency
from tests.command import Commands
from tests.test_undo import Place, place  # noqa: F401  # a folder with files and a cluster

READER = "world:\n  forbidden: [{verb: patch}, {verb: update}, {verb: create, resource: services}, {verb: delete}]\n"


def test_who_may_only_read_gets_the_same_plan_and_exit_3(tmp_path: Path) -> None:
    cli = Commands(tmp_path)
    text = (emergency.SCENARIOS / "traffic.yaml").read_text()
    cli.write("full.yaml", text)
    cli.write("poor.yaml", text.replace("world:\n", READER, 1))
    playbook = str(emergency.PLAYBOOKS / "emergency.yaml")
    full = cli("plan", playbook, "--sandbox", "full.yaml", "--output", "json")
    poor = cli("plan", playbook, "--sandbox", "poor.yaml", "--output", "json")
    assert full.code == Exit.SUCCEEDED, full.out + full.err
    assert poor.code == Exit.REFUSED, poor.out + poor.err
    plans = [json.loads(said.out) for said in (full, poor)]
    rows: list[dict[str, Any]] = [{row["key"]: row for row in plan["rows"]} for plan in plans]
    assert list(rows[0]) == list(rows[1])
    changing = [key for key, row in rows[0].items() if row["verdict"] == "change" and not row.get("maybe")]
    assert len(changing) >= 5
    for key in changing:
        assert rows[1][key]["diff"] == rows[0][key]["diff"], key
        assert not rows[0][key].get("computed"), key
    computed = {key for key in changing if rows[1][key].get("computed")}
    asking = {key for key in changing if rows[0][key]["action"] in ("k8s.patch", "k8s.scale")}
    assert computed == asking, "what asks the server otherwise"
    assert "recover/by_traffic/switch_over/switch" in computed
    shown = cli("plan", playbook, "--sandbox", "poor.yaml")
    assert shown.code == Exit.REFUSED
    for words in ("patch", "services", "deployments/scale"):
        assert words in shown.out, words
    refused = cli("run", playbook, "--sandbox", "poor.yaml", "--dry-run")
    assert refused.code == Exit.REFUSED


def test_the_plan_of_every_kind_of_change_is_what_the_run_then_changes(place: Place) -> None:  # noqa: F811  # the fixture
    files, cluster = place.files(), place.cluster()
    asked = len(place.sandbox.asked)
    planned = place.cli("plan", "playbook.yaml", "--output", "json")
    assert planned.code == Exit.SUCCEEDED, planned.out + planned.err
    sent = [one for one in place.sandbox.asked[asked:] if one.changes and not one.dry_run]
    assert [one for one in sent if one.resource != "selfsubjectaccessreviews"] == []
    assert place.files() == files, "a plan leaves no trace"
    assert place.cluster() == cluster
    rows = {row["key"]: row for row in json.loads(planned.out)["rows"]}
    place.run()
    journal = Journal.open(Store(place.cli.home).find("last").journal, readonly=True)
    made = {
        event.data["op"]: event.data.get("diff", [])
        for event in journal.events()
        if event.kind == "call.intent" and event.data["effect"] == "change" and "undoes" not in event.data
    }
    journal.close()
    certain = {key: row["diff"] for key, row in rows.items() if row["verdict"] == "change"}
    assert set(certain) >= {
        "fresh",
        "env",
        "folder",
        "at_once/switch",
        "at_once/up",
        "hidden",
        "json",
        "rolled",
        "once",
    }
    differ = {key: (certain.get(key), made.get(key)) for key in certain if certain.get(key) != made.get(key)}
    # a second change of one object is planned on what is there now
    assert set(differ) <= {"again"}, {key: value for key, value in differ.items() if key != "again"}
    _files_are_as_planned(place, rows, files)


def _files_are_as_planned(place: Place, rows: dict[str, Any], before: dict[str, Any]) -> None:  # noqa: F811  # the class
    """On disk, not by the journal's word: which files changed, and what each of them is now."""
    after, folder = place.files(), place.cli.folder.resolve()
    leaves: dict[str, dict[str, Any]] = {}
    for item in (item for row in rows.values() for item in row.get("diff", ())):
        if item["object"].startswith("file:"):
            name = str(Path(item["object"].removeprefix("file:")).relative_to(folder))
            leaves.setdefault(name, {})[item["path"][0]] = item.get("after")
    moved = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert set(leaves) == moved - {"counter", "counter.before", "live/b"}, (
        "the shell's, and a folder, are no files of it"
    )
    for name, promised in leaves.items():
        mode, content = after[name]
        if "mode" in promised:
            assert promised["mode"] == f"{mode:04o}", name
        if not str(promised["sha256"]).startswith(("‹secret:", "(changed)")):
            assert promised["sha256"] == hashlib.sha256(content).hexdigest(), name
        if "size" in promised:
            assert promised["size"] == len(content), name


@pytest.mark.parametrize("words", [("plan",), ("run", "--dry-run")])
def test_a_plan_runs_no_command(tmp_path: Path, words: tuple[str, ...]) -> None:
    cli = Commands(tmp_path)
    cli.write(
        "acts.yaml",
        "runbook: 1\nname: acts\nsteps:\n"
        "  - {id: acts, action: shell.run, with: {command: [touch, acted]}}\n"
        "  - {id: writes, action: file.write, with: {to: written, content: x}}\n"
        "  - {id: reads, action: shell.run, effect: read, with: {command: [touch, read]}}\n"
        "  - {id: saves, action: artifact.save, with: {name: a, content: b}}\n",
    )
    said = cli(words[0], "acts.yaml", *words[1:])
    assert said.code == Exit.SUCCEEDED, said.out + said.err
    assert (tmp_path / "read").exists(), "the author's word: a read"
    assert not (tmp_path / "acted").exists()
    assert not (tmp_path / "written").exists()
    assert not (cli.home / "runs").exists()
