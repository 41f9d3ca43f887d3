"""registry.image_exists against real registries (Debian's docker-registry), and SIMULATED ones that misbehave."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.actions._oci.login import Credentials, challenge, stored
from runbook.actions._oci.reference import Reference, parse_reference
from runbook.actions.registry import ImageExists
from runbook.contract import PermanentError, TemporaryError
from tests import container_registry as images
from tests import http_server
from tests.command import Commands
from tests.container_registry import Registry, Tokens
from tests.context import LocalContext, call
from tests.http_server import Asked, Server, reply, serving

USER, PASSWORD = "deployer", "open-sesame-canary"
HTPASSWD = f"{USER}:$2b$04$B8WGRpOomuc2FOELJEKZ/e2nctdtO/YcgZo7iIWH0awHpO0jOyhtm\n"  # bcrypt of PASSWORD, made once
NOWHERE = "sha256:" + "0" * 64


def look(folder: Path, asked: list[str], *, environ: dict[str, str] | None = None, **more: Any) -> dict[str, str]:
    """The digests that the action gives; without credentials of this machine's user."""
    with LocalContext(folder, environ={"HOME": str(folder), **(environ or {})}) as ctx:
        digests = call(ImageExists, {"images": asked, **more}, ctx)["digests"]
        assert isinstance(digests, dict)
        return digests


def refusal(folder: Path, asked: list[str], **more: Any) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        look(folder, asked, **more)
    assert PASSWORD not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


# -- references


@pytest.mark.parametrize(
    ("text", "host", "path", "wanted"),
    [
        # expected by github.com/distribution/reference v0.6.0, ParseDockerRef
        ("nginx", "docker.io", "library/nginx", "latest"),
        ("nginx:1.27", "docker.io", "library/nginx", "1.27"),
        ("shop/web", "docker.io", "shop/web", "latest"),
        ("docker.io/nginx", "docker.io", "library/nginx", "latest"),
        ("index.docker.io/nginx:1", "docker.io", "library/nginx", "1"),
        ("index.docker.io/shop/web", "docker.io", "shop/web", "latest"),
        ("lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase"),
        ("foo_bar.com:8080", "docker.io", "library/foo_bar.com", "8080"),
        ("test.com:5000", "docker.io", "library/test.com", "5000"),
        ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080"),
        ("localhost/web", "localhost", "web", "latest"),
        ("localhost:5000/a/b/c:x", "localhost:5000", "a/b/c", "x"),
        ("test:5000/repo", "test:5000", "repo", "latest"),
        ("[2001:db8::1]:5000/repo:tag", "[2001:db8::1]:5000", "repo", "tag"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050"),
        ("Uppercase/lowercase", "Uppercase", "lowercase", "latest"),
        ("gcr.io/a-b/c__d/e--f.g_h:_t.-1", "gcr.io", "a-b/c__d/e--f.g_h", "_t.-1"),
        ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com", "myimage", "xn--n3h.com"),
        ("a.b/c:tag@sha256:" + "e" * 64, "a.b", "c", "sha256:" + "e" * 64),
        ("web@sha512:" + "e" * 128, "docker.io", "library/web", "sha512:" + "e" * 128),
        ("a.b/" + "c" * 255, "a.b", "c" * 255, "latest"),
        ("a.b/c:" + "t" * 128, "a.b", "c", "t" * 128),
    ],
)
def test_references_mean_what_every_engine_takes_them_for(text: str, host: str, path: str, wanted: str) -> None:
    found = parse_reference(text)
    assert (found.host, found.path, found.wanted) == (host, path, wanted)
    assert parse_reference(str(found)).wanted == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("Uppercase", "in lower case"),
        ("test:5000/Uppercase/lowercase:tag", "in lower case"),
        ("https://registry.shop/web", "a URL"),
        (" nginx", "white space"),
        ("nginx:", "not a reference"),
        (":justtag", "not a reference"),
        ("@sha256:" + "f" * 64, "not a reference"),
        ("a//b", "not a reference"),
        ("a/b/", "not a reference"),
        ("-a.b/c", "not a reference"),
        ("a.b/c..d", "not a reference"),
        ("a___b", "not a reference"),
        ("foo_bar.com/c/d", "not a reference"),
        ("a.b/c:" + "t" * 129, "not a reference"),
        ("a.b/" + "c" * 256, "longer than 255"),
        ("f" * 64, "an id"),
        ("web@sha256:" + "F" * 64, "digest is none"),
        ("web@sha256:" + "f" * 63, "digest is none"),
        ("web@md5:" + "f" * 32, "digest is none"),
    ],
)
def test_what_is_no_reference_says_why(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=says):
        parse_reference(text)
    assert says in refusal(tmp_path, ["nginx", text]).message


