"""Where in a shell's text an expression stands: `shell_quote` makes a word, and inside quotes a word is no word.

POSIX.1-2017, Shell Command Language, 2.2 Quoting, 2.3 Token Recognition, 2.6.3 Command Substitution.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbook.interpreter.expressions import Piece

_WORD_ENDS = " \t\n;&|()"


def inside_quotes(parts: Sequence[str | Piece]) -> Piece | None:
    """The first expression that stands inside quotes or backticks; None: there is none, as far as that can be told.

    Behind a here-document nothing is told: whether its text is quoted is said by its delimiter.
    """
    open_ = [""]  # "" a plain text, else what ends it: ' " ` )
    before = "\n"
    for part in parts:
        if isinstance(part, Piece):
            if open_[-1] in ("'", '"') or "`" in open_:
                return part
            before = "x"
            continue
        at = 0
        while at < len(part):
            char, two = part[at], part[at : at + 2]
            if two == "<<" and open_[-1] in ("", ")", "`"):
                return None
            at += _step(part, at, char, two, before, open_)
            before = char
    return None


def _step(text: str, at: int, char: str, two: str, before: str, open_: list[str]) -> int:
    """Go over one character, or over what stands for one; how many they were."""
    now = open_[-1]
    if now == "'":
        if char == "'":
            open_.pop()
        return 1
    if char == "\\":
        return 2
    if two == "$(":
        open_.append(")")
        return 2
    if char == now:  # `"`, a backtick or `)` ends what it began
        open_.pop()
        return 1
    if char in '"`' or (char == "'" and now != '"'):
        open_.append(char)
    elif char == "(" and now == ")":
        open_.append(")")
    elif char == "#" and now != '"' and before in _WORD_ENDS:
        end = text.find("\n", at)
        return len(text) - at if end < 0 else end - at
    return 1
