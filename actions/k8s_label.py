"""k8s.label: labels and annotations of any object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster
from runbook.actions.k8s_patch import Patch, PatchArgs
from runbook.contract import Call, Change, Context, Observation, Outputs, PermanentError, param

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
ANNOTATIONS = 256 * 1024
"""Bytes that all annotations of an object may have together."""


@dataclass(frozen=True, kw_only=True)
class LabelArgs(KubeArgs):
    """Parameters of k8s.label."""

    kind: str = param("Kind of the object: any that the API serves, as kubectl spells it (`service`, `Deployment`).")
    name: str = param("Name of the object.")
    labels: dict[str, str | None] = param("Labels to set; null removes one.", default_factory=dict)
    annotations: dict[str, str | None] = param("Annotations to set; null removes one.", default_factory=dict)


class Label(Rights, Change[LabelArgs]):
    """Set and remove labels and annotations of an object, and no others than the ones named.

    The inverse puts back what they were, if they still hold what was written. A label that a selector asks for decides
    whom an object belongs to: a pod without it gets no traffic, and its ReplicaSet makes another in its place.
    """

    name = "k8s.label"
    returns = {
        "before": 'what they were: `metadata.labels["a/b"]` -> value, null = not there',
        "after": "what they are now",
    }

    def __init__(self) -> None:
        self._patch = Patch()

    def check(self, args: LabelArgs) -> Iterator[str]:
        if not args.labels and not args.annotations:
            yield "labels, annotations: give at least one"
        for where, given in (("labels", args.labels), ("annotations", args.annotations)):
            yield from (f"{where}: {key!r} is no name ({_RULE})" for key in given if not _is_key(key))
        for key, value in args.labels.items():
            if value and not _NAME.fullmatch(value):
                yield f"labels: the value of {key!r} must be at most 63 letters, digits, dots, dashes and underscores"
        if sum(len(f"{key}{value or ''}".encode()) for key, value in args.annotations.items()) > ANNOTATIONS:
            yield f"annotations: more than {ANNOTATIONS} bytes"

    def rights(self, args: LabelArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        return self._patch.rights(_as_patch(args), cluster, ctx)

    def observe(self, args: LabelArgs, ctx: Context) -> Observation:
        for problem in self.check(args):
            raise PermanentError(problem)
        return self._patch.observe(_as_patch(args), ctx)

    def expect(self, args: LabelArgs, before: Observation, ctx: Context) -> Observation:
        after = self._patch.expect(_as_patch(args), before, ctx)
        self.computed = self._patch.computed
        return after

    def apply(self, args: LabelArgs, before: Observation, ctx: Context) -> None:
        self._patch.apply(_as_patch(args), before, ctx)

    def inverse(self, args: LabelArgs, before: Observation, op: str) -> Call | None:
        return self._patch.inverse(_as_patch(args), before, op)

    def outputs(self, args: LabelArgs, before: Observation, after: Observation) -> Outputs:
        return self._patch.outputs(_as_patch(args), before, after)

    def preview(self, args: LabelArgs, before: Observation, after: Observation, ctx: Context) -> str | None:
        return self._patch.preview(_as_patch(args), before, after, ctx)


_RULE = "letters, digits, dashes, dots and underscores, after a domain and `/` if there is one"


def _is_key(key: str) -> bool:
    """Kubernetes: Labels and Selectors, Syntax and character set."""
    prefix, slash, name = key.rpartition("/")
    return bool(_NAME.fullmatch(name)) and (bool(_PREFIX.fullmatch(prefix)) if slash else True)


def _as_patch(args: LabelArgs) -> PatchArgs:
    """The merge patch that says the same."""
    given: Mapping[str, Mapping[str, Any]] = {"labels": args.labels, "annotations": args.annotations}
    return PatchArgs(
        namespace=args.namespace,
        context=args.context,
        kind=args.kind,
        name=args.name,
        patch={"metadata": {where: dict(values) for where, values in given.items() if values}},
        type="merge",
    )
