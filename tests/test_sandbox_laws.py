"""Laws of the SIMULATED world's parts: patches (RFC 6902, RFC 7396), selectors, and controllers that come to rest."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.sandbox import admission, kinds, patches, rollouts, selectors
from runbook.sandbox.behaviour import Behaviours, Version
from runbook.sandbox.controllers import Controllers, is_ready
from runbook.sandbox.statuses import StatusError
from runbook.sandbox.world import Document, World

KEYS = st.sampled_from(["a", "b", "c", "name", "env"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "y"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
MAPS = st.dictionaries(KEYS, VALUES, max_size=4)


def without_nulls(value: Any) -> Any:
    """Objects of an API server hold no nulls."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_of_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    assert patches.merge(target, patch) == result


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """A merge patch from one map to another."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        was = before.get(key)
        if key not in before or was != value or type(was) is not type(value):
            patch[key] = difference(was, value) if isinstance(was, dict) and isinstance(value, dict) else value
    return patch


@given(MAPS, MAPS)
def test_a_merge_patch_leads_to_its_end(before: dict[str, Any], after: dict[str, Any]) -> None:
    before, after = without_nulls(before), without_nulls(after)
    kept = copy.deepcopy(before)
    assert patches.merge(before, difference(before, after)) == after
    assert before == kept, "nothing is changed in place"


@given(MAPS, MAPS)
def test_patching_twice_is_patching_once(before: dict[str, Any], patch: dict[str, Any]) -> None:
    before = without_nulls(before)
    for apply in (patches.merge, patches.strategic):
        try:
            once = apply(copy.deepcopy(before), patch)
        except (StatusError, AttributeError):
            continue  # an env that is no list of maps: the server refuses it too
        assert apply(copy.deepcopy(once), patch) == once


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
    ],
)
def test_json_patches_of_rfc_6902(target: Any, operations: Any, result: Any) -> None:
    assert patches.json_patch(target, operations) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/n", "value": True},
        {"op": "add", "path": "/list/2", "value": 1},
        {"op": "remove", "path": "/list/1"},
        {"op": "replace", "path": "/list/1", "value": 1},
        {"op": "add", "path": "nope", "value": 1},
        {"op": "spin", "path": "/n"},
        {"path": "/n"},
    ],
)
def test_json_patches_that_do_not_fit(operation: Any) -> None:
    with pytest.raises(StatusError) as caught:
        patches.json_patch({"n": 1, "list": ["a"]}, [operation])
    assert caught.value.code == 422


LABELS = st.dictionaries(st.sampled_from(["app", "slot", "tier"]), st.sampled_from(["a", "b", ""]), max_size=3)


@given(LABELS, LABELS)
def test_selectors_agree_with_their_meaning(labels: dict[str, str], wanted: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in wanted.items())
    assert selectors.parse(text)(labels) == all(labels.get(key) == value for key, value in wanted.items())
    assert selectors.by_label_selector({"matchLabels": wanted})(labels) == selectors.parse(text)(labels)
    for key, value in wanted.items():
        assert selectors.parse(f"{key}!={value}")(labels) is not selectors.parse(f"{key}={value}")(labels)
        assert selectors.parse(f"{key} in ({value},zzz)")(labels) == (labels.get(key) in {value, "zzz"})
        assert selectors.parse(f"!{key}")(labels) is not selectors.parse(key)(labels)
    assert selectors.parse(selectors.as_text({"matchLabels": wanted}))(labels) == selectors.parse(text)(labels)


def scaled(replicas: int) -> Callable[[Document], None]:
    return lambda document: document["spec"].update(replicas=replicas)


def running(image: str) -> Callable[[Document], None]:
    return lambda document: document["spec"]["template"]["spec"]["containers"][0].update(image=image)


def selecting(app: str) -> Callable[[Document], None]:
    return lambda document: document["spec"].update(selector={"app": app})


SICK = Behaviours({"sick": Version(health="never_ready")})
CHANGES = st.lists(
    st.tuples(st.just("scale"), st.integers(0, 5))
    | st.tuples(st.just("image"), st.sampled_from(["web:1", "web:2", "web:3", "web:sick"]))
    | st.tuples(st.just("kill"), st.integers(0, 4))
    | st.tuples(st.just("slot"), st.sampled_from(["x", "web"])),
    max_size=8,
)


@given(CHANGES, st.sampled_from(["RollingUpdate", "Recreate"]))
@settings(max_examples=60)
def test_the_world_comes_to_rest_where_it_was_told_to(changes: list[tuple[str, Any]], strategy: str) -> None:
    world = World()
    controllers = Controllers(world, SICK)
    world.create(kinds.NAMESPACE, {"metadata": {"name": "n"}})
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template, "strategy": {"type": strategy}}
    made = {"metadata": {"name": "web", "namespace": "n"}, "spec": spec}
    world.create(kinds.DEPLOYMENT, admission.defaulted(kinds.DEPLOYMENT, made))
    service = {"metadata": {"name": "live", "namespace": "n"}, "spec": {"selector": labels, "ports": [{"port": 80}]}}
    world.create(kinds.SERVICE, admission.defaulted(kinds.SERVICE, service))
    controllers.settle()
    for kind, value in changes:
        if kind == "scale":
            world.amend(kinds.DEPLOYMENT, "n", "web", scaled(value))
        elif kind == "image":
            world.amend(kinds.DEPLOYMENT, "n", "web", running(value))
        elif kind == "slot":
            world.amend(kinds.SERVICE, "n", "live", selecting(value))
        else:
            for pod in world.list(kinds.POD, "n")[value : value + 1]:
                world.delete(kinds.POD, "n", pod["metadata"]["name"])
        controllers.settle()
    item = world.get(kinds.DEPLOYMENT, "n", "web")
    wanted, image = item["spec"]["replicas"], item["spec"]["template"]["spec"]["containers"][0]["image"]
    pods = world.list(kinds.POD, "n")
    ready = [pod for pod in pods if is_ready(pod)]
    status = item["status"]
    assert status["observedGeneration"] == item["metadata"]["generation"]
    assert status.get("readyReplicas", 0) == len(ready)
    assert status.get("replicas", 0) == len(pods)
    if not image.endswith("sick"):
        assert {pod["spec"]["containers"][0]["image"] for pod in pods} <= {image}
        assert len(ready) == len(pods) == wanted
    elif strategy == "RollingUpdate":
        assert len(pods) <= wanted + max(1, -(-wanted // 4)), "maxSurge"
    (current,) = [
        one
        for one in world.list(kinds.REPLICA_SET, "n")
        if one["spec"]["template"]["spec"] == item["spec"]["template"]["spec"]
    ]
    assert rollouts.revision_of(current) == rollouts.revision_of(item)
    assert rollouts.revision_of(current) == max(map(rollouts.revision_of, world.list(kinds.REPLICA_SET, "n")))
    (live,) = world.list(kinds.ENDPOINT_SLICE, "n")
    selected = world.get(kinds.SERVICE, "n", "live")["spec"]["selector"] == labels
    found = {one["targetRef"]["name"] for one in live["endpoints"] if one["conditions"]["ready"]}
    assert found == ({pod["metadata"]["name"] for pod in ready} if selected else set())
