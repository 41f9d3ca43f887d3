"""What an expression says before it runs: its problems, the paths that it names, and where secrets stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from jinja2 import TemplateSyntaxError, nodes

from runbook.interpreter.environment import GLOBALS, environment, parse, parse_file
from runbook.interpreter.expressions import Analysis, Piece, TemplateForm, pieces

Path: TypeAlias = tuple[str, ...]

_HINT = "a secret may stand whole, inside text, as an arm of `a if b else c`, or before `is defined`"


def analyse(source: str, bare: bool) -> Analysis:
    """See expressions.analyse."""
    paths: dict[Path, None] = {}
    try:
        for piece in _expressions(source, bare):
            try:
                tree = parse(piece.source)
            except TemplateSyntaxError as error:
                return Analysis(_plainly(error, source), _offset(piece, error), tuple(paths))
            paths.update(dict.fromkeys(chains(tree)))
            problem = _unknown_word(tree, piece)
            if problem is not None:
                return Analysis(*problem, tuple(paths))
    except TemplateForm as form:
        return Analysis(form.message, form.offset, tuple(paths))
    return Analysis(None, 0, tuple(paths))


def analyse_file(text: str) -> Analysis:
    """A template file (all of Jinja). Paths from names that the file itself sets are left out."""
    try:
        tree = parse_file(text)
    except TemplateSyntaxError as error:
        start = sum(map(len, text.splitlines(keepends=True)[: error.lineno - 1]))
        return Analysis(error.message or "not a template", start, ())
    from jinja2 import meta

    free = meta.find_undeclared_variables(tree)
    return Analysis(None, 0, tuple(dict.fromkeys(path for path in chains(tree) if path[0] in free)))


def _expressions(source: str, bare: bool) -> list[Piece]:
    if not bare:
        return [part for part in pieces(source) if isinstance(part, Piece)]
    if "{{" in source and source.lstrip().startswith("{{"):
        raise TemplateForm("an expression stands here as it is, without `{{ }}`", source.index("{{"))
    if not source.strip():
        raise TemplateForm("there is no expression", 0)
    return [Piece(source, 0)]


def _plainly(error: TemplateSyntaxError, source: str) -> str:
    message = (error.message or "not an expression").rstrip(".")
    if "end of template" in message:
        return "the expression ends where more of it should stand"
    if "got '='" in message or "'='" in message:
        return f"{message}: compare with `==`"
    if "char '!'" in message:
        return f"{message}: write `not`"
    if "&" in source or "||" in source:
        return f"{message}: write `and`, `or`, `not`"
    return message


def _offset(piece: Piece, error: TemplateSyntaxError) -> int:
    lines = piece.source.splitlines(keepends=True)
    return piece.offset + sum(map(len, lines[: max(error.lineno - 1, 0)]))


def _unknown_word(tree: nodes.Node, piece: Piece) -> tuple[str, int] | None:
    """A filter or test that does not exist, with the nearest that does."""
    for kind, known, word in (
        (nodes.Filter, environment().filters, "filter"),
        (nodes.Test, environment().tests, "test"),
    ):
        for node in _nodes(tree, kind):
            name: str = node.name  # type: ignore[attr-defined]
            if name not in known:
                return f"there is no {word} `{name}`{near(name, list(known))}", piece.offset + max(
                    piece.source.find(name), 0
                )
    return None


def near(name: str, known: list[str]) -> str:
    """`; did you mean x?`, or what there is, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, known, 1, 0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    if not known:
        return ""
    return f"; there is {', '.join(sorted(known)[:8])}{', …' if len(known) > 8 else ''}" if len(known) <= 40 else ""


def chains(tree: nodes.Node) -> Iterator[Path]:
    """Every dotted path from a name of the scope, as far as it is written out; a called method's name is left out."""
    called = {id(call.node) for call in _nodes(tree, nodes.Call)}  # type: ignore[attr-defined]
    inner: set[int] = set()
    for node in _nodes(tree, nodes.Getattr, nodes.Getitem, nodes.Name):
        if id(node) in inner:
            continue
        links, root = _links(node, called, inner)
        if root is None or (root in GLOBALS and not links):
            continue
        yield (root, *links)


def _nodes(tree: nodes.Node, *kinds: type[nodes.Node]) -> Iterator[nodes.Node]:
    """The nodes of these kinds, parents first, the tree's own root included."""
    if isinstance(tree, kinds):
        yield tree
    yield from tree.find_all(kinds)


def _links(node: nodes.Node, called: set[int], inner: set[int]) -> tuple[list[str], str | None]:
    """The links down to the root name, None when it is no name; marks the nodes on the way as seen."""
    reversed_: list[str] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        link = node.attr if isinstance(node, nodes.Getattr) else _constant(node)
        if id(node) in called or link is None:
            reversed_.clear()
        else:
            reversed_.append(link)
        node = node.node
        inner.add(id(node))
    return reversed_[::-1], node.name if isinstance(node, nodes.Name) and node.ctx == "load" else None


def _written(node: nodes.Node) -> tuple[list[str], str | None]:
    """As `_links`, with every link; `[…]` for one that is computed."""
    links: list[str] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        links.append(node.attr if isinstance(node, nodes.Getattr) else _constant(node) or "[…]")
        node = node.node
    return links[::-1], node.name if isinstance(node, nodes.Name) else None


def _constant(node: nodes.Getitem) -> str | None:
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None


def secret_misuse(source: str, bare: bool, allowed: bool, inputs: frozenset[str]) -> str | None:
    """See expressions.secret_misuse. A template that does not parse has no misuse: `analyse` says what is wrong."""

    def is_secret(node: nodes.Node) -> str | None:
        links, root = _written(node)
        if root == "secrets" or (root == "inputs" and links and links[0] in inputs):
            return ".".join((root, *links))
        return None

    try:
        trees = [parse(piece.source) for piece in _expressions(source, bare)]
    except (TemplateSyntaxError, TemplateForm):
        return None
    for tree in trees:
        problem = _misuse(tree, allowed and not bare, is_secret)
        if problem is not None:
            return problem
    return None


def _misuse(tree: nodes.Expr, allowed: bool, is_secret: Callable[[nodes.Node], str | None]) -> str | None:
    tests = (node for node in _nodes(tree, nodes.Test) if isinstance(node, nodes.Test))
    tested = {id(test.node) for test in tests if test.name in ("defined", "undefined")}
    placed = {id(arm) for arm in _arms(tree)}
    wholes: set[int] = set()
    for node in _nodes(tree, nodes.Getattr, nodes.Getitem, nodes.Name):
        if id(node) in wholes:
            continue
        name = is_secret(node)
        if name is None:
            continue
        _links(node, set(), wholes)
        if name in ("secrets", "secrets.[…]"):
            return "`secrets` names no single secret: write secrets.NAME"
        if name.count(".") > 1:
            return f"`{name}`: a secret is text, it has no parts"
        if id(node) in tested:
            continue
        if id(node) not in placed:
            return f"`{name}` is used in an expression; {_HINT}"
        if not allowed:
            return f"`{name}` may not stand here: this place does not take secrets"
    return None


def _arms(node: nodes.Expr) -> Iterator[nodes.Expr]:
    if isinstance(node, nodes.CondExpr):
        yield from _arms(node.expr1)
        if node.expr2 is not None:
            yield from _arms(node.expr2)
    else:
        yield node


def place_of(source: str, word: str) -> int:
    """Where a whole word first stands in a source; 0 when it does not."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", source)
    return found.start() if found else 0
