"""Who asks: programs that print credentials, files that hold a token, tokens that end in the middle of a run.

Against a real API server.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from runbook.actions._kube.cluster import ForbiddenError, connect
from runbook.actions._kube.forward import open_web
from runbook.actions._kube.kinds import NAMESPACE, POD, Ref, known
from runbook.actions._kube.websocket import upgrade
from runbook.actions.k8s_exec import Exec
from runbook.contract import PermanentError, TemporaryError
from tests.command import Commands
from tests.context import call
from tests.forwards import PORT, start_pod
from tests.kube import Caller, opened
from tests.kubeconfigs import credential, flag, reads, runner_space
from tests.proxy import proxied
from tests.testbed.plane import Plane


@pytest.fixture
def space(control_plane: Plane) -> str:
    return runner_space(control_plane)


# -- programs that print credentials

PLUGIN = """#!/bin/sh
echo run >> {folder}/runs
env > {folder}/environment
. {folder}/answer
"""


class Plugin:
    """A credentials plug-in of the test's; `answer` is the rest of its script."""

    def __init__(self, folder: Path, plane: Plane) -> None:
        self.folder = folder
        self.program = folder / "get-token"
        self.program.write_text(PLUGIN.format(folder=folder))
        self.program.chmod(0o755)
        found = yaml.safe_load(plane.kubeconfig.read_text())
        self.token = str(found["users"][0]["user"]["token"])
        self.entry: dict[str, Any] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./get-token",
            "args": ["--cluster", "prod"],
            "env": [{"name": "PROFILE", "value": "ops"}],
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": True,
            "installHint": "install get-token from the wiki",
        }
        found["users"][0]["user"] = {"exec": self.entry}
        self.config = found
        self.write()

    def write(self) -> None:
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(self.config))

    def answer(self, script: str) -> None:
        (self.folder / "answer").write_text(script)

    def prints(self, token: str, expires: str | None = None, **more: str) -> None:
        status = {"token": token, "expirationTimestamp": expires, **more}
        self.answer(f"cat <<'E'\n{json.dumps(credential(status))}\nE\n")

    @property
    def runs(self) -> int:
        file = self.folder / "runs"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def plugin(control_plane: Plane, tmp_path: Path) -> Plugin:
    return Plugin(tmp_path, control_plane)


@pytest.fixture
def caller(control_plane: Plane, plugin: Plugin, tmp_path: Path) -> Caller:
    made = Caller(control_plane, tmp_path)
    made.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    return made


