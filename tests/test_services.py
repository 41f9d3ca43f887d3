"""slack, pagerduty, statuspage and prometheus against SIMULATED services that answer as their references say."""

from __future__ import annotations

import socket
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from runbook.actions import pagerduty, prometheus, slack, statuspage
from runbook.contract import PermanentError, TemporaryError
from tests import http_server
from tests.context import LocalContext, call
from tests.http_server import Asked, Server, reply, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def context(tmp_path: Path, server: Server, seconds: float = 10) -> LocalContext:
    paths = {"slack": "/api/chat.postMessage", "pagerduty": "/v2/enqueue", "statuspage": "/v1"}
    return LocalContext(tmp_path, seconds=seconds, stand_ins={name: server.url(path) for name, path in paths.items()})


# -- Slack


def test_slack_webhook(tmp_path: Path, server: Server) -> None:
    server.answers["/services/T/B/x"] = reply(200, "ok")
    given = {
        "webhook": server.url("/services/T/B/x"),
        "text": "hello",
        "title": "Rollback",
        "color": "danger",
        "fields": {"env": "prod", "ok": True},
    }
    with LocalContext(tmp_path) as ctx:
        assert call(slack.Post, given, ctx) == {"ts": None}
    (attachment,) = server.asked[0].json["attachments"]
    assert (attachment["title"], attachment["color"], attachment["text"]) == ("Rollback", "danger", "hello")
    assert attachment["fields"][1] == {"title": "ok", "value": "yes", "short": True}


def test_slack_token_thread_and_ts(tmp_path: Path, server: Server) -> None:
    server.answers["/api/chat.postMessage"] = reply(200, {"ok": True, "ts": "1503435956.000247"})
    with context(tmp_path, server) as ctx:
        out = call(slack.Post, {"token": "xoxb-canary", "channel": "#ops", "text": "hi", "thread": "1.2"}, ctx)
    assert out == {"ts": "1503435956.000247"}
    asked = server.asked[0]
    assert asked.json == {"channel": "#ops", "text": "hi", "thread_ts": "1.2"}
    assert asked.headers["authorization"] == "Bearer xoxb-canary"


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (reply(200, {"ok": False, "error": "channel_not_found"}), PermanentError, "channel_not_found"),
        (reply(200, {"ok": False, "error": "ratelimited"}, Retry_After="3"), TemporaryError, "ratelimited"),
        (reply(429, "slow down", Retry_After="30"), TemporaryError, "HTTP 429"),
        (reply(500), TemporaryError, "HTTP 500"),
        (reply(200, "not json"), PermanentError, "no answer that can be read"),
    ],
)
def test_slack_errors(tmp_path: Path, server: Server, answer: Any, error: type[Exception], sentence: str) -> None:
    server.answers["/api/chat.postMessage"] = answer
    with context(tmp_path, server) as ctx, pytest.raises(error, match=sentence) as caught:
        call(slack.Post, {"token": "xoxb-canary", "channel": "#ops", "text": "hi"}, ctx)
    assert "canary" not in str(caught.value)
    if isinstance(caught.value, TemporaryError) and "Retry-After" in answer[1]:
        assert caught.value.retry_after == float(answer[1]["Retry-After"])


def test_a_webhook_is_never_in_an_error(tmp_path: Path, server: Server) -> None:
    server.answers["/services/canary"] = reply(404, "no_team")
    server.answers["/services/canary-reset"] = http_server.reset
    server.answers["/services/canary-200"] = reply(200, "invalid_payload")
    for path in ("canary", "canary-reset", "canary-200"):
        with LocalContext(tmp_path) as ctx, pytest.raises((PermanentError, TemporaryError), match="Slack") as caught:
            call(slack.Post, {"webhook": server.url(f"/services/{path}"), "text": "hi"}, ctx)
        assert "canary" not in str(caught.value)


def test_slack_without_a_credential_fails_at_once(tmp_path: Path) -> None:
    for given, sentence in [
        ({}, "neither webhook nor token"),
        ({"token": "x"}, "channel"),
        ({"webhook": "http://x", "thread": "1"}, "thread"),
    ]:
        with LocalContext(tmp_path) as ctx, pytest.raises(PermanentError, match=sentence):
            call(slack.Post, {"text": "hi", **given}, ctx)


@pytest.mark.timed
def test_a_black_hole_holds_nobody_longer_than_the_deadline(tmp_path: Path, server: Server) -> None:
    server.answers["/api/chat.postMessage"] = http_server.black_hole
    begun = time.monotonic()
    with context(tmp_path, server, seconds=0.4) as ctx, pytest.raises(TemporaryError):
        call(slack.Post, {"token": "x", "channel": "#ops", "text": "hi"}, ctx)
    assert time.monotonic() - begun < 1.2


# -- PagerDuty


