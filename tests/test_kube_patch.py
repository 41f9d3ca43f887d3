"""Laws of the patch algebra, on random objects and patches: no cluster needed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runbook.actions._kube.patch import applied, difference, inverse, is_there
from runbook.actions._kube.paths import UnpatchableError, merge_key, misfit, observed, text, touches

NAMES = st.sampled_from(["a", "b", "c/d", "e.f", "0"])
SCALARS = st.one_of(st.integers(-3, 3), st.sampled_from(["x", "y", ""]), st.booleans())


def maps(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=8
    ).filter(lambda tree: isinstance(tree, dict))


def containers(item: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(item, max_size=3, unique_by=lambda entry: str(entry["name"]))


def container(optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    env = st.lists(
        st.fixed_dictionaries({"name": st.sampled_from(["A", "B"]), "value": st.sampled_from(["1", "2"])}),
        min_size=1, max_size=2, unique_by=lambda entry: entry["name"],
    )  # fmt: skip
    return st.fixed_dictionaries(
        {"name": st.sampled_from(["web", "side", "third"])},
        optional={"image": optional, "env": env, "args": st.lists(st.sampled_from(["p", "q"]), min_size=1, max_size=2)},
    )


IMAGES = st.sampled_from(["i:1", "i:2"])
PODS = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({"labels": st.dictionaries(NAMES, st.sampled_from(["x", "y"]), min_size=1)})},
    optional={"spec": st.fixed_dictionaries({"containers": containers(container(IMAGES)).filter(bool)})},
)
POD_PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {"labels": st.dictionaries(NAMES, st.one_of(st.none(), st.sampled_from(["x", "y"])), min_size=1)}
        ),
        "spec": st.fixed_dictionaries({"containers": containers(container(st.one_of(st.none(), IMAGES))).filter(bool)}),
    },
)


def bare(tree: Any) -> Any:
    """Without empty maps and lists: a field that is not set and one that is set to nothing are the same to the API."""
    if isinstance(tree, dict):
        left = {key: bare(value) for key, value in tree.items()}
        return {key: value for key, value in left.items() if value not in ({}, [], None)}
    return [bare(item) for item in tree] if isinstance(tree, list) else tree


def keyed(tree: Any) -> Any:
    """Lists of named things by name: where an element stands in such a list means nothing."""
    if isinstance(tree, dict):
        return {key: keyed(value) for key, value in tree.items()}
    if isinstance(tree, list) and all(isinstance(item, dict) and "name" in item for item in tree):
        return {item["name"]: keyed(item) for item in tree}
    return tree


def undone(tree: Any, patch: Any, kind: str) -> tuple[Any, Any]:
    """The object after a patch, and after its inverse."""
    touched = touches(patch, kind)
    after = applied(tree, patch, kind)
    back = inverse(touched, observed(tree, touched), observed(after, touched), kind)
    return after, applied(after, back, kind)


@settings(max_examples=300)
@given(maps(SCALARS), maps(st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2))))
def test_a_merge_patch_and_its_inverse_are_nothing(tree: Any, patch: Any) -> None:
    assume(misfit(tree, touches(patch, "merge")) is None)
    _, back = undone(tree, patch, "merge")
    assert bare(back) == bare(tree)


@settings(max_examples=500)
@given(PODS, POD_PATCHES)
def test_a_strategic_patch_and_its_inverse_are_nothing(tree: Any, patch: Any) -> None:
    after, back = undone(tree, patch, "strategic")
    assert keyed(bare(back)) == keyed(bare(tree))
    assert is_there(after, patch, "strategic")


@settings(max_examples=300)
@given(PODS, POD_PATCHES, st.dictionaries(st.sampled_from(["other", "more"]), st.just("here")))
def test_an_inverse_leaves_what_others_wrote_meanwhile(tree: Any, patch: Any, theirs: dict[str, str]) -> None:
    touched = touches(patch, "strategic")
    after = applied(tree, patch, "strategic")
    back = inverse(touched, observed(tree, touched), observed(after, touched), "strategic")
    meanwhile = applied(after, {"metadata": {"annotations": theirs}}, "strategic")
    assert (applied(meanwhile, back, "strategic")["metadata"].get("annotations") or {}) == theirs


@settings(max_examples=300)
@given(st.data())
def test_a_json_patch_and_its_inverse_are_nothing(data: st.DataObject) -> None:
    tree = data.draw(maps(st.one_of(SCALARS, st.lists(SCALARS, max_size=3))))
    patch, now = [], copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        operation = data.draw(operations(now))
        patch.append(operation)
        now = applied(now, [operation], "json")
    after, back = undone(tree, patch, "json")
    assert after == now
    assert back == tree


def operations(tree: Any) -> st.SearchStrategy[dict[str, Any]]:
    places = list(pointers(tree, ""))
    change = st.builds(
        lambda place, op, value: {"op": op, "path": place} | ({} if op == "remove" else {"value": value}),
        st.sampled_from(places), st.sampled_from(["replace", "remove", "add"]), SCALARS,
    )  # fmt: skip
    new = st.builds(lambda value: {"op": "add", "path": "/new", "value": value}, SCALARS)
    return st.one_of(change, new) if places else new


def pointers(tree: Any, here: str) -> Any:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        place = f"{here}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield place
        yield from pointers(value, place)


@settings(max_examples=300)
@given(PODS, POD_PATCHES)
def test_a_patch_touches_all_that_it_changes(tree: Any, patch: Any) -> None:
    touched = touches(patch, "strategic")
    after = applied(tree, patch, "strategic")
    same = observed(tree, touched) == observed(after, touched)
    assert same == (keyed(bare(tree)) == keyed(bare(after)))


def test_paths_read_like_the_object() -> None:
    patch = {
        "metadata": {"annotations": {"a.b/c": "1"}},
        "spec": {
            "template": {"spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80, "name": "http"}]}]}}
        },
    }
    assert [text(touch.path) for touch in touches(patch, "strategic")] == [
        'metadata.annotations["a.b/c"]',
        "spec.template.spec.containers[name=web].name",
        "spec.template.spec.containers[name=web].ports[containerPort=80].containerPort",
        "spec.template.spec.containers[name=web].ports[containerPort=80].name",
    ]


@pytest.mark.parametrize(
    ("wanted", "found", "where"),
    [
        ({"spec": {"a": 1}}, {"spec": {"a": 1, "b": 2}}, None),
        ({"spec": {"a": 1}}, {"spec": {"a": 2}}, "spec.a"),
        ({"spec": {"a": None}}, {"spec": {}}, None),
        ({"spec": {"a": None}}, {"spec": {"a": 0}}, "spec.a"),
        ({"spec": {}}, {}, "spec"),
        ({"l": [1, 2]}, {"l": [2, 1]}, "l"),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1", "x": 2}]}, None),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, "env[name=A].value"),
    ],
)
def test_compare(wanted: Any, found: Any, where: str | None) -> None:
    difference_found = difference(wanted, found)
    assert (None if difference_found is None else text(difference_found[0])) == where


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/nothing", "value": 1},
        {"op": "remove", "path": "/list/7"},
        {"op": "test", "path": "/a", "value": 2},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "dance", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_fit(operation: dict[str, Any]) -> None:
    with pytest.raises(UnpatchableError):
        applied({"a": 1, "list": [1]}, [operation], "json")


def test_directives_of_strategic_patches() -> None:
    tree = {"metadata": {"finalizers": ["x", "y"]}, "spec": {"strategy": {"type": "R", "rolling": {"a": 1}}}}
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]},
        "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
    }
    after, back = undone(tree, patch, "strategic")
    assert after == {"metadata": {"finalizers": ["y", "z"]}, "spec": {"strategy": {"type": "Recreate"}}}
    assert {**back, "metadata": {"finalizers": sorted(back["metadata"]["finalizers"])}} == tree


def test_an_element_that_was_deleted_comes_back_in_its_place() -> None:
    tree = {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}
    after, back = undone(tree, {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, "strategic")
    assert after == {"spec": {"containers": [{"name": "b", "image": "2"}]}}
    assert back == tree
    assert merge_key(("spec", "containers"), []) == "name"
