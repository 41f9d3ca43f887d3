"""The actions of the language itself: flow.*, manual.*, artifact.save, report.write, playbook.plan.

`flow.wait` and `manual.*` are never called by a host: the engine waits by `Effects.sleep` and asks by `Effects.ask`.
Their classes exist so that their parameters are described once, like everybody's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runbook.contract import Action, Check, Context, Duration, Local, Outputs, PermanentError, Read, param
from runbook.interpreter import answerable

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class SetArgs:
    """Parameters of flow.set."""

    values: dict[str, Any] = param("Names and values; each becomes an output of the step. A secret in one is an error.")


class Set(Read[SetArgs]):
    """Give names to values: each entry of `values` becomes an output of the step."""

    name = "flow.set"
    world = "flow"

    def read(self, args: SetArgs, ctx: Context) -> Outputs:
        return dict(args.values)


@dataclass(frozen=True, kw_only=True)
class AssertArgs:
    """Parameters of flow.assert."""

    that: bool = param("What must be true, as a template: `{{ steps.plan.outputs.ok }}`.")
    message: str = param("The sentence people read when it is not true: what is wrong, and what to do.")


class Assert(Check[AssertArgs]):
    """Fail with `message` unless `that` is true. Before the first change of a run the whole run is refused (exit 3).

    A no is permanent: no `retry` repeats it.
    """

    name = "flow.assert"
    returns = {"ok": "whether it holds", "message": "what to say when it does not"}
    world = "flow"

    def read(self, args: AssertArgs, ctx: Context) -> Outputs:
        return {"ok": args.that, "message": args.message}


@dataclass(frozen=True, kw_only=True)
class WaitArgs:
    """Parameters of flow.wait."""

    for_: Duration = param("How long to wait.", wire="for", minimum=0)


class Wait(Read[WaitArgs]):
    """Wait. The deadline is durable: a resumed run waits only for what is left. A plan adds it up and does not wait."""

    name = "flow.wait"
    world = "flow"

    def read(self, args: WaitArgs, ctx: Context) -> Outputs:
        raise PermanentError("flow.wait is waited by the run itself, not by a host")


class Ask(Action[A]):
    """A question for a person: described here, asked by the engine."""

    effect = "ask"

    def check(self, args: A) -> Iterator[str]:
        yield from (sentence for _, sentence, _ in answerable.problems(self.name, vars(args)))


@dataclass(frozen=True, kw_only=True)
class ApproveArgs:
    """Parameters of manual.approve."""

    message: str = param("What is to be approved, in words that an approver understands without the playbook.")
    by: int = param("How many different people must approve.", default=1, minimum=1)
    approvers: list[str] = param("User names that may approve; `any`: anyone.", default_factory=lambda: ["any"])
    not_initiator: bool = param("Whoever started the run may not approve it.", default=False)


class Approve(Ask[ApproveArgs]):
    """Wait until people approve. A refusal cancels the run (exit 4); at the step's `timeout` it fails."""

    name = "manual.approve"
    returns = {"by": "who approved, a list of user names", "at": "when the last one did", "comment": "what they wrote"}


@dataclass(frozen=True, kw_only=True)
class ChooseArgs:
    """Parameters of manual.choose."""

    message: str = param("The question.")
    choices: dict[str, Any] = param("What can be chosen: the answer's name, and a text that explains it.")
    default: str | None = param("What is taken when the step's `timeout` ends.", default=None)


class Choose(Ask[ChooseArgs]):
    """Let a person choose. At the step's `timeout` the default is taken; without one it fails."""

    name = "manual.choose"
    returns = {"choice": "the chosen name", "by": "who chose; empty: nobody did, the default", "at": "when"}


@dataclass(frozen=True, kw_only=True)
class ChecklistArgs:
    """Parameters of manual.checklist."""

    message: str = param("What the list is for.", default="")
    sections: dict[str, Any] = param("Section title and its list of items, each a sentence that a person ticks off.")
    allow_unchecked: int = param("How many items may stay open and the step still succeeds.", default=0, minimum=0)


class Checklist(Ask[ChecklistArgs]):
    """Let a person tick off a list, with notes. More open items than `allow_unchecked` fail the step."""

    name = "manual.checklist"
    returns = {
        "answers": "a list of {text, checked, note, by, at}",
        "unchecked": "how many items stayed open",
    }


@dataclass(frozen=True, kw_only=True)
class SaveArgs:
    """Parameters of artifact.save."""

    name: str = param("File name in the run's artifacts; `a/b.json` makes a folder.", pattern=r"^[^/\x00][^\x00]*$")
    content: Any = param("Text is written as it is, anything else as JSON.")


