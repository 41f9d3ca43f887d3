"""Inputs that come from outside of all playbooks: their paths, as the playbook that is run would write them.

What is typed, what a program gives and what the environment holds is relative to the folder that one is in; what stands
in a file is relative to that file.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Any

from runbook.interpreter.inputs import Misfit, from_text
from runbook.interpreter.located import all_located
from runbook.interpreter.model import Playbook


def from_outside(playbook: Playbook, given: Mapping[str, Any], file: str = "") -> dict[str, Any]:
    """The same inputs (plain data). `file`: where they stand; '' = they were typed. Absolute, unless it is the
    playbook's own folder.
    """
    if not any(one.name in given and (one.secret or one.type in ("path", "list")) for one in playbook.inputs):
        return dict(given)
    here = os.path.abspath(file or "typed")  # noqa: PTH100  # `..` as the shell has it, no link followed
    folder = posixpath.dirname(os.path.abspath(playbook.file))  # noqa: PTH100
    written_in = playbook.file if posixpath.dirname(here) == folder else here
    return all_located(playbook.inputs, given, written_in, playbook.file)


def from_environment(playbook: Playbook, given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The paths that nobody gave and that the environment has (`default: {from_env: NAME}`); the rest is left to
    `coerce`, as is what is wrong with them.
    """
    found: dict[str, Any] = {}
    for one in playbook.inputs:
        if one.secret or one.type not in ("path", "list") or one.name in given:
            continue
        if one.from_env is None or one.from_env not in environ:
            continue
        try:
            found[one.name] = from_text(one, environ[one.from_env])
        except Misfit:
            continue
    return from_outside(playbook, found)
