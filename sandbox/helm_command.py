"""The simulated `helm`: its command line and its output formats, which are helm 3's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runbook.interpreter.times import parse_duration
from runbook.sandbox import kinds, statuses
from runbook.sandbox.faults import Faults, Request
from runbook.sandbox.kinds import Kind
from runbook.sandbox.releases import HelmError, Release, Releases
from runbook.sandbox.world import World

VERSION = "v3.22.0+simulated"
_VALUED = {
    "-n": "namespace",
    "--namespace": "namespace",
    "-o": "output",
    "--output": "output",
    "--max": "max",
    "--revision": "revision",
    "--timeout": "timeout",
    "--history-max": "history-max",
    "--kube-context": "kube-context",
    "--kubeconfig": "kubeconfig",
    "--template": "template",
}
_SWITCHES = frozenset({
    "--wait", "--wait-for-jobs", "--no-hooks", "--force", "--force-conflicts", "--force-replace", "--recreate-pods",
    "--dry-run", "--debug", "--short", "--cleanup-on-fail", "--client", "--all", "-a", "--server-side",
})  # fmt: skip
_COMMANDS = frozenset({"history", "hist", "status", "get", "rollback", "list", "ls"})
_OPTIONAL = frozenset({"--wait", "--dry-run", "--server-side"})
"""Switches that take a value after `=` in helm 4."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program leaves behind."""

    rc: int = 0
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed command line."""

    words: tuple[str, ...]
    options: Mapping[str, str]

    def number(self, name: str) -> int:
        """An option that is a whole number; 0 when absent. HelmError otherwise."""
        text = self.options.get(name, "0")
        if not re.fullmatch(r"\d+", text):
            raise HelmError(
                f'invalid argument "{text}" for "--{name}" flag: strconv.ParseInt: parsing "{text}": invalid syntax'
            )
        return int(text)


@dataclass(frozen=True, slots=True)
class Access:
    """Who helm acts as. `users`: kubeconfig -> user; `contexts`: those that the kubeconfigs have."""

    users: Mapping[str, str]
    contexts: Sequence[str]
    allowed: Callable[..., bool]

    def user(self, line: Line, environ: Mapping[str, str]) -> str:
        """The user of an invocation. HelmError where helm would not reach a cluster."""
        kubeconfig = line.options.get("kubeconfig") or environ.get("KUBECONFIG", "")
        if kubeconfig not in self.users:
            raise HelmError(
                f"Kubernetes cluster unreachable: {kubeconfig or 'no kubeconfig'} is not of this SIMULATED world"
            )
        context = line.options.get("kube-context")
        if context and context not in self.contexts:
            raise HelmError(f'Kubernetes cluster unreachable: context "{context}" does not exist')
        return self.users[kubeconfig]

    def need(self, user: str, namespace: str, verb: str, kind: Kind, name: str = "") -> None:
        """HelmError where a right is missing, in the server's words."""
        if not self.allowed(user, kind.group, verb=verb, resource=kind.plural, namespace=namespace, name=name):
            refused = statuses.forbidden(kind, name, user=user, verb=verb, namespace=namespace, subresource="")
            prefix = {"list": "query: failed to query with labels: ", "create": "create: failed to create: "}
            said = prefix.get(verb) or f'cannot {verb} "{name}" with kind {kind.kind}: '
            raise HelmError(said + refused.message)


