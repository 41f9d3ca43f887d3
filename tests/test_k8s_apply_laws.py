"""Laws of k8s.apply: its undo is the identity, for any history of any owners; on a real control plane, and pure."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runbook.actions._kube import fields, kinds
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.errors import ConflictError
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._manifest import back, places
from runbook.contract import PermanentError
from tests.kube import meaning
from tests.manifests import Keeper
from tests.testbed.plane import Plane

KEYS = ("a", "b", "c.d")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
DATA = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["1", "2"]))
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "y", "z"]), "image": st.sampled_from(["r/i:1", "r/i:2"])},
        optional={
            "args": st.lists(st.sampled_from(["-a", "-b"]), max_size=2),
            "env": st.just([{"name": "E", "value": "1"}]),
            "ports": st.lists(
                st.sampled_from([{"containerPort": 80}, {"containerPort": 81}]),
                max_size=2,
                unique_by=lambda port: port["containerPort"],
            ),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda container: str(container["name"]),
)
WHO = st.sampled_from(["runbook", "pipeline", "kubectl"])


def manifest(name: str, data: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(name: str, containers: list[dict[str, Any]]) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Keeper:
    return Keeper(control_plane, tmp_path)


@pytest.mark.control_plane
def test_an_undo_is_the_identity_whoever_wrote_what_before(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    numbers = itertools.count()

    @settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(WHO, DATA, DATA), max_size=4), DATA, DATA)
    def law(
        history: list[tuple[str, dict[str, str], dict[str, str]]], data: dict[str, str], labels: dict[str, str]
    ) -> None:
        name = f"it-{next(numbers)}"
        with caller.context() as ctx:
            cluster = connect(ctx, "current")
            for who, had, marks in history:
                write(cluster, ctx, Ref(CONFIG_MAP, space, name), who, manifest(name, had, marks))
        check(caller, Ref(CONFIG_MAP, space, name), manifest(name, data, labels))

    law()


@pytest.mark.control_plane
def test_an_undo_is_the_identity_for_lists_of_containers(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    numbers = itertools.count()

    @settings(max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(WHO, CONTAINERS), min_size=1, max_size=3), CONTAINERS)
    def law(history: list[tuple[str, list[dict[str, Any]]]], containers: list[dict[str, Any]]) -> None:
        name = f"it-{next(numbers)}"
        with caller.context() as ctx:
            cluster = connect(ctx, "current")
            for who, had in history:
                write(cluster, ctx, Ref(kinds.DEPLOYMENT, space, name), who, deployment(name, had))
        check(caller, Ref(kinds.DEPLOYMENT, space, name), deployment(name, containers))

    law()


def write(cluster: Any, ctx: Any, ref: Ref, who: str, body: dict[str, Any]) -> None:
    """As runbook and a pipeline apply, by force; as kubectl edits."""
    if who == "runbook":
        try:
            cluster.apply(ctx, ref, body, force=True)
        except PermanentError:
            assume(False)
        return
    path, content = ref.path(), json.dumps(body).encode()
    if who == "pipeline":
        headers = {"Content-Type": "application/apply-patch+yaml"}
        query = "fieldManager=pipeline&force=true"
        answer = cluster.transport.request(ctx, "PATCH", f"{path}?{query}", headers=headers, body=content)
        assume(answer.status != 422)  # a container that would be left without an image
        assert answer.status < 300
        return
    try:
        cluster.create(ctx, Ref(ref.kind, ref.namespace), body)
    except ConflictError:
        cluster.patch(ctx, ref, body, "merge")


def check(caller: Keeper, ref: Ref, wanted: dict[str, Any]) -> None:
    whole = seen(caller, ref)
    step = {"namespace": ref.namespace, "manifest": wanted, "force": True}
    refused = ""
    try:
        made = caller.change("k8s.apply", step)
    except PermanentError as error:
        refused = error.message
    if refused:
        assert "Required value" in refused
        assert seen(caller, ref) == whole
        return
    again = caller.plan("k8s.apply", step)
    assert again.before == again.after
    if made.inverse is None:
        assert made.before == made.after
    else:
        assert made.before != made.after
        caller.change(made.inverse.action, dict(made.inverse.args))
    assert seen(caller, ref) == whole


def seen(caller: Keeper, ref: Ref) -> Any:
    """The meaning of an object, and who owns what of it; None where there is none."""
    with caller.context() as ctx:
        found = connect(ctx, "current").find(ctx, ref)
    owners = {owner: paths for owner, paths in fields.owners(found).items() if owner[0] != "kube-controller-manager"}
    return None if found is None else (meaning(found), owners)


# -- pure

PATHS = st.frozensets(
    st.lists(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"1"']), min_size=1, max_size=4).map(tuple), max_size=6
)
OWNERS = st.dictionaries(st.sampled_from(["runbook", "pipeline", "kubectl"]), PATHS, max_size=3)


def owned(sets: dict[str, frozenset[fields.FieldPath]]) -> dict[str, Any]:
    entries = [
        {"manager": who, "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields._tree(paths)}
        for who, paths in sets.items()
        if paths
    ]
    return {"metadata": {"managedFields": entries}}


@given(OWNERS, OWNERS)
def test_owners_go_there_and_back(before: Any, after: Any) -> None:
    was, now = owned(before), owned(after)
    assert fields.owners(was) == {(who, "Apply", "v1", ""): paths for who, paths in before.items() if paths}
    assert fields.same_owners(was, fields.restored(now, was, now))
    assert fields.same_owners(now, fields.restored(was, now, was))
    assert fields.same_owners(now, fields.restored(now, now, now))


TREES = st.recursive(
    st.sampled_from(["1", "2", 3, True]) | st.lists(st.sampled_from(["1", "2"]), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["p", "q/r", "s~t"]), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "data"]), TREES, max_size=2)


@given(OBJECTS, OBJECTS)
def test_three_ways_without_others_is_the_way_back(there: Any, here: Any) -> None:
    ref = Ref(CONFIG_MAP, "shop", "it")
    assert back._merged(there, here, here, (), ref) == there
    assert back._merged(there, here, there, (), ref) == there
    assert back._merged(here, here, there, (), ref) == there


@given(OBJECTS, OBJECTS)
def test_a_patch_of_operations_gives_what_is_wanted(has: Any, wanted: Any) -> None:
    from runbook.actions._kube.patch import applied

    operations = list(back._operations("", has, wanted))
    assert applied(has, operations, "json") == wanted


@given(st.lists(st.sampled_from(["a", "b-c", "d.e/f", 'g"h', "i[0]"]), min_size=1, max_size=3))
def test_a_place_is_found_by_its_text(keys: list[str]) -> None:
    from runbook.actions._kube.paths import text

    tree: Any = "found"
    for key in reversed(keys):
        tree = {key: tree}
    assert places.at(tree, text(tuple(keys))) == "found"
