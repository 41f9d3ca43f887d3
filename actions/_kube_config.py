"""Which cluster: the kubeconfig of the given environment (never this process's own), else a pod's service account."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.contract import PermanentError

IN_CLUSTER = "in-cluster"
"""The context's name where a pod's own service account is used."""

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


def configuration(environ: Mapping[str, str], context: str) -> Any:
    """The official client's Configuration for a context's name. PermanentError with the reason when there is none."""
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
                config_file=":".join(files), context=context, client_configuration=made, persist_config=False
            )
    except ConfigException as error:
        raise PermanentError(f"the kubeconfig has no usable context {context!r}: {error}") from error
    made.retries = False  # a retried POST or PATCH would be a second change; retrying is the playbook's decision
    return made
