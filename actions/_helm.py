"""Helm as the actions use it: its command, 3.x and 4.x; what its history means; what its errors mean.

Every error of Helm is exit status 1: the text decides. `helm rollback` without a revision toggles, and goes to failed
revisions too; which one to go to is decided here.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions import _kube_kinds as kinds
from runbook.actions import _process
from runbook.actions._kube import connect
from runbook.actions._kube_config import IN_CLUSTER, context_name
from runbook.actions._kube_kinds import Ref
from runbook.contract import Context, PermanentError, TemporaryError, param, shorten

KEEP = 16 << 20
"""Bytes of output kept: manifests are long."""
ROLLBACK_TO = re.compile(r"^Rollback to (\d+)\b")
_IMAGE = re.compile(r"^\s*(?:-\s+)?[\"']?image[\"']?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_STEPS = frozenset({"superseded", "deployed"})
"""The states of revisions that were once deployed."""


@dataclass(frozen=True, kw_only=True)
class HelmArgs:
    """Parameters of every action of family helm."""

    namespace: str = param("Namespace of the release.", family=True)
    context: str = param(
        "Context of the kubeconfig; `current` is the kubeconfig's own choice.", default="current", family=True
    )
    release: str = param("Name of the release.")


@dataclass(frozen=True, slots=True)
class Release:
    """One revision of a release. `origin`: the revision whose content it has; a `Rollback to N` has N's."""

    revision: int
    origin: int
    status: str
    chart: str
    version: str
    at: str
    description: str

    @property
    def pending(self) -> bool:
        """Is Helm at it, or was it killed at it?"""
        return self.status.startswith("pending-")

    @property
    def spoiled_rollback(self) -> bool:
        """A roll-back that did not come to its end: it says nothing about which version was good.

        A failed one is `Rollback "x" failed` (it could not be applied) or `Release "x" failed` (it did not become
        ready); the latter is also what a failed installation is called, but that is revision 1.
        """
        if self.status == "pending-rollback":
            return True
        words = ("Rollback ",) if self.revision == 1 else ("Rollback ", "Release ")
        return self.status == "failed" and self.description.startswith(words)


def helm(ctx: Context, args: HelmArgs, *arguments: str) -> _process.Finished:
    """Run helm against the release's cluster and namespace. Any exit status is a result."""
    where = [] if args.context in ("current", IN_CLUSTER) else ["--kube-context", args.context]
    argv = ["helm", *arguments, "--namespace", args.namespace, *where]
    return _process.run(ctx, argv, keep=KEEP, log=False)


def said(done: _process.Finished, what: str) -> Exception:
    """The contract's error for a helm that failed."""
    text = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.rc}").removeprefix("Error: ")
    sentence = f"{what}: {shorten(' '.join(text.split()), 2000)}"
    low = text.lower()
    if "another operation" in low and "in progress" in low:
        return TemporaryError(sentence)
    if re.search(r'context "[^"]*" does not exist|forbidden|unauthorized|x509', low):
        return PermanentError(sentence)
    if "conflict with" in low and "apply failed" in low:
        return PermanentError(
            sentence, hint="someone set these fields by hand; `force_conflicts: true` takes them over"
        )
    if any(word in low for word in _PASSING):
        return TemporaryError(sentence)
    return PermanentError(sentence)


_PASSING = (
    "cluster unreachable",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake timeout",
    "no such host",
    "unexpected eof",
    "etcdserver:",
    "too many requests",
    "the server is currently unable",
    "internal error occurred",
    "timed out waiting",
    "context deadline exceeded",
    "resource not ready",
)


def history(ctx: Context, args: HelmArgs) -> list[Release]:
    """All revisions that Helm keeps, oldest first; empty where there is no such release."""
    done = helm(ctx, args, "history", args.release, "--output", "json", "--max", "256")
    if done.rc != 0:
        if "release: not found" in done.stderr:
            return []
        raise said(done, f"helm history {args.release}")
    try:
        listed = json.loads(done.stdout)
    except ValueError as error:
        raise PermanentError(f"helm history {args.release} is no JSON: {shorten(done.stdout, 200)}") from error
    origins: dict[int, int] = {}
    found = []
    for entry in sorted(listed, key=lambda item: int(item["revision"])):
        own = int(entry["revision"])
        description = str(entry.get("description") or "")
        told = ROLLBACK_TO.match(description)
        source = int(entry.get("rollback_revision") or (told.group(1) if told else own))
        origins[own] = origins.get(source, source)
        found.append(
            Release(
                revision=own,
                origin=origins[own],
                status=str(entry.get("status") or ""),
                chart=str(entry.get("chart") or ""),
                version=str(entry.get("app_version") or ""),
                at=str(entry.get("updated") or ""),
                description=description,
            )
        )
    return found


