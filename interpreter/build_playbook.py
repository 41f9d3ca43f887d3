"""A sub-playbook step -> the model: what it is handed, as far as that stands there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runbook.interpreter import inputs as typed
from runbook.interpreter.findings import did_you_mean
from runbook.interpreter.model import Playbook, SubPlaybook
from runbook.interpreter.naming import Site

if TYPE_CHECKING:
    from runbook.interpreter.build import Builder


def build_playbook(
    self: Builder, clean: Mapping[str, Any], site: Site, common: dict[str, Any], data: Mapping[str, Any]
) -> SubPlaybook | None:
    """One sub-playbook step, its playbook loaded. `common`: what every step has; `data`: the step as written."""
    place = self.source.place(data, "playbook")
    book = self.sub(clean["playbook"], place, f"{site.path}.playbook")
    given = clean.get("with", {})
    secret_at = () if book is None else tuple(f"/{one.name}" for one in book.inputs if one.secret)
    with_ = self.names.template(
        given, self.source, data, "with", site, "with", (*secret_at, *(f"{one}/*" for one in secret_at))
    )
    if book is None:
        return None
    _given(self, book, given, data, site)
    self.returns(common, frozenset(name for name, _ in book.outputs))
    common["sees"] = common["sees"] | with_.reads
    return SubPlaybook(**common, playbook=book, with_=with_)


def _given(self: Builder, book: Playbook, given: Mapping[str, Any], data: Mapping[str, Any], site: Site) -> None:
    """What is handed to a sub-playbook, as far as it stands there: unknown, missing, wrong type."""
    known = {one.name: one for one in book.inputs}
    for name, value in given.items():
        path = f"{site.path}.with.{name}"
        if name not in known:
            hint = did_you_mean(name, known) or (f"it takes {', '.join(known)}" if known else "it takes no inputs")
            place = self.source.place(given, name, of_key=True)
            self.problems.add(place, f"{book.name} has no input `{name}`", path, rule="unknown-input", hint=hint)
        elif not holds_template(value):
            try:
                typed.convert(known[name], value)
            except typed.Misfit as misfit:
                message = misfit.message.replace("{name}", f"`{name}{misfit.where}`", 1)
                self.problems.add(
                    self.source.place(given, name),
                    message,
                    path,
                    rule="input",
                    expected=misfit.expected,
                    hint=misfit.hint,
                )
    missing = [one for one in known.values() if one.required and one.name not in given]  # no environment in there
    for one in missing:
        place = self.source.place(data, "with" if "with" in data else "playbook")
        about = f" ({one.description})" if one.description else ""
        self.problems.add(
            place,
            f"{book.name} needs the input `{one.name}`",
            f"{site.path}.with",
            rule="missing-input",
            expected=typed.expected(one) + about,
        )


def holds_template(value: Any) -> bool:
    """Whether a template stands somewhere in plain data."""
    if isinstance(value, str):
        return "{{" in value
    if isinstance(value, dict):
        return any(map(holds_template, value.values()))
    return isinstance(value, list) and any(map(holds_template, value))