@given(st.text(st.sampled_from("aZ09._-/:@[]é \n") | st.characters(), max_size=40))
def test_a_reference_or_a_sentence(text: str) -> None:
    """Whatever is given: what is read means the same when it is written out, what is not says so."""
    said = ""
    try:
        found = parse_reference(text)
    except PermanentError as error:
        said = error.message
    if said:
        assert said.startswith("image ")
        return
    again = parse_reference(str(found))
    assert (again.host, again.path, again.wanted) == (found.host, found.path, found.wanted)


def test_docker_hub_has_its_own_server_and_only_this_machine_plain_http(tmp_path: Path) -> None:
    assert parse_reference("nginx").server == "registry-1.docker.io"
    assert [parse_reference(f"{host}/web").is_loopback for host in ("localhost", "127.0.0.1:5000", "[::1]:5000")] == [
        True, True, True,
    ]  # fmt: skip
    with LocalContext(tmp_path, environ={}) as ctx, pytest.raises(TemporaryError, match=r"registry\.invalid"):
        call(ImageExists, {"images": ["registry.invalid/web"]}, ctx)
    assert ctx.permitted[0][1].startswith("https://registry.invalid/v2/web/")
    with LocalContext(tmp_path, environ={}) as ctx, pytest.raises(TemporaryError):
        call(ImageExists, {"images": ["127.0.0.1.invalid/web"], "plain_http": True}, ctx)
    assert ctx.permitted[0][1].startswith("http://127.0.0.1.invalid/v2/web/")


# -- manifests, in a registry that everybody may read


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, storage: Path) -> Iterator[Registry]:
    with images.running(tmp_path_factory.mktemp("open") / "registry", storage) as one:
        yield one


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_an_index_and_what_it_has_for_each_platform(registry: Registry, docker: bool, tmp_path: Path) -> None:
    name = f"many/{'docker' if docker else 'oci'}"
    index, made = registry.push_index(name, "1.4", "linux/amd64", "linux/arm64/v8", "linux/arm/v6", docker=docker)
    image = f"{registry.host}/{name}:1.4"
    assert look(tmp_path, [image]) == {image: index}
    for platform in ("linux/arm64", "linux/aarch64", "linux/arm64/v8", "linux/arm/v6", "linux/x86_64"):
        assert look(tmp_path, [image], platform=platform) == {image: index}
    for platform in ("linux/s390x", "windows/amd64", "linux/arm", "linux/arm/v7"):
        said = refusal(tmp_path, [image], platform=platform).message
        shown = platform.removesuffix("/v7")
        assert said == f"{image} has no {shown}, but linux/amd64, linux/arm/v6, linux/arm64"
    pinned = f"{image}@{index}"
    child = f"{registry.host}/{name}@{made['linux/arm64/v8']}"
    assert look(tmp_path, [pinned, child], platform="linux/arm64") == {pinned: index, child: made["linux/arm64/v8"]}
    assert refusal(tmp_path, [child]).message == f"{child} has no linux/amd64, but linux/arm64"
    registry.call("DELETE", f"/v2/{name}/manifests/{made['linux/arm/v6']}")
    said = refusal(tmp_path, [image], platform="linux/arm/v6").message  # the index still names it
    assert said == f"{image} is not there: no digest {made['linux/arm/v6']} in {registry.host}/{name}"


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_a_single_image_has_its_platform_in_its_configuration(registry: Registry, docker: bool, tmp_path: Path) -> None:
    name = f"single/{'docker' if docker else 'oci'}"
    pushed = registry.push_image(name, "1.4", platform="linux/arm64", docker=docker)
    image = f"{registry.host}/{name}:1.4"
    assert look(tmp_path, [image], platform="linux/arm64") == {image: pushed}
    assert refusal(tmp_path, [image]).message == f"{image} has no linux/amd64, but linux/arm64"