class Helm:
    """Runs helm's commands against a world's releases."""

    def __init__(self, world: World, releases: Releases, faults: Faults, access: Access) -> None:
        self.ran: list[tuple[str, ...]] = []
        self._access = access
        self._world = world
        self._releases = releases
        self._faults = faults

    def run(self, argv: Sequence[str], environ: Mapping[str, str], gone: Callable[[], bool]) -> Outcome:
        """One invocation. `gone`: whether the program has been killed meanwhile."""
        self.ran.append(tuple(argv))
        if argv and not argv[0].startswith("-") and argv[0] not in {*_COMMANDS, "version"}:
            return self._unmodelled(f"helm {argv[0]}")  # its flags are not known either
        try:
            line = parse(argv)
            return self._run(line, environ, gone)
        except HelmError as error:
            return Outcome(1, "", f"Error: {error}\n")

    def fault(self, argv: Sequence[str], environ: Mapping[str, str]) -> Any:
        """The injected fault that an invocation meets, if any."""
        try:
            line = parse(argv)
        except HelmError:
            return None
        verb = line.words[0] if line.words else ""
        name = line.words[-1] if verb == "get" else line.words[1] if len(line.words) > 1 else ""
        return self._faults.strike(Request("helm", verb, " ".join(argv), "", _namespace(line, environ), name))

    def _run(self, line: Line, environ: Mapping[str, str], gone: Callable[[], bool]) -> Outcome:
        words, namespace = line.words, _namespace(line, environ)
        if not words:
            return Outcome(0, "The Kubernetes package manager (SIMULATED by runbook)\n")
        if words[0] == "version":
            return _version(line)
        if words[0] not in _COMMANDS:
            return self._unmodelled(f"helm {words[0]}")
        if len(words) > 1 or words[0] in {"list", "ls"}:  # a usage error comes before the cluster is asked
            user = self._access.user(line, environ)
            self._access.need(user, namespace, "list", kinds.SECRET)
            if words[0] == "rollback":
                self._may_roll_back(line, user, namespace)
        match words[:1]:
            case ["history" | "hist"]:
                _arguments(words, "history", 1, "RELEASE_NAME [flags]")
                return _history(line, self._releases.history(namespace, words[1]))
            case ["status"]:
                _arguments(words, "status", 1, "RELEASE_NAME [flags]")
                history = self._releases.history(namespace, words[1])
                release = self._releases.revision(namespace, words[1], line.number("revision"))
                return _status(line, release, history[0], namespace)
            case ["get"]:
                return self._get(line, namespace)
            case ["rollback"]:
                return self._rollback(line, namespace, gone)
            case ["list" | "ls"]:
                newest = [self._releases.history(namespace, name)[-1] for name in self._releases.names(namespace)]
                return _list(line, newest, namespace)
        return self._unmodelled(f"helm {words[0]}")

    def _may_roll_back(self, line: Line, user: str, namespace: str) -> None:
        """Helm would find out in the middle and leave a failed release; here it is found out before."""
        if line.options.get("dry-run", "none") not in {"none", "false"}:
            return
        self._access.need(user, namespace, "create", kinds.SECRET)
        for item in self._releases.history(namespace, line.words[1])[-1].objects():
            kind = kinds.of_object(item)
            if kind is not None:
                self._access.need(user, namespace, "patch", kind, item["metadata"]["name"])

    def _get(self, line: Line, namespace: str) -> Outcome:
        if len(line.words) != 3:
            return self._unmodelled("helm " + " ".join(line.words))
        what, name = line.words[1:]
        release = self._releases.revision(namespace, name, line.number("revision"))
        if what == "manifest":
            return Outcome(0, release.manifest + "\n")
        if what == "hooks":
            return Outcome(0, "")
        if what == "values":
            return Outcome(0, "{}\n" if line.options.get("output") == "json" else "USER-SUPPLIED VALUES:\nnull\n")
        return self._unmodelled(f"helm get {what}")

    def _rollback(self, line: Line, namespace: str, gone: Callable[[], bool]) -> Outcome:
        if len(line.words) < 2:
            usage = "Usage:  helm rollback <RELEASE> [REVISION] [flags]"
            return Outcome(1, "", f'Error: "helm rollback" requires at least 1 argument\n\n{usage}\n')
        number = line.words[2] if len(line.words) > 2 else "0"
        if not re.fullmatch(r"\d+", number):
            raise HelmError(f'could not convert revision to a number: strconv.Atoi: parsing "{number}": invalid syntax')
        wait = None
        if line.options.get("wait", "false") != "false":
            wait = float(parse_duration(line.options.get("timeout", "5m").replace("m0s", "m")))
        dry_run = line.options.get("dry-run", "none") not in {"none", "false"}
        self._releases.rollback(namespace, line.words[1], int(number), wait=wait, dry_run=dry_run, gone=gone)
        return Outcome(0, "Rollback was a success! Happy Helming!\n")

    def _unmodelled(self, what: str) -> Outcome:
        self._world.report_unmodelled(what)
        return Outcome(1, "", f"Error: SIMULATED helm does not model `{what}`; rehearse this on a real cluster\n")


