"""The lane on the real runner: what is not told in time is cut and listed, whatever its own attempts would have."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runbook.interpreter import lane
from tests.runner_toys import Lab

BOOK = """
runbook: 1
name: p
steps:
  - {id: news, action: toy.tell, with: {name: slack, seconds: 60}, timeout: 50s}
  - {id: more, action: toy.tell, with: {name: slack}}
  - {id: a, action: toy.set, with: {name: x, value: "1"}}
"""


@pytest.mark.timed
def test_the_end_waits_for_notifications_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "PATIENCE", 0.5)
    lab, began = Lab.at(tmp_path), time.monotonic()
    ended = lab.run(BOOK)
    assert time.monotonic() - began < 10
    left = [event.key for event in lab.events(ended) if event.kind == "lane.left"]
    assert (ended.status, left) == ("succeeded", ["news", "more"])
    assert "start x=1" in lab.log()
