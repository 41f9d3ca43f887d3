"""The static tree of a playbook, as previews, graphs and `playbook.plan` walk it."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.interpreter import model


def children(step: model.Step) -> Iterator[tuple[str, tuple[model.Step, ...]]]:
    """The groups of steps directly inside `step`, each with its label ('' body, `[0]` branch, `!undo` phase)."""
    match step:
        case model.Block(steps=steps) | model.Parallel(steps=steps) | model.Fallback(steps=steps):
            yield "", steps
        case model.Foreach(steps=steps):
            yield "[]", steps
        case model.Choose(branches=branches):
            for index, branch in enumerate(branches):
                yield f"[{index}]", branch.steps
        case model.SubPlaybook(playbook=playbook):
            yield "", playbook.steps
            yield "!on_failure", playbook.on_failure.steps
            yield "!finally", playbook.finally_
        case model.Action():
            pass
    yield "!undo", step.undo.steps
    yield "!on_failure", step.on_failure.steps
    yield "!finally", step.finally_


def walk(playbook: model.Playbook) -> Iterator[tuple[str, model.Step]]:
    """Every step of a playbook in the order of the file, handlers and sub-playbooks included, with its path by ids."""
    yield from _walk(playbook.steps, "")
    yield from _walk(playbook.on_failure.steps, "!on_failure")
    yield from _walk(playbook.finally_, "!finally")


def looks_ahead(playbook: model.Playbook) -> bool:
    """Whether preflight has anything to look for. Most runs have nothing to wait for."""
    return any(_looks(step) for _, step in walk(playbook))


def _looks(step: model.Step) -> bool:
    """An action that looks, or a called playbook with secrets: the run's own are looked for anyway as it begins."""
    if isinstance(step, model.SubPlaybook):
        return any(not secret.optional for secret in step.playbook.secrets)
    return isinstance(step, model.Action) and step.preflight


def is_irreversible(step: model.Step) -> bool:
    """Whether an undo that holds this step cannot take it back: no inverse, and no `undo` of the author's own."""
    if not isinstance(step, model.Action) or step.undo.kind != "auto":
        return False
    return step.irreversible or step.effect == "opaque"


def _walk(steps: tuple[model.Step, ...], above: str) -> Iterator[tuple[str, model.Step]]:
    for step in steps:
        path = f"{above}/{step.id}" if above else step.id
        yield path, step
        for label, inner in children(step):
            yield from _walk(inner, f"{path}{label}")
