"""What Helm rendered for a revision, or would render: diffs, hooks, images, and what it is told apart by."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._helm import client, records
from runbook.actions._helm.client import HelmArgs
from runbook.contract import Context, Sensitive

_IMAGE = re.compile(r"^\s*(?:-\s+)?[\"']?image[\"']?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def manifest(ctx: Context, args: HelmArgs, revision: int, part: str = "manifest") -> str:
    """What Helm rendered for a revision: its manifest, or its `hooks`."""
    kept = records.record(ctx, args, revision)
    if kept is not None:
        return records.hooks(kept) if part == "hooks" else f"{kept['manifest']}\n"
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


def hooks_line(text: str, event: str) -> str:
    """For a plan: `Job/migrate (pre-rollback)` for each hook that runs at an event (`rollback`: before and after)."""
    names = [f"{hook.get('kind')}/{hook['metadata'].get('name')} ({told})" for hook, told in _at(text, event)]
    return f"hooks that run: {', '.join(names)}" if names else "no hooks run"


def _at(text: str, event: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The hooks that run at an event, with what they say themselves about when they run."""
    for document in documents(text):
        told = str(((document.get("metadata") or {}).get("annotations") or {}).get("helm.sh/hook") or "")
        if event in {word.strip().partition("-")[2] for word in told.split(",")}:
            yield document, told


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a manifest; those of lists one by one, as Helm takes them."""
    import yaml

    try:
        for document in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # a safe loader
            if isinstance(document, dict):
                items = document.get("items") if str(document.get("kind")).endswith("List") else None
                yield from (item for item in items if isinstance(item, dict)) if isinstance(items, list) else [document]
    except yaml.YAMLError:
        return


def _covered(before: str, after: str) -> tuple[str, str]:
    """Both manifests with the data of Secrets replaced by whether it changes."""
    if "Secret" not in before + after:
        return before, after
    import yaml

    old, new = (list(documents(text)) for text in (before, after))
    known = {_identity(document): document for document in old}
    hidden_old = [_hidden(document, None) for document in old]
    hidden_new = [_hidden(document, known.get(_identity(document))) for document in new]
    shown = [yaml.safe_dump_all(documents, sort_keys=False) for documents in (hidden_old, hidden_new)]
    return shown[0], shown[1]


def _identity(document: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = document.get("metadata") or {}
    return document.get("kind"), metadata.get("namespace"), metadata.get("name")


def _hidden(document: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
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
    return [_title(document) for document in documents(text)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An object of a manifest. `kind`: with its group. `stays`: Helm leaves it there. `content`: a fingerprint."""

    kind: str
    namespace: str
    name: str
    stays: bool
    content: str

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


def objects(text: str) -> list[Rendered]:
    """The objects of a manifest."""
    return list(map(_rendered, documents(text)))


def defined(text: str) -> list[str]:
    """The kinds that custom resource definitions define, as `Rendered.kind`."""
    specs = [document.get("spec") or {} for document in documents(text)]
    return [f"{(spec.get('names') or {}).get('kind')}.{spec.get('group')}" for spec in specs]


def hooks(text: str, event: str) -> list[Rendered]:
    """The hooks that run at an event (`rollback`: before and after)."""
    return [_rendered(hook) for hook, _ in _at(text, event)]


def _rendered(document: Mapping[str, Any]) -> Rendered:
    group = str(document.get("apiVersion") or "").partition("/")[0] if "/" in str(document.get("apiVersion")) else ""
    metadata = document.get("metadata") or {}
    kind = f"{document.get('kind')}.{group}" if group else str(document.get("kind"))
    where, name = str(metadata.get("namespace") or ""), str(metadata.get("name"))
    return Rendered(kind, where, name, _stays(document), fingerprint(document))


def kept(text: str) -> list[str]:
    """The objects that Helm leaves there when it uninstalls (`helm.sh/resource-policy: keep`)."""
    return [_title(document) for document in documents(text) if _stays(document)]


def _stays(document: Mapping[str, Any]) -> bool:
    return ((document.get("metadata") or {}).get("annotations") or {}).get("helm.sh/resource-policy") == "keep"


def content(release: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints of a release as `helm status` or a dry run tells it in JSON: of its values, objects and hooks.

    Sensitive: values and Secrets may be guessed from them.
    """
    objects: dict[str, Any] = {}
    for piece in re.split(r"^---\s*$", str(release.get("manifest") or ""), flags=re.MULTILINE):
        if piece.strip():
            found = {_title(document): fingerprint(document) for document in documents(piece)}
            objects.update(found or {f"document {len(objects) + 1}": fingerprint(piece)})
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
