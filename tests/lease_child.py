"""A laptop: one process of a run whose locks are Leases. `python -m tests.lease_child FOLDER run|resume|cleanup`.

The environment says the rest: WORLD and KUBECONFIG, LOCKS (where they live), SECONDS (how long a Lease lasts), WAIT and
PREEMPT, and DIE_AT: the moment at which it kills itself. FOLDER holds its home and its
playbook. Prints the outcome as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runbook.contract import Context, Opaque, Outputs, Read
from runbook.interpreter.errors import RunbookError
from runbook.runner import session
from runbook.runner.journal import Journal
from runbook.runner.lease_api import Leases
from tests.runner_toys import Args, Lab, log_line, world_of


def await_file(ctx: Context, name: str) -> None:
    while not (world_of(ctx) / name).exists():
        ctx.sleep(0.02)


class Watch(Read[Args]):
    """Reads until there is a file of its name."""

    name = "toy.watch"

    def read(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"watch {args.name}")
        await_file(ctx, args.name)
        return {}


class Twice(Opaque[Args]):
    """Does one thing, waits until there is a file of its name, and does another: as an action of two requests."""

    name = "toy.twice"

    def run(self, args: Args, ctx: Context) -> Outputs:
        log_line(world_of(ctx), f"first {args.value}")
        while not (world_of(ctx) / args.name).exists():
            time.sleep(0.001)  # in a call that nothing wakes: it is awake again before the run's own thread is
        ctx.checkpoint()
        log_line(world_of(ctx), f"second {args.value}")
        return {}


def laptop(folder: Path) -> tuple[Lab, session.World, session.Options]:
    given = os.environ
    lab = Lab.at(folder, Watch, Twice, WORLD=given["WORLD"], KUBECONFIG=given["KUBECONFIG"])
    world = dataclasses.replace(lab.around, lease_seconds=int(given.get("SECONDS", "15")))
    options = session.Options(
        locks=given.get("LOCKS", ""), wait_lock=given.get("WAIT") == "1", preempt=given.get("PREEMPT") == "1"
    )
    return lab, world, options


def dying(at: int) -> None:
    """Real death, by SIGKILL, at the moment `at`: right after a write to a Lease, when nobody knows of it yet, or right
    after the journal's write that follows one."""
    moments, fresh = 0, False

    def deadly(write: Callable[..., Any], *, lease: bool) -> Callable[..., Any]:
        def then_die(*args: Any) -> Any:
            nonlocal moments, fresh
            done = write(*args)
            if lease or fresh:
                moments, fresh = moments + 1, lease
                if moments == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        return then_die

    Journal._write = deadly(Journal._write, lease=False)  # type: ignore[method-assign]  # the fault of this test
    Leases.create = deadly(Leases.create, lease=True)  # type: ignore[method-assign]
    Leases.replace = deadly(Leases.replace, lease=True)  # type: ignore[method-assign]


def main(folder: Path, what: str) -> None:
    dying(int(os.environ.get("DIE_AT", "0")))
    lab, world, options = laptop(folder)
    try:
        if what == "run":
            ended = session.start(lab.load((folder / "p.yaml").read_text()), {}, world=world, options=options)
        else:
            again = dataclasses.replace(options, cleanup_only=what == "cleanup")
            ended = session.resume("last", world=world, options=again)
    except RunbookError as error:
        said = {"error": type(error).__name__, "message": error.message, "hint": error.hint, "exit": int(error.exit)}
        print(json.dumps(said), flush=True)
        os._exit(int(error.exit))
    failed = ended.outcome.error if ended.outcome is not None else None
    said = {"status": ended.status, "exit": int(ended.exit), "run": ended.run_id}
    said |= {"message": failed.message, "hint": failed.hint} if failed is not None else {}
    print(json.dumps(said), flush=True)
    os._exit(int(ended.exit))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