def test_all_that_is_missing_is_named_at_once(registry: Registry, tmp_path: Path) -> None:
    pushed = registry.push_image("some/web", "1.4")
    arm = registry.push_image("some/arm", "1.4", platform="linux/arm64")
    host = registry.host
    there = f"{host}/some/web:1.4"
    gone = [f"{host}/some/web:1.5", f"{host}/never/pushed:1", f"{host}/some/web@{NOWHERE}", f"{host}/some/arm:1.4"]
    assert refusal(tmp_path, [there, *gone]).message == (
        f"4 of 5 images cannot be used: {gone[0]} is not there: no tag 1.5 in {host}/some/web;"
        f" {gone[1]} is not there: no tag 1 in {host}/never/pushed;"
        f" {gone[2]} is not there: no digest {NOWHERE} in {host}/some/web;"
        f" {gone[3]} has no linux/amd64, but linux/arm64"
    )
    assert look(tmp_path, [there, there]) == {there: pushed}
    assert refusal(tmp_path, [f"{host}/some/web@{arm}"]).message.startswith(f"{host}/some/web@{arm} is not there")


def test_an_artifact_is_no_image(registry: Registry, tmp_path: Path) -> None:
    config = registry.push_blob("charts/web", b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": config, "size": 2}],
    }
    registry.push_manifest("charts/web", document, images.OCI_MANIFEST, "1")
    said = refusal(tmp_path, [f"{registry.host}/charts/web:1"]).message
    assert said.endswith(": no image, but an artifact (application/vnd.cncf.helm.config.v1+json)")


# -- who may: basic authentication over TLS


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, storage: Path, registry: Registry) -> Iterator[tuple[str, Path]]:
    """A registry over TLS that wants a login: an image in it, and the authority to trust."""
    folder = tmp_path_factory.mktemp("locked")
    registry.push_image("locked/web", "1.4")
    (folder / "htpasswd").write_text(HTPASSWD)
    authority = http_server.certificate(folder, "127.0.0.1")
    auth = {"htpasswd": {"realm": "the registry", "path": str(folder / "htpasswd")}}
    with images.running(folder / "registry", storage, auth=auth, tls=authority) as one:
        yield f"{one.host}/locked/web:1.4", authority


def docker_config(folder: Path, **content: Any) -> dict[str, str]:
    """An environment with a Docker configuration."""
    (folder / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(folder)}


