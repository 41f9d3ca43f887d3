"""Where helm acts: in the one context of the run, as its user, and nowhere that the environment would lead it.

Preflight, what is pending and the names of objects come from the kubeconfig's context, by a client of our own; helm
takes more from its environment (`helm help`, "Environment variables"). Where the two would part, nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from runbook.actions._kube.cluster import connect
from runbook.actions._kube.config import CURRENT, IN_CLUSTER, access
from runbook.contract import Context, PermanentError

OVERRIDES = (
    "HELM_KUBEAPISERVER",
    "HELM_KUBETOKEN",
    "HELM_KUBEASUSER",
    "HELM_KUBEASGROUPS",
    "HELM_KUBECAFILE",
    "HELM_KUBETLS_SERVER_NAME",
    "HELM_KUBEINSECURE_SKIP_TLS_VERIFY",
)
"""What leads helm past its context, to another server or as another user."""
_NO = ("", "0", "f", "F", "false", "FALSE", "False")
"""What Go reads as no (strconv.ParseBool), and what is not set."""


def context_of(ctx: Context, context: str) -> str:
    """The name that a step's `context` stands for, the same for the whole run (0013). PermanentError: there is none."""
    return connect(ctx, context).context


def pinned(ctx: Context, context: str) -> tuple[list[str], dict[str, str]]:
    """What tells helm so: arguments, and variables over those of the call's environment.

    A pod's own service account has no kubeconfig: helm gets an empty one, and then takes the account as we do.
    PermanentError where the environment says something else than the step.
    """
    refuse(ctx.environ, context)
    name = context_of(ctx, context)
    wanted = ctx.environ.get("HELM_KUBECONTEXT", "")
    if context == CURRENT and wanted not in ("", name):
        raise PermanentError(
            f"HELM_KUBECONTEXT is {wanted!r}, and `context: current` is {name!r} for this run: helm would act elsewhere"
            f" than its plan says; name the step's `context`, or unset HELM_KUBECONTEXT"
        )
    if name == IN_CLUSTER and not _in_kubeconfig(ctx.environ, name):
        return [], {"KUBECONFIG": os.devnull, "HELM_KUBECONTEXT": ""}
    return ["--kube-context", name], {}


def _in_kubeconfig(environ: Mapping[str, str], name: str) -> bool:
    """Whether it is a context of the kubeconfig, which then wins over the pod's account."""
    try:
        access({**environ, "KUBERNETES_SERVICE_HOST": ""}, name)
    except PermanentError:
        return False
    return True


def refuse(environ: Mapping[str, str], context: str) -> None:
    """PermanentError where the environment leads helm to another server or user, or keeps its releases nowhere."""
    found = list(_set(environ))
    if found:
        raise PermanentError(
            f"{' and '.join(found)} would lead helm past its context ({context!r}), which everything else here goes by;"
            f" say it in the kubeconfig, and unset {'it' if len(found) == 1 else 'them'}"
        )
    if environ.get("HELM_DRIVER", "") == "memory":
        raise PermanentError(
            "HELM_DRIVER is memory: helm forgets its releases as it ends; unset it, or say where they are kept"
        )


def _set(environ: Mapping[str, str]) -> Iterator[str]:
    for name in OVERRIDES:
        if environ.get(name, "") not in (_NO if name.endswith("SKIP_TLS_VERIFY") else ("",)):
            yield name
