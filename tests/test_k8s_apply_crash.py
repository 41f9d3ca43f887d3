"""k8s.apply and its undo cut at every request that changes something, before it and after it: settled by looking, and
brought to the same end. On a real control plane."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from runbook.actions._kube import kinds
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Kind, Ref
from runbook.actions._kube.transport import Transport
from runbook.contract import Change, Context, PermanentError, TemporaryError
from tests.kube import Made, change
from tests.manifests import NEXT, SET, Keeper, objects, same
from tests.testbed.plane import Plane

pytestmark = pytest.mark.control_plane

CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
MORE = '---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: more, labels: {set: shop}}, data: {a: "1"}}\n'
AFTER = "---".join(NEXT.split("---")[:3]) + MORE  # one more, three changed, the Service pruned


class Killed(BaseException):
    """The process is gone."""


class Cut:
    """Ends the process at the n-th request that changes something: before it is sent, or when it was answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = -1
        self.sent = False
        self.count = 0
        original = Transport.request

        def request(transport: Transport, bounds: Any, method: str, path: str, **options: Any) -> Any:
            changes = method != "GET" and "dryRun" not in path and "accessreviews" not in path
            if not changes:
                return original(transport, bounds, method, path, **options)
            number, self.count = self.count, self.count + 1
            if number == self.at and not self.sent:
                raise Killed
            answer = original(transport, bounds, method, path, **options)
            if number == self.at:
                raise Killed
            return answer

        monkeypatch.setattr(Transport, "request", request)

    def arm(self, at: int, *, sent: bool) -> None:
        """Cut the next calls at their request number `at`; -1: not at all."""
        self.at, self.sent, self.count = at, sent, 0


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    return Cut(monkeypatch)


@pytest.fixture
def caller(control_plane: Plane, tmp_path: Path) -> Keeper:
    return Keeper(control_plane, tmp_path)


def prepared(caller: Keeper, name: str, given: dict[str, Any], op: str) -> tuple[Change[Any], Any, Made]:
    """What is on disk before an apply."""
    with caller.context(op) as ctx:
        action, args = change(name, given)
        before = action.observe(args, ctx)
        after = action.expect(args, before, ctx)
        inverse = action.inverse(args, before, op)
        return action, args, Made(before, after, inverse, {}, action.computed, ctx.lines)


def resumed(caller: Keeper, name: str, given: dict[str, Any], made: Made, op: str) -> str:
    """As the host resumes: look, and apply again unless it happened. The verdict of the first look."""
    verdicts = []
    for _ in range(3):
        with caller.context(op) as ctx:
            action, args = change(name, given)
            now = action.observe(args, ctx)
            verdicts.append(action.settle(args, made.before, made.after, now, ctx))
            if verdicts[-1] == "done":
                return verdicts[0]
            assert verdicts[-1] in ("not_done", "partial")
            again, args = change(name, given)
            again.apply(args, now, ctx)
    raise AssertionError(f"it never ends: {verdicts}")


@pytest.mark.parametrize("sent", [False, True], ids=["before it is sent", "after the answer"])
def test_an_apply_and_its_undo_cut_anywhere_come_to_the_same_end(
    sent: bool, control_plane: Plane, caller: Keeper, cut: Cut
) -> None:
    space = control_plane.namespace()
    caller.change("k8s.apply", {"namespace": space, "manifest": SET, "prune": "set=shop"})
    whole = objects(control_plane, space, owners=True)
    given = {"namespace": space, "manifest": AFTER, "prune": "set=shop"}
    wanted = None
    for number in range(20):
        made, first = forth(caller, given, cut, number, sent=sent)
        last = number == 4 and sent
        assert first == (None if number > 4 else "done" if last else "partial" if number or sent else "not_done")
        now = {name: item for name, item in objects(control_plane, space).items() if name != "ConfigMap/more"}
        wanted = wanted or now
        same(wanted, now)
        was_killed = back(caller, made, cut, number, sent=sent)
        same(whole, objects(control_plane, space, owners=True))
        if not was_killed:
            break
    # One deleted, one created with its owners, three changed with theirs; more where a controller was in between.
    assert number >= 9


def forth(caller: Keeper, given: dict[str, Any], cut: Cut, at: int, *, sent: bool) -> tuple[Made, str | None]:
    """Apply, cut at a request number. What was promised, and the verdict of the first look, if there was a need."""
    op = f"run-{at}-{sent}:apply"
    action, args, made = prepared(caller, "k8s.apply", given, op)
    if not killed(caller, action, args, made, cut, at, sent=sent):
        return made, None
    return made, resumed(caller, "k8s.apply", given, made, op)