def encoded(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_basic_authentication(locked: tuple[str, Path], tmp_path: Path) -> None:
    image, authority = locked
    host = image.partition("/")[0]
    over_tls: dict[str, Any] = {"tls_ca": str(authority), "plain_http": False}
    assert set(look(tmp_path, [image], username=USER, password=PASSWORD, **over_tls)) == {image}
    nobody = refusal(tmp_path, [image], **over_tls)
    assert nobody.message == f"{image}: {host} wants a login"
    assert "`username` and `password`" in str(nobody.hint)
    said = refusal(tmp_path, [image], username=USER, password=PASSWORD + "?", **over_tls).message
    assert said.startswith(f"{image}: not there, or not for {USER}: HTTP 401")
    both = refusal(tmp_path, [image, image.replace("web", "db")], **over_tls)
    assert both.message.startswith("2 of 2 images cannot be used: ")
    assert both.hint == nobody.hint


def test_in_a_playbook_the_password_is_a_secret(locked: tuple[str, Path], tmp_path: Path) -> None:
    image, authority = locked
    commands = Commands(tmp_path)
    commands.write(
        "look.yaml",
        f"""\
runbook: 1
name: look
secrets: {{password: {{env: REGISTRY_PASSWORD}}}}
defaults:
  with:
    registry: {{username: {USER}, password: "{{{{ secrets.password }}}}", tls_ca: {authority}, plain_http: false}}
steps:
  - {{id: images, action: registry.image_exists, with: {{images: ["{image}"]}}}}
  - {{id: one, action: flow.assert, with: {{that: "{{{{ steps.images.outputs.digests | length == 1 }}}}", message: m}}}}
""",
    )
    for words in (("plan", "look.yaml"), ("run", "look.yaml", "--yes"), ("report", "--format", "json")):
        said = commands(*words, environ={"REGISTRY_PASSWORD": PASSWORD})
        assert said.code == 0, said.out + said.err
        assert PASSWORD not in said.out + said.err
    wrong = commands("run", "look.yaml", "--yes", environ={"REGISTRY_PASSWORD": "another-canary"})
    assert wrong.code != 0
    assert f"not there, or not for {USER}: HTTP 401" in wrong.out + wrong.err
    assert "another-canary" not in wrong.out + wrong.err


def test_the_login_of_docker_is_found(locked: tuple[str, Path], tmp_path: Path) -> None:
    image, authority = locked
    host = image.partition("/")[0]
    over_tls: dict[str, Any] = {"tls_ca": str(authority), "plain_http": False}
    for entry in (encoded(USER, PASSWORD), {"username": USER, "password": PASSWORD}):
        for key in (host, f"https://{host}/v2/", f"{host}/locked"):
            environ = docker_config(tmp_path, auths={key: entry, "elsewhere": encoded("a", "b")})
            assert look(tmp_path, [image], environ=environ, **over_tls)
    (tmp_path / ".docker").mkdir()
    (tmp_path / "config.json").rename(tmp_path / ".docker/config.json")
    assert look(tmp_path, [image], **over_tls)  # HOME
    environ = docker_config(tmp_path, auths={host: {}}, credHelpers={host: "desktop"})
    assert "docker-credential-desktop, which is not asked" in str(
        refusal(tmp_path, [image], environ=environ, **over_tls).hint
    )
    (tmp_path / "config.json").write_text('{"auths": "' + PASSWORD)
    assert "config.json cannot be read" in refusal(tmp_path, [image], environ=environ, **over_tls).message


def test_an_authority_that_is_not_trusted_is_final(locked: tuple[str, Path], tmp_path: Path) -> None:
    image, _ = locked
    said = refusal(tmp_path, [image], username=USER, password=PASSWORD, plain_http=False)
    assert "TLS verification failed" in said.message
    assert said.hint == "`tls_ca`?"


def test_a_login_is_for_one_registry(tmp_path: Path) -> None:
    said = refusal(tmp_path, ["a.invalid/web", "b.invalid/web", "web"], username=USER, password=PASSWORD)
    assert said.message == (
        "username: it would be told to each of a.invalid, b.invalid, docker.io; make a step for each registry"
    )
    assert refusal(tmp_path, ["web"], username=USER).message == "username, password: give both or none"


# -- who may: tokens


class TokenServer:
    """Gives tokens to `deployer` for what is asked, to anybody for `public/...`; remembers who asked for what."""

    def __init__(self, server: Server, tokens: Tokens) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.stale = 0  # so many tokens are handed out long after they were made
        self.tokens = tokens
        self.realm = server.url("/token?account=x")
        server.answers["/token"] = lambda _, asked: self._answer(asked)

    def _answer(self, asked: Asked) -> Any:
        fields = parse_qs(asked.body.decode() if asked.method == "POST" else urlsplit(asked.path).query)
        kind, _, content = asked.headers.get("authorization", "").partition(" ")
        who = base64.b64decode(content).decode() if kind == "Basic" else ""
        if asked.method == "POST":
            who = f"{USER}:{PASSWORD}" if fields["refresh_token"] == ["identity-canary"] else "?:?"
        (scope,), (service,) = fields["scope"], fields["service"]
        self.asked.append((asked.method, who.partition(":")[0], scope))
        assert service == Tokens.SERVICE
        if who not in ("", f"{USER}:{PASSWORD}"):
            return reply(401, {"details": "no such user"})
        granted = ["pull"] if who or scope.startswith("repository:public/") else []
        age, self.stale = (3600, self.stale - 1) if self.stale else (0, 0)
        return reply(
            200, {"access_token" if asked.method == "POST" else "token": self.tokens.sign(who, scope, granted, age=age)}
        )


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, storage: Path, registry: Registry
) -> Iterator[tuple[str, TokenServer]]:
    """A registry that wants tokens, and the server that gives them."""
    folder = tmp_path_factory.mktemp("guarded")
    registry.push_image("public/web", "1.4")
    registry.push_image("private/web", "1.4")
    registry.push_image("private/db", "1.4")
    with serving() as server:
        tokens = TokenServer(server, Tokens(http_server.certificate(folder, "tokens.test")))
        with images.running(folder / "registry", storage, auth=tokens.tokens.auth(tokens.realm)) as one:
            yield one.host, tokens


@pytest.fixture
def tokens(guarded: tuple[str, TokenServer]) -> TokenServer:
    guarded[1].asked.clear()
    return guarded[1]


