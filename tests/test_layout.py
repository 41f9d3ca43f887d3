"""A newcomer's map: the docstring of a package names each of its modules once."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

PACKAGES = [
    "interpreter",
    "runner",
    "cli",
    "sandbox",
    "actions._kube",
    "actions._manifest",
    "actions._helm",
    "actions._oci",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_map_of_a_package_names_each_of_its_modules_once(name: str) -> None:
    package = importlib.import_module(f"runbook.{name}")
    (folder,) = package.__path__
    modules = {path.stem for path in Path(folder).glob("*.py") if not path.stem.startswith("__")}
    assert package.__doc__ is not None
    named = Counter(word for word in re.findall(r"`([a-z0-9_]+)`", package.__doc__) if word in modules or "_" in word)
    assert named == Counter(modules)
