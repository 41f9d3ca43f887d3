"""A plug-in as pip leaves it, made of a text: for commands that need actions which nobody would ship."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from runbook.runner import describe


def install(folder: Path, family: str, source: str) -> Path:
    """Put the module `source` (it ends with ACTIONS) and the schema that it says into `folder`/site; that path."""
    site = folder / "site"
    package = site / f"runbook_{family}"
    (package / "schemas").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "actions.py").write_text(source)
    spec = importlib.util.spec_from_file_location(f"{family}_actions", package / "actions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"{family}_actions"] = module
    spec.loader.exec_module(module)
    document = describe.family_document(family, module.ACTIONS)
    (package / "schemas" / f"{family}.schema.json").write_text(json.dumps(document))
    info = site / f"runbook_{family}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: runbook-{family}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[runbook.actions]\n{family} = runbook_{family}.actions:ACTIONS\n")
    files = [path.relative_to(site) for path in package.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    return site