def test_tokens_by_name_and_password(guarded: tuple[str, TokenServer], tokens: TokenServer, tmp_path: Path) -> None:
    host, _ = guarded
    asked = [f"{host}/private/web:1.4", f"{host}/private/db:1.4"]
    assert set(look(tmp_path, asked, username=USER, password=PASSWORD)) == set(asked)
    assert sorted(tokens.asked) == [  # one for each repository, for several requests each
        ("GET", USER, "repository:private/db:pull"),
        ("GET", USER, "repository:private/web:pull"),
    ]
    environ = docker_config(tmp_path, auths={host: encoded(USER, PASSWORD)})
    assert set(look(tmp_path, asked, environ=environ)) == set(asked)


def test_tokens_by_an_identity_token(guarded: tuple[str, TokenServer], tokens: TokenServer, tmp_path: Path) -> None:
    host, _ = guarded
    image = f"{host}/private/web:1.4"
    environ = docker_config(tmp_path, auths={host: {"identitytoken": "identity-canary"}})
    assert set(look(tmp_path, [image], environ=environ)) == {image}
    assert tokens.asked == [("POST", USER, "repository:private/web:pull")]
    environ = docker_config(tmp_path, auths={host: {"identitytoken": "another"}})
    said = refusal(tmp_path, [image], environ=environ).message
    assert f"the token server of {host} (http://127.0.0.1" in said
    assert said.endswith("does not let the identity token in (HTTP 401)")


def test_tokens_for_nobody(guarded: tuple[str, TokenServer], tokens: TokenServer, tmp_path: Path) -> None:
    host, _ = guarded
    image = f"{host}/public/web:1.4"
    assert set(look(tmp_path, [image])) == {image}
    assert tokens.asked == [("GET", "", "repository:public/web:pull")]
    said = refusal(tmp_path, [f"{host}/private/web:1.4"]).message
    assert "not there, or not for nobody (without a login): HTTP 401" in said
    wrong = refusal(tmp_path, [image], username=USER, password="wrong")
    assert wrong.message.endswith(f"does not let {USER} in (HTTP 401)")
    assert wrong.hint is not None


def test_a_token_that_expires_is_renewed(guarded: tuple[str, TokenServer], tokens: TokenServer, tmp_path: Path) -> None:
    host, _ = guarded
    image = f"{host}/private/web:1.4"
    tokens.stale = 1
    assert set(look(tmp_path, [image], username=USER, password=PASSWORD)) == {image}
    assert len(tokens.asked) == 2


# -- SIMULATED registries


@pytest.fixture
def odd() -> Iterator[Server]:
    with serving() as server:
        yield server


def manifest(server: Server, path: str, document: Any, kind: str = images.OCI_MANIFEST) -> str:
    """Let a SIMULATED registry answer with a manifest, by tag and by digest; its digest."""
    content = json.dumps(document).encode()
    digest = images.digest(content)
    answer = reply(200, content, Content_Type=kind, Docker_Content_Digest=digest)
    server.answers[f"/v2/{path}/manifests/1"] = server.answers[f"/v2/{path}/manifests/{digest}"] = answer
    return digest


def plain_image(server: Server, path: str) -> str:
    config = b'{"os": "linux", "architecture": "amd64"}'
    server.answers[f"/v2/{path}/blobs/{images.digest(config)}"] = reply(200, config)
    described = {"mediaType": images.OCI_CONFIG, "digest": images.digest(config), "size": len(config)}
    return manifest(server, path, {"schemaVersion": 2, "config": described, "layers": []})


@pytest.mark.parametrize(
    ("status", "temporary"), [(429, True), (408, True), (500, True), (503, True), (403, False), (410, False)]
)
def test_statuses_are_temporary_or_not(odd: Server, status: int, temporary: bool, tmp_path: Path) -> None:
    host = f"127.0.0.1:{odd.port}"
    said = {"errors": [{"code": "TOOMANYREQUESTS", "message": "pull rate limit"}]}
    odd.answers["/v2/web/manifests/1"] = reply(status, said, Retry_After="17")
    if temporary:
        with pytest.raises(TemporaryError, match=f"HTTP {status}") as caught:
            look(tmp_path, [f"{host}/web:1"])
        assert caught.value.retry_after == 17
    else:
        assert f"HTTP {status}" in refusal(tmp_path, [f"{host}/web:1"]).message
        assert "pull rate limit" in refusal(tmp_path, [f"{host}/web:1"]).message
    odd.answers["/v2/gone/manifests/1"] = reply(404, {"errors": [{"code": "NAME_UNKNOWN"}]})
    missing = refusal(tmp_path, [f"{host}/gone:1", f"{host}/web:1"]).message  # what is certain is said
    assert f"gone:1 is not there: {host} has no repository gone" in missing