def test_pagerduty_trigger_and_resolve(tmp_path: Path, server: Server) -> None:
    def enqueue(connection: socket.socket, asked: Asked) -> Any:
        return reply(202, {"status": "success", "dedup_key": asked.json["dedup_key"]})

    server.answers["/v2/enqueue"] = enqueue
    with context(tmp_path, server) as ctx:
        given = {"routing_key": "R" * 32, "summary": "x" * 2000, "details": {"step": "deploy"}, "severity": "error"}
        assert call(pagerduty.Trigger, given, ctx) == {"dedup_key": "run-1"}
        assert call(pagerduty.Resolve, {"routing_key": "R" * 32, "dedup_key": "INC-7"}, ctx) == {"dedup_key": "INC-7"}
    trigger, resolve = (asked.json for asked in server.asked)
    assert len(trigger["payload"].pop("summary")) == 1024
    assert trigger["payload"] == {"severity": "error", "source": "runbook", "custom_details": {"step": "deploy"}}
    assert (trigger["event_action"], trigger["routing_key"]) == ("trigger", "R" * 32)
    assert resolve == {"routing_key": "R" * 32, "event_action": "resolve", "dedup_key": "INC-7"}


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, PermanentError), (403, PermanentError), (429, TemporaryError), (500, TemporaryError), (200, PermanentError)],
)
def test_pagerduty_takes_only_202_for_a_yes(
    tmp_path: Path, server: Server, status: int, error: type[Exception]
) -> None:
    server.answers["/v2/enqueue"] = reply(status)
    with context(tmp_path, server) as ctx, pytest.raises(error, match=f"HTTP {status}"):
        call(pagerduty.Trigger, {"routing_key": "R", "summary": "x"}, ctx)


def test_an_absent_routing_key_fails_at_once(tmp_path: Path) -> None:
    with LocalContext(tmp_path) as ctx, pytest.raises(PermanentError, match="routing_key"):
        call(pagerduty.Trigger, {"routing_key": None, "summary": "x"}, ctx)


# -- Statuspage


class Page:
    """SIMULATED incidents of one page."""

    def __init__(self, server: Server) -> None:
        self.incidents: list[dict[str, Any]] = [{"id": "other", "metadata": {}, "status": "identified"}]
        self.server = server
        server.answers["/v1/pages/p/incidents"] = self.create
        server.answers["/v1/pages/p/incidents/unresolved"] = self.unresolved

    def unresolved(self, connection: socket.socket, asked: Asked) -> Any:
        return reply(200, [one for one in self.incidents if one["status"] != "resolved"])

    def create(self, connection: socket.socket, asked: Asked) -> Any:
        given = asked.json["incident"]
        made = {"id": f"i{len(self.incidents)}", **given, "incident_updates": [{"body": given["body"]}]}
        self.incidents.append(made)
        self.server.answers[f"/v1/pages/p/incidents/{made['id']}"] = self.update
        return reply(201, made)

    def update(self, connection: socket.socket, asked: Asked) -> Any:
        found = next(one for one in self.incidents if one["id"] == asked.path.rpartition("/")[2])
        given = asked.json["incident"]
        found |= given
        found["incident_updates"].insert(0, {"body": given["body"]})
        return reply(200, found)


def test_statuspage_updates_the_incident_of_its_key(tmp_path: Path, server: Server) -> None:
    page = Page(server)
    given = {"api_key": "canary", "page": "p", "key": "INC-1", "title": "Down"}
    with context(tmp_path, server) as ctx:
        first = call(statuspage.Incident, {**given, "status": "investigating", "message": "We look."}, ctx)
        again = call(
            statuspage.Incident,
            {**given, "status": "identified", "message": "Found.", "components": {"c1": "partial_outage"}},
            ctx,
        )
        done = call(statuspage.Incident, {**given, "status": "resolved", "message": "Over."}, ctx)
        late = call(statuspage.Incident, {**given, "status": "resolved", "message": "Over."}, ctx)
        new = call(statuspage.Incident, {**given, "status": "investigating", "message": "Again."}, ctx)
    assert first == {"id": "i1", "created": True}
    assert again == done == {"id": "i1", "created": False}
    assert late == {"id": None, "created": False}, "nothing is open: nothing is resolved, nothing is made"
    assert new["created"] is True
    assert [update["body"] for update in page.incidents[1]["incident_updates"]] == ["Over.", "Found.", "We look."]
    assert page.incidents[1]["metadata"] == {"runbook": {"key": "INC-1"}}
    assert page.incidents[1]["component_ids"] == ["c1"]
    assert server.asked[0].headers["authorization"] == "OAuth canary"


def test_a_repeated_update_posts_nothing_twice(tmp_path: Path, server: Server) -> None:
    page = Page(server)
    given = {"api_key": "k", "page": "p", "title": "Down", "status": "investigating", "message": "We look."}
    with context(tmp_path, server) as ctx:
        for _ in range(3):
            call(statuspage.Incident, given, ctx)
    assert len(page.incidents) == 2
    assert len(page.incidents[1]["incident_updates"]) == 1
    assert page.incidents[1]["metadata"]["runbook"]["key"] == "run-1"


