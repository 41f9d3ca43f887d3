"""Finding secret values in text, in every encoding that they are likely to come back in.

Search is by `str.find` for each spelling (a compiled alternation of hundreds of literals is ten times slower), and what
overlaps is merged, so that no tail of a second secret is left beside a mask.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Final

from runbook.interpreter.frozen import frozen

SHORTEST: Final = 4  # characters: below, half the world would be masked
WHOLE_WORD: Final = 8  # characters: below, only whole words are masked

_SHELL_SPECIAL: Final = re.compile(r"[^A-Za-z0-9_@%+=:,./-]")
_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_RUN: Final = r"[A-Za-z0-9+/_-]"
_WRAPPED: Final = re.compile(rf"(?<!{_RUN}){_RUN}{{40,}}+(?:\r?\n[ \t]*+{_RUN}++={{0,2}})++")  # possessive: linear
_LONG_END: Final = re.compile(rf"{_RUN}{{40}}\r?")
_LEFT_OUT: Final = re.compile(r"\n\[[^\]\n]{1,60} left out\]\n")
_CUT: Final = 4_000  # characters: shorter texts are not cut by anything that feeds us without saying so
_ELLIPSIS: Final = "…"  # where `runbook.contract.shorten` cut
_TORN: Final = "\N{REPLACEMENT CHARACTER}"  # a character that was cut in two
_HALF: Final = 4  # characters of a secret at a cut that are worth hiding
_URL_PATH: Final = re.compile(r"(?i)https?://[^/?#\s]+/((?=[^\s#]*\d)[^\s#]{16,})")  # a web hook's path is its secret
_URL_PASSWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s:@]*:([^@\s]+)@")
_DSN_PASSWORD: Final = re.compile(
    r"(?i)\b(?:password|passwd|pwd)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"|([^\s;,&'\"]+))"
)
_SENSITIVE_KEY: Final = re.compile(r"(?i)pass|pwd|secret|token|key|credential")


@frozen
class Spelling:
    """One text that gives a secret away. `word`: only where it stands alone. `base64`: its neighbours carry bits."""

    text: str
    name: str
    word: bool = False
    base64: bool = False


def spellings(name: str, value: str) -> tuple[Spelling, ...]:
    """All spellings of one secret, the plain one first.

    Plain, URL-, JSON-, HTML-, shell-, SQL- and YAML-escaped, hexadecimal, base64 at its three alignments (also of
    base64), each long line, and the password inside a URL, a connection string or JSON.
    """
    found: dict[str, Spelling] = {}
    for text in dict.fromkeys((value, value.strip(), *_inner(value))):
        for spelling in _of_one(name, text):
            found.setdefault(spelling.text, spelling)
    for line in map(str.strip, value.splitlines() if "\n" in value.strip() else ()):
        if len(line) >= WHOLE_WORD and not line.startswith("-----"):
            for text in (line, *_quoted(line)):
                found.setdefault(text, Spelling(text, name))
    return tuple(found.values())


def _of_one(name: str, text: str) -> Iterator[Spelling]:
    if len(text) < SHORTEST:
        return
    short = len(text) < WHOLE_WORD
    for escaped in _escaped(text):
        yield Spelling(escaped, name, word=short)
    raw = text.encode("utf-8", "surrogatepass")
    for digits in (raw.hex(), raw.hex().upper()):
        yield Spelling(digits, name, word=short)
    if short:
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            yield Spelling(encode(raw).decode(), name, word=True)
            yield Spelling(encode(raw).decode().rstrip("="), name, word=True)
        return
    for core in _cores(raw):
        yield Spelling(core, name, base64=True)
        for twice in _cores(core.encode()):
            yield Spelling(twice, name, base64=True)


def _escaped(text: str) -> Iterator[str]:
    yield text
    quote, quote_plus = urllib.parse.quote, urllib.parse.quote_plus
    raw = text.encode("utf-8", "surrogatepass")
    for url in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield url
        yield re.sub(r"%[0-9A-F]{2}", lambda code: code.group().lower(), url)
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for variant in (escaped, _go_json(escaped)):
            yield variant
            yield json.dumps(variant, ensure_ascii=ascii_only)[1:-1]  # JSON in JSON: kubectl's last-applied annotation
            yield variant.replace("/", "\\/")
            yield re.sub(r"\\u[0-9a-f]{4}", lambda code: "\\u" + code.group()[2:].upper(), variant)
    yield from _quoted(text)
    yield repr(text)[1:-1]


def _quoted(text: str) -> Iterator[str]:
    """Escaped for HTML, a shell, SQL: what leaves line ends as they are."""
    page = html.escape(text)
    yield from (page, html.escape(text, quote=False), page.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))
    yield shlex.quote(text).removeprefix("'").removesuffix("'")
    yield text.replace("'", "'\\''")
    yield text.replace("'", "''")
    yield _SHELL_SPECIAL.sub(lambda char: "\\" + char.group(), text)


def _go_json(escaped: str) -> str:
    """What Go's encoding/json makes of it: `<`, `>` and `&` are escaped, too."""
    return escaped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cores(raw: bytes) -> Iterator[str]:
    """The base64 characters that the secret alone decides, at each of the three alignments, standard and URL-safe."""
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        core = text[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6]
        if len(core) >= 6:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _inner(value: str) -> Iterator[str]:
    """Secrets inside a secret: the path of a web hook, the password of a URL, of a connection string, of JSON."""
    if hook := _URL_PATH.fullmatch(value.strip()):
        yield hook.group(1)
    for found in _URL_PASSWORD.finditer(value):
        yield found.group(1)
        yield urllib.parse.unquote(found.group(1))
    for found in _DSN_PASSWORD.finditer(value):
        yield next(group for group in found.groups() if group is not None)
    if value.lstrip().startswith(("{", "[")):
        try:
            yield from _leaves(json.loads(value), sensitive=False)
        except (ValueError, RecursionError):
            return


