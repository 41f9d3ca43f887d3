"""What the actions of family k8s share: where, and with which rights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.config import CURRENT
from runbook.actions._kube.preflight import Right, lacks
from runbook.contract import Absent, Context, ForUndo, Observation, param

__all__ = ["KubeArgs", "Right", "Rights", "named", "place", "unnamed"]


@dataclass(frozen=True, kw_only=True)
class KubeArgs:
    """Parameters of every action of family k8s."""

    namespace: str = param("Namespace (ignored for kinds that have none).", family=True)
    context: str = param(
        "Context of the kubeconfig; `current` is the kubeconfig's own choice, or the pod's service account.",
        default=CURRENT,
        family=True,
    )


class Rights:
    """Preflight by SelfSubjectAccessReview: which of the verbs that a call needs are missing."""

    def rights(self, args: Any, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        """The verbs that the call will use."""
        raise NotImplementedError

    def undo_rights(self, args: Any, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        """The verbs that its inverse will use, and the call itself does not. By default the inverse uses the same."""
        return ()

    def preflight(self, args: Any, ctx: Context) -> list[str]:
        """Sentences that name verb and resource, a namespace that is not there, a kind that is not served."""
        cluster = connect(ctx, args.context)
        where = self.within(args)
        found = lacks(cluster, ctx, where, lambda: self.rights(args, cluster, ctx))
        if any(isinstance(sentence, Absent) for sentence in found):
            return found
        back = lacks(cluster, ctx, where, lambda: self.undo_rights(args, cluster, ctx))
        return found + [ForUndo(sentence) for sentence in back if sentence not in found]

    def within(self, args: Any) -> str | None:
        """The namespace that must be there; None where none has to."""
        return None if getattr(args, "optional", None) is True else str(args.namespace)


def named(name: str, state: Mapping[str, Any]) -> Observation:
    """The places of an object, each under a name of its own: `k8s:prod/shop/Service/web#spec.selector.slot`.

    So others may change the rest of the object, an undo is refused place by place, and what two actions write into the
    same place is the same thing.
    """
    return {f"{name}#{path}": value for path, value in state.items()}


def unnamed(observation: Observation) -> dict[str, Any]:
    """The places of the one object in an observation."""
    return {name.partition("#")[2]: value for name, value in observation.items()}


def place(name: str) -> tuple[str, str, str, str]:
    """Context, namespace, kind and name out of an object's name in an observation (a context may hold slashes)."""
    whole = name.partition("#")[0].removeprefix("k8s:")
    context, namespace, kind, object_name = whole.rsplit("/", 3)
    return context, namespace, kind, object_name
