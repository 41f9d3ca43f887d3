"""registry.image_exists: are the images there before anything is changed?"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runbook.actions._oci.images import MissingImageError, Platform, Registry, parse_platform
from runbook.actions._oci.login import Credentials, stored
from runbook.actions._oci.reference import Reference, parse_reference
from runbook.contract import Context, Outputs, PermanentError, Read, param

AT_ONCE = 8
"""Images that are looked for at the same time."""


@dataclass(frozen=True, kw_only=True)
class ImageArgs:
    """Parameters of registry.image_exists."""

    images: list[str] = param(
        "References as a manifest has them: `[host[:port]/]repository[:tag][@digest]`. Without a host it is on Docker"
        " Hub (`nginx` is `docker.io/library/nginx`), without a tag `latest`; with a digest the tag is not looked at."
    )
    platform: str = param("What they must run on: `os/architecture[/variant]`.", default="linux/amd64")
    username: str | None = param(
        "Who logs in. Absent: as Docker's config.json says (`auths`; DOCKER_CONFIG, else ~/.docker), else nobody.",
        default=None,
        family=True,
    )
    password: str | None = param("Password or access token of `username`.", default=None, secret=True, family=True)
    tls_ca: Path | None = param("PEM file of the only authorities to trust.", default=None, path=True, family=True)
    plain_http: bool | None = param(
        "HTTP in place of HTTPS; credentials and answers can then be read and changed on the way."
        " Absent: only for a registry on this machine (localhost, 127.*, [::1]).",
        default=None,
        family=True,
    )


class ImageExists(Read[ImageArgs]):
    """The digests of images, which must all be there, for one platform. Those that are not are all named at once.

    Looks at the manifests (OCI index and manifest, Docker manifest list and schema 2), pulls no layer. What was asked
    for by its digest must be that, byte for byte.
    """

    name = "registry.image_exists"
    returns = {"digests": "image as it was written -> digest that it means now (of the index, where it is one)"}

    def check(self, args: ImageArgs) -> Iterator[str]:
        if not args.images:
            yield "images: name at least one"
        hosts: dict[str, None] = {}
        for image in args.images:
            try:
                hosts[parse_reference(image).host] = None
            except PermanentError as error:
                yield f"images: {error.message}"
        try:
            parse_platform(args.platform)
        except PermanentError as error:
            yield error.message
        if (args.username is None) != (args.password is None):
            yield "username, password: give both or none"
        elif args.username is not None and len(hosts) > 1:
            yield f"username: it would be told to each of {', '.join(hosts)}; make a step for each registry"

    def read(self, args: ImageArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        references = {image: parse_reference(image) for image in args.images}
        platform = parse_platform(args.platform)
        who = {f"{one.host}/{one.path}": _who(args, one, ctx) for one in references.values()}
        registry = Registry(ctx, who, tls_ca=args.tls_ca, plain_http=args.plain_http)
        found = _look(registry, references, platform, ctx)
        faults = {image: error for image, error in found.items() if isinstance(error, PermanentError)}
        if faults:
            raise _refusal(faults, len(references))
        for error in found.values():
            if isinstance(error, Exception):
                raise error
        return {"digests": found}


def _look(
    registry: Registry, references: Mapping[str, Reference], platform: Platform, ctx: Context
) -> dict[str, str | Exception]:
    """Each image's digest, or what is wrong with it; AT_ONCE at a time. A registry that fails is not asked on."""
    found: dict[str, str | Exception] = {}
    failing: dict[str, Exception] = {}
    waiting = iter(references.items())
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                image, reference = next(waiting, ("", None))
            if reference is None:
                return
            try:
                found[image] = failing.get(reference.host) or registry.digest(reference, platform)
            except PermanentError as error:
                found[image] = error
            except Exception as error:  # noqa: BLE001  # raised by the call's own thread
                found[image] = failing[reference.host] = error

    threads = [
        threading.Thread(target=work, name="registry", daemon=True) for _ in range(min(AT_ONCE, len(references)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            ctx.checkpoint()
            ctx.progress(len(found), len(references))
    ctx.checkpoint()
    return {image: found[image] for image in references}


def _who(args: ImageArgs, reference: Reference, ctx: Context) -> Credentials:
    if args.username is not None:
        return Credentials(args.username, args.password or "")
    return stored(ctx.environ, reference)


def _refusal(faults: dict[str, PermanentError], asked: int) -> PermanentError:
    """One error for all that is wrong with the images; a single one keeps its hint."""
    said = [
        f"{image} {error.message}" if isinstance(error, MissingImageError) else f"{image}: {error.message}"
        for image, error in faults.items()
    ]
    if asked == 1:
        return PermanentError(said[0], hint=next(iter(faults.values())).hint)
    hints = {error.hint for error in faults.values()}
    return PermanentError(
        f"{len(faults)} of {asked} images cannot be used: {'; '.join(said)}",
        hint=hints.pop() if len(hints) == 1 else None,
    )


ACTIONS = (ImageExists,)
