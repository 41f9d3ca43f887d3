"""Pictures of playbooks: everything is in them, nothing overlaps, no text becomes markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from runbook.interpreter import model
from runbook.interpreter.model import (
    Action,
    Bare,
    Block,
    Branch,
    Choose,
    Fallback,
    Foreach,
    OnFailure,
    Parallel,
    Playbook,
    SubPlaybook,
    Template,
    Undo,
)
from runbook.runner import graph, shape

EVIL = '<script>"]; click n1 "http://x" %% `#'


def act(step: str, **more: object) -> Action:
    return Action(id=step, action="shell.run", with_=Template({}), effect="opaque", **more)  # type: ignore[arg-type]


def everything() -> Playbook:
    inner = Playbook("inner", "inner.yaml", (act("in_a"),), finally_=(act("in_b"),))
    return Playbook(
        "all",
        "all.yaml",
        (
            act("first", name=EVIL, when=Bare("inputs.x < 3"), milestone="m"),
            Block(id="block", steps=(act("b1"), act("b2")), on_failure=OnFailure(undo=True, steps=(act("b3"),))),
            Parallel(id="parallel", steps=(act("p1"), act("p2"), act("p3")), finally_=(act("p4"),)),
            Fallback(id="fallback", steps=(act("f1"), act("f2"))),
            Choose(id="choose", branches=(Branch(Bare("a > 1"), (act("c1"),)), Branch(None, (act("c2"),)))),
            Foreach(id="each", items=Template([1]), as_="item", steps=(act("e1"),)),
            SubPlaybook(id="sub", playbook=inner, with_=Template({})),
            act("undone", undo=Undo("steps", (act("u1"),))),
        ),
        on_failure=OnFailure(steps=(act("h1"),)),
        finally_=(act("h2"),),
    )


def test_every_step_is_in_both_pictures() -> None:
    book = everything()
    ids = {step.name or step.id for _, step in shape.walk(book)}
    root = ET.fromstring(graph.svg(book))
    texts = {"".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")}
    assert ids <= texts
    mermaid = graph.mermaid(book)
    for name in ids - {EVIL}:
        assert f'"{name} (' in mermaid or f'"{name}"' in mermaid


def test_mermaid_holds_no_syntax_of_the_playbook() -> None:
    text = graph.mermaid(everything())
    line = next(line for line in text.splitlines() if "script" in line)
    assert re.fullmatch(r'\s+n\d+\["[^"<>\[\]`{}|;]*(#\d+;[^"<>\[\]`{}|]*)*"\]', line)
    assert text.count("subgraph") == sum(1 for line in text.splitlines() if line.strip() == "end")


def placed(root: ET.Element) -> list[tuple[float, float, float, float]]:
    rects = [node for node in root.iter() if node.tag.endswith("rect")][1:]  # without the background
    return [tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height")) for rect in rects]  # type: ignore[misc]


def pairs(boxes: list[tuple[float, float, float, float]]) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            yield one, other


def test_boxes_hold_each_other_or_stand_apart() -> None:
    root = ET.fromstring(graph.svg(everything()))
    for (x, y, w, h), (a, b, c, d) in pairs(placed(root)):
        inside = x <= a and y <= b and a + c <= x + w + 0.11 and b + d <= y + h + 0.11
        apart = x + w <= a + 0.11 or a + c <= x + 0.11 or y + h <= b + 0.11 or b + d <= y + 0.11
        assert inside or apart
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert all(x + w <= width + 1 and y + h <= height + 1 for x, y, w, h in placed(root))


def test_the_walk_names_every_step_once() -> None:
    paths = [path for path, _ in shape.walk(everything())]
    assert len(paths) == len(set(paths)) == 25
    assert "sub!finally/in_b" in paths
    assert "undone!undo/u1" in paths
    assert "!finally/h2" in paths
    assert "choose[1]/c2" in paths


def test_what_no_undo_takes_back() -> None:
    assert shape.is_irreversible(act("a"))
    assert not shape.is_irreversible(act("a", undo=Undo("none")))
    assert not shape.is_irreversible(act("a", undo=Undo("steps", (act("b"),))))
    gone = model.Action(id="x", action="k8s.delete", with_=Template({}), effect="change", irreversible=True)
    assert shape.is_irreversible(gone)
