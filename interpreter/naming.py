"""What a template may name, checked before anything runs: inputs, vars, secrets, steps and their outputs, words of
the scope.

Most expressions are plain (`inputs.env`, `steps.a.status == 'failed'`): their paths are found without Jinja, so that a
playbook of plain expressions costs no import of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from runbook.interpreter import expressions
from runbook.interpreter.errors import Place
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.frozen import frozen
from runbook.interpreter.model import Bare, Template
from runbook.interpreter.problems import Problems
from runbook.interpreter.references import Index, Trail
from runbook.interpreter.source import Source

STEP_FIELDS = ("status", "undone", "outputs", "error", "started_at", "duration", "attempts")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "run": ("id", "name", "elapsed", "started_at", "initiator", "parent", "trigger"),
    "failure": ("kind", "step", "path", "error", "undo", "others"),
    "loop": ("index", "first", "last", "length"),
}
ERROR_FIELDS = ("message", "kind", "temporary", "attempt")
ROOTS = ("inputs", "vars", "secrets", "steps", "run", "failure")
WORDS = frozenset(
    {
        *ROOTS,
        "result",
        "error",
        "loop",
        "range",
        "dict",
        "namespace",
        "true",
        "false",
        "none",
        "not",
        "and",
        "or",
        "in",
        "is",
        "if",
        "else",
    }
)
NEEDS: Mapping[str, str] = {
    "result": "`result` is known only where a step just ended: `until`, `fail_when`, `outputs`",
    "error": "`error` is known only where a step just ended: `until`, `fail_when`, `outputs`",
    "loop": "`loop` is known only inside a `foreach`",
    "null": "null is written `none` in expressions",
    "item": "the item's name is what `as` says",
    "env": "there is no `env`: declare an input with `default: {from_env: NAME}`, or a secret",
    "now": "there is no clock in expressions: `run.elapsed`, `run.started_at`, `steps.x.started_at`",
}

_PATH = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_OPERAND = rf"(?:{_PATH}|-?\d+(?:\.\d+)?|'[^'\\\n]*')"
_PLAIN = re.compile(
    rf"\s*(?:not\s+)?{_OPERAND}(?:\s*(?:==|!=|<=|>=|<|>)\s*{_OPERAND})?(?:\s+(?:and|or)\s+{_OPERAND})*\s*"
)
_WORD = re.compile(rf"'[^']*'|(?<![\w.])({_PATH})")
_WHOLE = re.compile(r"(steps|inputs|vars|secrets)\.([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*|\[[\w'-]+\])*")
_NAMED = re.compile(r"`([\w.]+)`")
_KEYWORDS = frozenset({"not", "and", "or", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None"})


@lru_cache(maxsize=20_000)
def analyse(source: str, bare: bool) -> expressions.Analysis:
    """What a template names; plain ones by a regular expression, all others by Jinja's parser."""
    try:
        parts = [source] if bare else [one.source for one in expressions.pieces(source) if not isinstance(one, str)]
        if all(_PLAIN.fullmatch(part) for part in parts):
            paths = [
                found[1] for part in parts for found in _WORD.finditer(part) if found[1] and found[1] not in _KEYWORDS
            ]
            if not any(path.partition(".")[0] in _KEYWORDS for path in paths):
                return expressions.Analysis(None, 0, tuple(dict.fromkeys(tuple(path.split(".")) for path in paths)))
        return expressions.analyse(source, bare)
    except expressions.TemplateForm as error:
        return expressions.Analysis(error.message, error.offset, ())
    except RecursionError:
        return expressions.Analysis("this expression is nested too deeply", 0, ())
    except ValueError as error:  # Python's own limits: a number of 5,000 digits
        return expressions.Analysis(f"no expression: {error}", 0, ())


@lru_cache(maxsize=20_000)
def _misuse(source: str, bare: bool, allowed: bool, inputs: frozenset[str]) -> str | None:
    if analyse(source, bare).problem is not None:
        return None
    return expressions.secret_misuse(source, bare, allowed, inputs)


@frozen
class Site:
    """Where a template stands: what it may name, and how people find it. `words`: names beyond the roots (`as`, loop,
    result).
    """

    trail: Trail
    path: str
    words: frozenset[str] = frozenset()
    steps: bool = True  # False before the first step: vars, secrets, the run's locks
    failure: bool = True

    def at(self, **changes: Any) -> Site:
        """The same site with some of it changed."""
        values: dict[str, Any] = {
            "trail": self.trail,
            "path": self.path,
            "words": self.words,
            "steps": self.steps,
            "failure": self.failure,
        }
        return Site(**(values | changes))


