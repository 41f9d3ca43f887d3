"""The language's own actions: in real runs, and what their parameters refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runbook.contract import Duration, PermanentError
from runbook.runner import builtins
from runbook.runner.journal import Journal
from tests.command import Commands


@pytest.fixture
def cli(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def facts(cli: Commands) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("report", "--format", "json").out)
    return found


def test_values_are_named_and_saved_and_reported(cli: Commands) -> None:
    cli.write(
        "a.yaml",
        """\
runbook: 1
name: a
steps:
  - {id: names, action: flow.set, with: {values: {n: 3, listed: [a, b], text: "x{{ 1 + 1 }}"}}}
  - {id: holds, action: flow.assert, with: {that: "{{ steps.names.outputs.n == 3 }}", message: no}}
  - {id: whole, action: artifact.save, with: {name: deep/all.json, content: "{{ steps.names.outputs }}"}}
  - {id: words, action: artifact.save, with: {name: words.txt, content: "n is {{ steps.names.outputs.n }}"}}
finally:
  steps:
    - {id: page, action: report.write, with: {name: report.html}}
    - {id: text, action: report.write, with: {name: report.md}}
    - {id: data, action: report.write, with: {name: report.json}}
    - {id: mine, action: report.write, with: {name: mine.txt, template: mine.j2}}
""",
    )
    cli.write(
        "mine.j2",
        "{% for step in report.steps if step.action == 'flow.set' %}{{ step.id }}{% endfor %} {{ report.name }}\n",
    )
    said = cli("run", "a.yaml")
    assert said.code == 0, said.out + said.err
    found = facts(cli)
    folder = next((cli.home / "runs").iterdir()) / "artifacts"
    assert json.loads((folder / "deep" / "all.json").read_text()) == {"n": 3, "listed": ["a", "b"], "text": "x2"}
    assert (folder / "words.txt").read_text() == "n is 3"
    assert (folder / "mine.txt").read_text().strip() == "names a"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert (folder / "report.md").read_text().startswith("# a: running")
    assert json.loads((folder / "report.json").read_text())["name"] == "a"
    for artifact in found["artifacts"]:
        path = Path(artifact["path"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact["sha256"]
        assert path.stat().st_mode & 0o077 == 0
    assert len(found["artifacts"]) == 6


def test_a_report_of_another_run(cli: Commands) -> None:
    cli.write("one.yaml", "runbook: 1\nname: one\nsteps:\n  - {id: a, action: flow.set, with: {values: {x: 1}}}\n")
    cli("run", "one.yaml")
    first = facts(cli)["run"]
    cli.write(
        "two.yaml",
        "runbook: 1\nname: two\nsteps:\n"
        f"  - {{id: a, action: report.write, with: {{name: r.md, run: {first}}}}}\n"
        "  - {id: b, action: report.write, with: {name: r.md, run: no-such-run}, on_failure: continue}\n"
        "  - {id: c, action: report.write, with: {name: r.md, run: ../..}, on_failure: continue}\n",
    )
    said = cli("run", "two.yaml")
    assert said.code == 0
    assert "there is no run no-such-run" in said.out
    assert "is not the id of a run" in said.out
    assert "# one: succeeded" in next((cli.home / "runs").glob("*-two-*/artifacts/r.md")).read_text()


def test_another_playbook_is_looked_at_without_running_it(cli: Commands) -> None:
    cli.write(
        "other.yaml",
        "runbook: 1\nname: other\ninputs: {n: {type: integer}}\nsteps:\n"
        "  - {id: boom, action: shell.run, with: {command: [touch, boom]}, timeout: 7s}\n",
    )
    cli.write("broken.yaml", "runbook: 1\nname: broken\nstpes: []\n")
    cli.write(
        "look.yaml",
        """\
runbook: 1
name: look
steps:
  - {id: good, action: playbook.plan, with: {playbook: other.yaml, inputs: {n: 1}}}
  - {id: inputs, action: playbook.plan, with: {playbook: other.yaml}}
  - {id: broken, action: playbook.plan, with: {playbook: broken.yaml}}
  - {id: gone, action: playbook.plan, with: {playbook: gone.yaml}}
outputs:
  good: "{{ steps.good.outputs }}"
  inputs: "{{ steps.inputs.outputs }}"
  broken: "{{ steps.broken.outputs }}"
  gone: "{{ steps.gone.outputs }}"
