"""The SIMULATED world as a whole: scenario files, faults, answers, helm, receivers, what is private, what ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from runbook.contract import PermanentError, TemporaryError
from runbook.interpreter import model
from runbook.interpreter.errors import InvalidError
from runbook.sandbox import kinds, scenario, surroundings
from runbook.sandbox.surroundings import Sandbox
from tests.testbed.plane import built

WORLD = """
scenario: 1
world:
  ready_after: 100ms
  versions:
    "web:3": {health: never_ready}
    "web:4": {health: failing, status: 500}
  namespaces:
    shop:
      deployments:
        web: {image: "r.invalid/web:2", replicas: 2, previous: ["r.invalid/web:1"]}
        db:  {image: "r.invalid/postgres:17", port: 5432}
      services:
        web: {selector: {app: web}}
      config_maps:
        settings: {color: blue}
      secrets:
        db: {password: simulated-password}
      releases:
        web:
          workloads: [web]
          revisions: [{tag: "1"}, {tag: "3", status: failed}, {tag: "2"}]
"""


def start(more: str = "", environ: Mapping[str, str] | None = None) -> Sandbox:
    return surroundings.start(scenario.parse(WORLD + more), environ)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with start() as running:
        yield running


def connect(sandbox: Sandbox, timeout: float = 10.0) -> tuple[http.client.HTTPSConnection, dict[str, str]]:
    """A connection that trusts nothing but the sandbox's own authority."""
    config = json.loads(sandbox.kubeconfig.read_text())
    where = urlsplit(config["clusters"][0]["cluster"]["server"])
    context = ssl.create_default_context(cafile=str(sandbox.folder / "ca.crt"))
    connection = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=timeout, context=context)
    token = config["users"][0]["user"]["token"]
    return connection, {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}


