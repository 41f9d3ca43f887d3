"""Helm acts in the run's one context, whatever becomes of the kubeconfig, and nowhere that its environment leads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import runbook
from runbook.contract import PermanentError
from runbook.interpreter.errors import Exit
from runbook.runner.session import Ended, Options
from runbook.runner.world import here
from tests.command import Commands
from tests.helm_release import App
from tests.kube import Caller, opened
from tests.testbed.plane import Plane, built

pytestmark = pytest.mark.control_plane

DEAD = "https://127.0.0.1:9"


def two_contexts(plane: Plane, folder: Path) -> Path:
    """A kubeconfig of one's own: `testbed`, which is current, and `staging`, a cluster where nobody answers."""
    path = folder / "kubeconfig"
    shutil.copy(plane.kubeconfig, path)
    for words in (
        ("set-cluster", "staging", f"--server={DEAD}"),
        ("set-context", "staging", "--cluster=staging"),
    ):
        plane.kubectl("--kubeconfig", str(path), "config", *words)
    return path


def test_a_switched_kubeconfig_moves_no_helm(
    control_plane: Plane, helm_version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`current` means one context for a run (0013), and it is told to each helm."""
    app = App(control_plane, helm_version, tmp_path, revisions=2)
    environ = control_plane.environ(helm_version) | {"KUBECONFIG": str(two_contexts(control_plane, tmp_path))}
    switch = ["kubectl", "config", "use-context", "staging"]
    tools = {"PATH": f"{environ['PATH']}:{built()}"}
    steps = [
        {"id": "switch", "action": "shell.run", "with": {"command": switch}},
        {"id": "look", "action": "helm.status", "with": app.given},
        {"id": "back", "action": "helm.rollback", "with": {**app.given, "revision": 1}},
    ]
    monkeypatch.chdir(tmp_path)
    Path("it.yaml").write_text(json.dumps({"runbook": 1, "name": "it", "steps": steps}))
    world = here({**environ, **tools, "RUNBOOK_HOME": str(tmp_path / "home")})
    ended: Ended = runbook.run("it.yaml", world=world, options=Options(yes=True))
    assert "current-context: staging" in Path(environ["KUBECONFIG"]).read_text()
    assert ended.exit == Exit.SUCCEEDED, ended.outcome
    assert app.newest() == (3, "deployed")
    assert app.image() == "1"


def test_a_resume_and_an_undo_act_where_the_run_began(control_plane: Plane, helm_version: int, tmp_path: Path) -> None:
    """Each is another process, and meanwhile somebody switched the context: what the run found is on record."""
    app = App(control_plane, helm_version, tmp_path, revisions=2)
    kubeconfig = two_contexts(control_plane, tmp_path)
    cli = Commands(tmp_path, control_plane.environ(helm_version) | {"KUBECONFIG": str(kubeconfig)})
    label = {"namespace": app.space, "kind": "ConfigMap", "name": "app", "labels": {"tier": "front"}}
    control_plane.kubectl("-n", app.space, "create", "configmap", "app")
    steps = [
        {"id": "label", "action": "k8s.label", "with": label},
        {"id": "go", "action": "manual.approve", "with": {"message": "Go on?"}},
        {"id": "back", "action": "helm.rollback", "with": {**app.given, "revision": 1}},
    ]
    cli.write("it.yaml", json.dumps({"runbook": 1, "name": "it", "steps": steps}))
    asked = cli("run", "it.yaml", "--yes")
    assert asked.code == Exit.WAITING, asked.out + asked.err
    control_plane.kubectl("--kubeconfig", str(kubeconfig), "config", "use-context", "staging")
    assert cli("answer", "last", "go", "approve").code == 0
    ended = cli("resume")
    assert ended.code == 0, ended.out + ended.err
    assert app.newest() == (3, "deployed")
    undone = cli("undo", "--yes")
    assert undone.code == 0, undone.out + undone.err
    assert app.image() == "2"
    labels = control_plane.kubectl("-n", app.space, "get", "configmap", "app", "-o", "jsonpath={.metadata.labels}")
    assert "front" not in labels


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HELM_KUBECONTEXT": "staging"}, "HELM_KUBECONTEXT is 'staging', and `context: current` is 'testbed'"),
        ({"HELM_KUBEAPISERVER": DEAD}, "HELM_KUBEAPISERVER would lead helm past its context ('current')"),
        (
            {"HELM_KUBEASUSER": "nobody", "HELM_KUBETOKEN": "t"},
            "HELM_KUBETOKEN and HELM_KUBEASUSER would lead helm past its context",
        ),
        ({"HELM_KUBEINSECURE_SKIP_TLS_VERIFY": "1"}, "HELM_KUBEINSECURE_SKIP_TLS_VERIFY would lead helm past"),
        ({"HELM_DRIVER": "memory"}, "HELM_DRIVER is memory: helm forgets its releases"),
    ],
)
def test_an_environment_that_leads_helm_elsewhere_is_refused(
    control_plane: Plane, tmp_path: Path, variables: Mapping[str, str], said: str
) -> None:
    """Before the run, and before each helm."""
    caller = Caller(control_plane, tmp_path)
    caller.environ |= {"KUBECONFIG": str(two_contexts(control_plane, tmp_path)), **variables}
    given = {"namespace": "default", "release": "app"}
    with caller.context() as ctx:
        action, args = opened("helm.rollback", given)
        (sentence,) = action.preflight(args, ctx)
    assert said in sentence
    with pytest.raises(PermanentError) as refused:
        caller.read("helm.history", {**given, "optional": True})
    assert refused.value.message == sentence


def test_an_environment_that_leads_nowhere_else_is_none_of_our_business(
    control_plane: Plane, helm_version: int, tmp_path: Path
) -> None:
    """Helm's namespace is the step's; a step that names its context is not asked what HELM_KUBECONTEXT means."""
    app = App(control_plane, helm_version, tmp_path, revisions=1)
    app.caller.environ |= {
        "KUBECONFIG": str(two_contexts(control_plane, tmp_path)),
        "HELM_NAMESPACE": "kube-system",
        "HELM_KUBEINSECURE_SKIP_TLS_VERIFY": "false",
    }
    for context, variable in (("current", "testbed"), ("current", ""), ("testbed", "staging")):
        app.caller.environ["HELM_KUBECONTEXT"] = variable
        found = app.caller.read("helm.status", {**app.given, "context": context})
        assert found == {"status": "deployed", "revision": 1}


def test_a_pod_that_has_no_kubeconfig(control_plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIMULATED: a pod's account, and a helm that says what it was told. It gets no context, and no kubeconfig either:
    one that somebody puts into its home meanwhile would move it."""
    monkeypatch.setattr("runbook.actions._kube.config._ACCOUNT", tmp_path)
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("SIMULATED")
    told, program = tmp_path / "told", tmp_path / "bin/helm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$KUBECONFIG|$HELM_KUBECONTEXT|$*" >> {told}\necho "[]"\n')
    program.chmod(0o755)
    caller = Caller(control_plane, tmp_path)
    caller.environ = {
        "HOME": str(tmp_path),
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(control_plane.port),
    }
    given = {"namespace": "shop", "release": "app", "optional": True}
    caller.read("helm.history", given)
    caller.environ["HELM_KUBECONTEXT"] = "staging"
    caller.read("helm.history", {**given, "context": "in-cluster"})
    words = "history app --output json --max 256 --namespace shop"
    assert told.read_text().splitlines() == [f"{os.devnull}||{words}"] * 2
    with pytest.raises(PermanentError, match="HELM_KUBECONTEXT is 'staging', and `context: current` is 'in-cluster'"):
        caller.read("helm.history", given)
    # A kubeconfig's context of that name wins over the account, here as for k8s.*.
    kubeconfig = str(two_contexts(control_plane, tmp_path))
    control_plane.kubectl("--kubeconfig", kubeconfig, "config", "rename-context", "staging", "in-cluster")
    caller.environ |= {"KUBECONFIG": kubeconfig, "HELM_KUBECONTEXT": ""}
    caller.read("helm.history", {**given, "context": "in-cluster"})
    assert told.read_text().splitlines()[-1].endswith(f"{words} --kube-context in-cluster")
