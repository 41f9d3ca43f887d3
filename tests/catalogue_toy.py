"""A small catalogue of actions, one or two of each class, in the format of schemas/actions: what the language's tests
load with.

The golden cases read like a manual, so the names are those of real actions; the parameters are fewer.
"""

from __future__ import annotations

from typing import Any

from runbook.interpreter.catalogue import Catalogue, from_schema

_DURATION = {"type": "string", "format": "duration", "pattern": r"^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$"}
_CLUSTER: dict[str, Any] = {
    "namespace": {"description": "The namespace.", "type": "string", "x-family": True},
    "context": {"description": "The kubeconfig's context.", "type": "string", "x-family": True},
}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, "type": "string", **more}


def _action(
    description: str, kind: str, properties: dict[str, Any], required: list[str], outputs: str = "", **more: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
        "x-class": kind,
        "x-outputs": {name: f"the {name}" for name in outputs.split()},
        **({"x-idempotent": True} if kind not in ("opaque", "ask") else {}),
        **{f"x-{key}": value for key, value in more.items()},
    }


_WORKLOAD = {
    "kind": _text("Deployment, StatefulSet or DaemonSet.", default="Deployment"),
    "name": _text("Name of the workload."),
    **_CLUSTER,
}
_ANY: dict[str, Any] = {}

DOCUMENT: dict[str, Any] = {
    "$defs": {
        "flow.set": _action(
            "Give names to values.",
            "read",
            {"values": {"type": "object", "description": "Names and values."}},
            ["values"],
        ),
        "flow.assert": _action(
            "Fail unless it is true.",
            "check",
            {
                "that": {"type": "boolean", "description": "What must be true."},
                "message": _text("What to say when it is not."),
            },
            ["that", "message"],
            "ok message",
        ),
        "flow.wait": _action("Wait.", "read", {"for": {**_DURATION, "description": "How long."}}, ["for"]),
        "manual.approve": _action(
            "Ask people to approve.",
            "ask",
            {
                "message": _text("What they approve."),
                "by": {"type": "integer", "minimum": 1, "default": 1, "description": "How many."},
                "approvers": {"type": "array", "items": {"type": "string"}, "description": "Who may."},
            },
            ["message"],
            "by at comment",
        ),
        "manual.choose": _action(
            "Let a person choose.",
            "ask",
            {
                "message": _text("The question."),
                "choices": {"type": "object", "description": "What can be chosen."},
                "default": _text("What is taken at the timeout."),
            },
            ["message", "choices"],
            "choice by at",
        ),
        "manual.checklist": _action(
            "Let a person tick off a list.",
            "ask",
            {"sections": {"type": "object", "description": "Section title and its list of items."}},
            ["sections"],
            "answers unchecked",
        ),
        "k8s.get": _action(
            "Read an object.",
            "read",
            {
                "kind": _text("Its kind."),
                "name": _text("Its name."),
                "optional": {"type": "boolean", "default": False, "description": "May be absent."},
                **_CLUSTER,
            },
            ["kind", "name", "namespace"],
            "found object objects",
        ),
        "k8s.wait": _action(
            "Wait for a state.",
            "check",
            {**_WORKLOAD, "for": _text("rollout, available, endpoints.")},
            ["name", "for", "namespace"],
            "ok seconds",
            until="result.ok",
        ),
        "k8s.scale": _action(
            "Set the replica count.",
            "change",
            {
                **_WORKLOAD,
                "replicas": {"type": "integer", "minimum": 0, "description": "Wanted number of replicas."},
                "only": {"enum": ["up", "down", None], "description": "Scale in one direction only."},
            },
            ["name", "replicas", "namespace"],
            "previous replicas",
        ),
        "k8s.patch": _action(
            "Patch an object.",
            "change",
            {
                **_WORKLOAD,
                "patch": {"type": ["object", "array"], "description": "The patch."},
                "type": {"enum": ["merge", "strategic", "json"], "default": "strategic", "description": "Its type."},
            },
            ["name", "patch", "namespace"],
            "before after",
        ),
        "k8s.rollout_restart": _action(
            "Restart a workload.", "change", _WORKLOAD, ["name", "namespace"], "at", undo="again"
        ),
        "k8s.delete": _action(
            "Delete an object.", "change", _WORKLOAD, ["name", "namespace"], "existed", irreversible=True
        ),
        "http.check": _action(
            "Ask a URL.",
            "check",
            {
                "url": _text("The address."),
                "status": {"type": ["integer", "string"], "default": "2xx", "description": "What it must answer."},
                "headers": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "Headers.",
                    "x-secret": True,
                },
            },
            ["url"],
            "ok status ms body",
        ),
        "http.request": _action(
            "Send a request.",
            "opaque",
            {
                "url": _text("The address."),
                "method": {
                    "enum": ["GET", "HEAD", "POST", "PUT", "DELETE"],
                    "default": "POST",
                    "description": "The method.",
                },
                "bearer": _text("A bearer token.", **{"x-secret": True}),
                "json": {"description": "The body.", **_ANY},
            },
            ["url"],
            "status headers json body",
            depends={
                "method": {
                    "GET": {"effect": "read", "idempotent": True},
                    "HEAD": {"effect": "read", "idempotent": True},
                }
            },
        ),
        "prometheus.query": _action(
            "Evaluate a query.",
            "read",
            {"url": _text("The server.", **{"x-family": True}), "query": _text("PromQL.")},
            ["url", "query"],
            "value series",
        ),
        "shell.run": _action(
            "Run a command.",
            "opaque",
            {
                "command": {
                    "description": "A list of words, or text for sh -c.",
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                    "x-quoted": "shell_quote",
                },
                "env": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "Environment.",
                    "x-secret": True,
                },
                "stdin": _text("Standard input.", **{"x-secret": True}),
                "script": _text("A file.", **{"x-path": True}),
            },
            ["command"],
            "rc stdout stderr json",
        ),
        "slack.post": _action(
            "Post a message.",
            "notify",
            {
                "webhook": _text("Incoming webhook.", **{"x-secret": True, "x-family": True}),
                "text": _text("The text."),
                "color": _text("good, warning, danger."),
            },
            ["webhook", "text"],
            "ts",
        ),
        "pagerduty.trigger": _action(
            "Page people.",
            "notify",
            {
                "routing_key": _text("The key.", **{"x-secret": True, "x-family": True}),
                "summary": _text("What is wrong."),
                "severity": {
                    "enum": ["critical", "error", "warning", "info"],
                    "default": "critical",
                    "description": "How bad.",
                },
            },
            ["routing_key", "summary"],
            "dedup_key",
            lane="page",
        ),
        "report.write": _action("Write the report.", "local", {"name": _text("Its name.")}, ["name"], "path sha256"),
    }
}


def catalogue() -> Catalogue:
    """The toy catalogue."""
    return from_schema(DOCUMENT)