def ask(sandbox: Sandbox, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, document, headers."""
    connection, given = connect(sandbox)
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), given)
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None, response.headers
    finally:
        connection.close()


def helm(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["helm", *arguments], env=dict(sandbox.environ), capture_output=True, text=True, timeout=30, check=False
    )


WEB = "/apis/apps/v1/namespaces/shop/deployments/web"
SETTINGS = "/api/v1/namespaces/shop/configmaps/settings"


# Scenario files


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ("scenario: 1\nworlds: {}\n", 2, "unknown key `worlds`", "world"),
        ("scenario: 2\n", 1, "1 was expected", ""),
        ("scenario: 1\nfaults:\n  - {on: slack}\n", 3, "exactly one of these is needed", ""),
        ("scenario: 1\nfaults:\n  - {on: slack, hang: true, reset: true}\n", 3, "exactly one", ""),
        ("scenario: 1\nfaults:\n  - {on: slak, reset: true}\n", 3, "'slak' is not one of", ""),
        ("scenario: 1\nworld:\n  versions:\n    a: {health: fine}\n", 4, "'fine' is not one of", ""),
        ("scenario: 1\nworld:\n  ready_after: 3\n", 3, "3 is not of type 'string'", ""),
        ("scenario: 1\nworld:\n  metrics:\n    - {match: '(', value: 1}\n", 4, "no regular expression", ""),
        ("scenario: 1\nscenario: 1\n", 2, "", ""),
        ("scenario: 1\nanswers:\n  - {action: pg.query}\n", 3, "exactly one", ""),
    ],
)
def test_mistakes_are_shown_where_they_stand(text: str, line: int, said: str, hint: str) -> None:
    with pytest.raises(InvalidError) as caught:
        scenario.parse(text, "s.yaml")
    problem = caught.value.problems[0]
    assert (problem.place.file, problem.place.line) == ("s.yaml", line)
    assert said in problem.message
    assert hint in problem.hint


def test_objects_that_the_server_refuses_are_told_before_anything_starts() -> None:
    bad = {
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j}}": "does not model batch/v1 Job",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: absent}}": 'namespaces "absent" not found',
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: C_}}": "is invalid: metadata.name",
    }
    for item, said in bad.items():
        with pytest.raises(InvalidError, match="the scenario's") as caught:
            surroundings.start(scenario.parse(f"scenario: 1\nworld:\n  objects: [{item}]\n"))
        assert said in caught.value.message


def test_without_a_file_the_default_beside_the_playbook_is_taken(tmp_path: Path) -> None:
    where = model.Template("SLACK_TOKEN")
    source = model.SecretSource("slack", "env", where)
    playbook = model.Playbook("p", "books/p.yaml", (), secrets=(source,))
    derived = scenario.for_playbook(playbook, tmp_path)
    assert dict(derived.secrets) == {"SLACK_TOKEN": "simulated-slack"}
    beside = tmp_path / "scenarios/p"
    beside.mkdir(parents=True)
    (beside / "a.yaml").write_text("scenario: 1\ndescription: not this\n")
    (beside / "b.yaml").write_text("scenario: 1\ndescription: this\ndefault: true\n")
    assert scenario.for_playbook(playbook, tmp_path).description == "this"


def test_the_world_is_as_written(sandbox: Sandbox) -> None:
    status, document, headers = ask(sandbox, "GET", WEB)
    assert status == 200
    assert headers["X-Simulated"] == "runbook"
    assert document["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert document["status"]["readyReplicas"] == 2
    _, secret, _ = ask(sandbox, "GET", "/api/v1/namespaces/shop/secrets/db")
    assert secret["data"] == {"password": "c2ltdWxhdGVkLXBhc3N3b3Jk"}


# Loud where it is not modelled


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("GET", "/apis/apps/v1/namespaces/shop/statefulsets", ""),
        ("GET", "/api/v1/nodes", ""),
        ("GET", "/apis/batch/v1/namespaces/shop/jobs", ""),
        ("GET", "/openapi/v3", ""),
        ("DELETE", "/api/v1/namespaces/shop/pods", ""),
        ("PATCH", WEB, "application/apply-patch+yaml"),
        ("POST", "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers", "application/json"),
        ("GET", "/api/v1/namespaces/shop/pods/web/exec?command=ls", ""),
    ],
)
def test_what_is_not_modelled_says_so(sandbox: Sandbox, method: str, path: str, content_type: str) -> None:
    status, document, _ = ask(sandbox, method, path, {} if content_type else None, Content_Type=content_type)
    assert (status, document["kind"], document["reason"]) == (501, "Status", "NotImplemented")
    assert document["message"].startswith("SIMULATED API does not model ")
    assert len(sandbox.unmodelled) == 1
    assert path.partition("?")[0] in sandbox.unmodelled[0]


def test_fields_that_do_nothing_here_are_told(sandbox: Sandbox) -> None:
    change = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}, "affinity": {}, "tolerations": [{}]}}}}
    status, _, headers = ask(sandbox, "PATCH", WEB, change)
    assert status == 200
    assert headers.get_all("Warning") == [
        '299 - "SIMULATED API ignores deployments: nodeSelector"',
        '299 - "SIMULATED API ignores deployments: tolerations"',
    ]
    assert sandbox.unmodelled == (
        "deployments: nodeSelector is accepted and ignored",
        "deployments: tolerations is accepted and ignored",
    )
    assert ask(sandbox, "PATCH", WEB, {"spec": {"replicas": 1}})[2].get_all("Warning") is None, "told once"


def test_a_database_in_a_pod_is_refused_loudly(sandbox: Sandbox) -> None:
    from kubernetes import client, config, stream

    settings: Any = client.Configuration()
    load: Any = config.load_kube_config
    load(str(sandbox.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as connection:
        core: Any = client.CoreV1Api(connection)
        (pod,) = core.list_namespaced_pod("shop", label_selector="app=db").items
        forward: Any = stream.portforward
        tunnel = forward(core.connect_get_namespaced_pod_portforward, pod.metadata.name, "shop", ports="5432")
        deadline = time.monotonic() + 5
        while tunnel.error(5432) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "SIMULATED pods do not model the postgres protocol" in tunnel.error(5432)
    assert any("postgres" in one for one in sandbox.unmodelled)


# Faults


def test_the_third_patch_answers_500() -> None:
    with start("faults: [{on: kubernetes, verb: patch, resource: configmaps, nth: 3, answer: 500}]") as sandbox:
        statuses = [ask(sandbox, "PATCH", SETTINGS, {"data": {"n": str(n)}})[0] for n in range(5)]
        assert statuses == [200, 200, 500, 200, 200]
        _, document, _ = ask(sandbox, "GET", SETTINGS)
        assert document["data"]["n"] == "4"


def test_faults_are_counted_exactly_over_threads() -> None:
    with start(
        "faults: [{on: kubernetes, verb: get, resource: configmaps, nth: 11, times: 7, answer: 503}]"
    ) as sandbox:
        statuses: list[int] = []

        def read() -> None:
            statuses.extend(ask(sandbox, "GET", SETTINGS)[0] for _ in range(5))

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(statuses) == 40
        assert statuses.count(503) == 7


def test_faults_by_name_and_namespace_and_dry_run() -> None:
    more = (
        "faults:\n"
        "  - {on: kubernetes, name: 'web*', namespace: shop, dry_run: true, answer: 429, retry_after: 2}\n"
        "  - {on: kubernetes, path: 'configmaps/set', answer: 410, message: gone}\n"
    )
    with start(more) as sandbox:
        status, document, headers = ask(sandbox, "PATCH", WEB + "?dryRun=All", {"spec": {"replicas": 3}})
        assert (status, document["reason"], headers["Retry-After"]) == (429, "TooManyRequests", "2")
        assert ask(sandbox, "PATCH", WEB, {"spec": {"replicas": 3}})[0] == 200
        status, document, _ = ask(sandbox, "GET", SETTINGS)
        assert (status, document["reason"], document["message"]) == (410, "Expired", "gone")


def test_a_lost_answer_was_done_and_a_reset_was_not() -> None:
    more = (
        "faults:\n"
        "  - {on: kubernetes, verb: patch, nth: 1, lose_answer: true}\n"
        "  - {on: kubernetes, verb: delete, nth: 1, reset: true}\n"
    )
    with start(more) as sandbox:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(sandbox, "PATCH", SETTINGS, {"data": {"color": "green"}})
        assert ask(sandbox, "GET", SETTINGS)[1]["data"]["color"] == "green"
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(sandbox, "DELETE", SETTINGS)
        assert ask(sandbox, "GET", SETTINGS)[0] == 200


@pytest.mark.timed
def test_hang_latency_and_drip() -> None:
    more = (
        "faults:\n"
        "  - {on: kubernetes, resource: configmaps, latency: 300ms}\n"
        "  - {on: kubernetes, resource: secrets, hang: true}\n"
        "  - {on: slack, drip: true}\n"
    )
    with start(more) as sandbox:
        begun = time.monotonic()
        assert ask(sandbox, "GET", SETTINGS)[0] == 200
        assert 0.3 <= time.monotonic() - begun < 2
        connection, headers = connect(sandbox, timeout=0.5)
        connection.request("GET", "/api/v1/namespaces/shop/secrets/db", headers=headers)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        where = urlsplit(sandbox.address("slack", "https://hooks.slack.com/services/x"))
        slow = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
        slow.request("POST", where.path, json.dumps({"text": "x"}))
        response = slow.getresponse()
        begun = time.monotonic()
        assert response.read(1) == b"o"
        assert response.read(1) == b"k"
        assert time.monotonic() - begun > 0.8
        slow.close()


# Rights


def test_forbidden_rules_and_access_reviews() -> None:
    more = "  forbidden: [{verb: patch, resource: services}, {resource: secrets}]\n"
    with surroundings.start(scenario.parse(WORLD + more)) as sandbox:
        status, document, _ = ask(sandbox, "PATCH", "/api/v1/namespaces/shop/services/web", {"spec": {}})
        assert (status, document["reason"]) == (403, "Forbidden")
        assert 'User "runbook" cannot patch resource "services"' in document["message"]
        assert ask(sandbox, "GET", "/api/v1/namespaces/shop/secrets/db")[0] == 403
        for verb, allowed in {"patch": False, "get": True}.items():
            review = {"spec": {"resourceAttributes": {"verb": verb, "resource": "services", "namespace": "shop"}}}
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            _, document, _ = ask(sandbox, "POST", path, review, Content_Type="application/json")
            assert document["status"]["allowed"] is allowed


def test_what_changes_is_on_record(sandbox: Sandbox) -> None:
    ask(sandbox, "GET", WEB)
    ask(sandbox, "PATCH", WEB + "?dryRun=All", {"spec": {"replicas": 1}})
    assert not any(one.changes for one in sandbox.asked), "a plan is made of these"
    ask(sandbox, "PATCH", WEB + "/scale", {"spec": {"replicas": 1}})
    (change,) = [one for one in sandbox.asked if one.changes]
    assert (change.verb, change.resource, change.namespace, change.name, change.status) == (
        "patch",
        "deployments/scale",
        "shop",
        "web",
        200,
    )


def test_conflicting_writers_lose_nothing(sandbox: Sandbox) -> None:
    def increment() -> None:
        done = 0
        while done < 10:
            _, item, _ = ask(sandbox, "GET", SETTINGS)
            count = str(int(item["data"].get("count", "0")) + 1)
            change = {"metadata": {"resourceVersion": item["metadata"]["resourceVersion"]}, "data": {"count": count}}
            done += ask(sandbox, "PATCH", SETTINGS, change)[0] == 200

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ask(sandbox, "GET", SETTINGS)[1]["data"]["count"] == "40"


# Helm


def test_helm_speaks_as_helm_does(sandbox: Sandbox) -> None:
    assert helm(sandbox, "version", "--template", "{{.Version}}").stdout == "v3.22.0+simulated"
    history = json.loads(helm(sandbox, "history", "web", "-n", "shop", "-o", "json").stdout)
    assert [(one["revision"], one["status"]) for one in history] == [(1, "superseded"), (2, "failed"), (3, "deployed")]
    assert set(history[0]) == {"revision", "updated", "status", "chart", "app_version", "description"}
    two = json.loads(helm(sandbox, "history", "web", "-n", "shop", "-o", "json", "--max", "2").stdout)
    assert [one["revision"] for one in two] == [2, 3], "ascending, the newest"
    status = json.loads(helm(sandbox, "status", "web", "-n", "shop", "--output=json").stdout)
    assert (status["version"], status["info"]["status"], status["namespace"]) == (3, "deployed", "shop")
    manifest = helm(sandbox, "get", "manifest", "web", "-n", "shop", "--revision", "1").stdout
    assert "image: r.invalid/web:1" in manifest
    for arguments, said in {
        ("history", "nope", "-n", "shop"): "Error: release: not found\n",
        ("status", "web", "-n", "elsewhere"): "Error: release: not found\n",
        ("get", "manifest", "web", "-n", "shop", "--revision", "9"): "Error: release: not found\n",
        ("rollback", "web", "9", "-n", "shop"): "Error: release has no 9 version\n",
        ("rollback", "web", "1", "--bogus"): "Error: unknown flag: --bogus\n",
        ("upgrade", "web", "./chart"): "Error: SIMULATED helm does not model `helm upgrade`",
    }.items():
        done = helm(sandbox, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(said)
    assert sandbox.unmodelled == ("helm upgrade",)


def test_helm_rolls_back_for_real(sandbox: Sandbox) -> None:
    ask(sandbox, "PATCH", WEB, {"metadata": {"annotations": {"by": "hand"}}, "spec": {"replicas": 5}})
    done = helm(sandbox, "rollback", "web", "1", "-n", "shop", "--wait", "--timeout", "20s")
    assert (done.returncode, done.stdout) == (0, "Rollback was a success! Happy Helming!\n")
    item = sandbox.world.get(kinds.DEPLOYMENT, "shop", "web")
    assert item["spec"]["template"]["spec"]["containers"][0]["image"] == "r.invalid/web:1"
    assert item["spec"]["replicas"] == 2, "what the manifest says"
    assert item["metadata"]["annotations"]["by"] == "hand", "what it does not say stays"
    assert item["status"]["updatedReplicas"] == item["status"]["availableReplicas"] == 2
    history = json.loads(helm(sandbox, "history", "web", "-n", "shop", "-o", "json").stdout)
    assert [(one["status"], one["description"]) for one in history[2:]] == [
        ("superseded", "Upgrade complete"),
        ("deployed", "Rollback to 1"),
    ]


def test_helm_times_out_and_a_killed_helm_leaves_pending_rollback(sandbox: Sandbox) -> None:
    done = helm(sandbox, "rollback", "web", "2", "-n", "shop", "--wait", "--timeout", "1s")
    assert (done.returncode, done.stderr) == (1, "Error: release web failed: context deadline exceeded\n")
    newest = sandbox.releases.history("shop", "web")[-1]
    assert (newest.status, newest.description) == ("failed", 'Release "web" failed: context deadline exceeded')
    argv = ["helm", "rollback", "web", "2", "-n", "shop", "--wait", "--timeout", "60s"]
    with subprocess.Popen(argv, env=dict(sandbox.environ), stderr=subprocess.DEVNULL) as program:
        deadline = time.monotonic() + 10
        while sandbox.releases.history("shop", "web")[-1].status != "pending-rollback":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        program.kill()
    time.sleep(0.5)
    assert sandbox.releases.history("shop", "web")[-1].status == "pending-rollback"
    done = helm(sandbox, "rollback", "web", "1", "-n", "shop", "--wait", "--timeout", "20s")
    assert done.returncode == 0, "a roll-back repairs it, as with the real one"


# Receivers


def post(sandbox: Sandbox, service: str, url: str, body: Any, **headers: str) -> tuple[int, str]:
    where = urlsplit(sandbox.address(service, url))
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
    connection.request("POST", where.path, json.dumps(body), {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, answer


def test_receivers_refuse_what_the_services_refuse(sandbox: Sandbox) -> None:
    hook = "https://hooks.slack.com/services/T/B/x"
    assert post(sandbox, "slack", hook, {"text": "hi"}) == (200, "ok")
    assert post(sandbox, "slack", hook, {}) == (400, "no_text")
    api = "https://slack.com/api/chat.postMessage"
    status, answer = post(sandbox, "slack", api, {"text": "hi", "channel": "#c"})
    assert (status, json.loads(answer)) == (200, {"ok": False, "error": "not_authed"})
    status, answer = post(sandbox, "slack", api, {"text": "hi"}, Authorization="Bearer t")
    assert json.loads(answer)["error"] == "channel_not_found"
    status, answer = post(sandbox, "slack", api, {"text": "hi", "channel": "#c"}, Authorization="Bearer t")
    assert json.loads(answer)["ok"] is True
    events = "https://events.pagerduty.com/v2/enqueue"
    assert post(sandbox, "pagerduty", events, {"routing_key": "k", "event_action": "resolve"})[0] == 400
    payload = {"summary": "s", "source": "x", "severity": "critical"}
    event = {"routing_key": "k", "event_action": "trigger", "payload": payload}
    assert post(sandbox, "pagerduty", events, event)[0] == 202
    assert post(sandbox, "pagerduty", events, event | {"payload": payload | {"severity": "bad"}})[0] == 400
    assert post(sandbox, "statuspage", "https://api.statuspage.io/v1/pages/p/incidents", {})[0] == 401
    assert post(sandbox, "statuspage", "https://api.statuspage.io/v1/nope", {}, Authorization="OAuth k")[0] == 501
    assert sandbox.unmodelled == ("Statuspage's /v1/nope",)
    assert len(sandbox.received("slack")) == 5
    assert sandbox.received("pagerduty")[1].body == event


def test_receivers_fail_as_the_services_fail() -> None:
    more = (
        "faults:\n"
        "  - {on: slack, answer: 429, retry_after: 3, times: 1}\n"
        "  - {on: slack, answer: 200, message: channel_is_archived}\n"
        "  - {on: pagerduty, answer: 500}\n"
    )
    with start(more) as sandbox:
        hook = "https://hooks.slack.com/x"
        assert post(sandbox, "slack", hook, {"text": "x"})[0] == 429
        assert json.loads(post(sandbox, "slack", hook, {"text": "x"})[1]) == {
            "ok": False,
            "error": "channel_is_archived",
        }
        assert post(sandbox, "pagerduty", "https://e/v2/enqueue", {})[0] == 500
        assert sandbox.received("slack") == sandbox.received("pagerduty") == []


# What a run sees


def test_the_environment_is_replaced(tmp_path: Path) -> None:
    environ = {
        "PATH": "/usr/bin",
        "HOME": "/h",
        "AWS_SECRET_ACCESS_KEY": "real",
        "SLACK": "real",
        "HTTPS_PROXY": "real",
    }
    more = "secrets: {SLACK: simulated-slack, /run/secrets/key: k, shop/db/password: p}\n"
    with start(more, environ) as sandbox:
        assert sandbox.simulated is True
        assert sandbox.environ["SLACK"] == "simulated-slack"
        assert sandbox.environ["HOME"] == "/h"
        assert sandbox.environ["KUBECONFIG"] == str(sandbox.kubeconfig)
        assert sandbox.environ["PATH"].endswith(":/usr/bin")
        assert shutil.which("helm", path=sandbox.environ["PATH"]) == str(sandbox.folder / "tools/helm")
        assert not any(value == "real" for value in sandbox.environ.values())
        inside = sandbox.surroundings
        assert inside.secret("env", "SLACK") == "simulated-slack"
        assert inside.secret("file", "/run/secrets/key") == "k"
        assert inside.secret("k8s", {"namespace": "shop", "secret": "db", "key": "password"}) == "p"
        assert inside.secret("env", "HOME") is None


def test_only_the_inside_is_permitted(sandbox: Sandbox) -> None:
    sandbox.permit("process", "helm")
    sandbox.permit("url", sandbox.address("slack", "https://hooks.slack.com/services/x"))
    for what, target in (
        ("process", "/usr/bin/helm"),
        ("process", "sh"),
        ("url", "https://example.com/"),
        ("url", sandbox.surroundings.coordinates.services + "1/"),
        ("write", "/etc/passwd"),
    ):
        with pytest.raises(PermanentError, match="SIMULATED"):
            sandbox.permit(what, target)
    with pytest.raises(PermanentError, match="no stand-in for grafana"):
        sandbox.address("grafana", "https://grafana.example/secret")


def test_answers() -> None:
    more = (
        "answers:\n"
        "  - {action: pg.query, match: {sql: SELECT 1}, times: 1, outputs: {value: 1}}\n"
        "  - {action: pg.query, match: {sql: SELECT 1}, error: too many connections, temporary: true}\n"
        "  - {action: shell.run, match: {command: '^./smoke .*ing$'}, outputs: {rc: 0}}\n"
        "  - {action: file.write, error: disk full}\n"
        "  - {action: manual.approve, decline: not on a Friday}\n"
        "  - {action: k8s.scale, match: {replicas: 3}, outputs: {}}\n"
    )
    with start(more) as sandbox:
        assert sandbox.answer("pg.query", {"sql": "SELECT 1"}) == {"value": 1}
        with pytest.raises(TemporaryError, match="SIMULATED: too many connections"):
            sandbox.answer("pg.query", {"sql": "SELECT 1"})
        assert sandbox.answer("pg.query", {"sql": "SELECT 2"}) is None
        assert sandbox.answer("shell.run", {"command": ["./smoke", "staging"]}) == {"rc": 0}
        with pytest.raises(PermanentError, match="disk full"):
            sandbox.answer("file.write", {})
        assert sandbox.answer("manual.approve", {}) == {"declined": "not on a Friday"}
        assert sandbox.answer("k8s.scale", {"replicas": 3}) == {}
        assert sandbox.answer("k8s.scale", {"replicas": "3"}) is None


@pytest.mark.timed
def test_private_and_gone_afterwards() -> None:
    with start() as sandbox:
        folder = sandbox.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in (sandbox.kubeconfig, sandbox.kubeconfig_nobody, sandbox.coordinates):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for address in json.loads(sandbox.kubeconfig.read_text())["clusters"]:
            assert urlsplit(address["cluster"]["server"]).hostname == "127.0.0.1"
        connection, headers = connect(sandbox)
        connection.request("GET", SETTINGS.rpartition("/")[0] + "?watch=1", headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        port = urlsplit(sandbox.surroundings.coordinates.services).port or 0
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    connection.close()


def test_what_a_killed_sandbox_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from runbook.sandbox import surroundings\n"
        "print(surroundings.start().folder, flush=True)\n"
        "os._exit(9)"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30, check=False)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    again = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert Path(again.stdout.strip()).is_dir()
    assert not left.exists()


def test_many_sandboxes_leave_no_thread_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        with start() as sandbox:
            assert ask(sandbox, "GET", WEB)[0] == 200
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.05)


def test_another_process_can_run_in_the_world(sandbox: Sandbox) -> None:
    code = (
        "import sys, subprocess\n"
        "from pathlib import Path\n"
        "from runbook.sandbox.surroundings import attach\n"
        "world = attach(Path(sys.argv[1]), {'PATH': '/usr/bin:/bin'})\n"
        "argv = ['helm', 'status', 'web', '-n', 'shop']\n"
        "done = subprocess.run(argv, env=dict(world.environ), capture_output=True, text=True)\n"
        "print(world.simulated, done.stdout)\n"
    )
    argv = [sys.executable, "-c", code, str(sandbox.coordinates)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith("True NAME: web\n")


def test_serving_until_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    kubeconfig = tmp_path / "kubeconfig"
    serving = surroundings.serve(scenario.parse(WORLD), kubeconfig, stop)
    sandbox = next(serving)
    assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
    assert kubeconfig.read_text() == sandbox.kubeconfig.read_text()
    stop.set()
    assert list(serving) == []
    assert not kubeconfig.exists()
    assert not sandbox.folder.exists()


KUBECTL = built() / "kubectl"


@pytest.mark.control_plane
@pytest.mark.skipif(not KUBECTL.exists(), reason="no kubectl (tests/testbed/control_plane/build)")
def test_kubectl(sandbox: Sandbox) -> None:
    def kubectl(*arguments: str) -> str:
        argv = [str(KUBECTL), "--kubeconfig", str(sandbox.kubeconfig), "--namespace", "shop", *arguments]
        environ = {"PATH": os.environ["PATH"], "HOME": str(sandbox.folder)}
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    everywhere = kubectl("get", "deploy", "-A")
    assert "shop" in everywhere
    assert "web" in everywhere
    assert kubectl("patch", "deploy", "web", "-p", '{"spec":{"replicas":3}}') == "deployment.apps/web patched\n"
    assert kubectl("rollout", "status", "deploy/web", "--timeout=20s").endswith("successfully rolled out\n")
    assert "REVISION" in kubectl("rollout", "history", "deploy/web")
    assert kubectl("rollout", "undo", "deploy/web") == "deployment.apps/web rolled back\n"
    assert kubectl("rollout", "status", "deploy/web", "--timeout=20s").endswith("successfully rolled out\n")
    image = kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
    assert image == "r.invalid/web:1"
    kubectl("wait", "deploy/web", "--for=jsonpath={.status.replicas}=3", "--timeout=20s")  # the old ones are gone
    assert "SIMULATED log" in kubectl("logs", "deploy/web")
    assert kubectl("scale", "deploy/web", "--replicas=1") == "deployment.apps/web scaled\n"
    assert len(kubectl("get", "endpointslices", "-o", "name").splitlines()) == 1
    assert kubectl("wait", "deploy/web", "--for=condition=Available", "--timeout=10s")
    assert kubectl("delete", "configmap", "settings") == 'configmap "settings" deleted from shop namespace\n'


def test_a_taken_port_leaves_nothing_behind(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = urlsplit(sandbox.surroundings.coordinates.services).port or 0
    with pytest.raises(OSError, match="in use"):
        surroundings.start(scenario.parse(WORLD), port=taken)
    assert list(tmp_path.iterdir()) == []


def test_the_same_scenario_gives_the_same_names() -> None:
    seen = []
    for _ in range(2):
        with start() as sandbox:
            seen.append([item["metadata"]["name"] for item in sandbox.world.list(kinds.POD)])
    assert seen[0] == seen[1]


def test_other_contexts_lead_into_the_same_world() -> None:
    more = "  contexts: [prod]\n"
    with surroundings.start(scenario.parse(WORLD + more)) as sandbox:
        names = [one["name"] for one in json.loads(sandbox.kubeconfig.read_text())["contexts"]]
        assert names == ["simulated", "prod"]
        assert helm(sandbox, "status", "web", "-n", "shop", "--kube-context", "prod").returncode == 0
        done = helm(sandbox, "status", "web", "-n", "shop", "--kube-context", "nope")
        assert done.stderr == 'Error: Kubernetes cluster unreachable: context "nope" does not exist\n'


def test_helm_has_the_rights_of_its_user() -> None:
    more = "  forbidden: [{verb: patch, resource: deployments}]\n"
    with surroundings.start(scenario.parse(WORLD + more)) as sandbox:
        assert helm(sandbox, "status", "web", "-n", "shop").returncode == 0
        done = helm(sandbox, "rollback", "web", "1", "-n", "shop")
        assert done.returncode == 1
        assert 'cannot patch "web" with kind Deployment: deployments.apps "web" is forbidden' in done.stderr
        assert len(sandbox.releases.history("shop", "web")) == 3
        done = helm(sandbox, "history", "web", "-n", "shop", "--kubeconfig", str(sandbox.kubeconfig_nobody))
        assert done.stderr == (
            "Error: query: failed to query with labels: secrets is forbidden: "
            'User "nobody" cannot list resource "secrets" in API group "" in the namespace "shop"\n'
        )
        assert "cluster unreachable" in helm(sandbox, "list", "--kubeconfig", "/elsewhere").stderr
