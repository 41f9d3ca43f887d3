"""One suite, two worlds: what the simulated API answers is what a real Kubernetes API server answers.

The real one is the control plane of tests/testbed (kube-apiserver, controllers, scheduler, kwok nodes), the simulated
one the sandbox. Every test runs against both; where a world cannot be had, its half is skipped and says so.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
import yaml

from runbook.sandbox import scenario, surroundings
from tests.testbed.gateway import install

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")  # the plane signs its own
Document = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
APPS = "/apis/apps/v1/namespaces"
CORE = "/api/v1/namespaces"
SICK = """
scenario: 1
world:
  ready_after: 300ms
  versions: {"sick:1": {health: never_ready}}
  namespaces: {elsewhere: {routes: {any: {backends: {a: 1}}}}}
"""


class Api:
    """A bare client of one API server: nothing between the test and the wire."""

    def __init__(self, kubeconfig: Path, nobody: Path) -> None:
        self.kubeconfig = kubeconfig
        loaded = yaml.safe_load(kubeconfig.read_text())
        self.server = loaded["clusters"][0]["cluster"]["server"]
        self.token = loaded["users"][0]["user"]["token"]
        self.nobody = yaml.safe_load(nobody.read_text())["users"][0]["user"]["token"]
        self._pool = urllib3.PoolManager(cert_reqs="CERT_NONE")
        self.namespace = ""

    def raw(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """One request; `headers` with underscores for dashes."""
        given = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            given["Content-Type"] = content_type
            body = body if isinstance(body, str | bytes) else json.dumps(body)
        return self._pool.request(method, self.server + path, body=body, headers=given, retries=False, timeout=20)

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """Status and document. A failure must be a well-formed Status."""
        response = self.raw(method, path, body, content_type)
        document = json.loads(response.data)
        if response.status >= 400:
            assert document["kind"] == "Status"
            assert document["apiVersion"] == "v1"
            assert document["status"] == "Failure"
            assert document["code"] == response.status
        return response.status, document

    def ok(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Document:
        """The document of a call that must succeed."""
        status, document = self.call(method, path, body, content_type)
        assert status < 300, document
        assert isinstance(document, dict)
        return document

    def at(self, plural: str, name: str = "", group: str = "") -> str:
        """A path in this test's namespace."""
        apps = plural.partition("/")[0] in {"deployments", "replicasets"}
        base = APPS if apps else f"/apis/{group}/namespaces" if group else CORE
        return "/".join(filter(None, [base, self.namespace, plural, name]))

    def patch(self, plural: str, name: str, body: Any, content_type: str = MERGE, query: str = "") -> Document:
        return self.ok("PATCH", self.at(plural, name) + query, body, content_type)


@pytest.fixture(scope="module")
def simulated() -> Iterator[Api]:
    with surroundings.start(scenario.parse(SICK)) as sandbox:
        yield Api(sandbox.kubeconfig, sandbox.kubeconfig_nobody)


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Api:
    plane = request.getfixturevalue("control_plane")
    kubeconfig = Path(getattr(plane, "kubeconfig", plane))
    return Api(kubeconfig, kubeconfig.with_name("kubeconfig-nobody"))


_NUMBERS = itertools.count(1)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.control_plane)])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """An API with a fresh namespace."""
    found: Api = request.getfixturevalue(request.param)
    found.namespace = f"conformance-{int(time.time() * 1000) % 10**9}-{next(_NUMBERS)}"
    found.ok("POST", "/api/v1/namespaces", {"metadata": {"name": found.namespace}})
    yield found
    found.call("DELETE", f"/api/v1/namespaces/{found.namespace}")


def deployment(name: str = "web", image: str = "web:1", replicas: int = 2, **spec: Any) -> Document:
    container = {
        "name": name,
        "image": image,
        "ports": [{"containerPort": 8000}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
            **spec,
        },
    }


