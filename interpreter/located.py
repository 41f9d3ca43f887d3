"""Paths are relative to the file that they stand in: as another file must write them, where a value goes there.

An input of type path holds a path as its own playbook's file writes it; the coordinates of a secret in a file are
relative to the folder that the run was started in, as they go from playbook to playbook.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

from runbook.interpreter.model import Input
from runbook.interpreter.unknown import NOTHING, Unknown

_SOMEWHERE: Final = "/" + "/".join("abcdefghijklmnop")  # deep enough for every `..`; where it is makes no difference


def moved(path: Any, written_in: str, used_in: str) -> Any:
    """A relative path of one file as another file in another folder must write it; templates and absolute paths as
    they are.
    """
    there, here = posixpath.dirname(written_in), posixpath.dirname(used_in)
    if there == here or not isinstance(path, str) or not path or path.startswith(("/", "{{", "~")):
        return path
    if posixpath.isabs(there):
        return posixpath.normpath(posixpath.join(there, path))
    return posixpath.relpath(posixpath.join(_SOMEWHERE, there, path), posixpath.join(_SOMEWHERE, here))


def beside(path: Any, file: str) -> Any:
    """A path that stands in `file`, relative to what `file` is relative to."""
    return posixpath.join(posixpath.dirname(file), path) if isinstance(path, str) and path else path


def located(one: Input, value: Any, written_in: str, used_in: str) -> Any:
    """The value of an input that stands in the file `written_in`, as it is for the playbook `used_in`: its paths."""
    if isinstance(value, Unknown) and value.likely is not NOTHING:
        return Unknown(value.why, value.shown, located(one, value.likely, written_in, used_in))
    if one.secret:
        reference = isinstance(value, Mapping) and value.keys() == {"file"}
        return {"file": beside(value["file"], written_in)} if reference else value
    if one.type == "path":
        return moved(value, written_in, used_in)
    if one.items is not None and isinstance(value, list | tuple):
        return [located(one.items, item, written_in, used_in) for item in value]
    return value


def all_located(declared: Iterable[Input], given: Mapping[str, Any], written_in: str, used_in: str) -> dict[str, Any]:
    """The same of all that was given, by name; what is not declared stays as it is."""
    known = {one.name: one for one in declared}
    return {
        name: located(known[name], value, written_in, used_in) if name in known else value
        for name, value in given.items()
    }
