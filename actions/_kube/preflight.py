"""What a call on a cluster lacks: rights (SelfSubjectAccessReview), its namespace, a kind that the API does not serve.

The review is Kubernetes' own answer to "may I?" (https://kubernetes.io/docs/reference/access-authn-authz/authorization/,
`kubectl auth can-i`): every authenticated user may ask it about himself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster, ForbiddenError
from runbook.actions._kube.kinds import Ref
from runbook.contract import Absent, Context, PermanentError, TemporaryError

Right = tuple[str, Ref]
"""A verb on an object, a subresource or a collection."""


def lacks(
    cluster: Cluster, ctx: Context, namespace: str | None, rights: Callable[[], Iterable[Right]], why: str = ""
) -> list[str]:
    """Sentences that name verb, resource and namespace; of a namespace that is not there only that.

    `namespace` None: nothing has to be there. `why`: what the rights are for, where that is not plain.
    TemporaryError where nobody could tell.
    """
    try:
        needed = list(rights())
    except ForbiddenError as error:
        return [error.message]
    except PermanentError as error:
        return [Absent(error.message)]  # a kind that is not served: an earlier step may define it
    reason = f"{why}; " if why else ""
    try:
        inside = namespace is not None and any(ref.kind.namespaced for _, ref in needed)
        if inside and not _there(cluster, ctx, str(namespace)):
            return [Absent(f"there is no namespace {namespace!r} (context {cluster.context!r})")]
        return [
            f"no right to {verb} {ref} ({reason}context {cluster.context!r})"
            for verb, ref in _refused(cluster, ctx, list(dict.fromkeys(needed)))
        ]
    except ForbiddenError as error:
        if "selfsubjectaccessreviews" in error.message and error.message.startswith("no right"):
            raise TemporaryError(f"this user may not even ask what is allowed: {error.message}") from None
        return [error.message]


def _refused(cluster: Cluster, ctx: Context, needed: list[Right]) -> list[Right]:
    """Those that the user has not. Who may do it with the whole collection may do it with each of several objects."""
    several = Counter((verb, replace(ref, name="")) for verb, ref in needed)
    return [
        (verb, ref)
        for verb, ref in needed
        if not (several[verb, replace(ref, name="")] > 1 and _may(cluster, ctx, verb, replace(ref, name="")))
        and not _may(cluster, ctx, verb, ref)
    ]


def _may(cluster: Cluster, ctx: Context, verb: str, ref: Ref) -> bool:
    """The review; calls that look side by side and need the same right ask once."""
    about = f"k8s.may:{cluster.context}:{verb}:{ref.path()}"
    return ctx.client(about, lambda: cluster.may(ctx, verb, ref))


def _there(cluster: Cluster, ctx: Context, namespace: str) -> bool:
    """Whether the namespace is there; also where we may not look. Asked once per run."""

    def look() -> bool:
        try:
            return cluster.find(ctx, Ref(kinds.NAMESPACE, name=namespace)) is not None
        except ForbiddenError:
            return True

    return ctx.client(f"k8s.namespace:{cluster.context}:{namespace}", look)
