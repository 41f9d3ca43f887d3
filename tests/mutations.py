"""Playbooks broken at random, as hands, editors and generators break them; the same seed gives the same text."""

# ruff: noqa: E501, SIM905  # vocabularies: words in a text are what they look like

from __future__ import annotations

import random
import re
from collections.abc import Callable

VALUES = (
    "null true false 0 -1 1e999 99999999999999999999999999 3.5 '' \"\" [] {} [[]] {a: {}} yes on 0777 1:30 ~ 30 5m 1h30m 5x "
    "{{ '{{ x }}' '{{ steps.x.outputs.y }}' '{{ inputs }}' '{{ secrets.a | upper }}' '{{ ((((1)))) }}' \"\\u0000\" *a &a !x |- > "
    "'{{ \"' '{% if x %}' '{{ run.id if }}' steps.self.status 2026-05-01 production .5 +1 0x1f [1,2,3] https://x.example?a=b"
).split(" ")
KEYS = (
    "id name action with steps parallel fallback choose foreach items as when timeout on_failure finally undo then temporary background "
    "outputs milestone locks retry max_attempts until every for fail_when keep_going max_concurrent playbook effect idempotent import "
    "inputs secrets vars defaults objectives within since cleanup type default enum pattern minimum env file k8s triggers << runbook"
).split()
CHARACTERS = "\t\x00\x07{}[]:,&*!|>'\"%@`#?-\\\u2028é\ufeff\U0001f4a5 \n\n  "

Mutation = Callable[[random.Random, list[str]], list[str]]


def mutated(text: str, seed: int) -> str:
    """`text` with one to four things done to it."""
    dice = random.Random(seed)
    lines = text.split("\n")
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        lines = dice.choice(MUTATIONS)(dice, lines) or [""]
        lines = "\n".join(lines).split("\n")
    return "\n".join(lines)


def _delete(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    return lines[:at] + lines[at + dice.choice((1, 1, 1, 3)) :]


def _duplicate(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    count = dice.choice((1, 1, 2, 5))
    return lines[: at + count] + lines[at : at + count] * dice.choice((1, 1, 20)) + lines[at + count :]


def _swap(dice: random.Random, lines: list[str]) -> list[str]:
    one, two = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines = list(lines)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def _indent(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    lines = list(lines)
    lines[at] = dice.choice(("  ", "    ", " ", "\t", "- ")) + lines[at] if dice.random() < 0.6 else lines[at][2:]
    return lines


def _flip(dice: random.Random, lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    if not text:
        return lines
    at = dice.randrange(len(text))
    kept = dice.choice((at, at + 1))
    return [text[:at] + dice.choice(CHARACTERS) + text[kept:]]


def _value(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    lines = list(lines)
    lines[at] = re.sub(
        r"([:\-,\[{]\s+)[^\s,\]}][^,\]}]*", lambda found: found[1] + dice.choice(VALUES), lines[at], count=1
    )
    return lines


def _key(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    lines = list(lines)
    lines[at] = re.sub(r"[a-z_]\w*(?=:)", lambda found: dice.choice(KEYS), lines[at], count=dice.choice((1, 0)))
    return lines


def _insert(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines) + 1)
    indent = " " * dice.choice((0, 2, 4, 6, 8))
    return [*lines[:at], f"{indent}{dice.choice(('', '- '))}{dice.choice(KEYS)}: {dice.choice(VALUES)}", *lines[at:]]


def _deep(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    depth = dice.choice((5, 60, 99, 500, 5000))
    open_, close = dice.choice((("[", "]"), ("{a: ", "}"), ("{{ (", ") }}"), ("- ", "")))
    return [*lines[:at], f"x: {open_ * depth}1{close * depth}", *lines[at:]]


def _expression(dice: random.Random, lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    parts = dice.choice(
        (
            "(" * 300 + "1" + ")" * 300,
            "x",
            "steps",
            "steps.nowhere.outputs",
            "not " * 400 + "x",
            "[" * 200,
            "'",
            "a if b",
            "1 / 0",
            "x | nope",
            "secrets['a']",
            "inputs.a.b.c.d",
            "-" * 300 + "1",
            "x[" * 90 + "0" + "]" * 90,
            "{{ x }}",
            "'a' ~ " * 500 + "'b'",
        )
    )
    found = list(re.finditer(r"\{\{.*?\}\}", text))
    if not found:
        return lines
    one = dice.choice(found)
    return [text[: one.start()] + "{{ " + parts + " }}" + text[one.end() :]]


def _cut(dice: random.Random, lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    return [text[: dice.randrange(len(text) + 1)]]


def _long(dice: random.Random, lines: list[str]) -> list[str]:
    at = dice.randrange(len(lines))
    lines = list(lines)
    lines[at] += dice.choice(("a", "9", " x", "{{ a }}", "é", "🂡")) * dice.choice((100, 5000, 50_000))
    return lines


MUTATIONS: tuple[Mutation, ...] = (
    _delete, _duplicate, _swap, _indent, _flip, _flip, _value, _value, _value, _key, _key, _insert, _insert, _deep, _expression, _expression, _cut, _long,
)  # fmt: skip
