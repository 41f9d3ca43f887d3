"""Which cluster: the kubeconfig of the given environment (never this process's own), else a pod's service account."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.contract import PermanentError

IN_CLUSTER = "in-cluster"
"""The context's name where a pod's own service account is used."""

SCRATCH = "kubeconfig-"
"""How the names of the private folders begin that `configuration` writes into."""

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def kubeconfig_files(environ: Mapping[str, str]) -> list[str]:
    """The files that exist, in the order in which kubectl merges them (KUBECONFIG is a list like PATH)."""
    listed = environ.get("KUBECONFIG") or ""
    names = [name for name in listed.split(":") if name]
    if not names and environ.get("HOME"):
        names = [f"{environ['HOME']}/.kube/config"]
    return [name for name in names if Path(name).is_file()]


def context_name(environ: Mapping[str, str], context: str) -> str:
    """The name that `context` stands for (`current`: the kubeconfig's choice). PermanentError when there is none."""
    if context != "current":
        return context
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for name in kubeconfig_files(environ):
        try:
            content = yaml.load(Path(name).read_text(encoding="utf-8"), loader)  # noqa: S506  # a safe loader
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PermanentError(f"cannot read the kubeconfig {name}: {error}") from error
        if isinstance(content, dict) and content.get("current-context"):
            return str(content["current-context"])
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return IN_CLUSTER
    raise PermanentError(
        "no kubeconfig with a current context was found, and this is no pod",
        hint="set KUBECONFIG, or name a `context`",
    )


def configuration(environ: Mapping[str, str], context: str, scratch: Path) -> Any:
    """The official client's Configuration for a context's name. PermanentError with the reason when there is none.

    `scratch`: a private folder for the certificates and keys that stand inside a kubeconfig. The client writes them to
    files; by itself into the system's temporary folder, where a killed run would leave a private key behind.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config
    from kubernetes.config.incluster_config import InClusterConfigLoader

    made = Configuration()
    files = kubeconfig_files(environ)
    try:
        if context == IN_CLUSTER and not files:
            InClusterConfigLoader(f"{_ACCOUNT}/token", f"{_ACCOUNT}/ca.crt", environ=environ).load_and_set(made)
        elif not files:
            raise PermanentError(f"there is no kubeconfig to find the context {context!r} in", hint="set KUBECONFIG")
        else:
            load_kube_config(
                config_file=":".join(files),
                context=context,
                client_configuration=made,
                persist_config=False,
                temp_file_path=str(scratch),
            )
            _own_copies(made, scratch)
    except ConfigException as error:
        raise PermanentError(f"the kubeconfig has no usable context {context!r}: {error}") from error
    made.retries = False  # a retried POST or PATCH would be a second change; retrying is the playbook's decision
    return made


def _own_copies(made: Any, scratch: Path) -> None:
    """The client gives equal content one file for the whole process; another connection's folder may go before ours."""
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        found = getattr(made, name)
        if found and Path(found).parent.name.startswith(SCRATCH) and Path(found).parent != scratch:
            setattr(made, name, shutil.copy(found, scratch))
