"""A parameter whose text is code to somebody else (`x-quoted`: a shell's): data gets into it through a filter only.

language.md: data is never code. actions.md: templates in a text of `shell.run` must go through `shell_quote`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runbook.interpreter.expressions import ExpressionError, Piece, TemplateForm, pieces, single
from runbook.interpreter.frozen import frozen
from runbook.interpreter.shell_text import inside_quotes

if TYPE_CHECKING:
    from jinja2 import nodes

    from runbook.interpreter.merge import Declared

_NAMED = re.compile(r"\s*(inputs|vars)\.([A-Za-z_]\w*)\s*")
_PATH = re.compile(r"\s*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\s*")
_TO_TEXT = frozenset(
    {
        *("b64decode", "b64encode", "basename", "capitalize", "dirname", "format", "join", "lower", "replace"),
        *("shell_quote", "string", "title", "to_json", "to_yaml", "tojson", "trim", "upper"),
    }
)
_MOST_VARS = 100  # of which each is another one; a var sees only earlier ones, so that this is no cycle


@frozen
class Unquoted:
    """An expression that may put data into code, `offset` characters from the text's start.

    `alone`: it is the whole text. `inside`: it stands inside quotes of the text, which the filter's own would end.
    """

    source: str
    offset: int
    alone: bool = False
    inside: bool = False

    def message(self, by: str) -> str:
        """What is wrong, as a sentence."""
        if self.inside:
            return f"`{self.source}` stands inside quotes, and `{by}` brings quotes of its own: it would not be quoted"
        return f"`{self.source}` gives text that is run as code, and does not go through `{by}`"

    def expected(self, by: str, listed: bool) -> str:
        """What should stand there; `listed`: the parameter also takes a list."""
        if self.inside:
            return "the expression outside the quotes, or the value by `env` and its variable in the quotes"
        way = f"`{{{{ {self.source if _PATH.fullmatch(self.source) else '…'} | {by} }}}}`"
        if not listed:
            return way
        return "a list: a program and its arguments" if self.alone else f"{way}, or a list: a program and its arguments"


def unquoted(text: str, by: str, declared: Declared) -> Unquoted | None:
    """The first expression of a text that may put data into it unquoted; None: there is none.

    One template that is the whole of the parameter may give a list; it is told here only where it surely gives text.
    """
    try:
        parts = pieces(text)
    except TemplateForm:
        return None  # `analyse` says what is wrong
    alone = single(parts)
    for part in parts:
        if not isinstance(part, Piece) or _quoted(part.source, by):
            continue
        if alone is None or _is_text(part.source, by, declared, _MOST_VARS):
            skipped = len(part.source) - len(part.source.lstrip())
            return Unquoted(" ".join(part.source.split()), part.offset + skipped, alone is not None)
    within = inside_quotes(parts) if by == "shell_quote" else None
    return None if within is None else Unquoted(" ".join(within.source.split()), within.offset, inside=True)


def may_give_text(text: str, by: str) -> bool:
    """Whether one template is the whole of a text and is not quoted: what it gives is known at the run only."""
    try:
        alone = single(pieces(text))
    except TemplateForm:
        return False
    return alone is not None and not _quoted(alone.source, by)


def refuse_text(args: Any, names: tuple[str, ...]) -> None:
    """Of parameters that are one template each (`may_give_text`): ExpressionError for one that came to be text."""
    for name in names:
        if isinstance(args, Mapping) and isinstance(args.get(name), str):
            raise ExpressionError(
                f"`{name}` is one template, and it gave text, which would be run as code: it must give a list"
                " (a program and its arguments)"
            )


def _parsed(source: str) -> nodes.Expr | None:
    from jinja2 import TemplateSyntaxError

    from runbook.interpreter.environment import parse

    try:
        return parse(source)
    except (TemplateSyntaxError, RecursionError):
        return None


def _quoted(source: str, by: str) -> bool:
    if _PATH.fullmatch(source):
        return False  # told without Jinja, which costs its import
    tree = _parsed(source)
    return tree is None or _all_arms(tree, lambda arm: _safe(arm, by))


def _safe(node: nodes.Expr, by: str) -> bool:
    from jinja2 import nodes as kinds

    return isinstance(node, kinds.Const) or (isinstance(node, kinds.Filter) and node.name == by)


def _all_arms(node: nodes.Expr, holds: Callable[[nodes.Expr], bool]) -> bool:
    from jinja2 import nodes as kinds

    if isinstance(node, kinds.CondExpr):
        return _all_arms(node.expr1, holds) and (node.expr2 is None or _all_arms(node.expr2, holds))
    return holds(node)


def _is_text(source: str, by: str, declared: Declared, left: int) -> bool:
    """Whether an expression surely gives text (in one of its arms), as far as that is written out."""
    named = _NAMED.fullmatch(source)
    if named is not None:
        return _declared_text(named[1], named[2], by, declared, left)
    if _PATH.fullmatch(source):
        return False
    tree = _parsed(source)
    return tree is not None and not _all_arms(tree, lambda arm: not _text_node(arm, by, declared, left))


def _text_node(node: nodes.Expr, by: str, declared: Declared, left: int) -> bool:
    from jinja2 import nodes as kinds

    if isinstance(node, kinds.Getattr) and isinstance(node.node, kinds.Name) and node.node.name in ("inputs", "vars"):
        return _declared_text(node.node.name, node.attr, by, declared, left)
    if isinstance(node, kinds.Filter):
        if node.name == "default" and node.node is not None:
            return _text_node(node.node, by, declared, left)
        return node.name in _TO_TEXT
    return isinstance(node, kinds.Concat) or (isinstance(node, kinds.Const) and isinstance(node.value, str))


def _declared_text(section: str, name: str, by: str, declared: Declared, left: int) -> bool:
    item = (declared.inputs if section == "inputs" else declared.vars).get(name)
    if item is None or not left:
        return False
    if section == "inputs":
        return isinstance(item.value, Mapping) and item.value.get("type") not in (None, "list")
    if not isinstance(item.value, str):
        return False
    try:
        alone = single(pieces(item.value))
    except TemplateForm:
        return False
    return alone is None or _is_text(alone.source, by, declared, left - 1)
