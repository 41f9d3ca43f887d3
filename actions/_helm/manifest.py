"""What Helm rendered for a revision, or would render: diffs, hooks, images, and what it is told apart by."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm.client import HelmArgs
from runbook.contract import Context, Sensitive

_IMAGE = re.compile(r"^\s*(?:-\s+)?[\"']?image[\"']?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def manifest(ctx: Context, args: HelmArgs, revision: int, part: str = "manifest") -> str:
    """What Helm rendered for a revision: its manifest, or its `hooks`."""
    done = client.helm(ctx, args, "get", part, args.release, "--revision", str(revision))
    if done.rc != 0:
        raise client.said(done, f"helm get {part} {args.release}")
    return done.stdout


def images(text: str) -> list[str]:
    """The images that a manifest names, each once, in its order."""
    return list(dict.fromkeys(_IMAGE.findall(text)))


# -- what would change


def difference(before: str, after: str, names: tuple[str, str]) -> str:
    """A unified diff of two manifests; of Secrets only which keys differ."""
    old, new = _covered(before, after)
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="", n=2)
    return "\n".join(lines)


def hook_names(text: str, *events: str) -> list[str]:
    """`Job/migrate (pre-rollback)` for each hook that runs at one of the events (`rollback`: before and after)."""
    found = []
    for document in _documents(text):
        metadata = document.get("metadata") or {}
        told = str((metadata.get("annotations") or {}).get("helm.sh/hook") or "")
        if {word.strip().partition("-")[2] for word in told.split(",")} & set(events):
            found.append(f"{document.get('kind')}/{metadata.get('name')} ({told})")
    return found


def hooks_line(text: str, *events: str) -> str:
    """For a plan: which hooks run."""
    names = hook_names(text, *events)
    return f"hooks that run: {', '.join(names)}" if names else "no hooks run"


def _documents(text: str) -> Iterator[dict[str, Any]]:
    import yaml

    try:
        for document in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # a safe loader
            if isinstance(document, dict):
                yield document
    except yaml.YAMLError:
        return


def _covered(before: str, after: str) -> tuple[str, str]:
    """Both manifests with the data of Secrets replaced by whether it changes."""
    if "Secret" not in before + after:
        return before, after
    import yaml

    old, new = (list(_documents(text)) for text in (before, after))
    known = {_identity(document): document for document in old}
    hidden_old = [_hidden(document, None) for document in old]
    hidden_new = [_hidden(document, known.get(_identity(document))) for document in new]
    shown = [yaml.safe_dump_all(documents, sort_keys=False) for documents in (hidden_old, hidden_new)]
    return shown[0], shown[1]


def _identity(document: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = document.get("metadata") or {}
    return document.get("kind"), metadata.get("namespace"), metadata.get("name")


def _hidden(document: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(document.get("items"), list):
        known = {_identity(item): item for item in (earlier or {}).get("items") or () if isinstance(item, dict)}
        items = [_hidden(item, known.get(_identity(item))) for item in document["items"] if isinstance(item, dict)]
        return {**document, "items": items}
    if document.get("kind") != "Secret":
        return document
    covered = dict(document)
    for part in ("data", "stringData"):
        was = (earlier or {}).get(part) or {}
        covered[part] = {
            key: "(not shown)" if earlier is None or was.get(key) == value else "(not shown, changed)"
            for key, value in (document.get(part) or {}).items()
        }
    return {key: value for key, value in covered.items() if value or key not in ("data", "stringData")}


# -- what it is told apart by


def names(text: str) -> list[str]:
    """`Deployment/web` for each object of a manifest, in its order."""
    return [_title(document) for document in _documents(text)]


def objects(text: str) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """Kind with group, namespace and name of each object of a manifest; and whether Helm leaves it there."""
    stay = kept(text)
    for document in _documents(text):
        group = str(document.get("apiVersion") or "").rpartition("/")[0]
        metadata = document.get("metadata") or {}
        kind = f"{document.get('kind')}.{group}" if group else str(document.get("kind"))
        identity = (kind, str(metadata.get("namespace") or ""), str(metadata.get("name")))
        yield identity, _title(document) in stay


def kept(text: str) -> list[str]:
    """The objects that Helm leaves there when it uninstalls (`helm.sh/resource-policy: keep`)."""
    return [
        _title(document)
        for document in _documents(text)
        if ((document.get("metadata") or {}).get("annotations") or {}).get("helm.sh/resource-policy") == "keep"
    ]


def content(release: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints of a release as `helm status` or a dry run tells it in JSON: of its values, objects and hooks.

    Sensitive: values and Secrets may be guessed from them.
    """
    objects: dict[str, Any] = {}
    for piece in re.split(r"^---\s*$", str(release.get("manifest") or ""), flags=re.MULTILINE):
        if piece.strip():
            found = list(_documents(piece))
            title = _title(found[0]) if found else f"document {len(objects) + 1}"
            objects[title] = fingerprint(found or piece)
    hooks = {
        f"{hook.get('kind')}/{hook.get('name')}": fingerprint([hook.get("manifest"), hook.get("events")])
        for hook in release.get("hooks") or ()
    }
    return {"values": fingerprint(release.get("config") or {}), "objects": objects, "hooks": hooks}


def fingerprint(value: Any) -> Sensitive:
    """A digest of anything that YAML can hold."""
    text = json.dumps(value, sort_keys=True, default=str)
    return Sensitive(hashlib.sha256(text.encode()).hexdigest()[:16])


def _title(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata") or {}
    where = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{document.get('kind')}/{where}{metadata.get('name')}"