def back(caller: Keeper, made: Made, cut: Cut, at: int, *, sent: bool) -> bool:
    """Play the inverse, cut at a request number. Whether there was one."""
    assert made.inverse is not None
    given = json.loads(json.dumps(dict(made.inverse.args)))
    op = f"undo-{at}-{sent}"
    action, args, promised = prepared(caller, made.inverse.action, given, op)
    if not killed(caller, action, args, promised, cut, at, sent=sent):
        return False
    resumed(caller, made.inverse.action, given, promised, op)
    return True


def killed(caller: Keeper, action: Change[Any], args: Any, made: Made, cut: Cut, at: int, *, sent: bool) -> bool:
    cut.arm(at, sent=sent)
    try:
        with caller.context() as ctx:
            action.apply(args, made.before, ctx)
    except Killed:
        return True
    finally:
        cut.arm(-1, sent=False)
    return False


def test_a_third_state_is_nobodys_guess(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    given = {"namespace": space, "manifest": NEXT}
    planned = caller.plan("k8s.apply", given)
    control_plane.kubectl("-n", space, "set", "image", "deployment/web", "web=registry.invalid/web:hotfix")
    assert caller.settle("k8s.apply", given, planned) == "unknown"
    with caller.context() as ctx:
        action, args = change("k8s.apply", given)
        with pytest.raises(PermanentError, match=r"image was changed by someone else meanwhile"):
            action.apply(args, planned.before, ctx)


def test_an_object_that_somebody_creates_meanwhile_is_not_taken_over(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    given = {"namespace": space, "manifest": SET.split("---")[1]}
    with caller.context() as ctx:
        action, args = change("k8s.apply", given)
        before = action.observe(args, ctx)
        action.expect(args, before, ctx)
        control_plane.kubectl("-n", space, "create", "configmap", "app")
        with pytest.raises(PermanentError, match="was changed by someone else meanwhile"):
            action.apply(args, before, ctx)
    found = objects(control_plane, space)["ConfigMap/app"]
    assert "data" not in found


def test_an_undo_never_deletes_what_was_created_anew(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    made = caller.change("k8s.apply", {"namespace": space, "manifest": SET.split("---")[1]})
    control_plane.kubectl("-n", space, "delete", "configmap", "app")
    control_plane.kubectl("-n", space, "create", "configmap", "app", "--from-literal=level=info")
    with pytest.raises(PermanentError, match="is not the one that this run created"):
        caller.undo(made)
    assert "ConfigMap/app" in objects(control_plane, space)


def test_ten_writers_lose_nothing_and_are_not_overwritten(control_plane: Plane, caller: Keeper) -> None:
    space = control_plane.namespace()
    caller.change("k8s.apply", {"namespace": space, "manifest": SET})
    whole = objects(control_plane, space)
    over, written = threading.Event(), [0] * 10
    failures: list[BaseException] = []

    def put(cluster: Cluster, ctx: Context, ref: Ref, mark: dict[str, Any]) -> None:
        while True:
            try:
                cluster.patch(ctx, ref, mark, "merge")
            except TemporaryError:  # a storm: the server itself gives up after a few rounds
                ctx.sleep(0.05)
            else:
                return

    def write(number: int) -> None:
        writer = Keeper(control_plane, caller.folder)
        try:
            with writer.context(seconds=300) as ctx:
                cluster = connect(ctx, "current")
                while not over.wait(0.01) or written[number] < 3:
                    mark = {"metadata": {"annotations": {f"writer-{number}": str(written[number] + 1)}}}
                    for kind, name in ((CONFIG_MAP, "app"), (kinds.DEPLOYMENT, "web")):
                        put(cluster, ctx, Ref(kind, space, name), mark)
                    written[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    try:
        made = caller.change("k8s.apply", {"namespace": space, "manifest": NEXT}, seconds=120)
        assert made.inverse is not None
        caller.change(made.inverse.action, dict(made.inverse.args), seconds=120)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures
    now = objects(control_plane, space)
    for name in ("ConfigMap/app", "Deployment/web"):
        annotations = now[name]["metadata"]["annotations"]
        for number, count in enumerate(written):
            assert annotations.pop(f"writer-{number}") == str(count)
    same(whole, now)
