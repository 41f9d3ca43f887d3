"""A file -> a Playbook, or every problem with it: form, ids, references, secrets, imports, sub-playbooks. Never
raises for bad input.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runbook.interpreter import merge, rules, schema, source
from runbook.interpreter.build import Builder
from runbook.interpreter.catalogue import Catalogue
from runbook.interpreter.declare import Declarations
from runbook.interpreter.errors import Place
from runbook.interpreter.model import Loaded, OnFailure, Playbook
from runbook.interpreter.naming import Names, Site
from runbook.interpreter.problems import MOST, Problems, TooManyError
from runbook.interpreter.references import BODY, END, FINALLY, Turn, index_of
from runbook.interpreter.source import Source
from runbook.interpreter.worst_case import LEAST_CLEANUP, phases

__all__ = ["Loaded", "load"]

_NO_ENTRY = 2  # POSIX ENOENT; what else keeps a file from being read says so itself
MOST_NESTED = 20  # sub-playbooks in each other
_NEEDS_ALL = frozenset(
    {"reference", "missing-key", "missing-input", "unknown-input", "bounds", "objective", "library", "secret-source"}
)
"""Rules that mean something only for a file that was read to its end."""
_BY_NAME = frozenset({"inputs", "secrets", "vars", "objectives", "outputs", "defaults"})
"""Sections whose entries stand for themselves."""
_ROOT = Site((), "")
_BEFORE = Site((), "", steps=False, failure=False)


def load(file: str, read: Callable[[str], str], catalogue: Catalogue) -> Loaded:
    """Load a playbook with all that it imports and calls.

    `read` gives a file's text by its path (relative paths as written, joined and normalised) and raises OSError
    (FileNotFoundError) or UnicodeDecodeError. All problems of all files are found at once.
    """
    loader = _Loader(read, catalogue)
    name = posixpath.normpath(file)
    try:
        playbook = loader.book(name, Place(name), "")
    except TooManyError:
        loader.problems.last(Place(name, 1, 1), f"more than {MOST} problems: these are the first", "too-many")
        playbook = None
    except RecursionError:
        loader.problems.last(Place(name, 1, 1), "the playbooks are nested too deeply", "depth")
        playbook = None
    every = [one for one in loader.problems.sorted() if not (one.rule in _NEEDS_ALL and loader.broken(one.place.file))]
    problems = tuple(sorted(every, key=lambda one: one.place.file != name))
    if any(problem.severity == "error" for problem in problems):
        playbook = None
    return Loaded(playbook, problems, loader.files)


class _Loader:
    """The files of one load: each is read and built once."""

    def __init__(self, read: Callable[[str], str], catalogue: Catalogue) -> None:
        self.read = read
        self.catalogue = catalogue
        self.problems = Problems()
        self.files: dict[str, str] = {}
        self.sources: dict[str, Source | None] = {}
        self.books: dict[str, Playbook | None] = {}
        self.open: list[str] = []

    def broken(self, file: str) -> bool:
        """Whether a syntax error ended the file before its end."""
        text = self.sources.get(file)
        return text is not None and text.broken

    def source(self, file: str, mention: Place, path: str) -> Source | None:
        """The parsed text of a file; None when it cannot be read, which is said where it is mentioned."""
        if file not in self.sources:
            self.sources[file] = self._read(file, mention, path)
        elif self.sources[file] is None:
            self.problems.add(mention, f"{file} cannot be read", path, rule="file")
        return self.sources[file]

    def _read(self, file: str, mention: Place, path: str) -> Source | None:
        try:
            text = self.read(file)
        except FileNotFoundError as error:
            missing = error.errno in (None, _NO_ENTRY)
            self.problems.add(
                mention,
                f"there is no file {file}" if missing else f"{file} cannot be read: {error.strerror}",
                path,
                rule="file",
                hint="paths are relative to the file that they stand in" if path and missing else "",
            )
            return None
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            lines = before.split(b"\n")
            place = Place(file, len(lines), len(lines[-1].decode("utf-8", "replace")) + 1)
            self.problems.add(
                place,
                f"byte 0x{error.object[error.start]:02x} is no UTF-8",
                rule="yaml-encoding",
                hint="save the file as UTF-8",
            )
            return None
        except (OSError, ValueError) as error:
            self.problems.add(
                mention, f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", path, rule="file"
            )
            return None
        self.files[file] = text
        parsed = source.parse(text, file)
        self.problems.extend(parsed.problems)
        return parsed

    def book(self, file: str, mention: Place, path: str) -> Playbook | None:
        """The playbook in a file, built once. `mention`, `path`: where it is called, '' for the one that was asked
        for.
        """
        if file in self.open:
            cycle = " -> ".join([*self.open[self.open.index(file) :], file])
            self.problems.add(
                mention,
                f"a playbook that calls itself: {cycle}",
                path,
                rule="recursion",
                hint="`foreach`, `until` and `retry` repeat",
            )
            return None
        if len(self.open) >= MOST_NESTED:
            self.problems.add(mention, f"more than {MOST_NESTED} playbooks call each other", path, rule="depth")
            return None
        if file in self.books:
            return self.books[file]
        self.open.append(file)
        try:
            self.books[file] = self._book(file, mention, path)
        finally:
            self.open.pop()
        return self.books[file]

    def _book(self, file: str, mention: Place, path: str) -> Playbook | None:
        text = self.source(file, mention, path)
        if text is None:
            return None
        data = self._root(text)
        if data is None:
            return None
        if "steps" not in data and not path:
            self._library(data, text)
            return None
        clean = self._checked(data, text)
        if "steps" not in data:
            place = mention if path else text.place(data)
            self.problems.add(
                place,
                f"{file} has no steps: it may only be imported",
                path,
                rule="library",
                hint=f"import: [{posixpath.basename(file)}]",
            )
            return None
        return self._build(data, clean, text)

    def _checked(self, data: dict[str, Any], text: Source) -> dict[str, Any]:
        """A root with what is wrong about its form reported and left out: a wrong input does not hide the others."""
        findings = schema.check_root(data)
        self.problems.findings(findings, text, data, "")
        clean = dict(data)
        for one in findings:
            if not one.path:
                continue
            section = str(one.path[0])
            if section in _BY_NAME and len(one.path) > 1 and section in clean:
                clean[section] = {key: value for key, value in clean[section].items() if key != one.path[1]}
            else:
                clean.pop(section, None)
        return clean

    def _root(self, text: Source) -> dict[str, Any] | None:
        data = text.data
        if not isinstance(data, dict):
            if not text.problems:
                message = "the file is empty" if data is None else "a playbook is a map"
                self.problems.add(Place(text.file, 1, 1), message, rule="form", expected="runbook: 1, name, steps")
            return None
        if "triggers" in data:
            place = text.place(data, "triggers", of_key=True)
            self.problems.add(
                place,
                "this is a trigger file: it is for `runbook watch`, which this version does not have yet",
                "triggers",
                rule="triggers",
                hint="run the playbooks that it names",
            )
            return None
        return data

    def _library(self, data: dict[str, Any], text: Source) -> None:
        """A file without steps: it may only be imported, and is checked as such."""
        clean = self._checked(data, text)
        self._only_declares(clean, data, text)
        declared = self._declared(clean, data, text)
        names = Names(self.problems, inputs=None, secrets=None, vars=None)
        Declarations(self.problems, names, declared, self.catalogue).library()

    def _only_declares(self, clean: Mapping[str, Any], data: dict[str, Any], text: Source) -> None:
        """A file that may only be imported holds nothing that an import would pass over."""
        for key in clean:
            if key not in merge.MAY_STAND_IN_LIBRARY:
                place = text.place(data, key, of_key=True)
                self.problems.add(
                    place,
                    f"`{key}` in a file without `steps`",
                    key,
                    rule="library",
                    hint="add `steps`, or leave it out: the file may only be imported",
                )

    def _declared(self, clean: Mapping[str, Any], data: Mapping[str, Any], text: Source) -> merge.Declared:
        """What the file declares, on top of what it imports."""
        declared = merge.Declared()
        for number, item in enumerate(clean.get("import", ())):
            place = text.place(data["import"], number)
            path = f"import[{number}]"
            file = posixpath.normpath(posixpath.join(posixpath.dirname(text.file), item))
            imported = self.source(file, place, path) if file != text.file else None
            if imported is None:
                if file == text.file:
                    self.problems.add(place, "a file that imports itself", path, rule="import")
                continue
            root = self._root(imported)
            if root is None:
                continue
            trusted = self._checked(root, imported)
            if "steps" not in root:
                self._only_declares(trusted, root, imported)
            if "import" in root:
                at = imported.place(root, "import", of_key=True)
                self.problems.add(
                    at,
                    "an imported file that imports",
                    "import",
                    rule="import",
                    hint=f"imports go one level: import it in {text.file} too",
                )
            declared.take(trusted, root, imported)
        declared.take(clean, data, text)
        return declared

    def _build(self, data: dict[str, Any], clean: Mapping[str, Any], text: Source) -> Playbook | None:
        declared = self._declared(clean, data, text)
        names = Names(self.problems)
        names.index, twice = index_of(data, text)
        for first, place in twice:
            self.problems.add(
                place,
                f"the id `{first.id}` is taken",
                f"{first.id}",
                rule="duplicate-id",
                hint=f"the first one is in line {first.place.line}",
            )
        said = Declarations(self.problems, names, declared, self.catalogue)
        said.all(text)
        builder = Builder(text, self.catalogue, self.problems, names, declared, self._caller(text), said.timeout)
        cleanup = said.duration(clean.get("cleanup"))
        builder.cleanup = cleanup

        def section(kind: int, suffix: str) -> Site:
            return Site((Turn(id(data), "root", kind, 0),), suffix)

        steps_data = data["steps"] if isinstance(data["steps"], list) else []
        steps = builder.steps(steps_data, section(BODY, ""))
        on_failure = (
            builder.on_failure(clean["on_failure"], data, "root", _ROOT) if "on_failure" in clean else OnFailure()
        )
        finally_ = builder.steps(clean["finally"]["steps"], section(FINALLY, "!finally/")) if "finally" in clean else ()
        outputs = tuple(
            (name, names.template(value, text, data["outputs"], name, section(END, "outputs"), name))
            for name, value in clean.get("outputs", {}).items()
        )
        locks = tuple(
            names.template(item, text, clean["locks"], number, _BEFORE, f"locks[{number}]")
            for number, item in enumerate(clean.get("locks", ()))
        )
        timeout = (
            builder.seconds(clean["timeout"], data, "timeout", _BEFORE, "timeout")[0] if "timeout" in clean else None
        )
        playbook = Playbook(
            name=clean.get("name") or _stem(text.file),
            file=text.file,
            steps=steps,
            description=clean.get("description", ""),
            inputs=said.inputs,
            secrets=said.secrets,
            vars=said.vars,
            timeout=timeout,
            locks=locks,
            locks_in=str(declared.locks.value) if declared.locks is not None else "",
            on_failure=on_failure,
            finally_=finally_,
            outputs=outputs,
            objectives=said.objectives(clean.get("objectives", {}), data.get("objectives"), text),
            place=text.place(data),
            cleanup=LEAST_CLEANUP if cleanup is None else cleanup,
            cleanup_open=cleanup is None,
        )
        rules.check_rules(playbook, self.problems, frozenset(builder.decided))
        said.unmet(playbook, clean.get("objectives", {}), data.get("objectives"), text)
        if cleanup is None:
            playbook = _with_cleanup(playbook)
        return playbook

    def _caller(self, text: Source) -> Callable[[str, Place, str], Playbook | None]:
        def sub(written: str, place: Place, path: str) -> Playbook | None:
            if "{{" in written:
                self.problems.add(
                    place, "`playbook` takes no template", path, rule="static", hint="`choose` picks between playbooks"
                )
                return None
            return self.book(posixpath.normpath(posixpath.join(posixpath.dirname(text.file), written)), place, path)

        return sub


def _with_cleanup(playbook: Playbook) -> Playbook:
    longest = phases(playbook)
    return playbook if longest <= playbook.cleanup else replace(playbook, cleanup=longest)


def _stem(file: str) -> str:
    return posixpath.splitext(posixpath.basename(file))[0] or "playbook"
