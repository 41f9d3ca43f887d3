"""Which cluster: the kubeconfig of the given environment (never this process's own), else a pod's service account.

The rules are kubectl's (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/): the
files of KUBECONFIG are merged, the first that names a thing wins, paths are relative to the file that they stand in.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runbook.contract import PermanentError

IN_CLUSTER = "in-cluster"
"""The context's name where a pod's own service account is used."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_HEADER_NAMES = frozenset(string.ascii_letters + string.digits + "!#$&'*+-.^_`|~")  # RFC 9110, 5.6.2, without `%`
_LEGACY = "an auth-provider, which Kubernetes gave up in 1.26"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A program that prints credentials (https://kubernetes.io/docs/reference/access-authn-authz/authentication/).

    `cluster`: what it is told of the cluster, where it wants to know.
    """

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    api_version: str
    hint: str | None
    cluster: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Access:
    """How one user reaches one API server. `headers`: whom the user acts for (impersonation)."""

    context: str
    server: str
    ca: bytes | None = None
    insecure: bool = False
    tls_name: str | None = None
    proxy: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    password: tuple[str, str] | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    plugin: Plugin | None = None
    headers: tuple[tuple[str, str], ...] = ()


def kubeconfig_files(environ: Mapping[str, str]) -> list[str]:
    """The files that exist, in the order in which kubectl merges them (KUBECONFIG is a list like PATH)."""
    return [name for name in _listed(environ) if Path(name).is_file()]


CURRENT = "current"
"""A step's `context` that stands for the kubeconfig's own choice."""


def context_name(environ: Mapping[str, str], context: str) -> str:
    """The name that `context` stands for (`current`: the kubeconfig's choice). PermanentError when there is none."""
    if context != CURRENT:
        return context
    for name in kubeconfig_files(environ):
        chosen = _read(name).get("current-context")
        if chosen:
            return str(chosen)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return IN_CLUSTER
    listed = environ.get("KUBECONFIG")
    if listed and not kubeconfig_files(environ):
        raise PermanentError(f"there is no kubeconfig {listed}, and this is no pod", hint="look at KUBECONFIG")
    raise PermanentError(
        "no kubeconfig with a current context was found, and this is no pod",
        hint="set KUBECONFIG, or name a `context`",
    )


def access(environ: Mapping[str, str], context: str) -> Access:
    """How a context's user reaches its API server. PermanentError with the reason where that is not to be known.

    Nothing is asked, and no credentials plug-in is run: see `login.py`.
    """
    files = [(Path(name), _read(name)) for name in kubeconfig_files(environ)]
    contexts = _merged(files, "contexts")
    if context not in contexts:
        if context == IN_CLUSTER and environ.get("KUBERNETES_SERVICE_HOST"):
            return _service_account(environ)
        raise _unknown(environ, context, sorted(contexts))
    at, chosen = contexts[context]
    cluster_name, user_name = str(chosen.get("cluster") or ""), str(chosen.get("user") or "")
    cluster_at, cluster = _named(files, "cluster", cluster_name, context)
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise PermanentError(f"cluster {cluster_name!r} of the kubeconfig {cluster_at} has no address (`server`)")
    user_at, user = _named(files, "user", user_name, context) if user_name else (at, {})
    if "auth-provider" in user:
        raise PermanentError(f"user {user_name!r} of the kubeconfig has {_LEGACY}", hint="use a plug-in (`exec`)")
    found = Access(
        context=context,
        server=server,
        ca=_content(cluster, "certificate-authority", cluster_at),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        token=str(user["token"]) if user.get("token") else None,
        token_file=user_at.parent / str(user["tokenFile"]) if user.get("tokenFile") else None,
        password=(str(user["username"]), str(user.get("password") or "")) if user.get("username") else None,
        certificate=_content(user, "client-certificate", user_at),
        key=_content(user, "client-key", user_at),
        headers=tuple(_impersonation(user)),
    )
    if (found.certificate is None) != (found.key is None):
        raise PermanentError(f"user {user_name!r} of the kubeconfig has a client certificate or its key, not both")
    if not user.get("exec"):
        return found
    return replace(found, plugin=_plugin(user["exec"], user_at, user_name, found, cluster))


# -- the files


def _listed(environ: Mapping[str, str]) -> list[str]:
    names = [name for name in (environ.get("KUBECONFIG") or "").split(":") if name]
    if not names and environ.get("HOME"):
        names = [f"{environ['HOME']}/.kube/config"]
    return names


def _read(name: str) -> Mapping[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(Path(name).read_text(encoding="utf-8"), loader)  # noqa: S506  # a safe loader
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"cannot read the kubeconfig {name}: {error}") from error
    except yaml.YAMLError as error:
        # Never the text of the error: it quotes the line, and that may be a token.
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise PermanentError(f"cannot read the kubeconfig {name}{line}: it is no YAML") from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise PermanentError(f"cannot read the kubeconfig {name}: it is no map with clusters, users and contexts")
    return content


_Files = list[tuple[Path, Mapping[str, Any]]]


def _merged(files: _Files, plural: str) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """name -> the file that names it first, and what it says."""
    found: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for file, content in files:
        listed = content.get(plural)
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, Mapping) and entry.get("name"):
                said = entry.get(plural.removesuffix("s"))
                found.setdefault(str(entry["name"]), (file, said if isinstance(said, Mapping) else {}))
    return found


def _named(files: _Files, singular: str, name: str, context: str) -> tuple[Path, Mapping[str, Any]]:
    found = _merged(files, f"{singular}s").get(name)
    if found is None:
        raise PermanentError(f"context {context!r} of the kubeconfig names {singular} {name!r}, which is not there")
    return found


def _unknown(environ: Mapping[str, str], context: str, known: list[str]) -> PermanentError:
    if not kubeconfig_files(environ):
        listed = ":".join(_listed(environ))
        there = f" ({listed} does not exist)" if listed else ""
        return PermanentError(
            f"there is no kubeconfig to find the context {context!r} in{there}", hint="set KUBECONFIG"
        )
    close = difflib.get_close_matches(context, known, n=1)
    return PermanentError(
        f"context: the kubeconfig has no usable context {context!r}; it has {', '.join(known[:20]) or 'none'}",
        hint=f"did you mean {close[0]}?" if close else None,
    )


def _content(entry: Mapping[str, Any], name: str, file: Path) -> bytes | None:
    """A certificate or key: `NAME-data` (base64) wins over the file that NAME is."""
    data = entry.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=False)
        except (binascii.Error, ValueError):
            raise PermanentError(f"{name}-data in the kubeconfig {file} is no base64") from None
    if not entry.get(name):
        return None
    path = file.parent / str(entry[name])
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(f"cannot read {name} {path}: {error.strerror}") from error