@pytest.mark.control_plane
def test_a_plug_in_is_run_in_the_environment_of_the_call_and_once(
    caller: Caller, plugin: Plugin, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PROCESS", "not for plug-ins")
    plugin.prints(plugin.token, "2999-01-01T00:00:00Z")
    reads(caller, space, times=5)
    assert plugin.runs == 1
    seen = dict(line.partition("=")[::2] for line in (plugin.folder / "environment").read_text().splitlines())
    assert seen["PROFILE"] == "ops"
    assert seen["PATH"] == caller.environ["PATH"]
    assert "OF_THE_PROCESS" not in seen
    asked = json.loads(seen["KUBERNETES_EXEC_INFO"])
    assert asked["kind"] == "ExecCredential"
    assert asked["spec"]["interactive"] is False
    assert asked["spec"]["cluster"]["server"].startswith("https://127.0.0.1:")


@pytest.mark.control_plane
def test_what_has_run_out_is_got_anew_before_it_is_used(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.prints(plugin.token, "2001-01-01T00:00:00Z")
    reads(caller, space, times=3)
    assert plugin.runs == 3


@pytest.mark.control_plane
def test_many_threads_run_a_plug_in_once(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer(f"sleep 0.3; cat <<'E'\n{json.dumps(credential({'token': plugin.token}))}\nE\n")
    found: list[str] = []
    kind = known("configmap")
    assert kind is not None
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        threads = [
            threading.Thread(target=lambda: found.append(cluster.get(ctx, Ref(kind, space, "flag"))["data"]["mark"]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == ["0"] * 8
    assert plugin.runs == 1


@pytest.mark.control_plane
def test_a_plug_in_that_fails_is_named_with_what_it_said(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer("echo 'Error: the SSO session has expired' >&2; exit 3")
    text = (
        r"the credentials plug-in get-token of context 'testbed' failed \(exit status 3\): Error: the SSO session has"
    )
    with pytest.raises(TemporaryError, match=text):
        reads(caller, space)
    for said in ("echo secret-half", 'echo \'{"kind": "Else", "token": "secret-half"}\'', "true"):
        plugin.answer(said)
        with pytest.raises(PermanentError, match="did not print an ExecCredential") as caught:
            reads(caller, space)
        assert "secret-half" not in caught.value.message
    plugin.prints("")
    with pytest.raises(PermanentError, match="it holds neither a token nor a certificate with its key"):
        reads(caller, space)


@pytest.mark.control_plane
def test_a_plug_in_that_is_not_installed_says_how_to(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.entry["command"] = "aws-no-such-program"
    plugin.write()
    with pytest.raises(
        PermanentError, match=r"aws-no-such-program of context 'testbed' cannot be run: .*not found"
    ) as caught:
        reads(caller, space)
    assert caught.value.hint == "install get-token from the wiki"


@pytest.mark.timed
@pytest.mark.control_plane
def test_a_plug_in_that_hangs_is_ended_with_its_call(caller: Caller, plugin: Plugin, space: str) -> None:
    plugin.answer(f"echo $$ > {plugin.folder}/pid; trap '' TERM; sleep 60")
    began = time.monotonic()
    with pytest.raises(TemporaryError):
        reads(caller, space, seconds=1.0)
    assert time.monotonic() - began < 2.0
    pid = int((plugin.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- for whom one acts

ACTING = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: acts-{space}}}
rules:
  - {{apiGroups: [""], resources: [users], verbs: [impersonate], resourceNames: [somebody]}}
  - {{apiGroups: [""], resources: [groups], verbs: [impersonate], resourceNames: ["{space}", last]}}
  - apiGroups: [authentication.k8s.io]
    resources: [userextras/example.org/team]
    verbs: [impersonate]
    resourceNames: [blue, "100%"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: acts-{space}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: acts-{space}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: nobody}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: acts, namespace: {space}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: {space}}}]
"""


def acting(plane: Plane, space: str, folder: Path, teams: list[str]) -> Caller:
    """Calls of `nobody` who acts for `somebody` of two groups, the first of which may do all in the namespace."""
    plane.kubectl("apply", "-f", "-", stdin=ACTING.format(space=space))
    found = yaml.safe_load(plane.nobody.read_text())
    found["users"][0]["user"] |= {
        "as": "somebody",
        "as-groups": [space, "last"],
        "as-user-extra": {"example.org/team": teams},
    }
    (folder / "kubeconfig-acting").write_text(yaml.safe_dump(found))
    made = Caller(plane, folder)
    made.environ["KUBECONFIG"] = str(folder / "kubeconfig-acting")
    return made


@pytest.mark.control_plane
def test_every_group_and_all_else_that_is_acted_for_is_told(control_plane: Plane, space: str, tmp_path: Path) -> None:
    """Of requests and of WebSockets alike: here it is the first group that brings the right."""
    start_pod(control_plane, space, "one")
    caller = acting(control_plane, space, tmp_path, ["blue", "100%"])
    reads(caller, space)
    with caller.context() as ctx:
        cluster = connect(ctx, "current")
        asked = b'{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}'
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        headers = {"Content-Type": "application/json"}
        who = cluster.transport.request(ctx, "POST", path, headers=headers, body=asked).json()["status"]["userInfo"]
        assert who["username"] == "somebody"
        assert who["groups"] == [space, "last", "system:authenticated"]
        assert who["extra"] == {"example.org/team": ["blue", "100%"]}
        done = call(Exec, {"namespace": space, "pod": "one", "command": ["echo", "here"]}, ctx)
        assert done["stdout"] == "here\n"
        open_web(cluster, ctx, Ref(POD, space, "one"), PORT).wire.close()


@pytest.mark.control_plane
def test_a_websocket_keeps_nothing_back_of_for_whom_one_acts(control_plane: Plane, space: str, tmp_path: Path) -> None:
    """The server refuses one of the teams: not the last one, so that it was told all of them."""
    start_pod(control_plane, space, "one")
    caller = acting(control_plane, space, tmp_path, ["red", "blue"])
    refused = "userextras/example.org/team"
    with pytest.raises(ForbiddenError, match=refused):
        reads(caller, space)
    with caller.context() as ctx, pytest.raises(ForbiddenError, match=refused):
        open_web(connect(ctx, "current"), ctx, Ref(POD, space, "one"), PORT)


# -- tokens that end in the middle of a run


@pytest.mark.control_plane
def test_a_token_file_is_read_again_when_it_changes(control_plane: Plane, space: str, tmp_path: Path) -> None:
    users = [yaml.safe_load(file.read_text())["users"] for file in (control_plane.nobody, control_plane.kubeconfig)]
    (tmp_path / "token").write_text(users[0][0]["user"]["token"])
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    found["users"][0]["user"] = {"tokenFile": "token"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(found))
    caller = Caller(control_plane, tmp_path)
    caller.environ["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    with caller.context() as ctx:
        action, args = opened("k8s.get", flag(space))
        with pytest.raises(PermanentError, match='User "nobody" cannot get'):
            action.read(args, ctx)  # type: ignore[attr-defined]
        (tmp_path / "new").write_text(users[1][0]["user"]["token"] + "\n")
        (tmp_path / "new").replace(tmp_path / "token")
        assert action.read(args, ctx)["found"]  # type: ignore[attr-defined]


@pytest.mark.control_plane
def test_a_run_does_not_follow_its_context_to_another_cluster(
    control_plane: Plane, space: str, caller: Caller, plugin: Plugin
) -> None:
    with proxied(control_plane) as proxy:
        plugin.config["users"][0]["user"] = {"token": "unknown"}
        plugin.write()
        with caller.context() as ctx:
            cluster = connect(ctx, "current")
            plugin.config["users"][0]["user"] = {"token": plugin.token}
            plugin.config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{proxy.port}"}
            plugin.write()
            with pytest.raises(PermanentError, match="a run stays on its cluster"):
                cluster.get(ctx, Ref(NAMESPACE, name=space))
        assert not proxy.asked


STEPS = """
runbook: 1
name: long
defaults: {{with: {{k8s: {{namespace: {space}}}}}}}
steps:
  - {{id: first, action: k8s.patch, with: {{kind: configmap, name: {name}, patch: {{data: {{mark: "1"}}}}}}}}
  - id: pause
    action: shell.run
    with: {{command: [sh, -c, "echo > begun; while test ! -e go; do sleep 0.05; done"]}}
    undo: none
  - {{id: second, action: k8s.patch, with: {{kind: configmap, name: {name}, patch: {{data: {{mark: "2"}}}}}}}}
"""


def bound_token(plane: Plane, space: str, secret: str) -> str:
    """A token that ends with a Secret: what the API server says of it then is what it says of any token that ended."""
    plane.kubectl("-n", space, "create", "secret", "generic", secret)
    kind = ("--bound-object-kind", "Secret", "--bound-object-name", secret)
    return plane.kubectl("-n", space, "create", "token", "runner", *kind).strip()


def ended(plane: Plane, space: str, secret: str, token: str) -> None:
    """End it, and wait until the API server (which remembers good tokens for ten seconds) has noticed."""
    plane.kubectl("-n", space, "delete", "secret", secret)

    def refused() -> bool:
        try:
            plane.kubectl("-n", space, "--token", token, "get", "configmap", "flag")
        except AssertionError as error:
            return "Unauthorized" in str(error) or "must be logged in" in str(error)
        return False

    plane.until(refused, seconds=40.0)


class Long:
    """A run that stands between two changes, in a folder, with credentials and an object of its own."""

    def __init__(self, plane: Plane, space: str, folder: Path) -> None:
        folder.mkdir()
        self.name = folder.name
        self.plane, self.space = plane, space
        self.plugin = Plugin(folder, plane)
        self.first, self.second = (bound_token(plane, space, f"{self.name}-{which}") for which in ("one", "two"))
        self.plugin.prints(self.first, "2999-01-01T00:00:00Z")
        plane.kubectl("-n", space, "create", "configmap", self.name, "--from-literal=mark=0")
        self.cli = Commands(folder, plane.environ() | {"KUBECONFIG": str(folder / "kubeconfig")})
        self.cli.write("long.yaml", STEPS.format(space=space, name=self.name))

    def log_in(self, token: str) -> None:
        """As `oc login` and the like do it: write a token into the kubeconfig."""
        self.plugin.config["users"][0]["user"] = {"token": token}
        self.plugin.write()

    def begin(self) -> None:
        self.process = self.cli.start("run", "long.yaml", "--yes")
        begun = self.cli.folder / "begun"
        self.plane.until(lambda: begun.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        self.runs = self.plugin.runs

    def end(self) -> tuple[int, str, int, str]:
        """Exit code, the object's mark, how often the plug-in was run since, and what was said."""
        (self.cli.folder / "go").touch()
        out, err = self.process.communicate(timeout=60)
        mark = self.plane.read(self.space, "configmap", self.name)["data"]["mark"]
        return self.process.returncode, mark, self.plugin.runs - self.runs, " ".join((out + err).split())


@pytest.mark.control_plane
def test_what_is_no_request_gets_new_credentials_too(
    control_plane: Plane, caller: Caller, plugin: Plugin, space: str
) -> None:
    control_plane.deployment(space, "web", "r/web:1", replicas=1)
    plugin.answer(  # the first time a token that the server does not know
        f"if test $(wc -l < {plugin.folder}/runs) = 1; then T=unknown; else T={plugin.token}; fi\n"
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", \\"kind\\": \\"ExecCredential\\",'
        ' \\"status\\": {\\"token\\": \\"$T\\"}}"\n'
    )
    (pod,) = control_plane.read(space, "pods")["items"]
    ref = Ref(POD, space, str(pod["metadata"]["name"]), "exec")
    with caller.context() as ctx:
        transport = connect(ctx, "current").transport
        opened_one = upgrade(transport, ctx, f"{ref.path()}?command=true&stdout=true", "v5.channel.k8s.io")
        opened_one.wire.close()
    assert plugin.runs == 2


@pytest.mark.control_plane
def test_tokens_end_in_the_middle_of_runs(control_plane: Plane, space: str, tmp_path: Path) -> None:
    by_plugin, by_hand, never = (
        Long(control_plane, space, tmp_path / name) for name in ("by-plug-in", "by-hand", "never")
    )
    by_hand.log_in(by_hand.first)
    for run in (by_plugin, by_hand, never):
        run.begin()
    for run in (by_plugin, by_hand, never):
        ended(control_plane, space, f"{run.name}-one", run.first)
    by_plugin.plugin.prints(by_plugin.second)
    by_hand.log_in(by_hand.second)
    assert by_plugin.end()[:3] == (0, "2", 1), "got anew once"
    assert by_hand.end()[:3] == (0, "2", 0)
    code, mark, runs, said = never.end()
    assert (code, mark, runs) == (1, "1", 1), "asked once whether there is anything new, then no more"
    assert "context 'testbed' is not logged in (401)" in said
