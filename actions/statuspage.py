"""statuspage.incident: tell customers (developer.statuspage.io). One incident per key, found again by its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from runbook.actions import _http
from runbook.contract import Context, Notify, Outputs, PermanentError, param

API = "https://api.statuspage.io/v1"
COMPONENT = ("operational", "degraded_performance", "partial_outage", "major_outage", "under_maintenance")


@dataclass(frozen=True, kw_only=True)
class IncidentArgs:
    """Parameters of statuspage.incident."""

    api_key: str | None = param("API key of the account.", secret=True, family=True)
    page: str = param("Page id.", family=True)
    title: str = param("Name of the incident.")
    status: Literal["investigating", "identified", "monitoring", "resolved"] = param("Where it stands.")
    message: str = param("What customers read in this update.")
    key: str | None = param(
        "The unresolved incident of this key is updated, else one is opened; the run's id if not given.", default=None
    )
    impact: Literal["none", "minor", "major", "critical"] | None = param(
        "Overrides what the page computes from its components.", default=None
    )
    components: dict[str, str] = param(f"Component id -> its status: {', '.join(COMPONENT)}.", default_factory=dict)


class Incident(Notify[IncidentArgs]):
    """Open, update or resolve an incident on the status page.

    The key is kept in the incident's metadata (`runbook.key`), so that a later step, a resumed run or another run with
    the same key finds it. Repeating an update that is already the newest one posts nothing.
    """

    name = "statuspage.incident"
    returns = {"id": "the incident's id", "created": "whether it was opened by this step"}

    def check(self, args: IncidentArgs) -> Iterator[str]:
        for component, status in args.components.items():
            if status not in COMPONENT and "{{" not in status:
                yield f"components.{component}: expected one of {', '.join(COMPONENT)}, got {status!r}"

    def run(self, args: IncidentArgs, ctx: Context) -> Outputs:
        if not args.api_key:
            raise PermanentError("api_key: is not there", hint="set the secret that the playbook names")
        for problem in self.check(args):
            raise PermanentError(problem)
        key = args.key or ctx.run_id
        page = f"{ctx.address('statuspage', API).rstrip('/')}/pages/{args.page}"
        found = _unresolved(ctx, args.api_key, page, key)
        incident = _incident(args, key)
        if found is None and args.status == "resolved":
            return {"id": None, "created": False}  # nothing is open: nothing to resolve
        if found is None:
            made = _asked(ctx, args.api_key, "POST", f"{page}/incidents", {"incident": incident})
            return {"id": str(made.get("id", "")), "created": True}
        if not _says(found, args):
            _asked(ctx, args.api_key, "PATCH", f"{page}/incidents/{found['id']}", {"incident": incident})
        return {"id": str(found["id"]), "created": False}


def _incident(args: IncidentArgs, key: str) -> dict[str, Any]:
    incident: dict[str, Any] = {
        "name": args.title,
        "status": args.status,
        "body": args.message,
        "metadata": {"runbook": {"key": key}},
    }
    if args.impact is not None:
        incident["impact_override"] = args.impact
    if args.components:
        incident["components"] = args.components
        incident["component_ids"] = list(args.components)
    return incident


def _unresolved(ctx: Context, api_key: str, page: str, key: str) -> dict[str, Any] | None:
    found = _asked(ctx, api_key, "GET", f"{page}/incidents/unresolved", None)
    for incident in found if isinstance(found, list) else []:
        noted = incident.get("metadata") if isinstance(incident, dict) else None
        ours = noted.get("runbook") if isinstance(noted, dict) else None
        if isinstance(ours, dict) and ours.get("key") == key:
            return dict(incident)
    return None


def _says(incident: dict[str, Any], args: IncidentArgs) -> bool:
    """Whether its newest update is this one: an attempt whose answer was lost did it."""
    updates = incident.get("incident_updates") or [{}]
    return (
        incident.get("status") == args.status
        and incident.get("name") == args.title
        and updates[0].get("body") == args.message
        and not args.components
    )


def _asked(ctx: Context, api_key: str, method: str, url: str, content: Any) -> Any:
    headers = {"Authorization": f"OAuth {api_key}"}
    if content is None:
        reply = _http.request(ctx, method, url, headers=headers)
    else:
        reply = _http.send_json(ctx, method, url, content, headers)
    if not 200 <= reply.status < 300:
        raise _http.refuse(reply, "Statuspage")
    return reply.json()


ACTIONS = (Incident,)