@dataclass(slots=True)
class Names:
    """Everything that templates of one file may name. None = not known (an imported file): anything goes."""

    problems: Problems
    index: Index = field(default_factory=Index)
    inputs: frozenset[str] | None = frozenset()
    secret_inputs: frozenset[str] = frozenset()
    secrets: frozenset[str] | None = frozenset()
    vars: frozenset[str] | None = frozenset()
    later_vars: set[str] = field(default_factory=set)

    def bare(self, value: Any, source: Source, place: Place, site: Site, key: str) -> Bare:
        """A bare expression, checked. Scalars that are no text (`true`, 3) are themselves."""
        text = value if isinstance(value, str) else _literal(value)
        reads = self.check(text, True, False, source, place, site, key)
        return Bare(text, place, reads)

    def template(
        self, value: Any, source: Source, holder: Any, key: Any, site: Site, path: str, secret_at: tuple[str, ...] = ()
    ) -> Template:
        """Plain data whose strings may be templates, checked; `holder[key]` is where `value` stands in `source`."""
        place = source.place(holder, key)
        if isinstance(value, str):
            if "{{" not in value:
                self.meant(value, place, f"{site.path}.{path}" if site.path else path)
                return Template(value, place)
            return Template(
                value, place, self.check(value, False, "" in secret_at, source, place, site, path), {"": place}
            )
        if not isinstance(value, dict | list):
            return Template(value, place)
        places: dict[str, Place] = {}
        reads: set[str] = set()
        self._walk(value, "", source, site, path, secret_at, places, reads)
        return Template(value, place, frozenset(reads), places)

    def _walk(
        self,
        value: Any,
        pointer: str,
        source: Source,
        site: Site,
        path: str,
        secret_at: tuple[str, ...],
        places: dict[str, Place],
        reads: set[str],
    ) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and "{{" in key:
                self.problems.add(
                    source.place(value, key, of_key=True),
                    "a key is no template: it stays as it is written",
                    f"{site.path}.{path}" if site.path else path,
                    rule="braces",
                    hint="make the map in one expression: \"{{ {inputs.name: 'value'} }}\"",
                    warning=True,
                )
            if isinstance(item, str):
                where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
                place = source.place(value, key)
                if "{{" not in item:
                    self.meant(item, place, f"{site.path}.{where}" if site.path else where)
                    continue
                here = f"{pointer}/{escaped(key)}"
                places[here] = place
                reads |= self.check(item, False, takes_secret(here, secret_at), source, place, site, where)
            elif isinstance(item, dict | list):
                where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
                self._walk(item, f"{pointer}/{escaped(key)}", source, site, where, secret_at, places, reads)

    def meant(self, text: str, place: Place, path: str) -> None:
        """A text that is the very name of something that there is: its braces were forgotten."""
        if not text.startswith(("steps.", "inputs.", "vars.", "secrets.")):
            return
        found = _WHOLE.fullmatch(text)
        known: Mapping[str, Collection[str] | None] = {
            "steps": self.index,
            "inputs": self.inputs,
            "vars": self.vars,
            "secrets": self.secrets,
        }
        if found is not None and found[2] in (known[found[1]] or ()):
            message = f"`{text}` is text here, not a value"
            self.problems.add(place, message, path, rule="braces", hint=f'write "{{{{ {text} }}}}"', warning=True)

    def check(
        self, text: str, bare: bool, secret: bool, source: Source, place: Place, site: Site, key: str
    ) -> frozenset[str]:
        """Check one template or bare expression; returns the ids of the steps that it names."""
        path = f"{site.path}.{key}" if site.path and key else site.path or key
        found = analyse(text, bare)
        if found.problem is not None:
            at = source.inside(place, text, found.offset)
            self.problems.add(at, f"{found.problem}", path, rule="expression")
        reads = set()
        for chain in found.paths:
            problem = self._chain(chain, site)
            if problem is not None:
                message, hint = problem
                at = source.inside(place, text, _position(text, chain))
                self.problems.add(at, message, path, rule="reference", hint=hint)
            elif chain[0] == "steps" and len(chain) > 1:
                reads.add(chain[1])
        if "secrets" in text or self.secret_inputs:
            misuse = _misuse(text, bare, secret, self.secret_inputs)
            if misuse is not None:
                named = _NAMED.search(misuse)
                at = source.inside(place, text, _position(text, tuple(named[1].split(".")) if named else ("secrets",)))
                self.problems.add(at, misuse, path, rule="secret", hint=_secret_hint(path, secret))
        return frozenset(reads)

    def _chain(self, chain: tuple[str, ...], site: Site) -> tuple[str, str] | None:
        root = chain[0]
        if root in site.words:
            return (
                _field(chain, root) if root == "loop" else _error_field(chain[1:], "error") if root == "error" else None
            )
        if root == "steps":
            return self._step(chain, site)
        if root == "inputs":
            return _declared(chain, self.inputs, "input", "inputs")
        if root == "secrets":
            return _declared(chain, self.secrets, "secret", "secrets")
        if root == "vars":
            if len(chain) > 1 and chain[1] in self.later_vars:
                return f"`vars.{chain[1]}` is computed later", "vars are computed top to bottom"
            return _declared(chain, self.vars, "var", "vars")
        if root == "run" or (root == "failure" and site.failure):
            return (
                _error_field(chain[2:], "failure.error") if chain[:2] == ("failure", "error") else _field(chain, root)
            )
        return self._unknown(root, site)

    def _unknown(self, root: str, site: Site) -> tuple[str, str] | None:
        if root in NEEDS:
            return (NEEDS[root], "") if root != "item" else (f"there is no `{root}` here", NEEDS[root])
        if root.lower() in ("yes", "no", "on", "off"):
            return f"there is no `{root}` here", f"write {'true' if root.lower() in ('yes', 'on') else 'false'}"
        if root == "failure":
            return "`failure` is not known before the first step", ""
        for plural, names in (
            ("inputs", self.inputs),
            ("vars", self.vars),
            ("secrets", self.secrets),
            ("steps", frozenset(self.index)),
        ):
            if names and root in names:
                return f"there is no `{root}` here", f"did you mean `{plural}.{root}`?"
        return f"there is no `{root}` here", did_you_mean(
            root, [*ROOTS, *site.words]
        ) or "quote text inside an expression: 'text'"

    def _step(self, chain: tuple[str, ...], site: Site) -> tuple[str, str] | None:
        if not site.steps:
            return (
                "no step has run here yet",
                "this is computed before the first step: inputs, earlier vars and `run` are known",
            )
        if len(chain) == 1:
            return None
        wrong = self.index.wrong(site.trail, chain[1])
        if wrong is not None or len(chain) == 2:
            return wrong
        name, what = chain[1], chain[2]
        known = self.index[name]
        if what not in STEP_FIELDS:
            meant = known.outputs is not None and what in known.outputs
            hint = f"did you mean `steps.{name}.outputs.{what}`?" if meant else did_you_mean(what, STEP_FIELDS)
            return f"a step has no `{what}`", hint or f"it has {', '.join(STEP_FIELDS)}"
        if what == "error":
            return _error_field(chain[3:], f"steps.{name}.error")
        if what == "outputs" and len(chain) > 3 and known.outputs is not None and chain[3] not in known.outputs:
            listed = f"it returns {', '.join(sorted(known.outputs))}" if known.outputs else "it returns nothing"
            return f"`steps.{name}` has no output `{chain[3]}`", did_you_mean(chain[3], known.outputs) or listed
        return None


