"""Every secret that is missing is told at once, with the rest of what a run lacks, before anything is begun.

As commands; the cluster is SIMULATED.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.interpreter.errors import Exit
from runbook.sandbox import surroundings
from tests import emergency
from tests.command import Commands, Said

PLAYBOOK = f"""\
runbook: 1
name: lacking
secrets:
  alpha: {{env: ALPHA}}
  beta: {{file: beta.key}}
  gamma: {{k8s: {{namespace: {emergency.SPACE}, secret: nothing, key: password}}}}
  spare: {{env: SPARE, optional: true}}
steps:
  - {{id: tool, action: shell.run, with: {{command: [mytool, x]}}, undo: none}}
  - {{id: write, action: file.write, with: {{to: out.txt, content: new}}}}
  - {{id: deploy, playbook: sub.yaml, with: {{path: delta.key}}}}
  - {{id: tolerated, playbook: sub.yaml, with: {{path: epsilon.key}}, on_failure: continue}}
  - {{id: perhaps, when: "steps.write.outputs.existed", playbook: sub.yaml, with: {{path: zeta.key}}}}
"""
SUB = """\
runbook: 1
name: sub
inputs: {path: {type: string}}
secrets:
  token: {file: "{{ inputs.path }}"}
steps:
  - {id: use, action: shell.run, with: {command: "true", env: {TOKEN: "{{ secrets.token }}"}}, undo: none}
"""
ROOT = (
    "alpha (environment variable ALPHA, p.yaml:4)",
    "beta (file beta.key, p.yaml:5)",
    f"gamma (Kubernetes Secret {emergency.SPACE}/nothing/password, p.yaml:6)",
)


@pytest.fixture(scope="module")
def kubeconfig() -> Iterator[str]:
    with surroundings.start(emergency.world("traffic")) as sandbox:
        yield str(sandbox.kubeconfig)


@pytest.fixture
def cli(tmp_path: Path, kubeconfig: str) -> Commands:
    made = Commands(tmp_path / "here", {"KUBECONFIG": kubeconfig})
    made.folder.mkdir()
    made.write("p.yaml", PLAYBOOK)
    made.write("sub.yaml", SUB)
    return made


def what(said: Said) -> list[str]:
    """The lines of the ending's `What`."""
    lines = said.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  What "))
    rest = next(number for number, line in enumerate(lines[at + 1 :], at + 1) if not line.startswith("     "))
    return [line[12:] for line in lines[at:rest]]


def test_all_of_them_and_the_missing_tool_at_once(cli: Commands) -> None:
    refused = cli("run", "p.yaml", "--yes")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert what(refused) == [
        "nothing was begun, as something is missing:",
        *(f"a secret is not there: {one}" for one in ROOT),
        "deploy: a secret is not there: token (file delta.key, sub.yaml:5)",
        "tool: mytool is not on PATH",
        "`runbook doctor FILE` says where each secret is looked for",
    ]
    assert "tolerated: a secret is not there: token (file epsilon.key, sub.yaml:5) (its failure is tolerated)" in (
        refused.out
    )
    assert "perhaps: a secret is not there: token (file zeta.key, sub.yaml:5) (perhaps not needed)" in refused.out
    assert not (cli.folder / "out.txt").exists()


def test_without_preflight_the_runs_own_are_still_told_together(cli: Commands) -> None:
    refused = cli("run", "p.yaml", "--yes", "--no-preflight")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert what(refused) == [
        "3 secrets cannot be used:",
        *(f"not there: {one}" for one in ROOT),
        "`runbook doctor FILE` says where each secret is looked for",
    ]
    one = cli("run", "p.yaml", "--yes", "--no-preflight", environ={"ALPHA": "four-five-six"})
    assert what(one)[0] == "2 secrets cannot be used:"


def test_one_that_cannot_serve_is_told_with_those_that_are_not_there(cli: Commands) -> None:
    (cli.folder / "beta.key").write_bytes(b"\xff\xfe\xff")
    for more in ((), ("--no-preflight",)):
        refused = cli("run", "p.yaml", "--yes", *more, environ={"ALPHA": "abc"})
        assert refused.code == Exit.REFUSED, refused.out + refused.err
        shown = "\n".join(what(refused))
        assert "alpha has fewer than 4 characters" in shown
        assert "beta.key is not UTF-8 text" in shown
        assert f"not there: {ROOT[2]}" in shown
        assert "abc" not in shown.replace("abcdef", "")


def test_a_plan_says_the_same(cli: Commands) -> None:
    planned = cli("plan", "p.yaml")
    assert planned.code == Exit.REFUSED, planned.out + planned.err
    for sentence in (*ROOT, "token (file delta.key, sub.yaml:5)", "mytool is not on PATH"):
        assert sentence in planned.out, sentence


def test_a_called_playbooks_secret_is_looked_for_also_where_no_action_looks(cli: Commands) -> None:
    """And what is there is used: the run that then begins needs no second look by a person."""
    cli.write(
        "p.yaml",
        "runbook: 1\nname: calls\nsteps:\n  - {id: write, action: file.write, with: {to: out.txt, content: new}}\n"
        "  - id: each\n    foreach: {items: [one.key, two.key], as: it}\n    steps:\n"
        '      - {id: deploy, playbook: sub.yaml, with: {path: "{{ it }}"}}\n',
    )
    cli.write("one.key", "one-is-there")
    refused = cli("run", "p.yaml", "--yes")
    assert refused.code == Exit.REFUSED, refused.out + refused.err
    assert what(refused)[0] == (
        "nothing was begun: each[1]/deploy: a secret is not there: token (file two.key, sub.yaml:5)"
    )
    assert not (cli.folder / "out.txt").exists()
    cli.write("two.key", "two-is-there")
    done = cli("run", "p.yaml", "--yes")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