@pytest.mark.parametrize("head", [405, 404, 400, 200], ids=["405", "404", "400", "no digest"])
def test_a_registry_without_head_is_asked_by_get(odd: Server, head: int, tmp_path: Path) -> None:
    digest = plain_image(odd, "web")
    whole = odd.answers["/v2/web/manifests/1"]
    answers: Any = lambda _, asked: whole if asked.method == "GET" else reply(head)  # noqa: E731
    odd.answers["/v2/web/manifests/1"] = answers
    image = f"127.0.0.1:{odd.port}/web:1"
    assert look(tmp_path, [image]) == {image: digest}
    assert [asked.method for asked in odd.asked] == ["HEAD", "GET", "GET"]
    kinds = odd.asked[1].headers["accept"].split(", ")
    assert kinds == [images.OCI_INDEX, images.DOCKER_LIST, images.OCI_MANIFEST, images.DOCKER_MANIFEST]


def test_content_that_is_not_what_its_digest_says_is_refused(odd: Server, tmp_path: Path) -> None:
    digest = plain_image(odd, "web")
    odd.answers[f"/v2/web/manifests/{NOWHERE}"] = odd.answers["/v2/web/manifests/1"]
    host = f"127.0.0.1:{odd.port}"
    said = refusal(tmp_path, [f"{host}/web@{NOWHERE}"]).message
    assert said.endswith(f"the registry gives other content for {NOWHERE}: its digest is {digest}")
    config = next(path for path in odd.answers if "/blobs/" in path)
    odd.answers[config] = reply(200, b'{"os": "linux", "architecture": "amd64", "and": "more"}')
    assert "the registry gives other content for sha256:" in refusal(tmp_path, [f"{host}/web:1"]).message


