"""What stands between us and the API server misbehaves: the error names it, the deadline holds, a change is settled by
looking, and what can be waited for is waited for. A real API server, behind a proxy of the test's own."""

from __future__ import annotations

import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runbook.actions._kube import cluster as clusters
from runbook.actions._kube.cluster import connect
from runbook.actions._kube.kinds import DEPLOYMENT, Kind, Ref
from runbook.actions._kube.transport import Within
from runbook.contract import PermanentError, TemporaryError
from tests.command import Commands
from tests.http_server import serving
from tests.kube import Caller, Made, change, opened
from tests.proxy import Proxy, proxied, refusal, written
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")


@pytest.fixture
def proxy(control_plane: Plane) -> Iterator[Proxy]:
    with proxied(control_plane) as found:
        yield found


@pytest.fixture
def caller(control_plane: Plane, proxy: Proxy, tmp_path: Path) -> Caller:
    made = Caller(control_plane, tmp_path)
    made.environ["KUBECONFIG"] = proxy.kubeconfig(tmp_path)
    return made


@pytest.fixture
def space(control_plane: Plane) -> str:
    name = control_plane.namespace()
    control_plane.deployment(name, "web", "r/web:1", wait=False)
    control_plane.kubectl("-n", name, "create", "configmap", "web")  # nobody else writes it
    return name


def patch(space: str, value: str, kind: str = "configmap") -> dict[str, Any]:
    return {"namespace": space, "kind": kind, "name": "web", "patch": {"metadata": {"labels": {"tier": value}}}}


def tier(plane: Plane, space: str) -> str | None:
    found: str | None = (plane.read(space, "configmap", "web")["metadata"].get("labels") or {}).get("tier")
    return found


# -- answers that do not arrive whole

