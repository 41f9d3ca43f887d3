"""Preflight on the real control plane: what is missing refuses a run before its first change, what the run can do
without is a warning, and what nobody can tell delays nothing.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.interpreter.errors import Exit, RefusedError
from runbook.runner import session
from runbook.runner.journal import Event, Journal
from runbook.runner.session import Ended, Options, World
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests.command import Commands, end
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane


@dataclass(frozen=True)
class Bench:
    """A namespace with a Deployment `web` of two replicas, and the user nobody, who may read it."""

    plane: Plane
    folder: Path
    space: str

    def world(self, user: str = "nobody", **more: str) -> World:
        environ = {**self.plane.environ(user=user), **more}
        return World(store=Store(self.folder / "home"), surroundings=Real(environ))

    def written(self, steps: str, head: str = "") -> Path:
        path = self.folder / "playbook.yaml"
        defaults = f"defaults: {{with: {{k8s: {{namespace: {self.space}}}, helm: {{namespace: {self.space}}}}}}}\n"
        path.write_text(f"runbook: 1\nname: tried\n{defaults}{head}steps:\n{steps}")
        return path

    def run(self, steps: str, *, head: str = "", world: World | None = None, **options: Any) -> Ended:
        """Run it as nobody does."""
        path = self.written(steps, head)
        ended: Ended = runbook.run(path, world=world or self.world(), options=Options(yes=True, **options))
        return ended

    def replicas(self) -> int:
        return int(self.plane.read(self.space, "deployment", "web")["spec"]["replicas"])


@pytest.fixture(scope="module")
def space(control_plane: Plane) -> str:
    """One for all tests here: what they change is how many replicas there are."""
    name = control_plane.namespace()
    control_plane.deployment(name, "web", "registry.invalid/web:1", wait=False)
    control_plane.allow(name, "get,list=deployments.apps,deployments.apps/scale,pods")
    return name


@pytest.fixture
def bench(control_plane: Plane, space: str, tmp_path: Path) -> Bench:
    control_plane.kubectl("-n", space, "scale", "deployment/web", "--replicas=2")
    return Bench(control_plane, tmp_path, space)


def events(ended: Ended) -> list[Event]:
    journal = Journal.open(ended.folder.journal, readonly=True)
    try:
        return list(journal.events())
    finally:
        journal.close()


def warnings(ended: Ended) -> list[str]:
    return [f"{event.key}: {event.data['message']}" for event in events(ended) if event.kind == "warning"]


def why(ended: Ended) -> str:
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    return ended.outcome.error.message


SCALE = "  - {id: up, action: k8s.scale, with: {kind: Deployment, name: web, replicas: 3}}\n"
READ = "  - {id: look, action: k8s.get, with: {kind: Deployment, name: web}}\n"


def test_one_verb_that_is_forbidden_refuses_the_run_before_its_first_change(bench: Bench) -> None:
    marked = bench.folder / "marked"
    ended = bench.run(f"  - {{id: mark, action: file.write, with: {{to: {marked}, content: x}}}}\n{READ}{SCALE}")
    assert (ended.status, ended.exit) == ("failed", Exit.REFUSED)
    assert why(ended) == (
        f"nothing was begun: up: no right to patch deployments/scale 'web' in namespace '{bench.space}'"
        " (context 'testbed')"
    )
    assert not marked.exists()
    assert bench.replicas() == 2
    assert [event.kind for event in events(ended)] == ["run.begun", "pinned", "preflight", "run.ended"]


def test_the_command_says_it_with_and_without_a_terminal(bench: Bench) -> None:
    cli = Commands(bench.folder, {"KUBECONFIG": str(bench.plane.nobody)})
    path = str(bench.written(READ + SCALE))
    named = f"no right to patch deployments/scale 'web' in namespace '{bench.space}'"
    for words in (("run", path, "--yes"), ("run", path), ("plan", path)):
        said = cli(*words)
        assert said.code == Exit.REFUSED, said.out + said.err
        assert named in said.out, words
        assert "up:" in said.out, words
    assert cli("run", path, "--yes", "--no-preflight").code == Exit.FAILED, "the step itself is refused then"
    assert bench.replicas() == 2


def test_everything_that_is_missing_is_said_at_once(bench: Bench) -> None:
    ended = bench.run(
        SCALE
        + """\
  - {id: kind, action: k8s.get, with: {kind: Sprocket, name: x}}
  - {id: place, action: k8s.get, with: {namespace: nowhere-at-all, kind: ConfigMap, name: x}}
  - {id: where, action: k8s.get, with: {context: elsewhere, kind: Pod, name: x}}
  - {id: inside, on_failure: abort, steps: [
      {id: deep, action: k8s.delete_pods, with: {selector: app=web}}]}
  - {id: tool, action: shell.run, with: {command: [no-such-tool-here, --version]}}