""",
    )
    said = cli("run", "look.yaml")
    assert said.code == 0, said.out + said.err
    outputs = facts(cli)["outputs"]
    assert outputs["good"]["ok"] is True
    assert outputs["good"]["worst_case"] >= 7
    assert outputs["good"]["irreversible"] == ["boom"]
    assert outputs["inputs"]["ok"] is False
    assert "n" in outputs["inputs"]["problems"][0]
    assert outputs["broken"]["ok"] is False
    assert "broken.yaml:3" in outputs["broken"]["problems"][0]
    assert outputs["gone"]["ok"] is False
    assert not (cli.folder / "boom").exists()


def test_a_person_times_out_and_a_choice_takes_its_default(cli: Commands) -> None:
    cli.write(
        "t.yaml",
        "runbook: 1\nname: t\nsteps:\n"
        "  - {id: pick, action: manual.choose, with: {message: m, choices: {a: x, b: y}, default: b}, timeout: 300ms}\n"
        "  - {id: wait, action: flow.wait, background: true, with: {for: 1s}}\n"
        'outputs: {picked: "{{ steps.pick.outputs.choice }}"}\n',
    )
    cli("run", "t.yaml")
    import time

    time.sleep(0.4)
    said = cli("resume")
    assert said.code == 0, said.out + said.err
    assert "picked = b" in said.out


@dataclass
class Here:
    """As much of a context as these actions look at."""

    folder: Path
    run_id: str = "this-run"
    environ: Mapping[str, str] = field(default_factory=dict)


def context(folder: Path) -> Any:
    return Here(folder)


def a_run(folder: Path, run: str) -> Path:
    """A journal with a beginning."""
    (folder / run).mkdir()
    journal = Journal.create(folder / run / "journal.db", run)
    journal.add("run.begun", "", {"run": run, "name": "made"}, 0.0, 1.0)
    journal.commit()
    journal.close()
    return folder / run


def test_reports_are_written_from_the_journal_alone(tmp_path: Path) -> None:
    here = a_run(tmp_path, "this-run")
    a_run(tmp_path, "other-run")
    write = builtins.Report().read
    made = write(builtins.ReportArgs(name="sub/r.md"), context(here))
    assert Path(made["path"]) == here / "artifacts" / "sub" / "r.md"
    assert Path(made["path"]).read_text().startswith("# made: running")
    other = write(builtins.ReportArgs(name="o.json", run="other-run"), context(here))
    assert json.loads(Path(other["path"]).read_text())["run"] == "other-run"
    (tmp_path / "t.j2").write_text("{{ report.run }}")
    mine = write(builtins.ReportArgs(name="t.txt", template=str(tmp_path / "t.j2")), context(here))
    assert Path(mine["path"]).read_text() == "this-run"
    (tmp_path / "bad.j2").write_text("{{ report.nothing.at.all }}")
    for args in (
        builtins.ReportArgs(name="x", run="../this-run"),
        builtins.ReportArgs(name="x", run="gone"),
        builtins.ReportArgs(name="x", template=str(tmp_path / "gone.j2")),
        builtins.ReportArgs(name="x", template=str(tmp_path / "bad.j2")),
    ):
        with pytest.raises(PermanentError):
            write(args, context(here))


def test_artifacts_are_text_or_json(tmp_path: Path) -> None:
    save = builtins.Save().read
    assert (
        Path(save(builtins.SaveArgs(name="a.txt", content="é"), context(tmp_path))["path"]).read_bytes() == "é".encode()
    )
    made = save(builtins.SaveArgs(name="a.json", content={"a": [1]}), context(tmp_path))
    assert json.loads(Path(made["path"]).read_text()) == {"a": [1]}
    assert made["sha256"] == hashlib.sha256(Path(made["path"]).read_bytes()).hexdigest()


def test_the_small_ones(tmp_path: Path) -> None:
    assert builtins.Set().read(builtins.SetArgs(values={"a": 1}), context(tmp_path)) == {"a": 1}
    args = builtins.AssertArgs(that=False, message="why")
    assert builtins.Assert().read(args, context(tmp_path)) == {"ok": False, "message": "why"}
    with pytest.raises(PermanentError):
        builtins.Wait().read(builtins.WaitArgs(for_=Duration(1)), context(tmp_path))


def test_a_playbook_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("runbook: 1\nname: p\nsteps:\n  - {id: a, action: shell.run, with: {command: [ls]}, timeout: 3s}\n")
    found = builtins.Plan().read(builtins.PlanArgs(playbook=str(file)), context(tmp_path))
    assert (found["ok"], found["irreversible"]) == (True, ["a"])
    found = builtins.Plan().read(builtins.PlanArgs(playbook=str(file), inputs={"x": 1}), context(tmp_path))
    assert found["ok"] is False
    file.write_text("runbook: 1\nnmae: p\n")
    found = builtins.Plan().read(builtins.PlanArgs(playbook=str(file)), context(tmp_path))
    assert "p.yaml:2" in found["problems"][0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "./x", "a/./b"])
def test_artifacts_stay_in_their_folder(name: str) -> None:
    assert list(builtins.Save().check(builtins.SaveArgs(name=name, content="")))
    assert list(builtins.Report().check(builtins.ReportArgs(name=name)))


def test_questions_that_nobody_could_answer_are_refused() -> None:
    approve, choose, checklist = builtins.Approve(), builtins.Choose(), builtins.Checklist()
    assert list(approve.check(builtins.ApproveArgs(message="m", by=3, approvers=["ada", "bob"])))
    assert list(approve.check(builtins.ApproveArgs(message="m", approvers=[])))
    assert not list(approve.check(builtins.ApproveArgs(message="m", by=3)))
    assert list(choose.check(builtins.ChooseArgs(message="m", choices={})))
    assert list(choose.check(builtins.ChooseArgs(message="m", choices={"a": ""}, default="b")))
    assert list(checklist.check(builtins.ChecklistArgs(sections={"s": []})))
    assert list(checklist.check(builtins.ChecklistArgs(sections={"s": [["text"]]})))
    assert list(checklist.check(builtins.ChecklistArgs(sections={})))
    assert not list(checklist.check(builtins.ChecklistArgs(sections={"s": "one sentence"})))
    assert not list(checklist.check(builtins.ChecklistArgs(sections={"s": ["text"]})))
