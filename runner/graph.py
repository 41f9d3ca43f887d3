"""A playbook's shape as a picture: Mermaid text for a wiki, or one SVG laid out here. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from runbook.interpreter import model
from runbook.interpreter.frozen import frozen

PHASES = {"!undo": "undo", "!on_failure": "on failure", "!finally": "finally"}


@frozen
class Node:
    """One box of the picture: a step, or a named group of steps (a branch, a phase)."""

    label: str
    note: str
    kind: str  # the step kind's word, or `group`
    side_by_side: bool
    children: tuple[Node, ...]
    dashed: bool = False


def tree(playbook: model.Playbook) -> Node:
    """The picture's tree: the playbook's steps, then its handlers."""
    return Node(playbook.name, "", "playbook", False, _scope(playbook))


def _scope(playbook: model.Playbook) -> tuple[Node, ...]:
    return (
        *map(_step, playbook.steps),
        *_phase("!on_failure", playbook.on_failure.steps, undo=playbook.on_failure.undo),
        *_phase("!finally", playbook.finally_),
    )


def _step(step: model.Step) -> Node:
    notes = [f"when {step.when.source}"] if step.when is not None else []
    notes += [f"milestone {step.milestone}"] if step.milestone else []
    notes += ["temporary"] if step.temporary else []
    notes += ["in the background"] if step.background else []
    kind, children, beside = _body(step, notes)
    handlers = (
        *_phase("!undo", step.undo.steps),
        *_phase("!on_failure", step.on_failure.steps, undo=step.on_failure.undo),
        *_phase("!finally", step.finally_),
    )
    if handlers and beside:  # the branches stay side by side, the handlers stand below them
        children = (Node("", "", "group", True, children),)
        beside = False
    return Node(step.name or step.id, ", ".join(notes), kind, beside, (*children, *handlers))


def _body(step: model.Step, notes: list[str]) -> tuple[str, tuple[Node, ...], bool]:
    match step:
        case model.Action(action=action):
            notes.insert(0, action)
            return "action", (), False
        case model.Block(steps=steps):
            return "block", tuple(map(_step, steps)), False
        case model.Parallel(steps=steps):
            notes.insert(0, "at once")
            return "parallel", tuple(map(_step, steps)), True
        case model.Fallback(steps=steps):
            notes.insert(0, "until one succeeds")
            return "fallback", tuple(map(_step, steps)), True
        case model.Foreach(steps=steps, as_=name):
            notes.insert(0, f"for each {name}")
            return "foreach", tuple(map(_step, steps)), False
        case model.Choose(branches=branches):
            notes.insert(0, "the first that holds")
            return "choose", tuple(_branch(branch) for branch in branches), True
        case model.SubPlaybook(playbook=playbook):
            notes.insert(0, playbook.file.rpartition("/")[2])
            return "playbook", _scope(playbook), False


def _branch(branch: model.Branch) -> Node:
    label = branch.when.source if branch.when is not None else "otherwise"
    return Node(label, "", "group", False, tuple(map(_step, branch.steps)))


def _phase(mark: str, steps: tuple[model.Step, ...], *, undo: bool = False) -> Iterator[Node]:
    if steps or undo:
        note = "undo first" if undo and steps else "undo" if undo else ""
        yield Node(PHASES[mark], note, "group", False, tuple(map(_step, steps)), dashed=True)


# -- Mermaid


def mermaid(playbook: model.Playbook) -> str:
    """As a Mermaid flowchart (mermaid.js.org, `flowchart TD` with subgraphs)."""
    lines = ["flowchart TD"]
    edges: list[str] = []
    _Mermaid(lines, edges).chain(tree(playbook).children, 1)
    return "\n".join([*lines, *edges]) + "\n"


class _Mermaid:
    """Writes nodes as they come; names are numbers, so that no text of a playbook becomes syntax."""

    def __init__(self, lines: list[str], edges: list[str]) -> None:
        self._lines = lines
        self._edges = edges
        self._count = 0

    def chain(self, nodes: tuple[Node, ...], depth: int, *, beside: bool = False) -> list[str]:
        """Write siblings; in order they are joined by arrows."""
        names = [self._node(node, depth) for node in nodes]
        if not beside:
            arrows = ["-.->" if node.dashed else "-->" for node in nodes[1:]]
            pairs = zip(names, arrows, names[1:], strict=False)
            self._edges += [f"  {before} {arrow} {after}" for before, arrow, after in pairs]
        return names

    def _node(self, node: Node, depth: int) -> str:
        self._count += 1
        name, pad = f"n{self._count}", "  " * depth
        text = _mermaid_text(node)
        if not node.children:
            self._lines.append(f'{pad}{name}["{text}"]')
            return name
        self._lines.append(f'{pad}subgraph {name}["{text}"]')
        self._lines.append(f"{pad}  direction {'LR' if node.side_by_side else 'TB'}")
        self.chain(node.children, depth + 1, beside=node.side_by_side)
        self._lines.append(f"{pad}end")
        return name


def _mermaid_text(node: Node) -> str:
    text = node.label + (f" ({node.note})" if node.note else "")
    # Mermaid's own entity codes: #quot; and the like; quotes and markup never reach its parser
    return re.sub(r'[#"<>&`\\\[\]{}|;]', lambda found: f"#{ord(found.group())};", " ".join(text.split()))


# -- SVG

LABEL, NOTE = 7.9, 7.2  # px of a character, bold and plain: wide fonts must fit, too
LINE, PAD, GAP = 17.0, 8.0, 16.0
ARROW = 24.0  # px from the left edge of the boxes that it joins
WIDEST = 46  # characters of a label
FILL = {
    "action": "#ffffff",
    "parallel": "#e3f2fd",
    "fallback": "#fff8e1",
    "choose": "#f3e5f5",
    "foreach": "#e8f5e9",
    "playbook": "#eceff1",
}


@frozen
class _Placed:
    node: Node
    width: float
    height: float
    children: tuple[_Placed, ...]


def svg(playbook: model.Playbook) -> str:
    """As one SVG: what runs in order stands below each other, what are alternatives or runs at once side by side."""
    placed = _measure(tree(playbook))
    width, height = placed.width + 2 * PAD, placed.height + 2 * PAD
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" font-family="system-ui, sans-serif" font-size="12">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
            *_draw(placed, PAD, PAD),
            "</svg>",
            "",
        ]
    )


def _measure(node: Node) -> _Placed:
    children = tuple(map(_measure, node.children))
    rows = [_short(node.label), _short(node.note)]
    head_width = max(len(rows[0]) * LABEL, len(rows[1]) * NOTE) + 2 * PAD
    head_height = LINE * sum(1 for row in rows if row) + PAD
    if not children:
        return _Placed(node, max(60.0, head_width), head_height + PAD / 2, ())
    if node.side_by_side:
        width = sum(child.width for child in children) + GAP * (len(children) - 1)
        height = max(child.height for child in children)
    else:
        width = max(child.width for child in children)
        height = sum(child.height for child in children) + GAP * (len(children) - 1)
    return _Placed(node, max(head_width, width + 2 * PAD), head_height + height + PAD, children)


def _draw(placed: _Placed, x: float, y: float) -> Iterator[str]:
    node = placed.node
    dash = ' stroke-dasharray="4 3"' if node.dashed else ""
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{placed.width:.1f}" height="{placed.height:.1f}" rx="4" '
        f'fill="{FILL.get(node.kind, "#fafafa")}" stroke="#78909c"{dash}/>'
    )
    line = y + LINE
    for text, style in ((node.label, 'font-weight="600"'), (node.note, 'fill="#546e7a"')):
        if text:
            yield f'<text x="{x + PAD:.1f}" y="{line:.1f}" {style}>{escape(_short(text))}</text>'
            line += LINE
    at_x, at_y = x + PAD, line - LINE + PAD
    for number, child in enumerate(placed.children):
        if number and not node.side_by_side:
            yield _arrow(at_x + ARROW, at_y - GAP, dashed=child.node.dashed)
        yield from _draw(child, at_x, at_y)
        if node.side_by_side:
            at_x += child.width + GAP
        else:
            at_y += child.height + GAP


def _arrow(x: float, y: float, *, dashed: bool) -> str:
    """What comes next; dashed to a handler."""
    dash = ' stroke-dasharray="3 2"' if dashed else ""
    return (
        f'<path d="M{x:.1f} {y:.1f}v{GAP - 1:.1f}" stroke="#78909c"{dash}/>'
        f'<path d="M{x - 4:.1f} {y + GAP - 6:.1f}h8l-4 6z" fill="#78909c"/>'
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[: WIDEST - 1] + "…"