""",
        world=bench.world("admin"),
    )
    assert ended.exit == Exit.REFUSED
    lines = why(ended).splitlines()
    assert lines[0] == "nothing was begun, as something is missing:"
    assert lines[1].startswith("kind: ")
    assert "the API of context testbed serves no kind 'Sprocket'" in lines[1]
    assert lines[2] == "place: there is no namespace 'nowhere-at-all' (context 'testbed')"
    assert lines[3].startswith("where: ")
    assert "elsewhere" in lines[3]
    assert lines[4:] == ["tool: no-such-tool-here is not on PATH"], "an admin may do the rest"
    assert bench.replicas() == 2


TOLERATED = {
    "on_failure: continue": (
        "  - {id: up, action: k8s.scale, with: {kind: Deployment, name: web, replicas: 3}, on_failure: continue}\n",
        "its failure is tolerated",
    ),
    "of the block around it": (
        "  - id: block\n    on_failure: {undo: true, then: continue}\n    steps:\n    "
        + SCALE.replace("  -", "  -", 1),
        "its failure is tolerated",
    ),
    "keep_going": (
        "  - id: block\n    keep_going: 1\n    steps:\n    "
        + SCALE
        + "      - {id: n, action: flow.set, with: {values: {}}}\n",
        "so many may fail",
    ),
    "a fallback's second alternative": (
        "  - id: one_of\n    fallback:\n    " + READ + "    " + SCALE,
        "the fallback has another way",
    ),
    "a fallback's first alternative": (
        "  - id: one_of\n    fallback:\n    " + SCALE + "    " + READ,
        "the fallback has another way",
    ),
    "a when that only the run knows": (
        READ + "  - {id: up, action: k8s.scale, with: {kind: Deployment, name: web, replicas: 3},"
        " when: steps.look.outputs.object.spec.replicas > 99}\n",
        "perhaps not needed",
    ),
}


@pytest.mark.parametrize("case", TOLERATED)
def test_what_the_run_can_do_without_is_a_warning(case: str, bench: Bench) -> None:
    steps, reason = TOLERATED[case]
    ended = bench.run(READ.replace("look", "before") + steps)
    assert ended.exit == Exit.SUCCEEDED, why(ended)
    assert [text for text in warnings(ended) if text.endswith(f"({reason})")], warnings(ended)
    assert bench.replicas() == 2


def test_a_fallback_without_any_way_that_is_allowed_refuses(bench: Bench) -> None:
    other = SCALE.replace("id: up", "id: other").replace("3}", "4}")
    ended = bench.run(f"  - id: one_of\n    fallback:\n    {SCALE}    {other}")
    assert ended.exit == Exit.REFUSED
    assert [line.partition(":")[0] for line in why(ended).splitlines()[1:]] == ["one_of/up, one_of/other"]
    skipped = other.replace("action:", "when: false, action:")
    ended = bench.run(f"  - id: one_of\n    fallback:\n    {SCALE}    {skipped}")
    assert ended.exit == Exit.REFUSED, "an alternative that is skipped is no way"


def test_handlers_count_as_far_as_they_are_needed(bench: Bench) -> None:
    after = bench.run(READ, head="on_failure: {steps: [" + SCALE.strip().removeprefix("- ") + "]}\n")
    assert after.exit == Exit.SUCCEEDED, "only needed after a failure"
    assert any("only needed after a failure" in text for text in warnings(after))
    ended = bench.run(READ, head="finally: {steps: [" + SCALE.strip().removeprefix("- ") + "]}\n")
    assert ended.exit == Exit.REFUSED, "finally is always needed"


def test_what_is_known_only_at_the_run_is_not_guessed(bench: Bench) -> None:
    name = '"{{ steps.look.outputs.object.metadata.name }}"'
    ended = bench.run(READ + SCALE.replace("name: web", f"name: {name}"))
    assert ended.exit == Exit.FAILED, "the step itself was refused"
    assert "no right to patch" in why(ended)
    (found,) = [event.data for event in events(ended) if event.kind == "preflight"]
    assert found == {"later": ["up: known after the run of look"]}
    # of a patch only the body hangs on a read: object and verb are known
    body = '{spec: {replicas: "{{ steps.look.outputs.object.spec.replicas }}"}}'
    patch = f"  - {{id: up, action: k8s.patch, with: {{kind: Deployment, name: web, patch: {body}}}}}\n"
    ended = bench.run(READ + patch)
    assert ended.exit == Exit.REFUSED
    assert "up: no right to patch deployments 'web'" in why(ended)


def test_an_api_server_that_is_away_refuses_nothing(bench: Bench) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        away = bench.folder / "away"
        away.write_text(bench.plane.kubeconfig.read_text().replace(f":{bench.plane.port}", f":{port}"))
        world = bench.world("admin", KUBECONFIG=str(away))
        ended = bench.run(READ.replace("}}\n", "}, on_failure: continue}\n", 1), world=world)
        assert ended.exit == Exit.SUCCEEDED
        assert any("not checked: look: cannot reach the Kubernetes API" in text for text in warnings(ended))
        ended = bench.run(READ, world=world)
        assert ended.exit == Exit.FAILED, "the step reports it"
        assert ended.outcome is not None
        assert ended.outcome.path == "look"


@pytest.mark.timed
def test_an_api_server_that_hangs_costs_a_run_no_more_than_some_seconds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runbook.runner import preflight

    monkeypatch.setattr(preflight, "SECONDS", 1.0)
    with socket.socket() as silent:  # it takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        away = bench.folder / "silent"
        port = silent.getsockname()[1]
        away.write_text(bench.plane.kubeconfig.read_text().replace(f":{bench.plane.port}", f":{port}"))
        steps = "".join(READ.replace("look", f"look{n}").replace("}}", "}, on_failure: continue, timeout: 1s}")
                        for n in range(2))  # fmt: skip
        ended = bench.run(steps, world=bench.world("admin", KUBECONFIG=str(away)))
    marks = {event.kind: event.at for event in reversed(events(ended))}
    assert marks["preflight"] <= 3.0
    assert any(text.startswith(": not checked: look0, look1: ") for text in warnings(ended)), warnings(ended)


@pytest.mark.timed
def test_a_cancel_ends_the_look(bench: Bench) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        away = bench.folder / "silent"
        port = silent.getsockname()[1]
        away.write_text(bench.plane.kubeconfig.read_text().replace(f":{bench.plane.port}", f":{port}"))
        cli = Commands(bench.folder, {"KUBECONFIG": str(away)})
        process = cli.start("run", str(bench.written(READ)))
        silent.accept()
        began = time.monotonic()
        code, out, _ = end(process, signal.SIGINT)
        assert time.monotonic() - began < 2.0
    assert code == Exit.CANCELLED, out


def test_a_namespace_that_an_earlier_step_makes_is_not_missed(bench: Bench) -> None:
    kubectl = f"kubectl --kubeconfig {bench.plane.kubeconfig}"
    name = f"{bench.space}-made"
    ended = bench.run(
        f"  - {{id: make, action: shell.run, with: {{command: {kubectl} create namespace {name}}}}}\n"
        f"  - {{id: look, action: k8s.get, with: {{namespace: {name}, kind: ConfigMap, selector: a=b}}}}\n",
        world=bench.world("admin"),
    )
    assert ended.exit == Exit.SUCCEEDED, why(ended)
    assert any("an earlier step may bring it" in text for text in warnings(ended))


def test_a_plan_counts_what_it_never_reached_and_weighs_as_the_run_does(bench: Bench) -> None:
    gone = "  - {id: gone, action: k8s.get, with: {kind: Deployment, name: not-there}}\n"
    made = runbook.plan(bench.written(gone + SCALE), world=bench.world())
    assert made.outcome == "failed"
    assert made.missing == (
        f"up: no right to patch deployments/scale 'web' in namespace '{bench.space}' (context 'testbed')",
    )
    steps, reason = TOLERATED["a fallback's second alternative"]
    made = runbook.plan(bench.written(steps.replace("name: web}", "name: web}, until: false")), world=bench.world())
    assert made.missing == ()
    assert any(text.endswith(f"({reason})") for text in made.warnings)


def test_an_undo_is_refused_before_its_first_inverse(bench: Bench) -> None:
    ended = bench.run(SCALE + SCALE.replace("id: up", "id: more").replace("3}", "4}"), world=bench.world("admin"))
    assert (ended.exit, bench.replicas()) == (Exit.SUCCEEDED, 4)
    with pytest.raises(RefusedError, match="more: no right to patch deployments/scale 'web'") as refused:
        session.undo(ended.run_id, world=bench.world())
    assert "--no-preflight" in str(refused.value.hint)
    assert bench.replicas() == 4
    undone = session.undo(ended.run_id, world=bench.world("admin"))
    assert (undone.exit, bench.replicas()) == (Exit.SUCCEEDED, 2)


# -- helm

HISTORY = "  - {id: history, action: helm.history, with: {release: shop, optional: true}}\n"


def test_a_helm_that_is_missing_or_too_old_refuses(bench: Bench) -> None:
    path = bench.folder / "bin"
    path.mkdir()
    ended = bench.run(HISTORY, world=bench.world("admin", PATH=str(path)))
    assert ended.exit == Exit.REFUSED
    assert "history: helm is not on PATH" in why(ended)
    assert len(why(ended).splitlines()) == 1, "said once"
    helm = path / "helm"  # SIMULATED: it only says which version it is
    helm.write_text("#!/bin/sh\necho v2.17.0\n")
    helm.chmod(0o755)
    ended = bench.run(SCALE + HISTORY, world=bench.world("admin", PATH=f"{path}:/usr/bin:/bin"))
    assert ended.exit == Exit.REFUSED
    assert "history: helm is version 2.17; 3.0 or newer is needed" in why(ended)
    assert bench.replicas() == 2


def test_helms_rights_are_those_on_its_own_records(bench: Bench) -> None:
    ended = bench.run(HISTORY)
    assert ended.exit == Exit.REFUSED
    assert f"history: no right to list secrets in namespace '{bench.space}' (Helm keeps its releases" in why(ended)
    nowhere = HISTORY.replace("release: shop", "release: shop, namespace: nowhere-at-all")
    assert bench.run(nowhere, world=bench.world("admin")).exit == Exit.SUCCEEDED, "optional: nothing has to be there"
    ended = bench.run(nowhere.replace(", optional: true", ""), world=bench.world("admin"))
    assert why(ended) == "nothing was begun: history: there is no namespace 'nowhere-at-all' (context 'testbed')"
    assert bench.run(HISTORY, world=bench.world("admin")).exit == Exit.SUCCEEDED


def test_a_run_that_needs_nothing_is_not_held_up(bench: Bench) -> None:
    ended = bench.run("  - {id: n, action: flow.set, with: {values: {a: 1}}}\n")
    assert ended.exit == Exit.SUCCEEDED
    assert "preflight" not in [event.kind for event in events(ended)]


def test_doctor_tells_it_of_a_playbook_as_far_as_its_inputs_are_given(bench: Bench) -> None:
    cli = Commands(bench.folder, {"KUBECONFIG": str(bench.plane.nobody)})
    head = "inputs: {space: {type: string}, count: {type: integer, default: 3}}\n"
    steps = SCALE.replace("{kind:", '{namespace: "{{ inputs.space }}", kind:').replace("3}", '"{{ inputs.count }}"}')
    path = str(bench.written(steps, head))
    said = cli("doctor", path)
    assert "up: known after the input space" in said.out
    assert "no right" not in said.out
    said = cli("doctor", path, "-i", f"space={bench.space}")
    assert said.code == Exit.FAILED
    assert f"no right to patch deployments/scale 'web' in namespace '{bench.space}'" in said.out
    assert cli("doctor", path, "-i", "spaec=x").code == Exit.INVALID
    cli.environ["KUBECONFIG"] = str(bench.plane.kubeconfig)
    said = cli("doctor", path, "-i", f"space={bench.space}")
    assert "its steps find what they need" in said.out


def test_a_plan_that_ends_at_a_read_that_fails_says_what_to_do_about_it(bench: Bench) -> None:
    cli = Commands(bench.folder, {"KUBECONFIG": str(bench.plane.nobody)})
    path = str(bench.written("  - {id: look, action: k8s.get, with: {kind: Service, name: web}}\n" + SCALE))
    said = cli("plan", path)
    assert said.code == Exit.REFUSED
    lines = [line.strip() for line in said.out.splitlines()]
    failed = next(number for number, line in enumerate(lines) if line.startswith("no right to get services 'web'"))
    assert lines[failed + 1] == "bind a Role with that verb and resource to this user"
    assert [line.partition(":")[2].partition(":")[0] for line in lines if line.startswith("missing:")] == [
        " look",
        " up",
    ]


def test_a_right_that_has_gone_since_the_plan_refuses_its_apply(control_plane: Plane, tmp_path: Path) -> None:
    space = control_plane.namespace()
    control_plane.deployment(space, "web", "registry.invalid/web:1", wait=False)
    control_plane.allow(space, "get,patch=deployments.apps,deployments.apps/scale")
    bench = Bench(control_plane, tmp_path, space)
    cli = Commands(tmp_path, {"KUBECONFIG": str(control_plane.nobody)})
    asked = ("auth", "can-i", "patch", "deployments.apps/scale", "--namespace", space, "--as", "nobody")

    def may() -> bool:
        said = subprocess.run(
            ["kubectl", *asked], env=control_plane.environ(), capture_output=True, text=True, timeout=30, check=False
        )
        return said.stdout.strip() == "yes"

    control_plane.until(may)
    said = cli("plan", str(bench.written(SCALE)), "-o", "plan.json")
    assert said.code == Exit.SUCCEEDED, said.out
    control_plane.kubectl("-n", space, "delete", "rolebindings", "--all")
    control_plane.until(lambda: not may())
    said = cli("apply", "plan.json", "--yes")
    assert said.code == Exit.REFUSED
    assert f"no right to patch deployments/scale 'web' in namespace '{space}'" in said.out
    assert bench.replicas() == 2