def _leaves(data: object, *, sensitive: bool) -> Iterator[str]:
    if isinstance(data, str):
        if sensitive:
            yield data
    elif isinstance(data, dict):
        for key, item in data.items():
            yield from _leaves(item, sensitive=sensitive or bool(_SENSITIVE_KEY.search(key)))
    elif isinstance(data, list):
        for item in data:
            yield from _leaves(item, sensitive=sensitive)


@frozen
class Hit:
    """A stretch of text that gives a secret away. `whole`: it is exactly the plain value."""

    start: int
    end: int
    spelling: Spelling
    whole: bool


def hits(text: str, table: Iterable[Spelling]) -> list[Hit]:
    """Every stretch to hide, in order, none overlapping."""
    table = tuple(table)
    found = [hit for spelling in table if spelling.text in text for hit in _occurrences(text, spelling)]
    lines = text.split("\n")
    if any(_LONG_END.fullmatch(line, len(line) - 40 - line.endswith("\r")) for line in lines if len(line) > 40):
        for block in _WRAPPED.finditer(text):
            found.extend(_in_wrapped(block, table))
    if len(text) >= _CUT or _ELLIPSIS in text:
        found.extend(_at_cuts(text, lines, table))
    if not found:
        return found
    found.sort(key=lambda hit: (hit.start, -hit.end))
    merged = [found[0]]
    for hit in found[1:]:
        last = merged[-1]
        if hit.start >= last.end:
            merged.append(hit)
        elif hit.end > last.end:
            merged[-1] = Hit(last.start, hit.end, last.spelling, whole=False)
    return merged


def _in_wrapped(block: re.Match[str], table: tuple[Spelling, ...]) -> Iterator[Hit]:
    """Base64 that a tool wrapped into lines (`base64` at 76 characters, PEM at 64): searched as if it were one line."""
    at = [index for index, char in enumerate(block.group(), block.start()) if not char.isspace()]
    unwrapped = "".join(block.group().split())
    for spelling in table:
        if spelling.base64 and spelling.text in unwrapped:
            for hit in _occurrences(unwrapped, spelling):
                yield Hit(at[hit.start], at[hit.end - 1] + 1, spelling, whole=False)


def _at_cuts(text: str, lines: list[str], table: tuple[Spelling, ...]) -> Iterator[Hit]:
    """Halves of secrets where output was cut before it came here: at its ends, around a note of it, in long lines."""
    ends, starts, at = ([len(text)], [0], 0) if len(text) >= _CUT else ([], [], 0)
    for line in lines:
        at += len(line) + 1
        if len(line) >= _CUT:
            ends.append(at - 1)
    for note in _LEFT_OUT.finditer(text):
        ends.append(note.start())
        starts.append(note.end())
    at = text.find(_ELLIPSIS)
    while at >= 0:
        ends.append(at)
        starts.append(at + 1)
        at = text.find(_ELLIPSIS, at + 1)
    ends = [end - text.endswith(_TORN, 0, end) for end in ends]
    starts = [start + text.startswith(_TORN, start) for start in starts]
    for spelling in table:
        if not spelling.word:
            yield from (hit for end in ends if (hit := _beginning(text, end, spelling)) is not None)
            yield from (hit for start in starts if (hit := _ending(text, start, spelling)) is not None)


def _beginning(text: str, end: int, spelling: Spelling) -> Hit | None:
    """A beginning of a secret that stands right before `end`."""
    low = max(0, end - len(spelling.text) + 1)
    at = text.find(spelling.text[:_HALF], low, end)
    while at >= 0:
        if spelling.text.startswith(text[at:end]):
            return Hit(at, end, spelling, whole=False)
        at = text.find(spelling.text[:_HALF], at + 1, end)
    return None


def _ending(text: str, start: int, spelling: Spelling) -> Hit | None:
    """An ending of a secret that stands right behind `start`."""
    high = min(len(text), start + len(spelling.text) - 1)
    at = text.rfind(spelling.text[-_HALF:], start, high)
    while at >= 0:
        if spelling.text.endswith(text[start : at + _HALF]):
            return Hit(start, at + _HALF, spelling, whole=False)
        at = text.rfind(spelling.text[-_HALF:], start, at + _HALF - 1)
    return None


def _occurrences(text: str, spelling: Spelling) -> Iterator[Hit]:
    needle = spelling.text
    start = text.find(needle)
    while start >= 0:
        end = start + len(needle)
        if not spelling.word or _stands_alone(text, start, end):
            yield _widened(text, start, end, spelling) if spelling.base64 else Hit(start, end, spelling, whole=True)
        start = text.find(needle, start + 1)


def _stands_alone(text: str, start: int, end: int) -> bool:
    before = start > 0 and _word(text[start - 1]) and _word(text[start])
    after = end < len(text) and _word(text[end]) and _word(text[end - 1])
    return not before and not after


def _word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _widened(text: str, start: int, end: int, spelling: Spelling) -> Hit:
    """With what the secret shares with its neighbours: a character on each side, two in base64 of base64; padding."""
    for _ in range(2):
        start -= start > 0 and text[start - 1] in _BASE64
        end += end < len(text) and text[end] in _BASE64
    while end < len(text) and text[end] == "=":
        end += 1
    return Hit(start, end, spelling, whole=False)
