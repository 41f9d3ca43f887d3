"""The law, on random playbooks: killed at any journal write, twice, and resumed, a run is what it would have been.

RUNBOOK_FUZZ_SECONDS bounds it (60); `make fuzz` runs the same for hours. The playbooks are the same each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from runbook.interpreter.changes import Done
from runbook.interpreter.effects import Box, StopKind
from runbook.interpreter.engine import Outcome
from runbook.interpreter.undo import Playback
from tests.effects_toy import Toy
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


def _unrecorded(self: Toy, box: Box, kind: StopKind, why: str) -> Coroutine[Any, Any, None]:
    async def stop() -> None:
        box.stopped = box.stopped or kind

    return stop()


def _forgotten(self: Playback, done: Done, out: Outcome) -> None:
    """As if an undo did not erase."""


@pytest.mark.parametrize(
    "mistake",
    [(Toy, "stop", _unrecorded), (Playback, "_erased", _forgotten)],
    ids=["a sibling's failure is not on record", "an undo does not erase"],
)
def test_the_fuzz_finds_a_mistake(mistake: tuple[type, str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes that were made before; if they pass, the law tests nothing."""
    monkeypatch.setattr(*mistake)
    assert any(broken(seed, make(seed)) is not None for seed in range(1, 150))


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.1", "--seed", "3"]) == 0
    assert "0 violations" in capsys.readouterr().out
