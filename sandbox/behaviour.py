"""What simulated software does, as a scenario says: which version is well, which is sick, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Health = Literal["ok", "failing", "never_ready", "crashing", "image_missing"]


@dataclass(frozen=True, slots=True)
class Version:
    """How software of one version behaves.

    `failing`: its pods are Ready and serve errors; `never_ready`: they run and never become Ready; `crashing`: they
    restart for ever; `image_missing`: they cannot be pulled. `status` is what a failing one answers, `latency` how long
    each answer takes (seconds), `ready_after` how long a pod takes to become Ready, in simulated seconds (None: the
    world's). `heals: restart`: only pods of the world's beginning are sick, their replacements are well.
    `breaks: serving`: well until a Service sends it traffic.
    """

    health: Health = "ok"
    status: int = 503
    latency: float = 0.0
    ready_after: float | None = None
    heals: Literal["never", "restart"] = "never"
    breaks: Literal["never", "serving"] = "never"


WELL = Version()


@dataclass(frozen=True, slots=True)
class Behaviours:
    """Versions by image. A key is a tag, a name with its tag (`web:2.4.0`), a name, or a whole image reference."""

    versions: Mapping[str, Version] = field(default_factory=dict)

    def of_image(self, image: str) -> Version:
        """The behaviour of an image; well when the scenario says nothing about it."""
        name = image.rpartition("/")[2]
        for key in (image, name, name.partition(":")[0], name.partition(":")[2]):
            if key and key in self.versions:
                return self.versions[key]
        return WELL

    def of_pod(self, pod: Mapping[str, Any], *, original: bool) -> Version:
        """The behaviour of a pod: that of its sickest container. `original`: it is there since the world began."""
        kinds = [self.of_image(container.get("image", "")) for container in pod["spec"]["containers"]]
        sick = [v for v in kinds if v.health != "ok" and (original or v.heals != "restart")]
        if sick:
            return sick[0]
        return next((version for version in kinds if version.health == "ok" and version != WELL), WELL)


def application(pod: Mapping[str, Any]) -> str:
    """What a pod simulates, by the name of its first image: prometheus, postgres, redis, or a web application."""
    name = pod["spec"]["containers"][0].get("image", "").rpartition("/")[2].partition(":")[0]
    for known in ("prometheus", "postgres", "redis"):
        if known in name:
            return known
    return "web"


def tag(image: str) -> str:
    """The version in an image reference: `registry.example/web:2.4.0` -> `2.4.0`; a digest stays itself."""
    name = image.rpartition("/")[2]
    if "@" in name:
        return name.partition("@")[2]
    return name.partition(":")[2] or "latest"
