"""Laws of the way back: over any history of versions, restarts and roll-backs, whoever counts the revisions.

The counting is the controllers' (k8s.io/kubernetes/pkg/controller: deployment/util, history), modelled here; that they
do count so is shown on a real control plane in test_k8s_rollout.py and test_k8s_change.py.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.actions._kube import kinds, revisions
from runbook.actions._kube.cluster import Cluster
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.revisions import RESTARTED_AT, Revision
from runbook.actions._kube.transport import Within

STATEFUL = Kind("apps", "v1", "statefulsets", "StatefulSet")
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Kept:
    """A revision as the cluster keeps it: made once, numbered anew each time that it serves again."""

    template: dict[str, Any]
    age: int
    second: int
    numbers: list[int]


@dataclass
class Controlled:
    """A workload and its revisions, counted as its controller does it."""

    kind: Kind
    kept: list[Kept] = field(default_factory=list)
    template: dict[str, Any] = field(default_factory=dict)
    pace: int = 1  # how many revisions are made within one second

    def serve(self, template: dict[str, Any]) -> None:
        self.template = template
        newest = max((entry.numbers[-1] for entry in self.kept), default=0)
        same = next((entry for entry in self.kept if entry.template == template), None)
        if same is None:
            self.kept.append(Kept(template, len(self.kept), len(self.kept) // self.pace, [newest + 1]))
        elif same.numbers[-1] != newest:
            same.numbers.append(newest + 1)

    def deploy(self, image: str) -> None:
        self.serve({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}})

    def restart(self, moment: int) -> None:
        metadata = {**self.template["metadata"], "annotations": {RESTARTED_AT: str(moment)}}
        self.serve({**self.template, "metadata": metadata})

    @property
    def image(self) -> str:
        return str(self.template["spec"]["containers"][0]["image"])

    @property
    def owner(self) -> dict[str, Any]:
        return {
            "metadata": {"uid": "u"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": self.template},
        }

    def select(self, bounds: object, ref: Ref, selector: str) -> list[dict[str, Any]]:
        """As `Cluster.select` gives them."""
        assert selector == "app=web"
        return [self._shown(entry) for entry in reversed(self.kept)]

    def _shown(self, entry: Kept) -> dict[str, Any]:
        made = (BEGAN + datetime.timedelta(seconds=entry.second)).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata: dict[str, Any] = {
            "name": f"web-{entry.age}",
            "creationTimestamp": made,
            "ownerReferences": [{"uid": "u", "controller": True}],
        }
        if self.kind == kinds.DEPLOYMENT:
            *earlier, own = entry.numbers
            metadata["annotations"] = {revisions.REVISION: str(own)}
            if earlier:
                metadata["annotations"][revisions.REVISION_HISTORY] = ",".join(map(str, earlier))
            return {"metadata": metadata, "spec": {"template": entry.template}}
        template = {**entry.template, "$patch": "replace"}
        return {"metadata": metadata, "revision": entry.numbers[-1], "data": {"spec": {"template": template}}}

    def look(self) -> tuple[list[Revision], Revision | None]:
        listed = revisions.of(cast(Cluster, self), Within(1), Ref(self.kind, "shop", "web"), self.owner)
        return listed, revisions.serving(listed, self.owner)

    def back(self) -> bool:
        """What k8s.rollout_undo does without `to_revision`; False where there is no earlier revision."""
        listed, current = self.look()
        target = revisions.previous(listed, current)
        if target is not None:
            self.serve(dict(target.template))
        return target is not None


STEPS = st.lists(st.sampled_from(["deploy", "restart", "back"]), max_size=14)


def lived(kind: Kind, steps: list[str], pace: int = 1) -> tuple[Controlled, list[str]]:
    """A workload with a history, and the images in the order in which they served."""
    web = Controlled(kind, pace=pace)
    web.deploy("first")
    served = ["first"]
    for number, step in enumerate(steps):
        if step == "deploy":
            web.deploy(f"v{number}")
        elif step == "restart":
            web.restart(number)
        else:
            web.back()
        if web.image != served[-1]:
            served.append(web.image)
    return web, served


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, STATEFUL], ids=["by ReplicaSets", "by ControllerRevisions"])
@given(steps=STEPS)
def test_the_way_back_from_a_new_version_leads_to_what_served_before_it(kind: Kind, steps: list[str]) -> None:
    web, served = lived(kind, steps)
    web.deploy("bad")
    assert web.back()
    assert web.image == served[-1]


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, STATEFUL], ids=["by ReplicaSets", "by ControllerRevisions"])
@given(steps=STEPS, restarts=st.lists(st.booleans(), max_size=6))
def test_roll_backs_in_a_row_never_return_to_what_they_left(kind: Kind, steps: list[str], restarts: list[bool]) -> None:
    web, _ = lived(kind, steps)
    left = [web.image]
    for number in range(len(web.kept) + 1):
        if number < len(restarts) and restarts[number]:
            web.restart(1000 + number)  # somebody restarts in between: no version
        if not web.back():
            break
        assert web.image not in left
        left.append(web.image)
    else:
        raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, STATEFUL], ids=["by ReplicaSets", "by ControllerRevisions"])
@given(steps=STEPS)
def test_a_revision_is_found_again_by_its_hash_whatever_its_number(kind: Kind, steps: list[str]) -> None:
    web, _ = lived(kind, steps)
    _, current = web.look()
    assert current is not None
    template = web.template
    web.deploy("other")
    web.back()
    web.deploy("another")
    (found,) = [entry for entry in web.look()[0] if entry.hash == current.hash]
    assert found.template == revisions.plain(template)
    assert found.version == current.version


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, STATEFUL], ids=["by ReplicaSets", "by ControllerRevisions"])
@given(steps=STEPS, pace=st.integers(2, 15))
def test_of_revisions_of_one_second_the_way_back_is_right_or_says_that_nobody_can_tell(
    kind: Kind, steps: list[str], pace: int
) -> None:
    web, served = lived(kind, steps, pace)
    web.deploy("bad")
    doubt = revisions.doubtful(*web.look())
    if web.back():
        assert not doubt
        assert web.image == served[-1]
    else:
        assert served[-1] in [entry.template["spec"]["containers"][0]["image"] for entry in doubt]
    assert not (doubt and kind == kinds.DEPLOYMENT), "its ReplicaSets remember their first numbers"
    left = ["bad"]
    while web.image not in left:
        left.append(web.image)
        if not web.back():
            return
    assert web.image == left[-1], "a way back never leads to what was left"


@given(deployed=st.integers(1, 9), pace=st.integers(1, 15))
def test_numbers_that_were_never_given_anew_tell_revisions_of_one_second_apart(deployed: int, pace: int) -> None:
    web, served = lived(STATEFUL, ["deploy"] * deployed, pace)
    assert web.back()
    assert web.image == served[-2]


def test_a_default_that_is_newer_than_the_revision_hides_it_not() -> None:
    web, _ = lived(STATEFUL, ["deploy", "deploy"])
    owner = {**web.owner, "kind": "StatefulSet"}
    owner["metadata"] = {**owner["metadata"], "generation": 3}
    owner["spec"] = {**owner["spec"], "template": {**web.template, "spec": {**web.template["spec"], "newer": True}}}
    listed, _ = web.look()
    unseen = {**owner, "status": {"observedGeneration": 2}}
    assert revisions.serving(listed, unseen) is None, "its controller has not kept it yet"
    seen = {**owner, "status": {"observedGeneration": 3}}
    current = revisions.serving(listed, seen)
    assert current == listed[-1]
    target = revisions.previous(listed, current)
    assert target is not None
    assert target.number == 2
