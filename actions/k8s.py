"""Family k8s: Kubernetes, by the official client; kubectl is not needed."""

from __future__ import annotations

from runbook.actions.k8s_patch import Patch
from runbook.actions.k8s_pods import DeletePods
from runbook.actions.k8s_read import Get, History, Logs, Status
from runbook.actions.k8s_rollout import RolloutRestart, RolloutUndo
from runbook.actions.k8s_scale import Scale
from runbook.actions.k8s_wait import Http, Wait

ACTIONS = (Get, Status, History, Wait, Http, Logs, Patch, Scale, RolloutUndo, RolloutRestart, DeletePods)