def _plugin(found: Any, file: Path, user: str, access: Access, cluster: Mapping[str, Any]) -> Plugin:
    if not isinstance(found, Mapping) or not found.get("command") or not found.get("apiVersion"):
        raise PermanentError(f"`exec` of user {user!r} in the kubeconfig {file} needs a command and an apiVersion")
    if found.get("interactiveMode") == "Always":
        raise PermanentError(f"`exec` of user {user!r} wants a terminal (interactiveMode: Always); a run gives it none")
    command = str(found["command"])
    if "/" in command:
        command = str(file.parent / command)
    told = None
    if found.get("provideClusterInfo"):
        told = {"server": access.server, "insecure-skip-tls-verify": access.insecure}
        if access.ca is not None:
            told["certificate-authority-data"] = base64.b64encode(access.ca).decode()
        if access.tls_name:
            told["tls-server-name"] = access.tls_name
        if access.proxy:
            told["proxy-url"] = access.proxy
        for extension in cluster.get("extensions") or ():
            if extension.get("name") == "client.authentication.k8s.io/exec":
                told["config"] = extension.get("extension")
    return Plugin(
        command=command,
        args=tuple(str(argument) for argument in found.get("args") or ()),
        env={str(entry["name"]): str(entry.get("value") or "") for entry in found.get("env") or ()},
        api_version=str(found["apiVersion"]),
        hint=str(found["installHint"]).strip() if found.get("installHint") else None,
        cluster=told,
    )


def _impersonation(user: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("Impersonate-User", user.get("as")), ("Impersonate-Uid", user.get("as-uid"))]
    found += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    for name, values in (user.get("as-user-extra") or {}).items():
        found += [(f"Impersonate-Extra-{_header_name(str(name))}", value) for value in values]
    return [(name, str(value)) for name, value in found if value]


def _header_name(key: str) -> str:
    """A key of `as-user-extra` as a part of a header's name: what no such name can hold is escaped, as is `%`
    (client-go, transport/round_trippers.go, headerKeyEscape)."""
    return "".join(chr(byte) if chr(byte) in _IN_HEADER_NAMES else f"%{byte:02X}" for byte in key.encode())


def _service_account(environ: Mapping[str, str]) -> Access:
    """https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/"""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT") or "443"
    token = _ACCOUNT / "token"
    if not token.is_file():
        raise PermanentError(f"this pod has no service account ({token} does not exist)")
    return Access(
        context=IN_CLUSTER,
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca=_content({"ca": "ca.crt"}, "ca", token),
        token_file=token,
    )