class Save(Local[SaveArgs]):
    """Keep something beside the run, private to it: `runbook show` and the report list it."""

    name = "artifact.save"
    returns = {"path": "the file", "sha256": "its digest"}

    def check(self, args: SaveArgs) -> Iterator[str]:
        yield from _bad_name(args.name)

    def read(self, args: SaveArgs, ctx: Context) -> Outputs:
        text = args.content if isinstance(args.content, str) else json.dumps(args.content, indent=2, ensure_ascii=False)
        return write_artifact(ctx.folder, args.name, text.encode())


@dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Parameters of report.write."""

    name: str = param(
        "File name in the run's artifacts; its ending decides: `.md`, `.html` or `.json` (any other: Markdown).",
        pattern=r"^[^/\x00][^\x00]*$",
    )
    run: str = param("Whose report: a run's id, or `this`.", default="this")
    template: str | None = param(
        "A Jinja template of your own; it sees `report`, the same data as the JSON report.", default=None, path=True
    )


class Report(Local[ReportArgs]):
    """Write the report of a run (by default of this one, as far as it is) into the run's artifacts."""

    name = "report.write"
    returns = {"path": "the file", "sha256": "its digest"}

    def check(self, args: ReportArgs) -> Iterator[str]:
        yield from _bad_name(args.name)

    def read(self, args: ReportArgs, ctx: Context) -> Outputs:
        """The seam: the host's context gives the run's folder. Its journal is read only; other runs lie beside it."""
        from runbook.runner import report, view

        folder = ctx.folder if args.run in ("this", ctx.run_id) else _sibling(ctx.folder, args.run)
        seen = view.of_folder(folder)
        if args.template is not None:
            text = _from_template(Path(args.template), report.to_data(seen))
        else:
            text = report.render(seen, Path(args.name).suffix.lstrip("."))
        return write_artifact(ctx.folder, args.name, text.encode())


@dataclass(frozen=True, kw_only=True)
class PlanArgs:
    """Parameters of playbook.plan."""

    playbook: str = param("The playbook to look at.", path=True)
    inputs: dict[str, Any] = param("Its inputs.", default_factory=dict)


class Plan(Read[PlanArgs]):
    """Validate another playbook with its inputs, without running anything of it: is it ready to be used?"""

    name = "playbook.plan"
    returns = {
        "ok": "whether it could be run as it stands",
        "problems": "what is wrong with it, one sentence each",
        "worst_case": "seconds that it may take at most, clean-up included",
        "irreversible": "its steps that no undo takes back",
    }

    def read(self, args: PlanArgs, ctx: Context) -> Outputs:
        from runbook.interpreter import errors, inputs, worst_case
        from runbook.runner import files, registry, shape

        loaded = files.read_playbook(args.playbook, registry.catalogue())
        wrong = [problem for problem in loaded.problems if problem.severity == "error"]
        if loaded.playbook is None or wrong:
            return {"ok": False, "problems": [_sentence(p) for p in wrong], "worst_case": 0, "irreversible": []}
        _, bad = inputs.coerce(loaded.playbook.inputs, args.inputs, ctx.environ, errors.Place(args.playbook))
        total = worst_case.worst_case(loaded.playbook)
        return {
            "ok": not bad,
            "problems": [_sentence(p) for p in bad],
            "worst_case": total.work + total.cleanup,
            "irreversible": [path for path, step in shape.walk(loaded.playbook) if shape.is_irreversible(step)],
        }


def write_artifact(folder: Path, name: str, content: bytes) -> Outputs:
    """Write `content` as an artifact of the run in `folder`: private, complete or not there."""
    from runbook.runner import store

    path = folder / "artifacts" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.write_private(path, content)
    return {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}


def _bad_name(name: str) -> Iterator[str]:
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        yield f"name: {name!r} leaves the run's artifacts; use a plain file name"


def _sibling(folder: Path, run: str) -> Path:
    if "/" in run or run.startswith("."):
        raise PermanentError(f"{run!r} is not the id of a run")
    other = folder.parent / run
    if not other.is_dir():
        raise PermanentError(f"there is no run {run}", hint="runbook runs lists them")
    return other


def _from_template(path: Path, report: dict[str, Any]) -> str:
    from runbook.interpreter import expressions

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"template {path}: {error.strerror}") from error
    try:
        return str(expressions.render_file(text, {"report": report}))
    except expressions.ExpressionError as error:
        raise PermanentError(f"template {path}: {error}") from error


def _sentence(problem: Any) -> str:
    return f"{problem.place}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")


ACTIONS: tuple[type[Action[Any]], ...] = (Set, Assert, Wait, Approve, Choose, Checklist, Save, Report, Plan)
