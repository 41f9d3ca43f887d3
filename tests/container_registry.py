"""Real container registries on loopback for tests: Debian's docker-registry, each with a configuration of its own.

    with running(folder, auth={...}) as registry:
        digest = registry.push_image("shop/web", "1.4")

Without the program the tests that want it are skipped with the reason, or fail where everything is required.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

PROGRAM = "docker-registry"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Registry:
    """A running registry. What is pushed goes into `storage`, which several may share."""

    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str]]:
        """A plain HTTP request; `path` may be an address that the registry gave."""
        url = path if "://" in path else f"http://{self.host}{path}"
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(url, body, {**kind, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from error

    def push_blob(self, repository: str, content: bytes) -> str:
        _, begun = self.call("POST", f"/v2/{repository}/blobs/uploads/", b"")
        where = begun["Location"]
        self.call("PUT", f"{where}{'&' if '?' in where else '?'}digest={digest(content)}", content)
        return digest(content)

    def push_manifest(self, repository: str, document: Any, kind: str, tag: str | None = None) -> str:
        content = json.dumps(document).encode()
        self.call("PUT", f"/v2/{repository}/manifests/{tag or digest(content)}", content, {"Content-Type": kind})
        return digest(content)

    def push_image(
        self, repository: str, tag: str | None = None, *, platform: str = "linux/amd64", docker: bool = False
    ) -> str:
        """A manifest with its configuration and one layer; its digest."""
        system, architecture, *variant = platform.split("/")
        made = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        config = json.dumps({**made, "rootfs": {"type": "layers", "diff_ids": []}, "of": repository}).encode()
        layer = f"layer of {repository} for {platform}".encode()
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                "digest": self.push_blob(repository, config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": DOCKER_LAYER if docker else OCI_LAYER,
                    "digest": self.push_blob(repository, layer),
                    "size": len(layer),
                }
            ],
        }
        return self.push_manifest(repository, document, str(document["mediaType"]), tag)

    def push_index(
        self, repository: str, tag: str, *platforms: str, docker: bool = False
    ) -> tuple[str, dict[str, str]]:
        """An index (Docker: a list) with an image for each platform; its digest and theirs."""
        images = {one: self.push_image(repository, platform=one, docker=docker) for one in platforms}
        entries = []
        for one, digest_of_one in images.items():
            system, architecture, *variant = one.split("/")
            entries.append(
                {
                    "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
                    "digest": digest_of_one,
                    "size": 500,
                    "platform": {
                        "os": system,
                        "architecture": architecture,
                        **({"variant": variant[0]} if variant else {}),
                    },
                }
            )
        kind = DOCKER_LIST if docker else OCI_INDEX
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
        return self.push_manifest(repository, document, kind, tag), images


@contextlib.contextmanager
def running(folder: Path, storage: Path, *, auth: Any = None, tls: Path | None = None) -> Iterator[Registry]:
    """Start a registry in a folder; `auth` as in its configuration, `tls` a PEM file with key and certificate."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no container registry: {PROGRAM} is not installed (Debian: apt-get install docker-registry)")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of no importance"}
    if tls is not None:
        http["tls"] = {"certificate": str(tls), "key": str(tls)}
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": http,
        **({"auth": auth} if auth is not None else {}),
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "serve", str(folder / "config.yml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "the registry does not listen"
            time.sleep(0.05)
        yield Registry(port)
    finally:
        process.terminate()
        process.wait(10)


class Tokens:
    """Signs what the registry's `auth: token` takes (JWT by ES256, the certificate along with it)."""

    ISSUER = "tokens of the test"
    SERVICE = "registry of the test"

    def __init__(self, pem: Path) -> None:
        """`pem`: a self-signed certificate with its key."""
        from cryptography import x509

        content = pem.read_bytes()
        key = serialization.load_pem_private_key(content, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        certificate = x509.load_pem_x509_certificate(content)
        self._certificate = certificate.public_bytes(serialization.Encoding.DER)
        self.bundle = pem.with_suffix(".crt")
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def auth(self, realm: str) -> Any:
        """The registry's configuration."""
        return {
            "token": {
                "realm": realm, "service": self.SERVICE, "issuer": self.ISSUER, "rootcertbundle": str(self.bundle),
            }
        }  # fmt: skip

    def sign(self, who: str, scope: str, actions: list[str], *, age: int = 0) -> str:
        """A token for a scope `repository:<name>:...` that grants `actions`, made `age` seconds ago for a minute."""
        now = int(time.time()) - age
        kind, name, _ = scope.split(":")
        claims = {
            "iss": self.ISSUER, "aud": self.SERVICE, "sub": who, "iat": now, "nbf": now - 10, "exp": now + 60,
            "jti": str(now), "access": [{"type": kind, "name": name, "actions": actions}],
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._certificate).decode()]}
        signed = f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