BROKEN = {
    "truncate": "was cut short",
    "half": "is no whole JSON object",
    "lose": "closed the connection without an answer",
    "reset": "reset",
    "refuse": "closed the connection without an answer",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_read_whose_answer_is_broken_is_a_temporary_error_that_says_so(
    fault: str, proxy: Proxy, caller: Caller, space: str
) -> None:
    proxy.fault("GET", "/deployments/web", fault, times=9)
    with pytest.raises(TemporaryError, match=BROKEN[fault]) as caught:
        caller.read("k8s.get", {"namespace": space, "kind": "deployment", "name": "web"})
    assert f"http://127.0.0.1:{proxy.port}" in caught.value.message


@pytest.mark.parametrize("fault", BROKEN)
def test_half_a_list_is_never_taken_for_the_whole(fault: str, proxy: Proxy, caller: Caller, space: str) -> None:
    proxy.fault("GET", "/deployments", fault, times=9)
    with pytest.raises(TemporaryError):
        caller.read("k8s.status", {"namespace": space, "selector": "app=web"})


@pytest.mark.parametrize("fault", BROKEN)
def test_a_change_whose_answer_is_broken_is_settled_by_looking(
    fault: str, control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    given = patch(space, fault)
    with caller.context() as ctx:
        action, args = change("k8s.patch", given)
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        proxy.fault("PATCH", "/configmaps/web", fault)
        if fault == "refuse":  # it never got there
            with pytest.raises(TemporaryError, match=BROKEN[fault]):
                action.apply(args, before, ctx)
            assert tier(control_plane, space) is None
            assert action.settle(args, before, after, action.observe(args, ctx), ctx) == "not_done"
        else:
            action.apply(args, before, ctx)
            assert tier(control_plane, space) == fault
            assert action.settle(args, before, after, action.observe(args, ctx), ctx) == "done"
    assert proxy.count("PATCH", "dryRun=All") == 1
    assert proxy.count("PATCH", "fieldValidation=Strict$") == 1, "a change is never sent twice"


def test_a_change_whose_answer_drips_until_the_deadline_is_settled_by_looking(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    given = patch(space, "dripped")
    planned = caller.plan("k8s.patch", given)
    proxy.fault("PATCH", "/configmaps/web.*Strict$", "drip")
    action, args = change("k8s.patch", given)
    with caller.context(seconds=3.0) as ctx, pytest.raises(TemporaryError):
        action.apply(args, planned.before, ctx)
    assert tier(control_plane, space) == "dripped"
    assert caller.settle("k8s.patch", given, planned) == "done"
    again = caller.change("k8s.patch", given)
    assert again.before == again.after
    assert proxy.count("PATCH", "fieldValidation=Strict$") == 1, "a change is never sent twice"


def test_a_run_has_one_connection(control_plane: Plane, proxy: Proxy, space: str, tmp_path: Path) -> None:
    cli = Commands(tmp_path, control_plane.environ() | {"KUBECONFIG": proxy.kubeconfig(tmp_path)})
    given = "kind: configmap, name: web, patch: {data: {mark: "
    steps = "".join(f"\n  - {{id: p{n}, action: k8s.patch, with: {{{given}'{n}'}}}}}}}}" for n in range(10))
    cli.write("ten.yaml", book(space, steps + "\n"))
    said = cli("run", "ten.yaml", "--yes", "--no-preflight")
    assert said.code == 0, said.out + said.err
    assert proxy.count("PATCH", "Strict$") == 10
    assert proxy.connections == 1


def test_a_scale_whose_answer_is_lost_is_done_by_its_second_attempt_and_sent_once(
    control_plane: Plane, proxy: Proxy, space: str, tmp_path: Path
) -> None:
    cli = Commands(tmp_path, control_plane.environ() | {"KUBECONFIG": proxy.kubeconfig(tmp_path)})
    cli.write("scale.yaml", book(space, SCALE))
    proxy.fault("PATCH", "/scale.*fieldValidation=Strict$", "lose")
    said = cli("run", "scale.yaml", "--yes")
    assert said.code == 0, said.out + said.err
    assert control_plane.read(space, "deployment", "web")["spec"]["replicas"] == 3
    assert proxy.count("PATCH", "/scale.*fieldValidation=Strict$") == 1
    said = cli("undo", "last", "--yes")
    assert said.code == 0, said.out + said.err
    assert control_plane.read(space, "deployment", "web")["spec"]["replicas"] == 2


SCALE = """
  - id: scale
    action: k8s.scale
    with: {name: web, replicas: 3}
    retry: {max_attempts: 3, delay: 100ms}
"""


def book(space: str, steps: str) -> str:
    return f"runbook: 1\nname: faults\ndefaults: {{with: {{k8s: {{namespace: {space}}}}}}}\nsteps:{steps}"


@pytest.mark.timed
@pytest.mark.parametrize("name", ["k8s.get", "k8s.patch"])
def test_an_answer_that_drips_does_not_hold_the_deadline(name: str, proxy: Proxy, caller: Caller, space: str) -> None:
    proxy.fault("GET", "/(configmaps|deployments)/web", "drip", times=9)
    given = patch(space, "x") if name == "k8s.patch" else {"namespace": space, "kind": "deployment", "name": "web"}
    began = time.monotonic()
    with pytest.raises(TemporaryError):
        caller.read(name, given, seconds=1.0) if name == "k8s.get" else caller.change(name, given, seconds=1.0)
    assert 0.8 < time.monotonic() - began < 2.0


def test_a_page_in_place_of_the_api_is_no_object(proxy: Proxy, caller: Caller, space: str) -> None:
    page = b"<html><body>Please log in</body></html>"
    given = {"namespace": space, "kind": "deployment", "name": "web"}
    proxy.fault("GET", "/deployments/web", (200, {"Content-Type": "text/html"}, page))
    with pytest.raises(TemporaryError, match="is no whole JSON object"):
        caller.read("k8s.get", given)
    proxy.fault("GET", "/deployments/web", (502, {"Content-Type": "text/html"}, page))
    with pytest.raises(TemporaryError, match=r"with a page that is none of the API server's \(HTTP 502\)"):
        caller.read("k8s.get", given)


# -- pushed back


def test_too_many_requests_are_waited_for(control_plane: Plane, proxy: Proxy, caller: Caller, space: str) -> None:
    busy = refusal(429, "too many requests, please try again later", Retry_After="1")
    proxy.fault("GET", "/configmaps/web", busy, times=2)
    proxy.fault("PATCH", "/configmaps/web.*Strict$", busy)
    began = time.monotonic()
    caller.change("k8s.patch", patch(space, "waited"))
    assert time.monotonic() - began >= 3.0, "each refusal asked for a second"
    assert tier(control_plane, space) == "waited"
    assert proxy.count("PATCH", "/configmaps/web.*Strict$") == 2


def test_a_wait_that_is_longer_than_the_call_is_told_to_whoever_retries(
    proxy: Proxy, caller: Caller, space: str
) -> None:
    proxy.fault("GET", "/deployments/web", refusal(429, "later", Retry_After="40"), times=9)
    with pytest.raises(TemporaryError, match=r"later \(HTTP 429\)") as caught:
        caller.read("k8s.get", {"namespace": space, "kind": "deployment", "name": "web"}, seconds=10.0)
    assert caught.value.retry_after == 40.0
    assert proxy.count("GET", "/deployments/web") == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_server_in_trouble_is_temporary(status: int, proxy: Proxy, caller: Caller, space: str) -> None:
    proxy.fault("GET", "/deployments/web", refusal(status, "etcdserver: request timed out"))
    with pytest.raises(TemporaryError, match=rf"etcdserver: request timed out \(HTTP {status}\)"):
        caller.read("k8s.get", {"namespace": space, "kind": "deployment", "name": "web"})


def test_a_list_that_was_forgotten_between_two_pages_goes_on(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE", 2)
    names = [f"map-{number}" for number in range(5)]
    for name in names:
        control_plane.kubectl("-n", space, "create", "configmap", name)
        control_plane.kubectl("-n", space, "label", "configmap", name, "of=test")

    def forgotten(client: socket.socket, path: str, answer: bytes) -> None:
        # SIMULATED: what the server says when it has compacted that version (five minutes later): here it may go on.
        token = parse_qs(urlsplit(path).query)["continue"][0]
        status, headers, said = refusal(410, "The provided continue parameter is too old")
        following = {**json.loads(said), "reason": "Expired", "metadata": {"continue": token}}
        client.sendall(written(status, headers, json.dumps(following).encode()))

    proxy.fault("GET", "configmaps.*continue=", forgotten, times=2)
    found = caller.read("k8s.get", {"namespace": space, "kind": "configmap", "selector": "of=test"})
    assert [entry["metadata"]["name"] for entry in found["objects"]] == names
    assert proxy.count("GET", "configmaps.*continue=") == 4  # two pages, each refused once


@pytest.mark.timed
def test_a_cancel_ends_the_wait_for_a_busy_server(proxy: Proxy, caller: Caller, space: str) -> None:
    proxy.fault("GET", "/configmaps/web", refusal(429, "later", Retry_After="20"), times=9)
    with caller.context() as ctx:
        action, args = opened("k8s.get", {"namespace": space, "kind": "configmap", "name": "web"})
        stop = threading.Timer(0.5, ctx.stop)
        stop.start()
        began = time.monotonic()
        with pytest.raises(TemporaryError):
            action.read(args, ctx)  # type: ignore[attr-defined]
        assert time.monotonic() - began < 1.5
        stop.join()


def test_a_connection_that_was_closed_while_it_was_idle_costs_a_change_nothing(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    def close_after(client: socket.socket, path: str, answer: bytes) -> None:
        client.sendall(answer)

    proxy.fault("GET", "/configmaps/web", close_after)
    ref = Ref(CONFIG_MAP, space, "web")
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        cluster.get(ctx, ref)
        (idle,) = cluster.transport._idle
        control_plane.until(lambda: bool(select.select([idle.http.sock], [], [], 0)[0]))
        cluster.patch(ctx, ref, {"metadata": {"labels": {"tier": "done"}}}, "merge")
    assert tier(control_plane, space) == "done"
    assert proxy.count("PATCH", "Strict$") == 1


def test_a_dry_run_on_a_connection_that_is_closed_that_moment_is_asked_again(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str
) -> None:
    proxy.fault("PATCH", "dryRun=All", "reset")
    caller.change("k8s.patch", patch(space, "done"))  # its dry run goes over the connection that observe used
    assert tier(control_plane, space) == "done"
    assert proxy.count("PATCH", "dryRun=All") == 2
    assert proxy.count("PATCH", "Strict$") == 1


def test_many_threads_share_connections_and_never_one_at_a_time(
    control_plane: Plane, space: str, tmp_path: Path
) -> None:
    caller = Caller(control_plane, tmp_path)
    names = [f"map-{number}" for number in range(8)]
    for name in names:
        control_plane.kubectl("-n", space, "create", "configmap", name)
    wrong: list[BaseException | str] = []
    with caller.context() as ctx:
        cluster = connect(ctx, "current")

        def read(name: str) -> None:
            try:
                for _ in range(100):
                    found = cluster.get(ctx, Ref(CONFIG_MAP, space, name))["metadata"]["name"]
                    if found != name:
                        wrong.append(f"{found} is not {name}")
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=read, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong


# -- ten writers at one object


def test_ten_writers_lose_nothing_and_overwrite_nobody(
    control_plane: Plane, proxy: Proxy, caller: Caller, space: str, tmp_path: Path
) -> None:
    """Ten others replace the whole object, each with a label of its own added; ours patch and scale it meanwhile."""
    written_by: dict[str, int] = {}
    failures: list[BaseException] = []
    refused: list[str] = []
    path = f"/apis/apps/v1/namespaces/{space}/deployments/web"

    def writer(name: str) -> None:
        try:
            with caller.context() as ctx:
                cluster = connect(ctx, "current")
                ref = Ref(DEPLOYMENT, space, "web")
                for number in range(1, 6):
                    while True:
                        live = cluster.get(ctx, ref)
                        live["metadata"]["labels"][name] = str(number)
                        answer = cluster.transport.request(
                            ctx,
                            "PUT",
                            path,
                            headers={"Content-Type": "application/json"},
                            body=json.dumps(live).encode(),
                        )
                        if answer.status == 200:
                            break
                        assert answer.status == 409, answer.body
                        refused.append(name)
                    written_by[name] = number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=writer, args=(f"writer-{number}",)) for number in range(10)]
    for thread in threads:
        thread.start()
    made, scaled = [], []
    for number in range(10):
        made.append(until_made(caller, "k8s.patch", patch(space, f"ours-{number}", "deployment")))
        scaled.append(until_made(caller, "k8s.scale", {"namespace": space, "name": "web", "replicas": 3 + number}))
    for thread in threads:
        thread.join(60)
    assert not failures
    found = control_plane.read(space, "deployment", "web")
    labels = found["metadata"]["labels"]
    assert {name: labels.get(name) for name in written_by} == dict.fromkeys(written_by, "5")
    assert len(written_by) == 10
    assert (labels["tier"], found["spec"]["replicas"]) == ("ours-9", 12)
    # Each of ours saw the one before it as what was there: none was made on top of something that it had not read.
    assert [list(one.before.values()) for one in made] == [[None], *([f"ours-{number}"] for number in range(9))]
    assert [one.outputs["previous"] for one in scaled] == [2, *range(3, 12)]
    assert refused, "it was no storm"


def until_made(caller: Caller, name: str, given: dict[str, Any]) -> Made:
    """As a step with `retry` does it."""
    for _ in range(20):
        try:
            return caller.change(name, given)
        except TemporaryError as error:
            if "was changed by others 5 times" not in error.message:
                raise
    raise AssertionError("twenty attempts of five were not enough")


# -- servers that say nothing


@pytest.mark.timed
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_says_a_word_does_not_hold_the_deadline(
    scheme: str, caller: Caller, tmp_path: Path
) -> None:
    with serving(mute=True) as server:
        text = Path(caller.environ["KUBECONFIG"]).read_text()
        (tmp_path / "kubeconfig").write_text(re.sub(r"http://\S+", f"{scheme}://127.0.0.1:{server.port}", text))
        caller.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
        began = time.monotonic()
        with pytest.raises(TemporaryError):
            caller.read("k8s.get", {"namespace": "default", "kind": "pod"}, seconds=1.0)
        assert 0.8 < time.monotonic() - began < 2.0


@pytest.mark.timed
def test_the_resolver_of_secrets_has_its_time_and_no_more(
    proxy: Proxy, caller: Caller, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.fault("GET", "/secrets/db", drip_head, times=9)
    monkeypatch.setattr(clusters, "Within", lambda _: Within(1.0))
    began = time.monotonic()
    with pytest.raises(TemporaryError, match="gave no answer in time"):
        clusters.read_secret(caller.environ, "current", space, "db", "password")
    assert time.monotonic() - began < 2.5


def drip_head(client: socket.socket, path: str, answer: bytes) -> None:
    for position in range(len(answer)):
        client.sendall(answer[position : position + 1])
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("k8s.get", {"kind": "pod", "namespace": ""}, "namespace: '' is no name"),
        ("k8s.get", {"kind": "pod", "name": ""}, "name: '' is no name of an object"),
        ("k8s.get", {"kind": "namespace", "name": ""}, "name: '' is no name of an object"),
        ("k8s.get", {"kind": "configmap", "name": ".."}, "name: '..' is no name of an object"),
        ("k8s.get", {"kind": "configmap", "name": "web", "namespace": ".."}, "namespace: '..' is no name"),
        ("k8s.status", {"selector": "app=web", "namespace": ""}, "namespace: '' is no name"),
        ("k8s.wait", {"kind": "configmap", "name": "", "for": "deleted"}, "name: '' is no name of an object"),
    ],
)
def test_an_empty_name_never_means_all_of_them(
    name: str, given: dict[str, Any], text: str, proxy: Proxy, caller: Caller
) -> None:
    with pytest.raises(PermanentError, match=re.escape(text)):
        caller.read(name, {"namespace": "default", **given})
    assert not proxy.asked


def test_a_change_of_an_empty_name_sends_nothing(proxy: Proxy, caller: Caller, space: str) -> None:
    for name, given in (
        ("k8s.patch", {"kind": "configmap", "name": "", "patch": {"data": {"a": "b"}}}),
        ("k8s.delete", {"kind": "configmap", "name": ""}),
        ("k8s.scale", {"name": "", "replicas": 0}),
        ("k8s.delete_pods", {"selector": "app=web", "namespace": ""}),
    ):
        with pytest.raises(PermanentError, match=r"is no name|name: empty"):
            caller.change(name, {"namespace": space, **given})
    assert not [method for method, _ in proxy.asked if method != "GET"]
