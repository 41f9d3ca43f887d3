"""The rights that preflight asks for are exactly those that a change needs, on a real control plane.

For every change of family k8s, as users made for it: with no right the run is refused and what is missing named; with
exactly that it succeeds; without any single right it is refused, and where nobody looks first it fails. The same of its
undo: what only that needs is a warning before the run, and refuses the undo.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import runbook
from runbook.contract import ForUndo
from runbook.interpreter.errors import Exit, RefusedError
from runbook.runner import session
from runbook.runner.session import Ended, Options, World
from runbook.runner.store import Store
from runbook.runner.surroundings import Real
from tests import kube_cases
from tests.kube import Caller, opened
from tests.kube_cases import CASES
from tests.testbed.plane import Plane

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]

Right = tuple[str, str]
"""A verb, and a resource as `kubectl create role` takes it."""

SPARE: dict[str, Right] = {"apply, pruned": ("list", "configmaps")}
"""What the step itself can do without: a kind that cannot be listed is not pruned, with a warning."""

LACK = re.compile(r"^no right to (\w+) (\S+)( '[^']+')? in namespace '\S+' \(context 'testbed'\)$")


FOR_UNDO: dict[str, list[Right]] = {
    "apply, changed and new": [("delete", "configmaps")],
    "apply, pruned": [("create", "configmaps")],
}
"""What only the undo needs: of all other changes it is the same as of the change itself."""


@dataclass
class Scene:
    """A namespace with the objects of all cases; `user` makes a service account that has exactly those rights there."""

    plane: Plane
    space: str
    folder: Path
    numbers: Any = field(default_factory=itertools.count)

    def user(self, rights: Sequence[Right]) -> dict[str, str]:
        """Its environment."""
        name = f"user-{next(self.numbers)}"
        self.plane.kubectl("-n", self.space, "create", "serviceaccount", name)
        for number, (verb, resource) in enumerate(rights):
            role = f"{name}-{number}"
            self.plane.kubectl("-n", self.space, "create", "role", role, f"--verb={verb}", f"--resource={resource}")
            who = f"--serviceaccount={self.space}:{name}"
            self.plane.kubectl("-n", self.space, "create", "rolebinding", role, f"--role={role}", who)
        token = self.plane.kubectl("-n", self.space, "create", "token", name).strip()
        config = self.folder / f"{name}.kubeconfig"
        found = yaml.safe_load(self.plane.nobody.read_text())
        found["users"][0]["user"] = {"token": token}
        config.write_text(yaml.safe_dump(found))
        return self.plane.environ(user="nobody") | {"KUBECONFIG": str(config)}

    def lacks(self, name: str, environ: dict[str, str], *, undo: bool = False) -> list[Right]:
        """What preflight says of it. `undo`: of what only its undo needs."""
        caller = Caller(self.plane, self.folder)
        caller.environ = environ
        with caller.context() as ctx:
            case = CASES[name]
            action, args = opened(case.action, {"namespace": self.space, **case.given})
            said = [one for one in action.preflight(args, ctx) if isinstance(one, ForUndo) == undo]
            found = [LACK.match(sentence) for sentence in said]
        assert all(found), found
        return list(dict.fromkeys((match[1], match[2]) for match in found if match))

    def effective(self, name: str, environ: dict[str, str], rights: Sequence[Right]) -> None:
        """Wait until the API server knows of those rights."""
        self.plane.until(lambda: not {*self.lacks(name, environ), *self.lacks(name, environ, undo=True)} & set(rights))

    def needed(self, name: str) -> tuple[list[Right], dict[str, str]]:
        """All that preflight asks for, and who has it. Whether an object must be created is seen by who may read it."""
        rights: list[Right] = []
        while True:
            environ = self.user(rights)
            self.effective(name, environ, rights)
            more = self.lacks(name, environ)
            if not more:
                return rights, environ
            refused = self.run(name, environ)
            assert refused.exit == Exit.REFUSED
            for verb, resource in more:
                assert f"no right to {verb} {resource} " in why(refused), "all of them at once"
            rights += more

    def run(self, name: str, environ: dict[str, str], *, look: bool = True) -> Ended:
        path = self.folder / "one.yaml"
        path.write_text(CASES[name].playbook(self.space))
        ended: Ended = runbook.run(path, world=self.world(environ), options=Options(yes=True, preflight=look))
        return ended

    def undo(self, ended: Ended, environ: dict[str, str]) -> Ended:
        return session.undo(ended.run_id, world=self.world(environ))

    def world(self, environ: dict[str, str]) -> World:
        return World(store=Store(self.folder / "home"), surroundings=Real(environ))

    def objects(self) -> dict[str, Any]:
        return kube_cases.look(self.plane, self.space).objects


@pytest.fixture(scope="module")
def scene(control_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = Scene(control_plane, control_plane.namespace(), tmp_path_factory.mktemp("rights"))
    kube_cases.install(control_plane, made.space)
    return made


def why(ended: Ended) -> str:
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    return ended.outcome.error.message


@pytest.mark.parametrize("name", CASES)
def test_what_preflight_asks_for_is_enough_and_none_of_it_too_much(scene: Scene, name: str) -> None:
    before = scene.objects()
    needed, enough = scene.needed(name)
    assert needed
    poorer = [(one, scene.user([right for right in needed if right != one])) for one in needed]
    for (verb, resource), environ in poorer:
        scene.effective(name, environ, [right for right in needed if right != (verb, resource)])
        refused = scene.run(name, environ)
        assert refused.exit == Exit.REFUSED
        assert f"no right to {verb} {resource} " in why(refused)
    assert scene.objects() == before, "whoever lacks one right changes nothing"
    for one, environ in poorer:
        if one != SPARE.get(name):
            assert scene.run(name, environ, look=False).exit == Exit.FAILED, f"it can do without {one}"
    only_back = scene.lacks(name, enough, undo=True)
    assert only_back == FOR_UNDO.get(name, [])
    before = scene.objects()  # those that failed may have done a part, where nobody looked first
    ended = scene.run(name, enough)
    assert ended.exit == Exit.SUCCEEDED, ended.outcome
    kube_cases.rest(scene.plane, scene.space)
    assert CASES[name].action == "k8s.delete_pods" or scene.objects() != before
    if CASES[name].action == "k8s.delete":
        return  # nothing takes it back
    if only_back:
        changed = scene.objects()
        (verb, resource), *_ = only_back
        with pytest.raises(RefusedError, match=f"no right to {verb} {resource} "):
            scene.undo(ended, enough)
        assert scene.objects() == changed, "an undo that lacks a right takes nothing back"
        enough = scene.user([*needed, *only_back])
        scene.effective(name, enough, [*needed, *only_back])
    taken = scene.undo(ended, enough)
    assert taken.exit == Exit.SUCCEEDED, taken.outcome
    kube_cases.rest(scene.plane, scene.space)
    assert not CASES[name].back or scene.objects() == before
