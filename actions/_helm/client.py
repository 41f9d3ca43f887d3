"""Helm as the actions use it: its command, 3.x and 4.x, what its errors mean, and whether it is there.

Every error of Helm is exit status 1: the text decides.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from runbook.actions import _process
from runbook.actions._helm import where
from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.preflight import lacks
from runbook.contract import Context, PermanentError, TemporaryError, param, shorten

KEEP = 16 << 20
"""Bytes of output kept: manifests are long."""
LEAST = (3, 14)
"""The oldest Helm that knows all that is used here: `--dry-run=server` (3.13), `--reset-then-reuse-values` (3.14)."""
NEWEST = 4
"""The newest major version that is known to work."""
_CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
_DRIVERS = {"": kinds.SECRET, "secret": kinds.SECRET, "secrets": kinds.SECRET}
_DRIVERS |= {"configmap": _CONFIG_MAP, "configmaps": _CONFIG_MAP}


@dataclass(frozen=True, kw_only=True)
class HelmArgs:
    """Parameters of every action of family helm."""

    namespace: str = param("Namespace of the release.", family=True)
    context: str = param(
        "Context of the kubeconfig; `current` is the kubeconfig's own choice.", default="current", family=True
    )
    release: str = param("Name of the release.", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")


def helm(ctx: Context, args: HelmArgs, *arguments: str, stdin: bytes | None = None) -> _process.Finished:
    """Run helm against the release's cluster and namespace. Any exit status is a result.

    `stdin`: what must not be seen on the command line. TemporaryError when somebody ended helm by a signal,
    PermanentError where the environment would lead it elsewhere (`where`).
    """
    options, variables = where.pinned(ctx, args.context)
    argv = ["helm", *arguments, "--namespace", args.namespace, *options]
    done = _process.run(ctx, argv, env=variables, keep=KEEP, log=False, stdin=stdin)
    if done.rc > 128:
        raise TemporaryError(f"helm {arguments[0]} {args.release} was ended by signal {done.rc - 128}")
    return done


def said(done: _process.Finished, what: str) -> Exception:
    """The contract's error for a helm that failed."""
    text = _sentence(done)
    sentence = f"{what}: {shorten(text, 2000)}"
    low = text.lower()
    if "another operation" in low and "in progress" in low:
        return TemporaryError(sentence)
    if re.search(r'context "[^"]*" does not exist|forbidden|unauthorized|x509', low):
        return PermanentError(sentence)
    if re.search(r"(pre|post)-\w+ hooks? failed|failed (pre|post)-\w+", low):
        return PermanentError(sentence, hint="look at the hook's Job and its pods; it may be run again")
    if "conflict with" in low and "apply failed" in low:
        return PermanentError(
            sentence, hint="someone set these fields by hand; `force_conflicts: true` takes them over"
        )
    if any(word in low for word in _PASSING):
        return TemporaryError(sentence)
    return PermanentError(sentence)


def _sentence(done: _process.Finished) -> str:
    """What helm said, on one line, without its log lines and its own prefixes."""
    text = done.stderr.strip() or done.stdout.strip() or f"exit status {done.rc}"
    _, found, rest = f"\n{text}".partition("\nError: ")
    one = " ".join((rest if found else text).split())
    return re.sub(r"^(UPGRADE|INSTALLATION) FAILED: ", "", one)


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


def missing(ctx: Context, args: HelmArgs, verbs: Iterable[str], least: tuple[int, int] = (3, 0)) -> list[str]:
    """Preflight: the command, its version, the namespace, the rights on the objects in which Helm keeps its releases.

    TemporaryError where nobody could tell.
    """
    if shutil.which("helm", path=ctx.environ.get("PATH", "")) is None:
        return ["helm is not on PATH: install Helm 3 or 4"]
    try:
        sentences = _unfit(ctx, least)
        gets_on(ctx)
        where.pinned(ctx, args.context)
        kind = storage(ctx)
        if kind is None:
            return sentences
        cluster = connect(ctx, args.context)
    except PermanentError as error:
        return [error.message]
    rights = [(verb, Ref(kind, args.namespace)) for verb in verbs]
    inside = None if getattr(args, "optional", None) is True else args.namespace
    return [*sentences, *lacks(cluster, ctx, inside, lambda: rights, "Helm keeps its releases there")]


def _unfit(ctx: Context, least: tuple[int, int]) -> list[str]:
    found = known_version(ctx)
    wanted = ".".join(map(str, least))
    if found == (0, 0):
        return [f"helm does not say which version it is; {wanted} or newer is needed"]
    if found < least:
        return [f"helm is version {found[0]}.{found[1]}; {wanted} or newer is needed"]
    if found[0] > NEWEST:
        return [f"helm is version {found[0]}.{found[1]}; versions 3 and 4 are known to work"]
    return []


def gets_on(ctx: Context) -> None:
    """Preflight: one helm more has answered. Each may take as long as another action's whole look."""
    ctx.progress(1, 2)


def known_version(ctx: Context) -> tuple[int, int]:
    """The same as `version`, asked once per run."""
    return ctx.client(f"helm.version:{ctx.environ.get('PATH', '')}", lambda: version(ctx))


def version(ctx: Context) -> tuple[int, int]:
    """Helm's major and minor version; (0, 0) where it does not say."""
    done = _process.run(ctx, ["helm", "version", "--template", "{{.Version}}"], log=False)
    found = re.match(r"v?(\d+)\.(\d+)", done.stdout.strip())
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def storage(ctx: Context) -> Kind | None:
    """The kind of object in which Helm keeps its releases (HELM_DRIVER); None where it is none of Kubernetes."""
    return _DRIVERS.get(ctx.environ.get("HELM_DRIVER", ""))


def object_name(ctx: Context, args: HelmArgs) -> str:
    """The release's name in observations."""
    return f"helm:{where.context_of(ctx, args.context)}/{args.namespace}/{args.release}"


def place(name: str) -> dict[str, str]:
    """The parameters that say where, out of an object's name (a context may hold slashes)."""
    context, namespace, release = name.partition("#")[0].removeprefix("helm:").rsplit("/", 2)
    return {"release": release.partition("@")[0], "namespace": namespace, "context": context}


def takeover(ctx: Context, force_conflicts: bool) -> list[str]:
    """The flags that take over fields which others set; Helm 3 has none and needs none.

    Helm 4 knows conflicts only where it applies on the server, which by itself it does not for a release that Helm 3
    made: there it refuses `--force-conflicts` alone.
    """
    if not force_conflicts:
        return []
    if known_version(ctx) >= (4, 0):
        return ["--force-conflicts", "--server-side=true"]
    ctx.log("this Helm knows no conflicts: force_conflicts changes nothing")
    return []
