"""Bad manifests: one sentence that names the parameter and the place, and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.actions._manifest import documents as manifests
from runbook.actions._manifest.yaml import UnreadableError, documents
from runbook.contract import ForUndo, PermanentError
from runbook.interpreter.unknown import Unknown
from tests.kube import Caller, opened
from tests.manifests import SET, Keeper, objects
from tests.testbed.plane import Plane

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n"


# -- of form: nobody is asked


TEXTS = {
    "no YAML": (CONFIG + "data: [", r"manifest, line 5, column 1: did not find expected"),
    "a tab": (CONFIG + "data:\n\ta: b\n", r"manifest, line 5, column 1: found character that cannot start any token"),
    "a key twice": (
        CONFIG + "data: {a: x}\ndata: {}\n",
        r"manifest, line 5, column 1: the key 'data' stands there twice",
    ),
    "a tag": (
        CONFIG + "data: !!python/object:os.system {}\n",
        r"line 4, column 7: the tag !!python/object:os\.system means",
    ),
    "an alias in itself": (CONFIG + "data: &x [*x]\n", r"line 4, column 7: an alias that holds itself"),
    "an alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
        ),
        r"more than 200000 values",
    ),
    "a list": ("- a\n", r"manifest, line 1: an object is a map with apiVersion, kind and metadata"),
    "no kind": ("apiVersion: v1\nmetadata: {name: x}\n", r"manifest, line 1: kind is missing"),
    "no name": ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\n", r"Pod has no metadata\.name"),
    "the same twice": (f"{CONFIG}---\n{CONFIG}", r"line 5: ConfigMap app stands there twice, also in manifest, line 1"),
    "nothing": ("---\n# only words\n", r"manifest: holds no object"),
    "in a list": (
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n",
        r"manifest, line 1, item 1: Pod has no metadata\.name",
    ),
    "no base64": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: pa55word!}\n",
        r"manifest, line 1: data\.p of Secret s is not base64",
    ),
}


def read(text: str) -> None:
    for item in manifests.read(None, text):
        manifests.well_kept(item)


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_is_no_set_of_manifests_says_where(case: str) -> None:
    text, says = TEXTS[case]
    with pytest.raises(PermanentError, match=says) as refused:
        read(text)
    assert "\n" not in refused.value.message
    assert "pa55word" not in refused.value.message


@pytest.mark.parametrize(
    "given",
    [
        Unknown("build"),
        {"apiVersion": "v1", "kind": Unknown("build"), "metadata": {"name": "x"}},
        [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": Unknown("build")}}],
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": Unknown("build")}},
    ],
)
def test_what_is_known_only_at_the_run_is_no_mistake(given: Any) -> None:
    with pytest.raises(Unknown.Reached):
        manifests.read(None, given)
    part = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": Unknown("build")}}
    assert manifests.read(None, part)[0].name == "x"


def test_files_are_named_with_their_lines(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "b.yaml").write_text(CONFIG.replace("app", "other"))
    (folder / "a.yml").write_text(SET)
    (folder / "c.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap",\t"metadata": {"name": "json"}}')
    (folder / "notes.txt").write_text("{[")
    found = manifests.read(folder, None)
    assert [(item.kind, item.name) for item in found] == [
        ("Secret", "login"),
        ("ConfigMap", "app"),
        ("ConfigMap", "other"),
        ("ConfigMap", "json"),
        ("Service", "web"),
        ("Deployment", "web"),
    ]
    assert [item.origin.partition("deploy/")[2] for item in found[:3]] == [
        "a.yml, line 23",
        "a.yml, line 18",
        "b.yaml, line 1",
    ]


def test_what_a_folder_holds_twice_is_named_by_both_files(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(CONFIG)
    with pytest.raises(PermanentError, match=r"b\.yaml, line 1: ConfigMap app stands there twice, also in .*a\.yaml"):
        manifests.read(tmp_path, None)
    (tmp_path / "b.yaml").write_bytes(b"# \xff\n")
    with pytest.raises(PermanentError, match=r"path: .*b\.yaml, line 1: no UTF-8 text"):
        manifests.read(tmp_path, None)
    with pytest.raises(PermanentError, match=r"path: there is no file .*c\.yaml"):
        manifests.read(tmp_path / "c.yaml", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PermanentError, match=r"path: .*empty holds no object"):
        manifests.read(tmp_path / "empty", None)


def test_yaml_is_read_as_kubectl_reads_it() -> None:
    text = (
        "a: 0644\nb: 0o17\nc: 22:22\nd: 2020-01-01\ne: 1e3\nf: yes\ng: 'no'\nh: 1_000\ni: ~\nj: 0x1F\nk: -0.5\n80: l\n"
    )
    (_, found), *rest = documents(text)
    assert rest == []
    assert found == {
        "a": 420,
        "b": 15,
        "c": "22:22",
        "d": "2020-01-01",
        "e": 1000.0,
        "f": True,
        "g": "no",
        "h": 1000,
        "i": None,
        "j": 31,
        "k": -0.5,
        "80": "l",
    }
    merged = "base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\n"
    assert next(documents(merged))[1]["mine"] == {"x": 1, "y": 3}
    with pytest.raises(UnreadableError, match="no number that the API could take"):
        list(documents("a: .nan\n"))


@pytest.mark.parametrize("name", ["k8s.apply", "k8s.diff"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "path, manifest: give one of them"),
        ({"path": "x", "manifest": "y"}, "path, manifest: give one of them"),
        ({"manifest": CONFIG, "prune": " "}, "prune: empty, it would mean every object"),
        ({"manifest": 7}, "manifest: expected text or a map or a list"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(PermanentError, match=says):
        opened(name, {"namespace": "x", **given})


# -- of meaning: the server says


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Keeper:
    return Keeper(control_plane, tmp_path)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a kind that is not": (
        {"apiVersion": "apps/v1", "kind": "Deploiment"},
        r"^manifest, object 2: the API of context testbed serves no kind Deploiment in apps/v1$",
    ),
    "a group that is not": (
        {"apiVersion": "nope.example.com/v1", "kind": "Table"},
        r"^manifest, object 2: the API of context testbed serves no kind Table in nope\.example\.com/v1$",
    ),
    "a field that is not": (
        {"apiVersion": "v1", "kind": "Service", "spec": {"selectr": {"a": "b"}, "ports": [{"port": 1, "x": 2}]}},
        r"^manifest, object 2: Service/it does not fit its schema: .*\.spec\.selectr: field not declared in schema",
    ),
    "a wrong type, in a secret's place": (
        {"apiVersion": "v1", "kind": "Secret", "type": 7777777},
        r"^manifest, object 2: Secret/it does not fit its schema: \.type: expected string$",
    ),
    "a wrong value": (
        {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 99999}]}},
        r"^manifest, object 2: .*spec\.ports\[0\]\.port: Invalid value: 99999",
    ),
    "a namespace that is not": (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it", "namespace": "nowhere"}},
        r"^manifest, object 2: metadata\.namespace: there is no namespace 'nowhere' for ConfigMap/it$",
    ),
}


@pytest.mark.control_plane
@pytest.mark.parametrize("case", WRONG)
def test_what_the_server_refuses_is_one_sentence_and_changes_nothing(
    case: str, control_plane: Plane, caller: Keeper
) -> None:
    space = control_plane.namespace()
    wrong, says = WRONG[case]
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "good"}}
    given = {"namespace": space, "manifest": [good, {"metadata": {"name": "it"}, **wrong}]}
    for name in ("k8s.apply", "k8s.diff"):
        with pytest.raises(PermanentError, match=says) as refused:
            caller.change(name, given) if name == "k8s.apply" else caller.read(name, given)
        assert "\n" not in refused.value.message
        assert "7777777" not in refused.value.message
    assert objects(control_plane, space) == {}


@pytest.mark.control_plane
def test_an_immutable_field_a_missing_namespace_and_one_that_goes_away(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    whole = objects(control_plane, space, owners=True)
    other = SET.replace("{app: web}", "{app: wob}")
    with pytest.raises(PermanentError, match=r"^manifest, line 2: .*spec\.selector: Invalid value.*field is immutable"):
        caller.change("k8s.apply", {"namespace": space, "manifest": other.replace("level: info", "level: debug")})
    assert objects(control_plane, space, owners=True) == whole

    with pytest.raises(PermanentError, match=r"^manifest, line 1: namespace: there is no namespace 'nope'"):
        caller.change("k8s.apply", {"namespace": "nope", "manifest": CONFIG})
    with caller.context() as ctx:
        action, args = opened("k8s.apply", {"namespace": "nope", "manifest": CONFIG})
        assert action.preflight(args, ctx) == ["there is no namespace 'nope' (context 'testbed')"]

    control_plane.kubectl("-n", space, "patch", "configmap", "app", "-p", '{"metadata": {"finalizers": ["a.b/hold"]}}')
    control_plane.kubectl("delete", "namespace", space, "--wait=false")
    with pytest.raises(PermanentError, match=r"manifest, line 1: .*the namespace is being terminated"):
        caller.change("k8s.apply", {"namespace": space, "manifest": CONFIG.replace("app", "new")})
    control_plane.kubectl("-n", space, "patch", "configmap", "app", "-p", '{"metadata": {"finalizers": null}}')


# -- rights


@pytest.mark.control_plane
def test_preflight_asks_for_exactly_the_verbs_that_are_needed(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    Keeper(control_plane, tmp_path).change("k8s.apply", {"namespace": space, "manifest": CONFIG})
    control_plane.allow(space, "get=configmaps,deployments.apps,secrets,services")
    nobody = Caller(control_plane, tmp_path, user="nobody")
    with nobody.context() as ctx:
        action, args = opened("k8s.apply", {"namespace": space, "manifest": SET})
        lacking = list(action.preflight(args, ctx))
    back = [sentence for sentence in lacking if isinstance(sentence, ForUndo)]
    lacking = [sentence for sentence in lacking if sentence not in back]
    where = f"in namespace '{space}' (context 'testbed')"
    assert sorted(lacking) == sorted(
        [f"no right to patch {kind} '{name}' {where}" for kind, name in (("secrets", "login"), ("configmaps", "app"))]
        + [f"no right to patch {kind} 'web' {where}" for kind in ("services", "deployments")]
        + [f"no right to create {kind} {where}" for kind in ("secrets", "services", "deployments")]
    )
    assert sorted(back) == sorted(
        f"no right to delete {kind} '{name}' {where}"
        for kind, name in (("secrets", "login"), ("services", "web"), ("deployments", "web"))
    ), "what its undo would delete again"
    assert objects(control_plane, space).keys() & {"Secret/login", "Service/web", "Deployment/web"} == set()


@pytest.mark.control_plane
def test_what_may_not_be_deleted_is_said_before_anything_is_changed(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    keeper = Keeper(control_plane, tmp_path)
    keeper.change("k8s.apply", {"namespace": space, "manifest": SET})
    rest = "---".join(SET.split("---")[:3]).replace("info", "debug")
    control_plane.allow(space, "get,list,patch,create=configmaps,deployments.apps,secrets,services")
    nobody = Keeper(control_plane, tmp_path, user="nobody")
    given = {"namespace": space, "manifest": rest, "prune": "set=shop"}
    with nobody.context() as ctx:
        action, args = opened("k8s.apply", given)
        where = f"in namespace '{space}' (context 'testbed')"
        assert sorted(action.preflight(args, ctx)) == [
            f"no right to delete {kind} {where}" for kind in ("configmaps", "deployments", "secrets")
        ]
    whole = objects(control_plane, space, owners=True)
    with pytest.raises(PermanentError, match=r"^prune: no right to delete services 'web' in namespace"):
        nobody.change("k8s.apply", given)
    assert objects(control_plane, space, owners=True) == whole


@pytest.mark.control_plane
def test_a_reader_sees_what_would_come_computed_and_marked_so(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    keeper = Keeper(control_plane, tmp_path)
    keeper.change("k8s.apply", {"namespace": space, "manifest": SET})
    control_plane.allow(space, "get=configmaps,deployments.apps,secrets,services")
    changed = SET.replace("web:1", "web:2").replace(', old: "yes"', "")
    sure = keeper.plan("k8s.apply", {"namespace": space, "manifest": changed})
    nobody = Keeper(control_plane, tmp_path, user="nobody")
    planned = nobody.plan("k8s.apply", {"namespace": space, "manifest": changed})
    assert "computed here, not by the server's dry run: no right to apply" in str(planned.computed)
    for name in ("ConfigMap/app#data.old", "Deployment/web#spec.template.spec.containers[name=web].image"):
        whole = f"k8s:testbed/{space}/{name}"
        assert planned.before[whole] == sure.before[whole]
        assert planned.after[whole] == sure.after[whole]
    found = nobody.read("k8s.diff", {"namespace": space, "manifest": changed})
    assert "ConfigMap/app" in [entry["object"] for entry in found["changed"]]
