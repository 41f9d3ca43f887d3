"""k8s.exec: a command in a container. Opaque: nothing is known of it but what its author says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbook.actions._kube import exec as execution
from runbook.actions._kube import kinds, workload
from runbook.actions._kube.action import KubeArgs, Right, Rights
from runbook.actions._kube.cluster import Cluster, connect
from runbook.actions._kube.kinds import Ref
from runbook.actions._process import HEAD, Stream
from runbook.contract import Context, Opaque, Outputs, PermanentError, TemporaryError, param, shorten


@dataclass(frozen=True, kw_only=True)
class ExecArgs(KubeArgs):
    """Parameters of k8s.exec."""

    pod: str | None = param("Name of the pod.", default=None)
    deployment: str | None = param("Deployment, in place of a pod: its first ready one, by name.", default=None)
    container: str | None = param("Container; without it the pod must have only one.", default=None)
    command: list[str] = param(
        "A program and its arguments, run without a shell. Never holds a secret: the API server may log it."
    )
    stdin: str | None = param("Text for its standard input; without it there is none.", default=None, secret=True)
    rc: list[int] = param("Exit statuses that mean success.", default_factory=lambda: [0])


class Exec(Rights, Opaque[ExecArgs]):
    """Run a command in a container.

    At the deadline the connection is cut; whether the container's runtime then ends the command is its own affair. Of
    long output the head and the tail are kept.
    """

    name = "k8s.exec"
    returns = {
        "rc": "exit status",
        "stdout": "standard output, UTF-8",
        "stderr": "standard error, UTF-8",
        "truncated": "whether the middle of an output was left out",
        "pod": "name of the pod",
    }

    def check(self, args: ExecArgs) -> Iterator[str]:
        if (args.pod is None) == (args.deployment is None):
            yield "pod, deployment: give one of them"
        if not args.command or not args.command[0]:
            yield "command: names nothing to run"

    def rights(self, args: ExecArgs, cluster: Cluster, ctx: Context) -> Iterable[Right]:
        if args.deployment is not None:
            yield "get", Ref(kinds.DEPLOYMENT, args.namespace, args.deployment)
            yield "list", Ref(kinds.POD, args.namespace)
        # A WebSocket begins with a GET; since Kubernetes 1.35 the server asks for both.
        for verb in ("get", "create"):
            yield verb, Ref(kinds.POD, args.namespace, args.pod or "", "exec")

    def run(self, args: ExecArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        ctx.permit("process", args.command[0])  # pods of a sandbox run nothing: its scenario answers
        cluster = connect(ctx, args.context)
        pod = _pod(args, cluster, ctx)
        said = {execution.STDOUT: Stream(HEAD, ctx.log), execution.STDERR: Stream(HEAD, ctx.log)}
        stdin = args.stdin.encode() if args.stdin is not None else None
        try:
            streams = execution.start(cluster, ctx, pod, args.command, args.container, stdin is not None)
            status = streams.run(ctx, stdin, lambda channel, content: said[channel].feed(content))
        except execution.LostError as error:
            raise _unfinished(pod, error, _outputs(pod, said, None)) from error
        rc = _exit_status(status)
        outputs = _outputs(pod, said, rc)
        if rc is None:
            message = shorten(str(status.get("message") or status.get("reason") or "no reason given"), 1000)
            raise PermanentError(f"cannot run {args.command[0]!r} in {pod}: {message}", outputs=outputs)
        if rc not in args.rc:
            raise PermanentError(_sentence(rc, outputs), outputs=outputs)
        return outputs


def _pod(args: ExecArgs, cluster: Cluster, ctx: Context) -> Ref:
    if args.pod is not None:
        return Ref(kinds.POD, args.namespace, args.pod)
    owner = Ref(kinds.DEPLOYMENT, args.namespace, args.deployment or "")
    selector = workload.pod_selector(cluster.get(ctx, owner))
    ready = [pod for pod in workload.pods(cluster, ctx, args.namespace, selector) if workload.is_ready(pod)]
    if not ready:
        raise TemporaryError(f"no pod of {owner} is ready")
    found = Ref(kinds.POD, args.namespace, str(ready[0]["metadata"]["name"]))
    ctx.log(f"in {found}")  # whoever is asked after a crash has to know where to look
    return found


def _exit_status(status: Mapping[str, Any]) -> int | None:
    """Of a Status as the kubelet sends it; None: the command did not run."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdigit():
            return int(cause["message"])
    return None


def _outputs(pod: Ref, said: Mapping[int, Stream], rc: int | None) -> dict[str, Any]:
    out, err = said[execution.STDOUT], said[execution.STDERR]
    stdout, stderr = out.text(), err.text()
    return {
        "rc": rc,
        "stdout": stdout,
        "stderr": stderr,
        "truncated": bool(out.dropped or err.dropped),
        "pod": pod.name,
    }


def _sentence(rc: int, outputs: Mapping[str, Any]) -> str:
    """Never the command itself: a value in it may be nobody's business."""
    lines = (outputs["stderr"].strip() or outputs["stdout"].strip()).splitlines()
    return f"exit status {rc}" + (f": {shorten(lines[-1], 500)}" if lines else "")


def _unfinished(pod: Ref, error: execution.LostError, outputs: Outputs) -> Exception:
    """It was started, or perhaps was, and how it ended nobody heard."""
    if error.cut:
        sentence = f"the command in {pod} had not ended when it was stopped: its connection was cut"
        return TemporaryError(f"{sentence}, and whether it goes on is not known", outputs=outputs)
    # No TemporaryError: `retry` must not run it twice.
    return PermanentError(
        f"the connection to the command in {pod} was lost ({error}); whether it goes on is not known",
        hint="look in the container before it is run again",
        outputs=outputs,
    )