def test_manifests_that_mean_nothing(odd: Server, tmp_path: Path) -> None:
    host = f"127.0.0.1:{odd.port}"
    manifest(odd, "both", {"schemaVersion": 2, "manifests": [], "layers": []}, images.OCI_INDEX)
    manifest(odd, "old", {"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    manifest(odd, "list", [1], images.OCI_INDEX)
    manifest(odd, "huge", {"schemaVersion": 2, "annotations": {"x": "y" * 5_000_000}}, images.OCI_INDEX)
    manifest(odd, "bare", {"schemaVersion": 2, "config": {"digest": "../../../secrets"}}, images.OCI_MANIFEST)
    nameless = {"digest": "../x", "platform": {"os": "linux", "architecture": "amd64"}}
    manifest(odd, "broken", {"schemaVersion": 2, "manifests": [nameless]}, images.OCI_INDEX)
    attested = {"digest": NOWHERE, "platform": {"os": "unknown", "architecture": "unknown"}}
    manifest(odd, "attested", {"schemaVersion": 2, "manifests": [attested, "?"]}, images.OCI_INDEX)
    for path, says in {
        "both": "a manifest that is an index, too",
        "bare": "a manifest that names no configuration",
        "broken": "has no linux/amd64, but no platform at all",
        "old": "a kind that is not known here (application/vnd.docker.distribution.manifest.v1+prettyjws)",
        "list": "answers, but not with a manifest",
        "huge": "a manifest of more than 4 MiB",
        "attested": "has no linux/amd64, but no platform at all",
    }.items():
        assert says in refusal(tmp_path, [f"{host}/{path}:1"]).message


def test_credentials_go_nowhere_else(odd: Server, tmp_path: Path) -> None:
    """A blob may be stored elsewhere, and a token must not be asked for in clear over the network."""
    plain_image(odd, "web")
    blob = next(path for path in odd.answers if "/blobs/" in path)
    with serving() as store:
        store.answers["/blob"] = odd.answers[blob]
        odd.answers[blob] = reply(307, b"", Location=store.url("/blob"))
        whole = odd.answers["/v2/web/manifests/1"]
        wants: Any = lambda _, asked: (  # noqa: E731
            whole if "authorization" in asked.headers else reply(401, b"", WWW_Authenticate='Basic realm="x"')
        )
        odd.answers["/v2/web/manifests/1"] = wants
        image = f"127.0.0.1:{odd.port}/web:1"
        assert look(tmp_path, [image], username=USER, password=PASSWORD)
        assert all("authorization" not in asked.headers for asked in store.asked)
        assert len(store.asked) == 1
    bearer = 'Bearer realm="http://tokens.invalid/token",service="x"'
    odd.answers["/v2/web/manifests/1"] = reply(401, b"", WWW_Authenticate=bearer)
    said = refusal(tmp_path, [image], username=USER, password=PASSWORD).message
    assert said.endswith("sends its clients to 'http://tokens.invalid/token' for a token, not by https")


def test_challenges() -> None:
    both = 'Basic realm="a, b", Bearer realm="https://auth.x/token",service="x y",scope="repository:a/b:pull,push"'
    found = challenge(both)
    assert found is not None
    assert found.scheme == "bearer"
    assert found.fields == {
        "realm": "https://auth.x/token", "service": "x y", "scope": "repository:a/b:pull,push",
    }  # fmt: skip
    basic = challenge('basic realm="the registry"')
    assert basic is not None
    assert basic.scheme == "basic"
    assert challenge("Negotiate") is None


def test_the_login_of_docker_hub(tmp_path: Path) -> None:
    """As `docker login` writes it; an entry for a part of a registry comes before the whole."""
    environ = docker_config(
        tmp_path,
        auths={
            "https://index.docker.io/v1/": encoded("hub", "p:w"),
            "ghcr.io": encoded("all", "x"),
            "ghcr.io/shop": encoded("shop", "y"),
        },
    )
    assert stored(environ, parse_reference("nginx")) == Credentials("hub", "p:w")
    assert stored(environ, parse_reference("ghcr.io/shop/web")) == Credentials("shop", "y")
    assert stored(environ, parse_reference("ghcr.io/shopping/web")) == Credentials("all", "x")
    assert stored(environ, Reference("other.io", "web", "1")) == Credentials()
    assert stored({"HOME": str(tmp_path / "none")}, parse_reference("nginx")) == Credentials()
    assert "p:w" not in repr(stored(environ, parse_reference("nginx")))


@pytest.mark.timed
def test_a_registry_that_hangs_is_cut_at_the_deadline(odd: Server, tmp_path: Path) -> None:
    odd.answers["/v2/web/manifests/1"] = http_server.drip_head
    began = time.monotonic()
    with (
        LocalContext(tmp_path, environ={}, seconds=0.5) as ctx,
        pytest.raises(TemporaryError, match="the time is over"),
    ):
        call(ImageExists, {"images": [f"127.0.0.1:{odd.port}/web:1", "127.0.0.1:1/web:1"]}, ctx)
    assert time.monotonic() - began < 1.5


def test_many_images_are_looked_for_at_once(odd: Server, tmp_path: Path) -> None:
    together = threading.Barrier(8, timeout=60)
    names = [f"shop/web-{number}" for number in range(8)]
    for name in names:
        plain_image(odd, name)
        whole = odd.answers[f"/v2/{name}/manifests/1"]

        def wait(_: Any, asked: Asked, whole: Any = whole) -> Any:
            together.wait()  # nobody gets an answer before all have asked
            return whole

        odd.answers[f"/v2/{name}/manifests/1"] = wait
    asked = [f"127.0.0.1:{odd.port}/{name}:1" for name in names]
    assert list(look(tmp_path, asked)) == asked


# -- in a sandbox


def test_a_sandbox_reaches_no_registry_and_a_scenario_answers(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    step = '{id: images, action: registry.image_exists, with: {images: ["registry.invalid/web:1"]}}'
    commands.write("look.yaml", f"runbook: 1\nname: look\nsteps:\n  - {step}\n")
    world = "scenario: 1\nworld: {namespaces: {shop: {}}}\n"
    commands.write("empty.yaml", world)
    refused = commands("run", "look.yaml", "--sandbox", "empty.yaml")
    assert refused.code != 0
    assert "SIMULATED: refused in the sandbox: url registry.invalid" in refused.out + refused.err
    outputs = f'{{digests: {{"registry.invalid/web:1": "{NOWHERE}"}}}}'
    commands.write("answered.yaml", f"{world}answers:\n  - {{action: registry.image_exists, outputs: {outputs}}}\n")
    done = commands("run", "look.yaml", "--sandbox", "answered.yaml")
    assert done.code == 0, done.out + done.err
