"""Kinds as playbooks spell them: any that the API serves, also one that came after the first look."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Kind
from runbook.contract import PermanentError
from tests.context import LocalContext
from tests.kube import Caller
from tests.proxy import proxied
from tests.test_k8s_change import custom_definition
from tests.testbed.plane import Plane


@pytest.mark.parametrize(
    "word",
    [
        "deployment", "Deployment", "DEPLOYMENTS", "deploy", "deployments.apps", "deploy.apps", "deployments.v1.apps",
        "Deployment.apps/v1", "deployments.apps/v1", "apps/v1/Deployment",
    ],
)  # fmt: skip
def test_every_spelling_of_a_kind(word: str) -> None:
    assert kinds.known(word) == kinds.DEPLOYMENT


@pytest.mark.parametrize("word", ["pod", "po", "Pods", "pods.v1", "v1/Pod"])
def test_every_spelling_of_a_kind_of_the_core_group(word: str) -> None:
    assert kinds.known(word) == kinds.POD


@pytest.mark.parametrize("word", ["deployment.extensions", "Deployment.apps/v2", "v2/Pod", "apps/Deployment", "", "."])
def test_another_group_or_version_is_another_kind(word: str) -> None:
    assert kinds.known(word) is None


@pytest.mark.control_plane
def test_what_the_server_serves_is_known_by_every_name(control_plane: Plane, tmp_path: Path) -> None:
    caller = Caller(control_plane, tmp_path)
    listed = [
        line.split() for line in control_plane.kubectl("api-resources", "--no-headers", "--verbs=get").splitlines()
    ]
    assert len(listed) > 40
    often = collections.Counter(columns[0] for columns in listed)  # custom kinds of other tests may share a name
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        for columns in listed:
            plural, version, namespaced, kind = columns[0], *columns[-3:]
            short = columns[1].split(",") if len(columns) == 5 else []
            group, _, bare = version.rpartition("/")
            names = [f"{kind}.{version}", f"{plural}.{bare}.{group}" if group else f"{plural}.v1", f"{version}/{kind}"]
            if group.endswith(".example") and often[plural] > 1:
                continue
            if group != "events.k8s.io":  # events of the core group are what `event` means
                names += [plural, kind.upper(), *short]
            for name in names:
                found = cluster.kind(ctx, name)
                assert (found.plural, found.group, str(found.namespaced).lower()) == (plural, group, namespaced), name


@pytest.mark.control_plane
def test_a_kind_that_came_after_the_first_look_is_found(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    groups = [f"{space}.example", f"other.{space}.example"]
    with proxied(control_plane) as proxy:
        caller = Caller(control_plane, tmp_path)
        caller.environ["KUBECONFIG"] = proxy.kubeconfig(tmp_path)
        with caller.context() as ctx:
            cluster = connect(ctx, "current")
            cluster.kind(ctx, "networkpolicy")
            cluster.kind(ctx, "netpol")
            assert proxy.count("GET", "^/apis$") == 1, "asked once"
            with pytest.raises(PermanentError, match=f"serves no kind 'routes.{groups[0]}'"):
                cluster.kind(ctx, f"routes.{groups[0]}")
            for group in groups:
                control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(custom_definition(group)))
            for group in groups:
                control_plane.until(lambda group=group: served(cluster, ctx, f"routes.{group}"))  # type: ignore[misc]
            assert cluster.kind(ctx, f"Route.{groups[1]}/v1") == Kind(groups[1], "v1", "routes", "Route", short=("rt",))
            with pytest.raises(PermanentError) as caught:
                cluster.kind(ctx, "route")
            for group in groups:
                assert f"routes.{group}" in caught.value.message
            assert caught.value.message.startswith("kind: 'route' may be any of routes.")


def served(cluster: Cluster, ctx: LocalContext, word: str) -> bool:
    try:
        cluster.kind(ctx, word)
    except PermanentError:
        return False
    return True
