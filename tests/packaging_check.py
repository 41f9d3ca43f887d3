"""Wheel, sdist and editable install give the same runbook: `python -m tests.packaging_check` (exit 1 when not).

Not a pytest case: it builds packages, which needs the build backend from an index and half a minute.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def contents(wheel: Path) -> dict[str, str]:
    """Path in the wheel -> digest, without the metadata that names the build."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if ".dist-info/" not in name
        }


def source() -> set[str]:
    """What a wheel must hold: every committed file of the package, by the path under which it is imported."""
    listed = subprocess.run(
        ["git", "ls-files", "interpreter", "runner", "actions", "cli", "sandbox", "schemas", "playbooks"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return {f"runbook/{name}" for name in listed} | {"runbook/__init__.py", "runbook/contract.py", "runbook/py.typed"}


def build(kind: str, out: Path, tree: Path) -> Path:
    """Build one distribution of `tree`."""
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--outdir", str(out), str(tree)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return next(iter(out.iterdir()))


def version_of(wheel: Path, folder: Path) -> str:
    """Install the wheel by itself and ask the command line for its version, from a folder where no checkout is."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)],
        check=True,
    )
    return subprocess.run(
        [sys.executable, "-m", "runbook.cli.main", "--version"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


def main() -> int:
    """Build, compare, install, ask."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        direct = build("wheel", base / "wheel", ROOT)
        sdist = build("sdist", base / "sdist", ROOT)
        with tarfile.open(sdist) as archive:
            archive.extractall(base / "unpacked", filter="data")
        again = build("wheel", base / "again", next((base / "unpacked").iterdir()))
        first, second = contents(direct), contents(again)
        wrong = [
            f"only in one wheel or different: {name}"
            for name in sorted({*first, *second})
            if first.get(name) != second.get(name)
        ]
        wrong += [f"not in the wheel: {name}" for name in sorted(source() - set(first))]
        wrong += [f"in the wheel, not committed: {name}" for name in sorted(set(first) - source())]
        editable = subprocess.run(
            [sys.executable, "-m", "runbook.cli.main", "--version"],
            cwd=base,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        installed = version_of(direct, base / "target")
        if installed != editable:
            wrong.append(f"the wheel says {installed}, the editable install {editable}")
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(first)} files, {len(wrong)} differences between wheel, sdist and checkout")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
