"""yaml-language-server as an editor has it: a process of its own, spoken to over stdio (LSP 3.17)."""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

PATIENCE = 30.0
PROPERTY = 10  # CompletionItemKind: a key, where others are the server's ready-made pieces of text
_CAPABILITIES = {
    "textDocument": {
        "completion": {"completionItem": {"documentationFormat": ["markdown"], "snippetSupport": True}},
        "hover": {"contentFormat": ["markdown"]},
    }
}
_SETTINGS = {"yaml": {"schemaStore": {"enable": False}, "hover": True, "completion": True, "validate": True}}


def missing() -> str:
    """Why there is no server on this machine; empty when there is one."""
    if shutil.which("node") is None:
        return "node is not installed"
    return "" if _program().is_file() else "yaml-language-server is not installed: run tests/testbed/editor"


def _program() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    testbed = Path(os.environ.get("RUNBOOK_TESTBED") or cache / "runbook-testbed")
    return testbed / "editor" / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"


@dataclass(frozen=True)
class Offer:
    """One item of a completion: what is shown, what is said about it, what is written."""

    label: str
    kind: int
    documentation: str
    text: str


@dataclass(frozen=True)
class Mark:
    """One diagnostic: its line, counted from 1 as people count, and what it marks and says."""

    line: int
    marked: str
    message: str


class LanguageServer:
    """A server that is running; a context manager. Nothing waits longer than PATIENCE."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(_program()), "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._arrived: queue.Queue[dict[str, Any]] = queue.Queue()
        self._numbers = itertools.count(1)
        self._texts: dict[str, str] = {}
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def __enter__(self) -> Self:
        root = {"processId": None, "rootUri": None, "capabilities": _CAPABILITIES}
        self._request("initialize", root)
        self._notify("initialized", {})
        self._notify("workspace/didChangeConfiguration", {"settings": _SETTINGS})
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def open(self, path: Path, text: str | None = None) -> str:
        """Open a file of the disk, or `text` as if it stood there; its URI."""
        uri = path.absolute().as_uri()
        self._texts[uri] = path.read_text(encoding="utf-8") if text is None else text
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": self._texts[uri]}
        self._notify("textDocument/didOpen", {"textDocument": document})
        return uri

    def complete(self, uri: str, line: int, character: int) -> list[Offer]:
        """What is offered at a place, both counted from 0."""
        result = self._at("textDocument/completion", uri, line, character)
        items = result["items"] if isinstance(result, dict) else result or []
        return [Offer(one["label"], one["kind"], _text(one.get("documentation")), one["insertText"]) for one in items]

    def hover(self, uri: str, line: int, character: int) -> str:
        """What is said over a place, both counted from 0; empty when nothing is."""
        result = self._at("textDocument/hover", uri, line, character)
        return _text(result["contents"]) if result else ""

    def diagnose(self, uri: str) -> list[Mark]:
        """All diagnostics of an open file."""
        while uri not in self._diagnostics:
            self._take()
        lines = self._texts[uri].splitlines()
        found = []
        for one in self._diagnostics[uri]:
            start, end = one["range"]["start"], one["range"]["end"]
            last = end["character"] if start["line"] == end["line"] else None
            found.append(Mark(start["line"] + 1, lines[start["line"]][start["character"] : last], one["message"]))
        return found

    def _at(self, method: str, uri: str, line: int, character: int) -> Any:
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        return self._request(method, place)

    def _request(self, method: str, parameters: dict[str, Any]) -> Any:
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": parameters})
        while True:
            message = self._take()
            if message.get("id") == number and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _notify(self, method: str, parameters: dict[str, Any]) -> None:
        self._send({"method": method, "params": parameters})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _take(self) -> dict[str, Any]:
        message = self._arrived.get(timeout=PATIENCE)
        if "method" in message and "id" in message:  # the server asks: an editor without settings of its own
            items = message["params"].get("items") if message["method"] == "workspace/configuration" else None
            self._send({"id": message["id"], "result": None if items is None else [None] * len(items)})
        elif message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        return message

    def _listen(self, stream: IO[bytes]) -> None:
        while header := stream.readline():
            length = 0
            while header.strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                header = stream.readline()
            self._arrived.put(json.loads(stream.read(length)))


def _text(markup: Any) -> str:
    return markup["value"] if isinstance(markup, dict) else markup or ""


__all__ = ["PROPERTY", "LanguageServer", "Mark", "Offer", "missing"]