def eventually(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until it holds; gives what it gave."""
    end = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def rolled_out(api: Api, name: str = "web") -> Document | None:
    """The Deployment once its roll-out is done, as clients decide it."""
    item = api.ok("GET", api.at("deployments", name))
    status, wanted = item["status"], item["spec"]["replicas"]
    counts = [status.get(key, 0) for key in ("updatedReplicas", "replicas", "availableReplicas", "readyReplicas")]
    done = status.get("observedGeneration") == item["metadata"]["generation"] and counts == [wanted] * 4
    return item if done else None


def condition(item: Document, name: str) -> Document:
    return next(one for one in item["status"]["conditions"] if one["type"] == name)


def containers(item: Document) -> list[Document]:
    found: list[Document] = item["spec"]["template"]["spec"]["containers"]
    return found


# Discovery


def test_discovery(api: Api) -> None:
    assert api.ok("GET", "/api")["versions"] == ["v1"]
    groups = {group["name"] for group in api.ok("GET", "/apis")["groups"]}
    assert {"apps", "coordination.k8s.io", "discovery.k8s.io", "authorization.k8s.io"} <= groups
    resources = {one["name"]: one for one in api.ok("GET", "/apis/apps/v1")["resources"]}
    assert resources["deployments"]["namespaced"] is True
    assert {"get", "list", "watch", "create", "update", "patch", "delete"} <= set(resources["deployments"]["verbs"])
    assert resources["deployments/scale"]["kind"] == "Scale"
    assert api.ok("GET", "/version")["gitVersion"].startswith("v1.36.3")
    assert api.raw("GET", "/readyz").data == b"ok"


# Creating, and what the server fills in


def test_defaults_of_a_deployment(api: Api) -> None:
    made = api.ok("POST", api.at("deployments"), deployment())
    assert made["metadata"]["generation"] == 1
    assert made["spec"] == {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "image": "web:1",
                        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                        "imagePullPolicy": "IfNotPresent",
                    }
                ],
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "securityContext": {},
                "schedulerName": "default-scheduler",
            },
        },
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }


def test_defaults_of_a_service_and_a_secret(api: Api) -> None:
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]}
    made = api.ok("POST", api.at("services"), {"metadata": {"name": "web"}, "spec": spec})
    address = made["spec"].pop("clusterIP")
    assert made["spec"].pop("clusterIPs") == [address]
    assert made["spec"] == {
        "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8000}],
        "selector": {"app": "web"},
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
    }
    secret = api.ok("POST", api.at("secrets"), {"metadata": {"name": "s"}, "stringData": {"password": "hush"}})
    assert secret["type"] == "Opaque"
    assert base64.b64decode(secret["data"]["password"]) == b"hush"
    assert "stringData" not in secret


def test_generate_name(api: Api) -> None:
    made = api.ok("POST", api.at("configmaps"), {"metadata": {"generateName": "snapshot-"}, "data": {"a": "1"}})
    assert made["metadata"]["name"].startswith("snapshot-")
    assert len(made["metadata"]["name"]) == len("snapshot-") + 5


# Refusals: code, reason and words


def test_not_found_exists_and_conflict(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    status, body = api.call("POST", api.at("deployments"), deployment())
    assert (status, body["reason"], body["message"]) == (409, "AlreadyExists", 'deployments.apps "web" already exists')
    assert body["details"] == {"name": "web", "group": "apps", "kind": "deployments"}
    status, body = api.call("GET", api.at("deployments", "nope"))
    assert (status, body["reason"], body["message"]) == (404, "NotFound", 'deployments.apps "nope" not found')
    status, body = api.call("PATCH", api.at("services", "nope"), {"spec": {}}, MERGE)
    assert (status, body["message"]) == (404, 'services "nope" not found')
    status, body = api.call("DELETE", api.at("configmaps", "nope"))
    assert (status, body["details"]) == (404, {"name": "nope", "kind": "configmaps"})
    status, body = api.call("POST", APPS + "/absent/deployments", deployment())
    assert (status, body["message"]) == (404, 'namespaces "absent" not found')
    change = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}}
    for content_type in (MERGE, STRATEGIC):
        status, body = api.call("PATCH", api.at("deployments", "web"), change, content_type)
        assert (status, body["reason"]) == (409, "Conflict")
        assert body["message"] == (
            'Operation cannot be fulfilled on deployments.apps "web": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )


def test_who_may_not(api: Api) -> None:
    path = api.at("deployments", "web")
    status, body = api.call("GET", path)
    assert status == 404
    api.token, token = "wrong", api.token
    try:
        status, body = api.call("GET", path)
        assert (status, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")
        api.token = api.nobody
        status, body = api.call("GET", path)
        assert (status, body["reason"]) == (403, "Forbidden")
        assert body["message"] == (
            'deployments.apps "web" is forbidden: User "nobody" cannot get resource "deployments" '
            f'in API group "apps" in the namespace "{api.namespace}"'
        )
        status, body = api.call("PATCH", path + "/scale", {"spec": {"replicas": 1}}, MERGE)
        assert (status, body["message"].partition(" in API")[0]) == (
            403,
            'deployments.apps "web" is forbidden: User "nobody" cannot patch resource "deployments/scale"',
        )
        status, body = api.call("GET", api.at("secrets"))
        assert body["message"] == (
            'secrets is forbidden: User "nobody" cannot list resource "secrets" '
            f'in API group "" in the namespace "{api.namespace}"'
        )
        status, body = api.call("GET", "/api/v1/namespaces")
        assert body["message"] == (
            'namespaces is forbidden: User "nobody" cannot list resource "namespaces" '
            'in API group "" at the cluster scope'
        )
    finally:
        api.token = token


def test_access_reviews(api: Api) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    wanted = {"verb": "patch", "resource": "deployments", "subresource": "scale", "group": "apps", "namespace": "x"}
    review = {"spec": {"resourceAttributes": wanted}}
    made = api.ok("POST", path, review)
    assert made["status"]["allowed"] is True
    assert made["spec"]["resourceAttributes"]["verb"] == "patch"
    api.token, token = api.nobody, api.token
    try:
        assert api.ok("POST", path, review)["status"]["allowed"] is False
    finally:
        api.token = token


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_patch_of_an_unsupported_type(api: Api, content_type: str) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    status, body = api.call("PATCH", api.at("deployments", "web"), {"spec": {"replicas": 3}}, content_type)
    assert (status, body["reason"], body["message"]) == (
        415,
        "UnsupportedMediaType",
        "415: Unsupported Media Type",
    )


def test_bad_requests(api: Api) -> None:
    path = api.at("deployments")
    for body in ('{"kind":', {"kind": "Service", "apiVersion": "v1"}):
        status, answer = api.call("POST", path, body)
        assert (status, answer["reason"]) == (400, "BadRequest")
    elsewhere = deployment()
    elsewhere["metadata"]["namespace"] = "elsewhere"
    status, answer = api.call("POST", path, elsewhere)
    assert (status, answer["message"]) == (
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    api.ok("POST", path, deployment())
    web = api.at("deployments", "web")
    status, answer = api.call("PATCH", web, "{bad", MERGE)
    assert (status, answer["reason"]) == (400, "BadRequest")
    status, answer = api.call("PATCH", web, {"spec": {}}, JSON)
    assert (status, answer["reason"]) == (400, "BadRequest")
    status, answer = api.call("PATCH", web, {"metadata": {"name": "other"}}, MERGE)
    assert (status, answer["reason"]) == (400, "BadRequest")
    status, answer = api.call("POST", web, {})
    assert (status, answer["reason"]) == (405, "MethodNotAllowed")
    status, answer = api.call("GET", "/api/v1/foos")
    assert (status, answer["message"]) == (404, "the server could not find the requested resource")
    assert api.raw("GET", "/apis/nope/v1").data == b"404 page not found\n"
    assert api.raw("GET", api.at("services", "web"), Accept="application/xml").status == 406


def test_invalid_objects(api: Api) -> None:
    path = api.at("deployments")
    bad = deployment()
    bad["metadata"]["name"] = "Bad_Name"
    bad["spec"] = {}
    status, body = api.call("POST", path, bad)
    assert (status, body["reason"]) == (422, "Invalid")
    fields = {cause["field"] for cause in body["details"]["causes"]}
    assert {"metadata.name", "spec.selector", "spec.template.spec.containers"} <= fields
    api.ok("POST", path, deployment())
    web = api.at("deployments", "web")
    status, body = api.call("PATCH", web, {"spec": {"replicas": -1}}, MERGE)
    assert (status, body["message"]) == (
        422,
        'Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
    )
    assert body["details"]["kind"] == "Deployment"
    status, body = api.call("PATCH", web, {"spec": {"selector": {"matchLabels": {"app": "other"}}}}, MERGE)
    assert status == 422
    assert {cause["field"] for cause in body["details"]["causes"]} == {"spec.selector", "spec.template.metadata.labels"}
    assert "field is immutable" in body["message"]
    status, body = api.call("POST", api.at("services"), {"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}})
    assert (status, body["message"]) == (422, 'Service "s" is invalid: spec.ports: Required value')


def test_unknown_fields(api: Api) -> None:
    path = api.at("deployments")
    typo = deployment()
    typo["spec"]["replicaz"] = 1
    status, body = api.call("POST", path + "?fieldValidation=Strict", typo)
    assert (status, body["reason"]) == (400, "BadRequest")
    assert body["message"].endswith('strict decoding error: unknown field "spec.replicaz"')
    response = api.raw("POST", path, typo)
    assert response.status == 201
    assert response.headers["Warning"] == '299 - "unknown field \\"spec.replicaz\\""'
    assert "replicaz" not in json.loads(response.data)["spec"]
    web = api.at("deployments", "web")
    for content_type in (MERGE, STRATEGIC):
        change = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "x:2", "imagee": "y"}]}}}}
        status, body = api.call("PATCH", web + "?fieldValidation=Strict", change, content_type)
        assert (status, body["reason"]) == (422, "Invalid")
        assert 'unknown field "spec.template.spec.containers[0].imagee"' in body["message"]
    assert "Warning" not in api.raw("PATCH", web + "?fieldValidation=Ignore", {"spec": {"x": 1}}, MERGE).headers


def test_wrong_types(api: Api) -> None:
    status, body = api.call("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"a": 1}})
    assert (status, body["reason"]) == (400, "BadRequest")
    assert body["message"] == (
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: '
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
    )
    api.ok("POST", api.at("deployments"), deployment())
    change = {"spec": {"replicas": "three"}}
    status, body = api.call("PATCH", api.at("deployments", "web"), change, MERGE)
    assert (status, body["reason"]) == (422, "Invalid")
    assert "cannot unmarshal string into Go struct field" in body["message"]
    status, body = api.call("PATCH", api.at("deployments", "web"), change, STRATEGIC)
    assert status in {400, 422}


# Patches


def test_merge_patch(api: Api) -> None:
    api.ok(
        "POST", api.at("configmaps"), {"metadata": {"name": "c", "labels": {"a": "1"}}, "data": {"x": "1", "y": "2"}}
    )
    after = api.patch("configmaps", "c", {"data": {"x": None, "z": "3"}, "metadata": {"labels": {"b": "2"}}})
    assert after["data"] == {"y": "2", "z": "3"}
    assert after["metadata"]["labels"] == {"a": "1", "b": "2"}
    api.ok("POST", api.at("deployments"), deployment())
    only = {"spec": {"template": {"spec": {"containers": [{"name": "other", "image": "o:1"}]}}}}
    after = api.patch("deployments", "web", only, MERGE)
    assert [one["name"] for one in containers(after)] == ["other"], "a merge patch replaces lists"


def test_strategic_merge_of_lists(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())

    def patch(container: Document, *more: Document) -> list[Document]:
        spec = {"containers": [{"name": "web", **container}, *more]}
        return containers(api.patch("deployments", "web", {"spec": {"template": {"spec": spec}}}, STRATEGIC))

    (web,) = patch({"image": "web:2"})
    assert web["image"] == "web:2"
    assert [one["name"] for one in web["env"]] == ["A", "B"]
    (web,) = patch({"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]})
    assert {one["name"]: one["value"] for one in web["env"]} == {"A": "1", "B": "3", "C": "4"}
    (web,) = patch({"env": [{"name": "A", "$patch": "delete"}]})
    assert {one["name"] for one in web["env"]} == {"B", "C"}
    (web,) = patch({"ports": [{"containerPort": 9000, "name": "admin"}]})
    assert {one["containerPort"] for one in web["ports"]} == {8000, 9000}
    (web,) = patch({"env": [{"$patch": "replace"}, {"name": "Z", "value": "9"}]})
    assert web["env"] == [{"name": "Z", "value": "9"}]
    both = patch({}, {"name": "side", "image": "side:1"})
    assert {one["name"] for one in both} == {"web", "side"}
    order = {"$setElementOrder/containers": [{"name": "side"}, {"name": "web"}], "containers": [{"name": "web"}]}
    after = api.patch("deployments", "web", {"spec": {"template": {"spec": order}}}, STRATEGIC)
    assert [one["name"] for one in containers(after)] == ["side", "web"]
    (web,) = patch({}, {"name": "side", "$patch": "delete"})
    assert web["name"] == "web"
    (web,) = patch({"command": ["a", "b"]})
    (web,) = patch({"command": ["c"]})
    assert web["command"] == ["c"], "a list without a merge key is replaced"


def test_strategic_merge_keeps_and_drops(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    after = api.patch("deployments", "web", change, STRATEGIC)
    assert after["spec"]["strategy"] == {"type": "Recreate"}
    volumes = [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]
    after = api.patch("deployments", "web", {"spec": {"template": {"spec": {"volumes": volumes}}}}, STRATEGIC)
    gone = {"spec": {"template": {"spec": {"volumes": [{"name": "v", "$patch": "delete"}]}}}}
    after = api.patch("deployments", "web", gone, STRATEGIC)
    assert [one["name"] for one in after["spec"]["template"]["spec"]["volumes"]] == ["w"]
    after = api.patch("deployments", "web", {"metadata": {"annotations": {"why": "test"}}}, STRATEGIC)
    assert after["metadata"]["annotations"]["why"] == "test"
    after = api.patch("deployments", "web", {"metadata": {"annotations": {"why": None}}}, STRATEGIC)
    assert "why" not in after["metadata"].get("annotations", {})


def test_strategic_merge_of_a_services_ports(api: Api) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8000}, {"name": "admin", "port": 81, "targetPort": 8001}]
    api.ok(
        "POST",
        api.at("services"),
        {"metadata": {"name": "web"}, "spec": {"selector": {"slot": "blue"}, "ports": ports}},
    )
    change = {"spec": {"selector": {"slot": "green"}, "ports": [{"port": 81, "targetPort": 9001}]}}
    after = api.patch("services", "web", change, STRATEGIC)
    assert after["spec"]["selector"] == {"slot": "green"}
    assert {one["port"]: one["targetPort"] for one in after["spec"]["ports"]} == {80: 8000, 81: 9001}


def test_json_patch(api: Api) -> None:
    made = {"metadata": {"name": "c", "labels": {"a/b": "1"}}, "data": {"x": "1", "y": "2"}}
    api.ok("POST", api.at("configmaps"), made)
    operations: list[Document] = [
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "replace", "path": "/data/x", "value": "one"},
        {"op": "add", "path": "/data/z", "value": "3"},
        {"op": "remove", "path": "/data/y"},
        {"op": "copy", "from": "/data/z", "path": "/data/w"},
        {"op": "move", "from": "/data/w", "path": "/data/v"},
        {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
    ]
    after = api.patch("configmaps", "c", operations, JSON)
    assert after["data"] == {"x": "one", "z": "3", "v": "3"}
    assert after["metadata"]["labels"] == {"a/b": "2"}
    after = api.patch("configmaps", "c", [{"op": "replace", "path": "/data/new", "value": "4"}], JSON)
    assert after["data"]["new"] == "4", "the real server takes a replace of a missing key for an add"
    api.ok("POST", api.at("deployments"), deployment())
    env = "/spec/template/spec/containers/0/env"
    operations = [
        {"op": "add", "path": env + "/0", "value": {"name": "FIRST", "value": "0"}},
        {"op": "add", "path": env + "/-", "value": {"name": "LAST", "value": "9"}},
        {"op": "remove", "path": env + "/1"},
    ]
    after = api.patch("deployments", "web", operations, JSON)
    assert [one["name"] for one in containers(after)[0]["env"]] == ["FIRST", "B", "LAST"]


@pytest.mark.parametrize(
    "bad",
    [
        {"op": "test", "path": "/data/x", "value": "2"},
        {"op": "replace", "path": "/nope/nope", "value": "2"},
        {"op": "remove", "path": "/data/nope"},
        {"op": "add", "path": "/nope/nope", "value": "2"},
    ],
    ids=["test", "replace", "remove", "add"],
)
def test_a_json_patch_is_all_or_nothing(api: Api, bad: Document) -> None:
    api.ok("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"x": "1"}})
    operations = [{"op": "add", "path": "/data/new", "value": "1"}, bad]
    status, body = api.call("PATCH", api.at("configmaps", "c"), operations, JSON)
    assert (status, body["reason"]) == (422, "Invalid")
    assert body["message"] == "the server rejected our request due to an error in our request"
    assert api.ok("GET", api.at("configmaps", "c"))["data"] == {"x": "1"}


def test_what_a_patch_may_not_change(api: Api) -> None:
    api.ok("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"x": "1"}})
    path = api.at("configmaps", "c")
    status, body = api.call("PATCH", path, {"metadata": {"uid": "other"}}, MERGE)
    assert (status, body["details"]["causes"][0]["field"]) == (422, "metadata.uid")
    for change in ({"kind": "Secret"}, {"apiVersion": "apps/v1"}):
        assert api.call("PATCH", path, change, MERGE)[0] == 422
    status, body = api.call("PATCH", path, {"metadata": None}, MERGE)
    assert (status, body["reason"]) == (400, "BadRequest")
    status, body = api.call("DELETE", path + "?propagationPolicy=Bad")
    assert (status, body["details"]["causes"][0]["field"]) == (422, "propagationPolicy")


# Versions


def test_versions_and_generations(api: Api) -> None:
    first = api.ok("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"x": "1"}})
    same = api.patch("configmaps", "c", {"data": {"x": "1"}})
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], "nothing changed"
    after = api.patch("configmaps", "c", {"data": {"x": "2"}})
    assert int(after["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    labelled = api.patch("deployments", "web", {"metadata": {"labels": {"x": "y"}}})
    assert labelled["metadata"]["generation"] == 1
    assert api.patch("deployments", "web", {"spec": {"replicas": 3}})["metadata"]["generation"] == 2
    assert api.patch("deployments", "web", {"status": {"replicas": 99}})["status"].get("replicas") != 99


def test_updates(api: Api) -> None:
    first = api.ok("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"x": "1"}})
    path = api.at("configmaps", "c")
    second = api.ok("PUT", path, first | {"data": {"x": "2"}})
    status, body = api.call("PUT", path, first | {"data": {"x": "3"}})
    assert (status, body["reason"]) == (409, "Conflict")
    second["metadata"].pop("resourceVersion")
    assert api.ok("PUT", path, second | {"data": {"x": "4"}})["data"] == {"x": "4"}, (
        "without a version it is unconditional"
    )


def test_leases(api: Api) -> None:
    group = "coordination.k8s.io/v1"
    path = f"/apis/{group}/namespaces/{api.namespace}/leases"
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
    lease = api.ok("POST", path, {"metadata": {"name": "lock"}, "spec": spec})
    assert lease["spec"] == spec
    taken = lease | {"spec": spec | {"holderIdentity": "two"}}
    assert api.ok("PUT", path + "/lock", taken)["spec"]["holderIdentity"] == "two"
    status, body = api.call("PUT", path + "/lock", taken | {"spec": spec | {"holderIdentity": "three"}})
    assert (status, body["reason"]) == (409, "Conflict")


# Dry runs


def test_dry_runs_change_nothing(api: Api) -> None:
    made = api.ok("POST", api.at("deployments") + "?dryRun=All", deployment())
    assert made["spec"]["progressDeadlineSeconds"] == 600
    assert api.call("GET", api.at("deployments", "web"))[0] == 404
    before = api.ok("POST", api.at("configmaps"), {"metadata": {"name": "c"}, "data": {"x": "1"}})
    assert api.patch("configmaps", "c", {"data": {"x": "2"}}, MERGE, "?dryRun=All")["data"] == {"x": "2"}
    assert api.ok("PUT", api.at("configmaps", "c") + "?dryRun=All", before | {"data": {}}).get("data", {}) == {}
    api.ok("DELETE", api.at("configmaps", "c") + "?dryRun=All")
    assert api.ok("GET", api.at("configmaps", "c")) == before
    status, body = api.call("PATCH", api.at("configmaps", "c") + "?dryRun=Some", {"data": {}}, MERGE)
    assert (status, body["reason"], body["details"]["kind"]) == (422, "Invalid", "PatchOptions")
    status, body = api.call("PATCH", api.at("configmaps", "c") + "?dryRun=All", {"data": {"x": 1}}, MERGE)
    assert status == 422, "a dry run is checked as the real one"


# Lists


def test_label_selectors(api: Api) -> None:
    blue, green = {"app": "web", "slot": "blue"}, {"app": "web", "slot": "green"}
    labelled: dict[str, dict[str, str]] = {"a": blue, "b": green, "c": {}}
    for name, labels in labelled.items():
        api.ok("POST", api.at("secrets"), {"metadata": {"name": name, "labels": labels}})

    def names(selector: str) -> list[str]:
        quoted = urlencode({"labelSelector": selector})
        return [one["metadata"]["name"] for one in api.ok("GET", f"{api.at('secrets')}?{quoted}")["items"]]

    assert names("app=web") == ["a", "b"]
    assert names("app==web,slot=green") == ["b"]
    assert names("slot!=green") == ["a", "c"]
    assert names("slot in (blue, green)") == ["a", "b"]
    assert names("slot notin (blue)") == ["b", "c"]
    assert names("slot") == ["a", "b"]
    assert names("!slot") == ["c"]
    assert names("app=web,slot notin (blue,red),!canary") == ["b"]
    assert names("slot=") == []
    for bad, said in {"a b c": "found 'b'", "a===c": "found '='", "a in blue": "", "=x": ""}.items():
        quoted = urlencode({"labelSelector": bad})
        status, body = api.call("GET", f"{api.at('secrets')}?{quoted}")
        assert (status, body["reason"]) == (400, "BadRequest"), bad
        assert said in body["message"]


def test_lists(api: Api) -> None:
    for name in ("b", "a", "c"):
        api.ok("POST", api.at("configmaps"), {"metadata": {"name": name}})
    path = api.at("configmaps")
    found = api.ok("GET", path)
    assert (found["kind"], found["apiVersion"]) == ("ConfigMapList", "v1")
    assert [one["metadata"]["name"] for one in found["items"]] == ["a", "b", "c"]
    assert all("kind" not in one and "apiVersion" not in one for one in found["items"])
    assert found["metadata"]["resourceVersion"].isdigit()
    page = api.ok("GET", path + "?limit=2")
    assert [one["metadata"]["name"] for one in page["items"]] == ["a", "b"]
    assert page["metadata"]["remainingItemCount"] == 1
    rest = api.ok("GET", f"{path}?limit=2&continue={page['metadata']['continue']}")
    assert [one["metadata"]["name"] for one in rest["items"]] == ["c"]
    assert "continue" not in rest["metadata"]
    named = api.ok("GET", path + "?fieldSelector=metadata.name%3Db")
    assert [one["metadata"]["name"] for one in named["items"]] == ["b"]
    others = api.ok("GET", path + "?fieldSelector=metadata.name!%3Db")
    assert [one["metadata"]["name"] for one in others["items"]] == ["a", "c"]
    status, body = api.call("GET", path + "?fieldSelector=data.x%3D1")
    assert (status, body["reason"]) == (400, "BadRequest")
    status, body = api.call("GET", path + "?limit=x")
    assert (status, body["message"]) == (400, 'strconv.ParseInt: parsing "x": invalid syntax')
    everywhere = api.ok("GET", "/api/v1/configmaps")["items"]
    assert {"a", "b", "c"} <= {i["metadata"]["name"] for i in everywhere if i["metadata"]["namespace"] == api.namespace}


# Watches


def watch(api: Api, path: str) -> list[tuple[str, str]]:
    """The events of a watch that ends by itself: type and name."""
    lines = api.raw("GET", path).data.decode().splitlines()
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in map(json.loads, lines)]


def watches(api: Api, *paths: str) -> list[list[tuple[str, str]]]:
    """Several of them at once: each lasts its second."""
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(lambda path: watch(api, path), paths))


def test_watch_tells_what_happened_since(api: Api) -> None:
    path = api.at("configmaps")
    since = api.ok("GET", path)["metadata"]["resourceVersion"]
    api.ok("POST", path, {"metadata": {"name": "c", "labels": {"slot": "blue"}}, "data": {"x": "1"}})
    middle = api.patch("configmaps", "c", {"data": {"x": "2"}})["metadata"]["resourceVersion"]
    api.patch("configmaps", "c", {"metadata": {"labels": {"slot": "green"}}})
    api.ok("DELETE", api.at("configmaps", "c"))
    query = f"{path}?watch=1&timeoutSeconds=1&resourceVersion="
    blue, green = "&labelSelector=slot%3Dblue", "&labelSelector=slot%3Dgreen"
    every, later, selected, arriving = watches(
        api, query + since, query + middle, query + since + blue, query + since + green
    )
    assert every == [("ADDED", "c"), ("MODIFIED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]
    assert later == [("MODIFIED", "c"), ("DELETED", "c")]
    assert selected == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")], (
        "who leaves the selection is deleted for it"
    )
    assert arriving == [("ADDED", "c"), ("DELETED", "c")]


def test_watch_from_now(api: Api) -> None:
    path = api.at("configmaps")
    api.ok("POST", path, {"metadata": {"name": "c"}})
    other = f"{path}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dother"
    assert watches(api, f"{path}?watch=true&timeoutSeconds=1", other) == [[("ADDED", "c")], []]
    query = (
        "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    )
    lines = [json.loads(line) for line in api.raw("GET", path + query).data.decode().splitlines()]
    assert [one["type"] for one in lines[:2]] == ["ADDED", "BOOKMARK"]
    assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


# Roll-outs


def sets(api: Api, name: str = "web") -> dict[str, Document]:
    """ReplicaSets by revision."""
    items = api.ok("GET", api.at("replicasets") + f"?labelSelector=app%3D{name}")["items"]
    return {one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: one for one in items}


def pods(api: Api, name: str = "web") -> list[Document]:
    items: list[Document] = api.ok("GET", api.at("pods") + f"?labelSelector=app%3D{name}")["items"]
    return items


def image(api: Api, value: str) -> Document:
    spec = {"containers": [{"name": "web", "image": value}]}
    return api.patch("deployments", "web", {"spec": {"template": {"spec": spec}}}, STRATEGIC)


def test_a_roll_out_gets_done(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    item = eventually(lambda: rolled_out(api))
    assert condition(item, "Available")["status"] == "True"
    assert condition(item, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    (replica_set,) = sets(api).values()
    digest = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{digest}"
    assert replica_set["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert replica_set["status"]["readyReplicas"] == 2
    (owner,) = replica_set["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
        "Deployment",
        "web",
        item["metadata"]["uid"],
        True,
    )
    for pod in pods(api):
        assert pod["metadata"]["name"].startswith(replica_set["metadata"]["name"] + "-")
        assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
        assert pod["status"]["phase"] == "Running"
        assert {one["type"]: one["status"] for one in pod["status"]["conditions"]}["Ready"] == "True"
        assert pod["status"]["containerStatuses"][0]["ready"] is True
        assert pod["status"]["podIP"]


def test_a_new_image_makes_a_revision_and_undo_brings_the_old_one_back(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    old = sets(api)["1"]
    generation = image(api, "web:2")["metadata"]["generation"]
    assert generation == 2
    eventually(lambda: rolled_out(api))
    assert set(sets(api)) == {"1", "2"}
    assert eventually(lambda: {p["spec"]["containers"][0]["image"] for p in pods(api)} == {"web:2"})
    image(api, "web:1")
    item = eventually(lambda: rolled_out(api))
    assert item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    again = sets(api)
    assert set(again) == {"2", "3"}
    assert again["3"]["metadata"]["uid"] == old["metadata"]["uid"], "an old template gets its old ReplicaSet"
    assert again["3"]["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


def test_what_makes_a_new_generation(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    labelled = api.patch("deployments", "web", {"metadata": {"labels": {"tier": "front"}}})
    assert labelled["metadata"]["generation"] == 1
    noted = api.patch("deployments", "web", {"metadata": {"annotations": {"who": "runbook"}}})
    assert noted["metadata"]["generation"] == 2, "of a Deployment its annotations, too"
    assert image(api, "web:2")["metadata"]["generation"] == 3
    item = eventually(lambda: rolled_out(api))
    assert item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert item["metadata"]["generation"] == 3, "the revision that the controller writes is none"


def test_rolling_keeps_its_bounds(api: Api) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    api.ok("POST", api.at("deployments"), deployment(replicas=3, strategy=strategy))
    since = eventually(lambda: rolled_out(api))["metadata"]["resourceVersion"]
    (first,) = api.ok("GET", api.at("replicasets"))["items"]
    wanted = {first["metadata"]["name"]: 3}  # pods, by ReplicaSet: a status may count one that is gone already
    image(api, "web:2")
    eventually(lambda: rolled_out(api))
    deployments = history(api, "deployments", since)
    assert deployments
    assert all(one["status"].get("availableReplicas", 0) >= 3 for one in deployments)
    for one in history(api, "replicasets", since):
        wanted[one["metadata"]["name"]] = one["spec"]["replicas"]
        assert sum(wanted.values()) <= 4
    assert sorted(wanted.values()) == [0, 3]


def history(api: Api, plural: str, since: str) -> list[dict[str, Any]]:
    """Every state of the namespace's objects after a resource version, in order."""
    path = f"{api.at(plural)}?watch=1&timeoutSeconds=1&resourceVersion={since}"
    return [json.loads(line)["object"] for line in api.raw("GET", path).data.decode().splitlines()]


def test_a_sick_version_never_gets_done(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment(replicas=2, progressDeadlineSeconds=2))
    eventually(lambda: rolled_out(api))
    # Sick in both worlds: the sandbox's scenario says so of the image, the real scheduler finds no such node.
    change = {
        "spec": {
            "template": {"spec": {"nodeSelector": {"no": "where"}, "containers": [{"name": "web", "image": "sick:1"}]}}
        }
    }
    api.patch("deployments", "web", change, STRATEGIC)

    def exceeded() -> Document | None:
        item = api.ok("GET", api.at("deployments", "web"))
        return item if condition(item, "Progressing")["reason"] == "ProgressDeadlineExceeded" else None

    item = eventually(exceeded)
    assert condition(item, "Progressing")["status"] == "False"
    assert condition(item, "Progressing")["message"].endswith("has timed out progressing.")
    assert condition(item, "Available")["status"] == "True", "25% of 2 may not be missing"
    assert item["status"]["readyReplicas"] == 2
    assert item["status"]["updatedReplicas"] == 1
    assert rolled_out(api) is None
    back = {"spec": {"template": {"spec": {"nodeSelector": None, "containers": [{"name": "web", "image": "web:1"}]}}}}
    api.patch("deployments", "web", back, STRATEGIC)
    assert condition(eventually(lambda: rolled_out(api)), "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_paused_does_not_roll(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    api.patch("deployments", "web", {"spec": {"paused": True}})
    image(api, "web:2")
    eventually(
        lambda: condition(api.ok("GET", api.at("deployments", "web")), "Progressing")["reason"] == "DeploymentPaused"
    )
    assert {p["spec"]["containers"][0]["image"] for p in pods(api)} == {"web:1"}
    api.patch("deployments", "web", {"spec": {"paused": None}})
    eventually(lambda: rolled_out(api))
    assert eventually(lambda: {p["spec"]["containers"][0]["image"] for p in pods(api)} == {"web:2"})


def test_recreate(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment(strategy={"type": "Recreate"}))
    eventually(lambda: rolled_out(api))
    image(api, "web:2")
    eventually(lambda: rolled_out(api))
    assert {p["spec"]["containers"][0]["image"] for p in pods(api)} == {"web:2"}


def test_scale(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    path = api.at("deployments", "web") + "/scale"
    scale = api.ok("GET", path)
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 2, "selector": "app=web"}
    assert api.ok("PATCH", path + "?dryRun=All", {"spec": {"replicas": 5}}, MERGE)["spec"]["replicas"] == 5
    after = api.ok("PATCH", path, {"spec": {"replicas": 3}}, MERGE)
    assert after["spec"] == {"replicas": 3}
    eventually(lambda: rolled_out(api))
    assert len(sets(api)) == 1, "scaling is no new revision"
    status, body = api.call("PUT", path, scale)
    assert (status, body["reason"]) == (409, "Conflict")
    fresh = api.ok("GET", path)
    api.ok("PUT", path, fresh | {"spec": {"replicas": 0}})
    eventually(lambda: not pods(api))
    assert api.ok("GET", path)["spec"].get("replicas", 0) == 0
    status, body = api.call("PATCH", path, {"spec": {"replicas": -1}}, MERGE)
    assert (status, body["reason"]) == (422, "Invalid")


# Endpoints


def ready_addresses(api: Api, service: str) -> set[str]:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{api.namespace}/endpointslices?labelSelector="
    items = api.ok("GET", f"{path}kubernetes.io/service-name%3D{service}")["items"]
    return {
        endpoint["targetRef"]["name"].partition("-")[0]
        for one in items
        for endpoint in one["endpoints"] or []
        if endpoint["conditions"]["ready"]
    }


def test_endpoint_slices_follow_the_selector(api: Api) -> None:
    for name in ("blue", "green"):
        api.ok("POST", api.at("deployments"), deployment(name))
    spec = {"selector": {"app": "blue"}, "ports": [{"port": 80, "targetPort": 8000}]}
    api.ok("POST", api.at("services"), {"metadata": {"name": "live"}, "spec": spec})
    eventually(lambda: ready_addresses(api, "live") == {"blue"})
    path = f"/apis/discovery.k8s.io/v1/namespaces/{api.namespace}/endpointslices"
    (item,) = api.ok("GET", path)["items"]
    assert item["addressType"] == "IPv4"
    assert item["ports"] == [{"name": "", "protocol": "TCP", "port": 8000}]
    assert item["metadata"]["ownerReferences"][0]["kind"] == "Service"
    assert item["endpoints"][0]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    api.patch("services", "live", {"spec": {"selector": {"app": "green"}}})
    eventually(lambda: ready_addresses(api, "live") == {"green"})
    api.ok("PATCH", api.at("deployments", "green") + "/scale", {"spec": {"replicas": 0}}, MERGE)
    eventually(lambda: ready_addresses(api, "live") == set())
    api.ok("DELETE", api.at("services", "live"))
    eventually(lambda: not api.ok("GET", path)["items"])


def test_a_pod_is_available_when_it_was_ready_for_long_enough(api: Api) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    api.ok("POST", api.at("deployments"), deployment(strategy=strategy))
    eventually(lambda: rolled_out(api))
    api.patch("deployments", "web", {"spec": {"minReadySeconds": 1}})
    eventually(lambda: sets(api)["1"]["spec"].get("minReadySeconds") == 1)
    since = eventually(lambda: rolled_out(api))["metadata"]["resourceVersion"]
    assert len(sets(api)) == 1, "how long a pod must be ready is no new revision"
    image(api, "web:2")
    eventually(lambda: rolled_out(api))
    assert {number: one["spec"].get("minReadySeconds") for number, one in sets(api).items()} == {"1": 1, "2": 1}
    path = f"{api.at('deployments')}?watch=1&timeoutSeconds=1&resourceVersion={since}"
    seen = [json.loads(line)["object"]["status"] for line in api.raw("GET", path).data.decode().splitlines()]
    assert any(one["readyReplicas"] > one["availableReplicas"] for one in seen), "ready, and not yet available"
    assert all(one["availableReplicas"] >= 2 for one in seen)
    api.patch("deployments", "web", {"spec": {"minReadySeconds": None}})
    eventually(lambda: "minReadySeconds" not in sets(api)["2"]["spec"])
    assert sets(api)["1"]["spec"]["minReadySeconds"] == 1, "older templates keep theirs"


# A custom resource: HTTPRoute of the Gateway API

GATEWAY = "gateway.networking.k8s.io"


@pytest.fixture
def gateway(api: Api, request: pytest.FixtureRequest) -> Api:
    """An API that serves HTTPRoutes: the real one gets the definition, the simulated one's scenario has one."""
    if request.node.callspec.params["api"] == "real":
        install(request.getfixturevalue("control_plane"))
    return api


def route(name: str = "web", **more: Any) -> Document:
    backends = [{"name": "green", "port": 80, "weight": 90}, {"name": "blue", "port": 80}]
    spec = {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": backends}], **more}
    return {"apiVersion": f"{GATEWAY}/v1", "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}


def test_discovery_of_a_custom_resource(gateway: Api) -> None:
    group = gateway.ok("GET", f"/apis/{GATEWAY}")
    at = {"groupVersion": f"{GATEWAY}/v1", "version": "v1"}
    assert (group["kind"], group["versions"], group["preferredVersion"]) == ("APIGroup", [at], at)
    assert GATEWAY in {one["name"] for one in gateway.ok("GET", "/apis")["groups"]}
    resources = {one["name"]: one for one in gateway.ok("GET", f"/apis/{GATEWAY}/v1")["resources"]}
    assert set(resources) == {"httproutes", "httproutes/status"}
    assert (resources["httproutes"]["kind"], resources["httproutes"]["namespaced"]) == ("HTTPRoute", True)
    assert {"get", "list", "watch", "create", "update", "patch", "delete"} <= set(resources["httproutes"]["verbs"])
    assert gateway.raw("GET", "/apis/gateway.example.com/v1").data == b"404 page not found\n", "not installed"


def test_defaults_and_life_of_a_custom_resource(gateway: Api) -> None:
    path = gateway.at("httproutes", group=f"{GATEWAY}/v1")
    made = gateway.ok("POST", path, route())
    assert made["metadata"]["generation"] == 1
    assert made["spec"] == {
        "parentRefs": [{"group": GATEWAY, "kind": "Gateway", "name": "gateway"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [
                    {"group": "", "kind": "Service", "name": "green", "port": 80, "weight": 90},
                    {"group": "", "kind": "Service", "name": "blue", "port": 80, "weight": 1},
                ],
            }
        ],
    }
    status, body = gateway.call("POST", path, route())
    assert (status, body["message"]) == (409, f'httproutes.{GATEWAY} "web" already exists')
    status, body = gateway.call("GET", path + "/nope")
    assert (status, body["message"]) == (404, f'httproutes.{GATEWAY} "nope" not found')
    (item,) = gateway.ok("GET", path)["items"]
    assert (item["kind"], item["apiVersion"]) == ("HTTPRoute", f"{GATEWAY}/v1"), "unlike built-in kinds in a list"
    status, body = gateway.call("PUT", path + "/web", route())
    assert (status, body["message"]) == (
        422,
        f'httproutes.{GATEWAY} "web" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an'
        " update",
    )
    put = route(hostnames=["a.example"])
    put["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    assert gateway.ok("PUT", path + "/web", put)["metadata"]["generation"] == 2
    status, body = gateway.call("PUT", path + "/web", put)
    assert (status, body["reason"]) == (409, "Conflict")
    assert gateway.call("PATCH", path + "/web/scale", {"spec": {"replicas": 1}}, MERGE)[0] == 404
    told = gateway.ok("PATCH", path + "/web/status", {"status": {"parents": []}}, MERGE)
    assert (told["status"], told["metadata"]["generation"]) == ({"parents": []}, 2)
    assert gateway.ok("DELETE", path + "/web")["status"] == "Success"
    assert gateway.call("GET", path + "/web")[0] == 404


def test_patches_of_a_custom_resource(gateway: Api) -> None:
    path = gateway.at("httproutes", group=f"{GATEWAY}/v1")
    made = gateway.ok("POST", path, route())
    web = path + "/web"
    status, body = gateway.call("PATCH", web, {"spec": {}}, STRATEGIC)
    assert (status, body["reason"]) == (415, "UnsupportedMediaType")
    assert body["message"].startswith("the body of the request was in an unknown format - accepted media types include")
    weights = "/spec/rules/0/backendRefs/{}/weight"
    turned = [
        {"op": "test", "path": "/spec/rules/0/backendRefs/1/name", "value": "blue"},
        {"op": "test", "path": weights.format(0), "value": 90},
        {"op": "replace", "path": weights.format(0), "value": 0},
        {"op": "replace", "path": weights.format(1), "value": 100},
    ]
    dry = gateway.ok("PATCH", web + "?dryRun=All", turned, JSON)
    assert (dry["metadata"]["generation"], dry["metadata"]["resourceVersion"]) == (
        2,
        made["metadata"]["resourceVersion"],
    )
    assert gateway.ok("GET", web)["spec"] == made["spec"], "a dry run changes nothing"
    after = gateway.ok("PATCH", web, turned, JSON)
    assert [one["weight"] for one in after["spec"]["rules"][0]["backendRefs"]] == [0, 100]
    assert after["metadata"]["generation"] == 2
    status, body = gateway.call("PATCH", web, turned, JSON)
    assert (status, body["message"]) == (422, "the server rejected our request due to an error in our request")
    stale = [{"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]}]
    stale.append({"op": "replace", "path": "/spec/hostnames", "value": ["b.example"]})
    status, body = gateway.call("PATCH", web, stale, JSON)
    assert (status, body["reason"]) == (409, "Conflict")
    marked = gateway.ok("PATCH", web, {"metadata": {"annotations": {"a": "b"}}}, MERGE)
    assert marked["metadata"]["generation"] == 2, "metadata is no new generation"
    merged = gateway.ok("PATCH", web, {"spec": {"rules": [{"backendRefs": [{"name": "blue", "port": 80}]}]}}, MERGE)
    assert [one["weight"] for one in merged["spec"]["rules"][0]["backendRefs"]] == [1], "lists are replaced"


def test_what_the_schema_of_a_custom_resource_refuses(gateway: Api) -> None:
    path = gateway.at("httproutes", group=f"{GATEWAY}/v1")
    gateway.ok("POST", path, route())
    web, first = path + "/web", "spec.rules[0].backendRefs[0]"
    for value, why in (
        (-1, f"Invalid value: -1: {first}.weight in body should be greater than or equal to 0"),
        (1000001, f"Invalid value: 1000001: {first}.weight in body should be less than or equal to 1000000"),
        ("ten", f'Invalid value: "string": {first}.weight in body must be of type integer: "string"'),
    ):
        change = [{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": value}]
        status, body = gateway.call("PATCH", web, change, JSON)
        assert (status, body["message"]) == (422, f'HTTPRoute.{GATEWAY} "web" is invalid: {first}.weight: {why}')
    status, body = gateway.call("PATCH", web, [{"op": "remove", "path": "/spec/rules/0/backendRefs/0/name"}], JSON)
    assert (status, body["message"]) == (422, f'HTTPRoute.{GATEWAY} "web" is invalid: {first}.name: Required value')
    status, body = gateway.call("POST", path + "?fieldValidation=Strict", route("two", rulez=[]))
    assert (status, body["message"]) == (
        400,
        'HTTPRoute in version "v1" cannot be handled as a HTTPRoute: strict decoding error: unknown field "spec.rulez"',
    )
    response = gateway.raw("PATCH", web, {"spec": {"rulez": []}}, MERGE)
    assert (response.status, response.headers["Warning"]) == (200, '299 - "unknown field \\"spec.rulez\\""')
    assert "rulez" not in json.loads(response.data)["spec"]
    status, body = gateway.call("PATCH", web + "?fieldValidation=Strict", {"spec": {"rulez": []}}, MERGE)
    assert status == 422
    assert body["message"].endswith('strict decoding error: unknown field "spec.rulez"')
    gateway.token, token = gateway.nobody, gateway.token
    try:
        status, body = gateway.call("PATCH", web, {"spec": {}}, MERGE)
        assert body["message"] == (
            f'httproutes.{GATEWAY} "web" is forbidden: User "nobody" cannot patch resource "httproutes" '
            f'in API group "{GATEWAY}" in the namespace "{gateway.namespace}"'
        )
    finally:
        gateway.token = token


# Deleting


def test_deleting(api: Api) -> None:
    made = api.ok("POST", api.at("secrets"), {"metadata": {"name": "s"}})
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    status, body = api.call("DELETE", api.at("secrets", "s"), wrong)
    assert (status, body["reason"]) == (409, "Conflict")
    gone = api.ok("DELETE", api.at("secrets", "s"), {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (gone["kind"], gone["status"]) == ("Status", "Success")
    assert gone["details"] == {"name": "s", "kind": "secrets", "uid": made["metadata"]["uid"]}
    assert api.call("GET", api.at("secrets", "s"))[0] == 404


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_what_is_owned_goes_too(api: Api, propagation: str) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    api.ok("DELETE", api.at("deployments", "web"), {"propagationPolicy": propagation})
    eventually(lambda: api.call("GET", api.at("deployments", "web"))[0] == 404)
    eventually(lambda: not sets(api) and not pods(api))


def test_orphans_stay(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    api.ok("DELETE", api.at("deployments", "web"), {"propagationPolicy": "Orphan"})
    eventually(lambda: api.call("GET", api.at("deployments", "web"))[0] == 404)
    (replica_set,) = sets(api).values()
    assert not replica_set["metadata"].get("ownerReferences")
    assert len(pods(api)) == 2


def test_logs_of_what_is_not_there(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment(replicas=1))
    eventually(lambda: rolled_out(api))
    (pod,) = api.ok("GET", api.at("pods"))["items"]
    name = pod["metadata"]["name"]
    status, said = api.call("GET", api.at("pods", "nobody/log"))
    assert (status, said["reason"]) == (404, "NotFound")
    assert said["message"] == 'pods "nobody" not found'
    status, said = api.call("GET", api.at("pods", f"{name}/log") + "?container=nobody")
    assert (status, said["reason"]) == (400, "BadRequest")
    assert said["message"] == f"container nobody is not valid for pod {name}"


def test_a_deleted_pod_is_replaced(api: Api) -> None:
    api.ok("POST", api.at("deployments"), deployment())
    eventually(lambda: rolled_out(api))
    before = {pod["metadata"]["uid"] for pod in pods(api)}
    name = pods(api)[0]["metadata"]["name"]
    gone = api.ok("DELETE", api.at("pods", name))
    assert gone["kind"] == "Pod"
    assert gone["metadata"]["deletionTimestamp"]
    eventually(lambda: api.call("GET", api.at("pods", name))[0] == 404)
    eventually(lambda: rolled_out(api))
    after = {pod["metadata"]["uid"] for pod in pods(api)}
    assert len(after) == 2
    assert len(after & before) == 1


# The official client


def test_the_official_client(api: Api) -> None:
    client: Any = importlib.import_module("kubernetes.client")
    config: Any = importlib.import_module("kubernetes.config")
    watch: Any = importlib.import_module("kubernetes.watch")

    settings = client.Configuration()
    config.load_kube_config(str(api.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as connection:
        apps, core = client.AppsV1Api(connection), client.CoreV1Api(connection)
        made = apps.create_namespaced_deployment(api.namespace, deployment(), field_manager="runbook")
        assert made.spec.replicas == 2
        eventually(lambda: rolled_out(api))
        change = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}}
        patched = apps.patch_namespaced_deployment(
            "web", api.namespace, change, field_manager="runbook", field_validation="Strict"
        )
        assert patched.spec.template.spec.containers[0].env[0].name == "A", "a dict is a strategic merge patch"
        seen = []
        for event in watch.Watch().stream(apps.list_namespaced_deployment, api.namespace, timeout_seconds=20):
            status = event["object"].status
            seen.append(event["type"])
            if (
                status.observed_generation == 2
                and status.updated_replicas == 2 == status.available_replicas == status.replicas
            ):
                break
        assert seen[0] == "ADDED"
        scale = apps.read_namespaced_deployment_scale("web", api.namespace)
        assert scale.spec.replicas == 2
        apps.patch_namespaced_deployment_scale("web", api.namespace, {"spec": {"replicas": 1}})
        eventually(lambda: rolled_out(api))
        with pytest.raises(client.exceptions.ApiException) as caught:
            core.read_namespaced_service("nope", api.namespace)
        assert (caught.value.status, json.loads(caught.value.body)["reason"]) == (404, "NotFound")
        names = [item.metadata.name for item in core.list_namespaced_pod(api.namespace, label_selector="app=web").items]
        assert len(names) >= 1
