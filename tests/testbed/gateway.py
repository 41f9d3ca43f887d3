"""The Gateway API on the real control plane: the definition of HTTPRoute alone, no controller that would route."""

from __future__ import annotations

import json
from pathlib import Path

from tests.testbed.plane import Plane

DEFINITION = Path(__file__).with_name("httproute.yaml")
SERVED = "/apis/gateway.networking.k8s.io/v1"


def install(plane: Plane) -> None:
    """Define HTTPRoute, and wait until discovery tells of it. Twice is once; it stays for the session."""
    plane.kubectl("apply", "-f", str(DEFINITION))
    plane.kubectl("wait", "--for=condition=Established", "crd/httproutes.gateway.networking.k8s.io", "--timeout=60s")
    plane.until(lambda: "gateway.networking.k8s.io" in plane.kubectl("get", "--raw", "/apis"), 60)
    plane.until(lambda: bool(json.loads(plane.kubectl("get", "--raw", SERVED))["resources"]), 60)