def takes_secret(pointer: str, secret_at: tuple[str, ...]) -> bool:
    """Whether the value at a JSON pointer of `with` may hold a secret."""
    return any(pointer == one or (one.endswith("*") and pointer.startswith(one.rstrip("*"))) for one in secret_at)


def escaped(key: Any) -> str:
    """A key as a JSON pointer writes it (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _declared(chain: tuple[str, ...], names: frozenset[str] | None, what: str, plural: str) -> tuple[str, str] | None:
    if names is None or len(chain) == 1 or chain[1] in names:
        return None
    listed = f"declared are {', '.join(sorted(names)[:8])}" if names else f"this playbook declares no {plural}"
    return f"there is no {what} `{chain[1]}`", did_you_mean(chain[1], names) or listed


def _field(chain: tuple[str, ...], root: str) -> tuple[str, str] | None:
    if len(chain) == 1 or chain[1] in FIELDS[root]:
        return None
    return f"`{root}` has no `{chain[1]}`", did_you_mean(chain[1], FIELDS[root]) or f"it has {', '.join(FIELDS[root])}"


def _error_field(rest: tuple[str, ...], what: str) -> tuple[str, str] | None:
    if not rest or rest[0] in ERROR_FIELDS:
        return None
    return f"`{what}` has no `{rest[0]}`", did_you_mean(rest[0], ERROR_FIELDS) or f"it has {', '.join(ERROR_FIELDS)}"


def _position(text: str, chain: tuple[str, ...]) -> int:
    """Where a path stands in a template, as well as that can be told from its first words."""
    for words in (chain[:4], chain[:3], chain[:2], chain[:1]):
        found = re.search(r"(?<![\w.])" + r"\s*\.\s*".join(map(re.escape, words)) + r"(?!\w)", text)
        if found is not None:
            return found.start()
    return 0


def _secret_hint(path: str, allowed: bool) -> str:
    if not allowed and path.endswith(("with.command", "]")) and ".with.command" in path:
        return "`shell.run` takes secrets by `env` or `stdin`, never in `command`"
    return (
        "a script or a template file works on it where it is used"
        if allowed
        else "`runbook actions NAME` says which parameters take secrets"
    )


def _literal(value: Any) -> str:
    if value is None:
        return "none"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
