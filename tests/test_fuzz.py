"""The law, on random playbooks: killed at any journal write, twice, and resumed, a run is what it would have been.

RUNBOOK_FUZZ_SECONDS bounds it (60); `make fuzz` runs the same for hours. The numbers of the playbooks are the same each time.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.fuzz import broken, main, make, shown, shrunk, violations

SECONDS = float(os.environ.get("RUNBOOK_FUZZ_SECONDS", "60"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_killed_anywhere_and_resumed_a_run_is_what_it_would_have_been() -> None:
    until, kills, seed = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < until:
        seed += 1
        case = make(seed)
        wrong = broken(seed, case)
        if wrong is not None:
            pytest.fail(
                f"playbook {seed}: {wrong}\n{shown(shrunk(seed, case))}\nagain: python -m tests.fuzz --only {seed}"
            )
        kills += violations(seed, case, 1)
    assert seed > SECONDS / 2
    assert kills > seed / 2


def test_the_fuzz_finds_a_broken_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that forgets the sibling's failure after a resume is found, or the law tests nothing."""
    from runbook.interpreter import gather

    monkeypatch.setattr(gather.Bound, "exceeded", lambda self, bad: bool(bad) and len(bad) % 2 == 0)
    assert any(broken(seed, make(seed)) is not None for seed in range(1, 60))


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.1", "--seed", "3"]) == 0
    assert "0 violations" in capsys.readouterr().out
