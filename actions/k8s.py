"""Family k8s: Kubernetes, by the official client; kubectl is not needed."""

from __future__ import annotations

from runbook.actions.k8s_apply import Apply, Diff
from runbook.actions.k8s_delete import Delete
from runbook.actions.k8s_exec import Exec
from runbook.actions.k8s_export import Export
from runbook.actions.k8s_label import Label
from runbook.actions.k8s_patch import Patch
from runbook.actions.k8s_pods import DeletePods
from runbook.actions.k8s_read import Get, History, Logs, Status
from runbook.actions.k8s_restart import RolloutRestart
from runbook.actions.k8s_revert import Revert
from runbook.actions.k8s_rollout import RolloutUndo
from runbook.actions.k8s_scale import Scale
from runbook.actions.k8s_wait import Http, Wait

ACTIONS = (
    Get,
    Status,
    History,
    Wait,
    Http,
    Logs,
    Patch,
    Scale,
    RolloutUndo,
    RolloutRestart,
    DeletePods,
    Exec,
    Label,
    Diff,
    Apply,
    Revert,
    Delete,
    Export,
)