def parse(argv: Sequence[str]) -> Line:
    """Words and options. HelmError for an unknown flag, as helm says it."""
    words: list[str] = []
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif name in _VALUED:
            if not equals and not rest:
                raise HelmError(f"flag needs an argument: {word}")
            options[_VALUED[name]] = value if equals else rest.pop(0)
        elif name in _SWITCHES and (not equals or name in _OPTIONAL or value in {"true", "false"}):
            options[name.lstrip("-")] = value or "true"
        else:
            raise HelmError(
                f"unknown flag: {name}" if name.startswith("--") else f"unknown shorthand flag: '{name[1:2]}' in {name}"
            )
    return Line(tuple(words), options)


def _namespace(line: Line, environ: Mapping[str, str]) -> str:
    return line.options.get("namespace") or environ.get("HELM_NAMESPACE") or "default"


def _arguments(words: Sequence[str], command: str, count: int, usage: str) -> None:
    if len(words) != count + 1:
        raise HelmError(f'"helm {command}" requires {count} argument\n\nUsage:  helm {command} {usage}')


def _version(line: Line) -> Outcome:
    if "short" in line.options:
        return Outcome(0, VERSION + "\n")
    if "template" in line.options:
        return Outcome(0, re.sub(r"\{\{\s*\.Version\s*\}\}", VERSION, line.options["template"]))
    return Outcome(
        0, f'version.BuildInfo{{Version:"{VERSION}", GitCommit:"", GitTreeState:"", GoVersion:"SIMULATED"}}\n'
    )


def _history(line: Line, releases: Sequence[Release]) -> Outcome:
    shown = releases[-(line.number("max") or 256) :]
    rows = [
        {
            "revision": one.revision,
            "updated": one.updated_text,
            "status": one.status,
            "chart": one.chart,
            "app_version": one.app_version,
            "description": one.description,
        }
        for one in shown
    ]
    if line.options.get("output") == "json":
        return Outcome(0, _json(rows) + "\n")
    for row, one in zip(rows, shown, strict=True):
        row["updated"] = datetime.fromtimestamp(one.updated, UTC).strftime("%a %b %e %H:%M:%S %Y")
    return Outcome(0, _table(rows))


def _status(line: Line, release: Release, first: Release, namespace: str) -> Outcome:
    info = {
        "first_deployed": first.updated_text,
        "last_deployed": release.updated_text,
        "deleted": "",
        "description": release.description,
        "status": release.status,
    }
    if line.options.get("output") == "json":
        body = {"name": release.name, "info": info, "manifest": release.manifest}
        return Outcome(0, _json(body | {"version": release.revision, "namespace": namespace}) + "\n")
    at = datetime.fromtimestamp(release.updated, UTC).strftime("%a %b %e %H:%M:%S %Y")
    text = f"NAME: {release.name}\nLAST DEPLOYED: {at}\nNAMESPACE: {namespace}\nSTATUS: {release.status}\n"
    return Outcome(0, text + f"REVISION: {release.revision}\nTEST SUITE: None\n")


def _list(line: Line, releases: Sequence[Release], namespace: str) -> Outcome:
    rows = [
        {
            "name": one.name,
            "namespace": namespace,
            "revision": str(one.revision),
            "updated": one.updated_text.replace("T", " ").replace("Z", " +0000 UTC"),
            "status": one.status,
            "chart": one.chart,
            "app_version": one.app_version,
        }
        for one in releases
    ]
    return Outcome(0, _json(rows) + "\n" if line.options.get("output") == "json" else _table(rows))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    titles = {key: key.upper().replace("_", " ") for key in rows[0]}
    widths = {key: max(len(titles[key]), *(len(str(row[key])) for row in rows)) for key in titles}
    lines = [titles, *rows]
    return "".join("\t".join(f"{line[key]!s:<{widths[key]}}" for key in titles) + "\n" for line in lines)
