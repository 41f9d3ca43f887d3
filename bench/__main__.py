"""`python -m bench [--quick] [CASE ...]`: every figure that the project holds itself to, measured now, its goal beside.

Whole commands, medians. What is compared takes turns on this machine, in the same minutes. The verdict is by wall time;
processor time stands beside it, because it says more on a machine that does other things.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import rivals
from bench.case import TRUE, Bench, Line, ms, within
from bench.kubernetes import kubernetes

SET = "  - {{id: s{n}, action: flow.set, with: {{values: {{n: {n}}}}}}}\n"
ANSIBLE = (
    "- {hosts: localhost, connection: local, gather_facts: false, "
    'vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}, '
    "tasks: [{ansible.builtin.command: /bin/true}]}\n"
)
TASKFILE = 'version: "3"\ntasks: {one: {cmds: [/bin/true]}}\n'


def cold(bench: Bench) -> Iterator[Line]:
    """A run of one step, of a playbook that was run before; beside the same in ansible-core and go-task."""
    found = rivals.provide()
    others: list[tuple[str, list[str], float]] = []
    if found.ansible is not None:
        file = bench.write("one.ansible.yaml", ANSIBLE)
        others.append(("ansible-core", [str(found.ansible), "-i", "localhost,", file], 0.15))
    if found.task is not None:
        bench.write("Taskfile.yml", TASKFILE)
        others.append(("go-task", [str(found.task), "--silent", "one"], 1.0))
    mine, *theirs = bench.beside(bench.one(), *(command for _, command, _ in others), runs=bench.many)
    yield Line("cold run of one /bin/true step", ms(mine.wall), ms(mine.cpu))
    for (name, _, goal), other in zip(others, theirs, strict=True):
        yield Line(
            f"  beside {name} ({ms(other.wall)}, {ms(other.cpu)})",
            f"{mine.wall / other.wall:.2f}x",
            f"{mine.cpu / other.cpu:.2f}x",
            f"<= {goal}x",
            mine.wall / other.wall <= goal,
            mine.cpu / other.cpu <= goal,
        )
    for name in (name for name in ("ansible-core", "go-task") if name not in [other[0] for other in others]):
        yield Line(f"  beside {name}", "absent")


def first(bench: Bench) -> Iterator[Line]:
    """The same when the playbook was never seen: its cache is emptied before each run."""
    command = bench.one()
    emptied = ["sh", "-c", 'rm -rf "$RUNBOOK_HOME/cache" && exec "$@"', "sh", *command]
    (figure,) = bench.beside(emptied, runs=bench.many)
    yield Line("  the same, of a playbook never seen", ms(figure.wall), ms(figure.cpu))


def per_step(bench: Bench) -> Iterator[Line]:
    """What one more durable step costs: the difference of a long and a short run, divided."""
    for what, step, count, goal in (
        ("durable no-op step (flow.set)", SET, 200 if bench.quick else 1000, 0.4),
        ("durable /bin/true step", TRUE, 50 if bench.quick else 300, 5.0),
    ):
        short = bench.playbook("short", step.format(n=0))
        long = bench.playbook("long", "".join(step.format(n=n) for n in range(count)))
        less, more = bench.beside(short, long, runs=bench.few)
        each = more.less(less, count - 1)
        met, spent = each.wall * 1000 <= goal, each.cpu * 1000 <= goal
        yield Line(what, ms(each.wall, 2), ms(each.cpu, 2), f"<= {goal} ms", met, spent)


def parallel(bench: Bench) -> Iterator[Line]:
    """A thousand sleeping processes at once, beside bash; and the memory above a run of one step."""
    count = 200 if bench.quick else 1000
    sleepers = bench.playbook(
        "sleepers",
        f"  - id: all\n    foreach: {{items: '{{{{ range({count}) | list }}}}', as: n, max_concurrent: {count}}}\n"
        "    steps: [{id: s, action: shell.run, with: {command: [sleep, '0.2']}}]\n",
    )
    bash = ["bash", "-c", f"for i in $(seq {count}); do sleep 0.2 & done; wait"]
    mine, other, idle = bench.beside(sleepers, bash, bench.one(), runs=bench.few)
    ratio, more = mine.wall / other.wall, mine.mebibytes - idle.mebibytes
    yield Line(
        f"{count} parallel `sleep 0.2`, beside bash ({other.wall:.2f} s)",
        f"{ratio:.2f}x",
        f"{mine.cpu / other.cpu:.2f}x",
        "<= 1.2x",
        ratio <= 1.2,
        mine.cpu / other.cpu <= 1.2,
    )
    yield Line("  memory above a run of one step", f"{more:.0f} MiB", "", "<= 40 MiB", more <= 40)


def validate(bench: Bench) -> Iterator[Line]:
    """Loading and checking long playbooks; nothing is taken from a cache."""
    for count, goal in ((1000, 0.2), (5000, 0.7)):
        steps = "".join(
            f"  - id: s{n}\n    name: Step {n}\n    when: inputs.go\n    action: shell.run\n"
            f"    with: {{command: [echo, '{{{{ inputs.word }}}} {n}']}}\n    timeout: 10s\n"
            for n in range(count)
        )
        inputs = "inputs: {go: {type: boolean, default: true}, word: {type: string, default: a}}\n"
        bench.playbook(f"v{count}", steps, inputs)
        (figure,) = bench.beside([bench.runbook, "validate", f"v{count}.yaml"], runs=bench.few)
        yield within(f"validate {count} steps", figure, goal)


def resume(bench: Bench) -> Iterator[Line]:
    """Going on with a run of which so many steps are recorded: it waits for a person at its end, again."""
    count = 1000 if bench.quick else 10_000
    run = bench.playbook(
        "recorded",
        f"  - id: all\n    foreach: {{items: '{{{{ range({count}) | list }}}}', as: n}}\n"
        "    steps: [{id: s, action: flow.set, with: {values: {n: '{{ n }}'}}}]\n"
        "  - {id: wait, action: manual.approve, with: {message: Go on?}}\n",
    )
    bench.beside(run, runs=1, warmup=0, expect=5)
    (figure,) = bench.beside([bench.runbook, "resume", "last"], runs=bench.few, expect=5)
    yield within(f"resume of {count} recorded steps", figure, 1.0)


CASES: tuple[Callable[[Bench], Iterator[Line]], ...] = (cold, first, per_step, parallel, validate, resume, kubernetes)


def main() -> None:
    """Print one line a figure as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs and smaller cases: does all of it work?")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(case.__name__ for case in CASES)}; default all")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"{'':<58} {'wall':>9} {'processor':>10}   goal", flush=True)
    measured = 0
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as folder:
        bench = Bench(Path(folder), arguments.quick)
        for case in CASES:
            if arguments.cases and case.__name__ not in arguments.cases:
                continue
            for line in case(bench):
                row = f"{line.what:<58} {line.wall:>9} {line.cpu:>10}   {line.goal:<10} {line.verdict()}"
                print(row.rstrip(), flush=True)
                measured += 1
    print(f"{measured} figures, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
