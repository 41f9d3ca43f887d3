"""Every block of the documentation is run: playbooks validate, commands print what the page says.

In README.md, CONTRIBUTING.md and docs/*.md, of fenced blocks:
- `yaml` with `runbook: 1` or `scenario: 1` must validate. `# file: NAME` as its first line also writes it for the
  blocks that follow.
- `console`: each `$ runbook ...` runs in a folder of the page's own (with playbooks/ beside it); the lines below it are
  its output, where a line `...` stands for any lines and `...` inside a line for any text. `[exit N]` ends a command
  that does not exit with 0.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runbook.cli.main import cli
from runbook.sandbox import scenario

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNBOOK = Path(sys.executable).parent / "runbook"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, text)."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[tuple[str, str, int]]:
    """The commands of a console block: (command line, expected output, exit code)."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        while line.endswith("\\"):
            more, _, output = output.partition("\n")
            line = line[:-1] + more.strip()
        code = re.search(r"^\[exit (\d+)\]\n?", output, re.MULTILINE)
        yield line, output[: code.start()] if code else output, int(code[1]) if code else 0


def as_pattern(expected: str) -> re.Pattern[str]:
    """A page's output as a pattern: `...` alone on a line is any lines, inside a line any text."""
    lines = []
    for line in expected.rstrip("\n").split("\n"):
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(r".*?".join(re.escape(piece.rstrip()) for piece in line.split("...")) + r"[ ]*\n")
    return re.compile("".join(lines) + r"\Z")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path) -> None:
    """One page, from its first block to its last, in one folder."""
    (tmp_path / "playbooks").symlink_to(ROOT / "playbooks")
    (tmp_path / "schemas").symlink_to(ROOT / "schemas")
    environ = {**os.environ, "RUNBOOK_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "COLUMNS": "120"}
    checked = 0
    for number, (language, text) in enumerate(blocks(page)):
        named = re.match(r"# file: (\S+)\n", text)
        file = tmp_path / (named[1] if named else f"block{number}.yaml")
        if language == "yaml" and re.search(r"^scenario: 1$", text, re.MULTILINE):
            file.write_text(text, encoding="utf-8")
            assert scenario.read(file).description
            checked += 1
        elif language == "yaml" and "runbook: 1" in text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            done = run([str(RUNBOOK), "validate", file.name], tmp_path, environ)
            assert done.returncode == 0, f"{page.name}, block {number}:\n{done.stdout}{done.stderr}"
            checked += 1
        elif language == "console":
            for line, expected, code in commands(text):
                words = shlex.split(line)
                if words[0] != "runbook":
                    continue  # make, git, pip: .ci/run does these
                done = run([str(RUNBOOK), *words[1:]], tmp_path, environ)
                assert done.returncode == code, (
                    f"{page.name}: {line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
                )
                if expected.strip():
                    assert as_pattern(expected).match(done.stdout + done.stderr), (
                        f"{page.name}: {line} printed\n{done.stdout}{done.stderr}\nthe page says\n{expected}"
                    )
                checked += 1
    assert checked or page.name not in ("README.md", "tutorial.md", "language.md", "scenarios.md")


def test_what_to_type_at_three_in_the_morning_can_be_typed() -> None:
    """Each command of the README's table is parsed as it stands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## At three in the morning")[2].partition("\n## ")[0]
    lines = re.findall(r"`runbook ([^`]+)`", table)
    assert len(lines) > 8
    for line in lines:
        name, *words = shlex.split(line)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, line
        command.make_context(name, words)


def run(command: list[str], cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Without a terminal, bounded."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