@pytest.mark.parametrize(
    ("status", "error"), [(420, TemporaryError), (429, TemporaryError), (401, PermanentError), (422, PermanentError)]
)
def test_statuspage_errors(tmp_path: Path, server: Server, status: int, error: type[Exception]) -> None:
    server.answers["/v1/pages/p/incidents/unresolved"] = reply(status, Retry_After="60")
    with context(tmp_path, server) as ctx, pytest.raises(error, match=f"HTTP {status}"):
        call(
            statuspage.Incident, {"api_key": "k", "page": "p", "title": "t", "status": "resolved", "message": "m"}, ctx
        )


def test_statuspage_knows_its_component_statuses(tmp_path: Path) -> None:
    with (
        LocalContext(tmp_path) as ctx,
        pytest.raises(PermanentError, match=r"components.c: expected one of operational"),
    ):
        call(
            statuspage.Incident,
            {
                "api_key": "k",
                "page": "p",
                "title": "t",
                "status": "resolved",
                "message": "m",
                "components": {"c": "down"},
            },
            ctx,
        )


# -- Prometheus


def vector(*samples: tuple[dict[str, str], str]) -> Any:
    result = [{"metric": labels, "value": [1435781451.781, value]} for labels, value in samples]
    return reply(200, {"status": "success", "data": {"resultType": "vector", "result": result}})


@pytest.mark.parametrize(
    ("answer", "value", "why"),
    [
        (vector(({}, "0.25")), 0.25, ""),
        (vector(({}, "0")), 0.0, ""),
        (vector(), None, "no series"),
        (vector(({}, "NaN")), None, "the value is NaN"),
        (vector(({}, "+Inf")), None, "the value is +Inf"),
        (vector(({"a": "1"}, "1"), ({"a": "2"}, "2")), None, "2 series"),
        (reply(200, {"status": "success", "data": {"resultType": "scalar", "result": [1.0, "3"]}}), 3.0, ""),
    ],
)
def test_prometheus_gives_a_number_only_for_a_number(
    tmp_path: Path, server: Server, answer: Any, value: Any, why: str
) -> None:
    server.answers["/api/v1/query"] = answer
    with LocalContext(tmp_path) as ctx:
        out = call(
            prometheus.Query, {"url": server.url("/"), "query": "up > 0", "at": 1435781451.0, "bearer": "t"}, ctx
        )
    assert (out["value"], out["why"]) == (value, why)
    assert out["count"] == len(out["series"])
    form = parse_qs(server.asked[0].body.decode())
    assert (form["query"], form["time"]) == (["up > 0"], ["1435781451.0"])
    assert server.asked[0].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (
            reply(400, {"status": "error", "errorType": "bad_data", "error": "parse error"}),
            PermanentError,
            "bad_data: parse error",
        ),
        (
            reply(422, {"status": "error", "errorType": "execution", "error": "many-to-many"}),
            PermanentError,
            "execution",
        ),
        (
            reply(503, {"status": "error", "errorType": "timeout", "error": "query timed out"}),
            TemporaryError,
            "timed out",
        ),
        (reply(502, "bad gateway"), TemporaryError, "HTTP 502"),
        (reply(200, "<html>login</html>"), PermanentError, "not as Prometheus does"),
        (
            reply(200, {"status": "success", "data": {"resultType": "matrix", "result": []}}),
            PermanentError,
            "gives a matrix",
        ),
    ],
)
def test_prometheus_errors(tmp_path: Path, server: Server, answer: Any, error: type[Exception], sentence: str) -> None:
    server.answers["/api/v1/query"] = answer
    with LocalContext(tmp_path) as ctx, pytest.raises(error, match=sentence):
        call(prometheus.Query, {"url": server.url(), "query": "up"}, ctx)


def test_prometheus_through_a_port_forward(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward is SIMULATED here: what goes through it, and with which Host, is real."""
    opened: list[tuple[str, int, str, str]] = []

    @contextmanager
    def open_service(ctx: Any, host: str, port: int, *, context: str, namespace: str) -> Iterator[tuple[str, int]]:
        opened.append((host, port, context, namespace))
        yield "127.0.0.1", server.port

    stand_in = types.ModuleType("runbook.actions._kube.forward")
    stand_in.open_service = open_service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runbook.actions._kube.forward", stand_in)
    server.answers["/api/v1/query"] = vector(({}, "1"))
    given = {"url": "http://prometheus.shop:9090", "query": "up", "via": "k8s", "context": "prod", "namespace": "n"}
    with LocalContext(tmp_path) as ctx:
        assert call(prometheus.Query, given, ctx)["value"] == 1.0
    assert opened == [("prometheus.shop", 9090, "prod", "n")]
    assert server.asked[0].headers["host"] == "prometheus.shop:9090"
    with LocalContext(tmp_path, stand_ins={"prometheus": server.url()}) as ctx:
        assert call(prometheus.Query, given, ctx)["value"] == 1.0, "a sandbox's stand-in needs no forward"
    assert len(opened) == 1
