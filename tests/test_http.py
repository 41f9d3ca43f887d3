"""http.check and http.request against a server that misbehaves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbook.actions.http import HttpCheck, HttpRequest
from runbook.contract import PermanentError, TemporaryError
from runbook.runner.registry import catalogue
from tests import http_server
from tests.context import LocalContext, call
from tests.http_server import Server, reply, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def check(tmp_path: Path, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    with LocalContext(tmp_path, **options) as ctx:
        return call(HttpCheck, given, ctx)


def request(tmp_path: Path, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    with LocalContext(tmp_path, **options) as ctx:
        return call(HttpRequest, given, ctx)


def test_a_healthy_answer_is_a_yes(tmp_path: Path, server: Server) -> None:
    server.answers["/health"] = reply(200, {"status": "ok", "db": {"up": True, "lag": 3}})
    given = {"url": server.url("/health"), "json": {"db": {"up": True}}, "contains": '"status": "ok"'}
    out = check(tmp_path, given)
    assert out["ok"] is True
    assert (out["status"], out["message"], out["failures"]) == (200, "", 0)
    assert out["json"]["db"]["lag"] == 3
    assert out["ms"] > 0


@pytest.mark.parametrize(
    ("answer", "given", "message"),
    [
        (reply(503, "down"), {}, "HTTP 503"),
        (reply(200, ""), {"contains": "ok"}, "does not contain 'ok'"),
        (reply(200, "ok"), {"json": {"up": True}}, "not JSON"),
        (reply(200, {"up": 1}), {"json": {"up": True}}, "json.up is 1, wanted true"),
        (reply(200, {"a": {"b": 1}}), {"json": {"a": {"c": 1}}}, "json.a.c is missing"),
        (reply(200, [1]), {"json": {"a": 1}}, "json is no map"),
        (reply(204), {"status": 200}, "HTTP 204"),
    ],
)
def test_a_wrong_answer_is_a_no_with_its_reason(
    tmp_path: Path, server: Server, answer: Any, given: dict[str, Any], message: str
) -> None:
    server.answers["/"] = answer
    out = check(tmp_path, {"url": server.url(), **given})
    assert out["ok"] is False
    assert message in out["message"]


@pytest.mark.parametrize(
    ("wanted", "status", "ok"),
    [
        ("2xx", 204, True),
        ("2xx", 302, False),
        (404, 404, True),
        ([200, "4xx"], 418, True),
        ("200-299", 299, True),
        ("200-299", 300, False),
    ],
)
def test_which_statuses_are_a_yes(tmp_path: Path, server: Server, wanted: Any, status: int, ok: bool) -> None:
    server.answers["/"] = reply(status)
    assert check(tmp_path, {"url": server.url(), "status": wanted})["ok"] is ok


def test_every_sample_must_be_a_yes(tmp_path: Path, server: Server) -> None:
    server.answers["/"] = [reply(200), http_server.reset, reply(500), reply(200)]
    out = check(tmp_path, {"url": server.url(), "samples": 5})
    assert out["ok"] is False
    assert out["failures"] == 2
    assert out["message"].startswith("2 of 5 requests failed: ")
    assert len(server.asked) == 5


def test_the_95th_percentile(tmp_path: Path, server: Server) -> None:
    def slow(connection: socket.socket, asked: http_server.Asked) -> Any:
        time.sleep(0.2 if len(server.asked) % 10 == 0 else 0)
        return reply(200)

    server.answers["/"] = slow
    out = check(tmp_path, {"url": server.url(), "samples": 20, "p95": "150ms"})
    assert out["ok"] is False, "2 of 20 are slow: rank 19 of 20 is one of them"
    assert out["p95"] >= 200
    assert "95th percentile" in out["message"]
    assert check(tmp_path, {"url": server.url(), "samples": 20, "p95": "5s"})["ok"] is True


@pytest.mark.timed
@pytest.mark.parametrize("path", ["drip_body", "drip_head", "black_hole", "endless"])
def test_the_deadline_ends_it_whatever_the_server_does(tmp_path: Path, server: Server, path: str) -> None:
    server.answers["/"] = getattr(http_server, path)
    begun = time.monotonic()
    if path == "endless":
        out = request(tmp_path, {"url": server.url()}, seconds=5)
        assert out["truncated"]
        assert len(out["body"]) == 512 * 1024
    else:
        with pytest.raises(TemporaryError):
            request(tmp_path, {"url": server.url()}, seconds=0.5)
    assert time.monotonic() - begun < 1.5


@pytest.mark.timed
def test_a_tls_handshake_that_hangs_is_cut(tmp_path: Path) -> None:
    with serving(mute=True) as server:
        begun = time.monotonic()
        with pytest.raises(TemporaryError):
            request(tmp_path, {"url": server.url()}, seconds=0.5)
        assert time.monotonic() - begun < 1.5


@pytest.mark.timed
def test_a_cancel_cuts_it(tmp_path: Path, server: Server) -> None:
    server.answers["/"] = http_server.black_hole
    with LocalContext(tmp_path) as ctx:
        threading.Timer(0.3, ctx.stop).start()
        begun = time.monotonic()
        with pytest.raises(TemporaryError):
            call(HttpRequest, {"url": server.url()}, ctx)
    assert time.monotonic() - begun < 1.3


def test_what_may_pass_is_temporary(tmp_path: Path, server: Server) -> None:
    server.answers |= {"/reset": http_server.reset, "/short": http_server.cut_short}
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for url, reason in [
        (server.url("/reset"), "reset|aborted"),
        (server.url("/short"), "cut short|Incomplete"),
        (f"http://127.0.0.1:{port}/", "refused"),
        ("http://no-such-host.invalid/", "name is not known"),
    ]:
        with pytest.raises(TemporaryError, match=reason):
            check(tmp_path, {"url": url})


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_statuses_of_a_request(tmp_path: Path, server: Server, status: int) -> None:
    server.answers["/"] = reply(status, "later", Retry_After="7")
    with pytest.raises(TemporaryError, match=f"HTTP {status}: later") as caught:
        request(tmp_path, {"url": server.url(), "method": "POST"})
    assert caught.value.retry_after == 7.0
    assert caught.value.outputs is not None
    assert caught.value.outputs["status"] == status


def test_retry_after_may_be_a_date(tmp_path: Path, server: Server) -> None:
    server.answers["/"] = reply(429, Date="Wed, 21 Oct 2015 07:28:00 GMT", Retry_After="Wed, 21 Oct 2015 07:28:30 GMT")
    with pytest.raises(TemporaryError) as caught:
        request(tmp_path, {"url": server.url()})
    assert caught.value.retry_after == 30.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_other_statuses_of_a_request_are_permanent(tmp_path: Path, server: Server, status: int) -> None:
    server.answers["/"] = reply(status)
    with pytest.raises(PermanentError, match=f"HTTP {status}"):
        request(tmp_path, {"url": server.url()})


def test_a_body_in_each_form(tmp_path: Path, server: Server) -> None:
    server.answers["/"] = reply(201, {"id": 7})
    out = request(tmp_path, {"url": server.url(), "method": "POST", "json": {"a": [1]}, "idempotency_key": "k1"})
    assert out["json"] == {"id": 7}
    request(tmp_path, {"url": server.url(), "method": "PUT", "form": {"a": "b c"}})
    request(tmp_path, {"url": server.url(), "method": "PATCH", "body": "raw", "headers": {"content-type": "x/y"}})
    first, second, third = server.asked
    assert (first.json, first.headers["idempotency-key"]) == ({"a": [1]}, "k1")
    assert (second.body, second.headers["content-type"]) == (b"a=b+c", "application/x-www-form-urlencoded")
    assert (third.body, third.headers["content-type"]) == (b"raw", "x/y")


def test_credentials_are_sent_and_stay_home(tmp_path: Path, server: Server) -> None:
    with serving() as other:
        other.answers["/in"] = reply(200, "in")
        server.answers["/same"] = reply(302, Location="/in")
        server.answers["/in"] = reply(200, "home")
        server.answers["/away"] = reply(307, Location=other.url("/in"))
        given = {"bearer": "canary", "headers": {"X-Api-Key": "canary"}}
        assert request(tmp_path, {"url": server.url("/same"), **given})["body"] == "home"
        assert server.asked[-1].headers["authorization"] == "Bearer canary"
        assert request(tmp_path, {"url": server.url("/away"), **given})["body"] == "in"
        assert "canary" not in str(other.asked)


def test_redirects_are_bounded_and_only_for_reads(tmp_path: Path, server: Server) -> None:
    server.answers["/loop"] = reply(302, Location="/loop")
    with pytest.raises(PermanentError, match="more than 5 redirects"):
        request(tmp_path, {"url": server.url("/loop")})
    seen = len(server.asked)
    with pytest.raises(PermanentError, match="HTTP 302"):
        request(tmp_path, {"url": server.url("/loop"), "method": "POST"})
    assert len(server.asked) == seen + 1


def test_tls_is_verified(tmp_path: Path) -> None:
    pem = http_server.certificate(tmp_path, "127.0.0.1")
    with serving(http_server.tls_server(pem)) as server:
        server.answers["/"] = reply(200, "safe")
        with pytest.raises(PermanentError, match="TLS verification failed"):
            check(tmp_path, {"url": server.url()})
        assert check(tmp_path, {"url": server.url(), "tls_ca": str(pem)})["body"] == "safe"
        with pytest.raises(PermanentError, match="TLS verification failed"):
            check(tmp_path, {"url": server.url(host="localhost"), "tls_ca": str(pem)})
        with_store = {"SSL_CERT_FILE": str(pem)}
        assert check(tmp_path, {"url": server.url()}, environ=with_store)["ok"] is True


def test_https_asked_of_a_plain_server_is_permanent(tmp_path: Path, server: Server) -> None:
    with pytest.raises(PermanentError, match="does not speak TLS"):
        check(tmp_path, {"url": server.url().replace("http:", "https:")})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "http:///x",
        "127.0.0.1:80",
        "http://user:canary@x/",
        "http://x/a b",
        "http://x:99999/",
        "http://[::1/",
    ],
)
def test_bad_urls_are_permanent(tmp_path: Path, url: str) -> None:
    with pytest.raises(PermanentError, match="url") as caught:
        check(tmp_path, {"url": url})
    assert "canary" not in str(caught.value)


def test_a_header_that_cannot_be_sent_does_not_show_its_value(tmp_path: Path, server: Server) -> None:
    with pytest.raises(PermanentError) as caught:
        request(tmp_path, {"url": server.url(), "headers": {"X-Key": "canary\r\nX-Evil: 1"}})
    assert "canary" not in str(caught.value)
    assert server.asked == []


def test_an_address_with_letters_beyond_ascii_is_escaped_once(tmp_path: Path, server: Server) -> None:
    server.answers["/%C3%BC%20x"] = reply(200, "yes")
    assert request(tmp_path, {"url": server.url("/ü%20x?q=ä&r=%2F")})["body"] == "yes"
    assert server.asked[0].path == "/%C3%BC%20x?q=%C3%A4&r=%2F"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nv6")

        threading.Thread(target=serve, daemon=True).start()
        assert request(tmp_path, {"url": f"http://[::1]:{listener.getsockname()[1]}/"})["body"] == "v6"


def test_contradictions_are_told(tmp_path: Path, server: Server) -> None:
    for given in (
        {"json": {}, "body": ""},
        {"method": "GET", "body": ""},
        {"bearer": "x", "basic_auth": {"username": "", "password": ""}},
        {"basic_auth": {"user": ""}},
        {"status": "maybe"},
    ):
        with pytest.raises(PermanentError):
            request(tmp_path, {"url": server.url(), "method": "POST", **given})
    assert server.asked == []


def test_a_sandbox_refuses(tmp_path: Path, server: Server) -> None:
    for run in (check, request):
        with pytest.raises(PermanentError, match="sandbox"):
            run(tmp_path, {"url": server.url()}, refused=("url",))
    assert server.asked == []


def test_the_class_depends_on_the_method() -> None:
    spec = catalogue()["http.request"]
    assert spec.nature({"url": "http://x"}) == ("read", True)
    assert spec.nature({"method": "POST"}) == ("opaque", False)
    assert spec.nature({"method": "PUT"}) == ("opaque", True)
    assert spec.nature({"method": "{{ inputs.method }}"}) == ("opaque", False)