def existing(ctx: Context, args: HelmArgs) -> list[Release]:
    """The history of a release that must be there."""
    found = history(ctx, args)
    if not found:
        raise PermanentError(f"there is no release {args.release} in namespace {args.namespace!r}")
    return found


def target(listed: list[Release]) -> Release | None:
    """Where a roll-back goes: the newest once-deployed revision before the current one.

    A `Rollback to N` counts as N, so that two in a row do not return to the bad version; a roll-back that failed or was
    killed counts as not having been tried. Helm keeps ten revisions: where all before the current one are gone, it is
    the newest that has the content of one of them.
    """
    serving = next((entry for entry in reversed(listed) if not entry.spoiled_rollback), None)
    if serving is None:
        return None
    once = [entry for entry in reversed(listed) if entry.status in _STEPS]
    kept = next((entry for entry in once if entry.revision < serving.origin), None)
    return kept or next((entry for entry in once if entry.origin < serving.origin), None)


def numbered(listed: Iterable[Release], wanted: int) -> Release | None:
    """The revision of that number; where Helm has pruned it, the newest with its content."""
    releases = list(listed)
    exact = next((entry for entry in releases if entry.revision == wanted), None)
    return exact or next(
        (entry for entry in reversed(releases) if entry.origin == wanted and entry.status in _STEPS), None
    )


def age(release: Release) -> float | None:
    """Seconds since Helm last wrote this revision; None where its time cannot be read."""
    text = re.sub(r"(\.\d{1,6})\d*", r"\1", release.at)  # Go writes nanoseconds
    try:
        written = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if written.tzinfo is None:
        written = written.replace(tzinfo=datetime.UTC)
    return (datetime.datetime.now(datetime.UTC) - written).total_seconds()


def manifest(ctx: Context, args: HelmArgs, revision: int, part: str = "manifest") -> str:
    """What Helm rendered for a revision: its manifest, or its `hooks`."""
    done = helm(ctx, args, "get", part, args.release, "--revision", str(revision))
    if done.rc != 0:
        raise said(done, f"helm get {part} {args.release}")
    return done.stdout


def images(text: str) -> list[str]:
    """The images that a manifest names, each once, in its order."""
    return list(dict.fromkeys(_IMAGE.findall(text)))


def missing(ctx: Context, args: HelmArgs, verbs: Iterable[str]) -> list[str]:
    """Preflight: the command, and the rights on the Secrets in which Helm keeps its releases."""
    if shutil.which("helm", path=ctx.environ.get("PATH", "")) is None:
        return ["helm is not on PATH: install Helm 3 or 4"]
    try:
        sentences = []
        major = version(ctx)
        if major not in (3, 4):
            sentences.append(f"helm is version {major}; versions 3 and 4 are known to work")
        cluster = connect(ctx, args.context)
        ref = Ref(kinds.SECRET, args.namespace)
        sentences += [
            f"no right to {verb} {ref} (Helm keeps its releases there; context {cluster.context!r})"
            for verb in verbs
            if not cluster.may(ctx, verb, ref)
        ]
    except (PermanentError, TemporaryError) as error:
        return [error.message]
    return sentences


def version(ctx: Context) -> int:
    """Helm's major version; 0 where it does not say."""
    done = _process.run(ctx, ["helm", "version", "--template", "{{.Version}}"], log=False)
    found = re.match(r"v?(\d+)", done.stdout.strip())
    return int(found.group(1)) if found else 0


def object_name(ctx: Context, args: HelmArgs) -> str:
    """The release's name in observations."""
    return f"helm:{context_name(ctx.environ, args.context)}/{args.namespace}/{args.release}"


# -- what would change


def difference(before: str, after: str, names: tuple[str, str]) -> str:
    """A unified diff of two manifests; of Secrets only which keys differ."""
    old, new = _covered(before, after)
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="", n=2)
    return "\n".join(lines)


def hook_names(text: str) -> list[str]:
    """`Job/migrate (pre-rollback)` for each hook that a roll-back runs."""
    found = []
    for document in _documents(text):
        metadata = document.get("metadata") or {}
        events = str((metadata.get("annotations") or {}).get("helm.sh/hook") or "")
        if "rollback" in events:
            found.append(f"{document.get('kind')}/{metadata.get('name')} ({events})")
    return found


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
    if not any(re.search(r"^kind:\s*[\"']?Secret\b", text, re.MULTILINE) for text in (before, after)):
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
