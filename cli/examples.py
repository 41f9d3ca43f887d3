"""Examples for `--help`: each can be typed as it stands, with a RUN and files of one's own."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plan": (
        ("runbook plan rollback.yaml -i version=1.2.3", ""),
        ("runbook plan rollback.yaml -o plan.json", "save it, for `runbook apply plan.json`"),
        ("runbook plan playbooks/emergency.yaml --sandbox", "of a rehearsal"),
    ),
    "run": (
        ("runbook run rollback.yaml -i version=1.2.3", "shows the plan, asks, runs"),
        ("runbook run playbooks/emergency.yaml --yes", "the emergency button: no question"),
        ("runbook run playbooks/emergency.yaml --sandbox", "a rehearsal: nothing real is touched"),
    ),
    "apply": (("runbook apply plan.json", "exit 3 where the world, or the playbook, has moved since"),),
    "resume": (
        ("runbook resume", "the newest run goes on where it was"),
        ("runbook resume RUN --cleanup", "only takes back and tidies"),
        ("runbook resume RUN --in-doubt done", "I have looked: it happened"),
    ),
    "undo": (
        ("runbook undo last", ""),
        ("runbook undo RUN --dry-run", "what it would take back, and where it would stop"),
        ('runbook undo RUN --accept deploy/migrate --why "put right by hand"', ""),
    ),
    "cancel": (('runbook cancel --why "wrong region"', "the newest run; twice: its clean-up ends, too"),),
    "answer": (
        ("runbook answer last", "what is asked, and what may be answered"),
        ('runbook answer last agree approve --comment "seen the graphs"', ""),
        ('runbook answer last before --check "no errors" --check "lead told"', "a checklist"),
    ),
    "runs": (
        ("runbook runs -n 5", ""),
        ("runbook runs --locks k8s:ops", "also who holds which lock in that namespace"),
    ),
    "show": (("runbook show", "the newest run"), ("runbook show RUN --verbose", "with what each step gave back")),
    "logs": (("runbook logs -f", "follow the newest run"), ("runbook logs RUN deploy/migrate", "of one step")),
    "report": (
        ("runbook report last -o report.html", "with a chart of the steps against time; can be printed"),
        ("runbook report RUN --format json", ""),
    ),
    "verify": (
        ("runbook verify last", ""),
        ("runbook verify RUN --head DIGEST", "nothing up to what a report named was changed"),
    ),
    "validate": (
        ("runbook validate playbooks/emergency.yaml", ""),
        ("runbook validate rollback.yaml restore.yaml --output sarif", "for a code host's annotations"),
    ),
    "new": (("runbook new restore.yaml", "then: runbook plan restore.yaml"),),
    "graph": (("runbook graph playbooks/emergency.yaml -o emergency.svg", ""),),
    "actions": (
        ("runbook actions", "all of them, a line each"),
        ("runbook actions k8s.patch", "its parameters and outputs"),
    ),
    "schema": (
        ("runbook schema playbook -o playbook.schema.json", "for an editor"),
        ("runbook schema k8s", "of one family of actions"),
    ),
    "doctor": (
        ("runbook doctor", "this machine"),
        ("runbook doctor playbooks/emergency.yaml -i environment=staging", "and all that a run of it needs"),
    ),
    "sandbox": (("runbook sandbox up scenario.yaml --kubeconfig kubeconfig", "then: kubectl --kubeconfig kubeconfig"),),
    "prune": (("runbook prune --older-than 90d --dry-run", "which would be deleted"),),
    "completion": (
        ('eval "$(runbook completion bash)"', "in ~/.bashrc; zsh likewise"),
        ("runbook completion fish | source", "in ~/.config/fish/config.fish"),
    ),
}


def shown(command: str) -> str:
    """What stands below a command's options; `\\b` keeps click from filling the lines."""
    width = max((len(line) for line, note in EXAMPLES[command] if note), default=0)
    lines = (f"  {line:<{width}}   {note}".rstrip() if note else f"  {line}" for line, note in EXAMPLES[command])
    return "\n".join(("\b", "Examples:" if len(EXAMPLES[command]) > 1 else "Example:", *lines))
