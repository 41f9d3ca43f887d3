"""Canaries: secrets that would show wherever they fly out, and the search for them in raw bytes.

The encodings are written here once more, on purpose: a search by the masking's own table could not find its gaps.
"""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

WINDOW = 12  # characters: so long a part of any spelling is a find; what is shorter is not one

ONE_LINE: Mapping[str, str] = {
    "by_env": """env+C4n/ry "e<n>v&'é%~= 7f3a9b2c41d0""",
    "by_file": """file+C4n/ry 'f<i>l&"ü%~= 81e6d50b93aa""",
    "by_k8s": """k8s+C4n/ry "k<8>s&'ñ%~= 5c0277fe16b4""",
}
MANY_LINES: Mapping[str, str] = {
    "env_lines": "first+linE/of env 0a1b2c3d\nsecond line<of> env 4e5f6a7b\n",
    "file_lines": "first+linE/of file 1b2c3d4e\nsecond line<of> file 5f6a7b8c",
    "k8s_lines": "first+linE/of k8s 2c3d4e5f\nsecond line<of> k8s 6a7b8c9d\n",
}
TAG = "v0Zq7canaryTag0391xYz"  # may stand in the name of an image
HOOK = "T0hook/B1canary/x9Yw8V7u6T5s4"  # the path of a webhook
VALUES: Mapping[str, str] = {**ONE_LINE, **MANY_LINES, "tag": TAG, "hook": HOOK}


def encodings(value: str) -> dict[str, str]:
    """The eight: plain, base64 at its three alignments, its URL-safe alphabet, URL-quoted, JSON-, hex-, HTML-escaped,
    and each line of many."""
    raw = value.encode()
    found = {"plain": value, "hex": raw.hex(), "HEX": raw.hex().upper()}
    for shift in range(3):
        # what the neighbours do not decide: without the characters that hold a neighbour's bits
        shifted = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        core = shifted[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6]
        found[f"base64 at {shift}"] = core
        found[f"URL-safe base64 at {shift}"] = core.replace("+", "-").replace("/", "_")
    found["URL"] = urllib.parse.quote(value, safe="")
    found["URL, slashes kept"] = urllib.parse.quote(value)
    found["form"] = urllib.parse.quote_plus(value)
    found["JSON"] = json.dumps(value)[1:-1]
    found["JSON, UTF-8"] = json.dumps(value, ensure_ascii=False)[1:-1]
    found["HTML"] = html.escape(value)
    for number, line in enumerate(value.splitlines() if "\n" in value else ()):
        found[f"line {number}"] = line
    return found


class Search:
    """Looks for parts of canaries in bytes."""

    def __init__(self, values: Mapping[str, str] = VALUES) -> None:
        self._windows: dict[bytes, str] = {}
        for name, value in values.items():
            for encoding, spelled in encodings(value).items():
                for piece in spelled.split("\n"):
                    raw = piece.encode()
                    for at in range(len(raw) - WINDOW + 1):
                        self._windows.setdefault(raw[at : at + WINDOW], f"{name}, {encoding}")
        self._starts = {window[:2] for window in self._windows}

    def __call__(self, raw: bytes) -> list[str]:
        """What was found: which canary, in which encoding, and where. Empty is good."""
        found: dict[str, int] = {}
        windows, starts = self._windows, self._starts
        for at in range(len(raw) - WINDOW + 1):
            if raw[at : at + 2] in starts and raw[at : at + WINDOW] in windows:
                found.setdefault(windows[raw[at : at + WINDOW]], at)
        return [f"{name} at byte {at}: …{raw[max(0, at - 60) : at + 40]!r}…" for name, at in found.items()]

    def files(self, folder: Path) -> dict[str, list[str]]:
        """Everything below a folder, as it is on disk: path -> what was found there."""
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (hits := self(path.read_bytes()) + self(path.name.encode())):
                found[str(path.relative_to(folder))] = hits
        return found


def told(value: str) -> Iterator[str]:
    """What a chatty world says of a secret: every encoding, in the middle of a line."""
    for spelled in encodings(value).values():
        yield f"<<{spelled}>>"
    for shift in range(3):
        yield base64.b64encode(b"x" * shift + value.encode() + b"after").decode()
        yield base64.urlsafe_b64encode(b"x" * shift + value.encode() + b"after").decode()
    yield json.dumps({"nested": json.dumps({"value": value})})
