"""`python -m bench [--quick]`: every figure that the project holds itself to, measured now, with its goal beside it.

Whole commands, medians. Ratios to ansible-core and go-task come from runs of the same minute on the same machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import rivals
from bench.measure import many

STEPS_TRUE = "  - {{id: s{n}, action: shell.run, with: {{command: [/bin/true]}}}}\n"
STEPS_SET = "  - {{id: s{n}, action: flow.set, with: {{values: {{n: {n}}}}}}}\n"


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: what, how much, its goal, and whether it is met (None: nothing to compare with)."""

    what: str
    value: str
    goal: str
    met: bool | None


class Bench:
    """One run of the benchmark in a folder of its own."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.runs = 3 if quick else 11
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RUNBOOK_")},
            "RUNBOOK_HOME": str(folder / "home"),
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
            "NO_COLOR": "1",
        }
        self.runbook = str(Path(sys.executable).parent / "runbook")

    def playbook(self, name: str, steps: str) -> str:
        """Write a playbook; its file name."""
        (self.folder / f"{name}.yaml").write_text(f"runbook: 1\nname: {name}\nsteps:\n{steps}", encoding="utf-8")
        return f"{name}.yaml"

    def seconds(self, *command: str, runs: int | None = None, expect: int = 0) -> float:
        """The median wall seconds of a command."""
        return many(command, self.folder, self.environ, runs=runs or self.runs, expect=expect).seconds

    def run(self, file: str, runs: int | None = None) -> float:
        """The median wall seconds of `runbook run`."""
        return self.seconds(self.runbook, "run", file, "--yes", runs=runs)


def cold(bench: Bench) -> Iterator[Line]:
    """A cold run of one step, beside the same in ansible-core and go-task."""
    found = rivals.provide()
    mine = bench.run(bench.playbook("one", STEPS_TRUE.format(n=0)))
    yield Line("cold run of one /bin/true step", f"{mine * 1000:.0f} ms", "", None)
    if found.ansible is not None:
        (bench.folder / "one.ansible.yaml").write_text(
            "- {hosts: localhost, connection: local, gather_facts: false, "
            'vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}, '
            "tasks: [{ansible.builtin.command: /bin/true}]}\n",
            encoding="utf-8",
        )
        other = bench.seconds(str(found.ansible), "-i", "localhost,", "one.ansible.yaml")
        yield Line(
            "  beside ansible-core", f"{mine / other:.2f}x of {other * 1000:.0f} ms", "<= 0.15x", mine / other <= 0.15
        )
    if found.task is not None:
        (bench.folder / "Taskfile.yml").write_text(
            'version: "3"\ntasks: {one: {cmds: [/bin/true]}}\n', encoding="utf-8"
        )
        other = bench.seconds(str(found.task), "--silent", "one")
        yield Line("  beside go-task", f"{mine / other:.2f}x of {other * 1000:.0f} ms", "<= 1.0x", mine / other <= 1.0)


def per_step(bench: Bench) -> Iterator[Line]:
    """What one more step costs: the difference of a long and a short run, divided."""
    count = 200 if bench.quick else 1000
    short = bench.run(bench.playbook("set1", STEPS_SET.format(n=0)), runs=3)
    long = bench.run(bench.playbook("set", "".join(STEPS_SET.format(n=n) for n in range(count))), runs=3)
    step = (long - short) / count * 1000
    yield Line("durable no-op step (flow.set, whole command)", f"{step:.2f} ms", "<= 0.4 ms", step <= 0.4)
    count = 100 if bench.quick else 300
    long = bench.run(bench.playbook("trues", "".join(STEPS_TRUE.format(n=n) for n in range(count))), runs=3)
    step = (long - short) / count * 1000
    yield Line("durable /bin/true step", f"{step:.2f} ms", "<= 5 ms", step <= 5)


def parallel(bench: Bench) -> Iterator[Line]:
    """A thousand sleeping processes at once, beside bash; and the memory above an idle run."""
    count = 200 if bench.quick else 1000
    file = bench.playbook(
        "sleepers",
        f"  - id: all\n    foreach: {{items: '{{{{ range({count}) | list }}}}', as: n, max_concurrent: {count}}}\n"
        "    steps: [{id: s, action: shell.run, with: {command: [sleep, '0.2']}}]\n",
    )
    command = (bench.runbook, "run", file, "--yes")
    mine = many(command, bench.folder, bench.environ, runs=3)
    idle = many((bench.runbook, "run", "one.yaml", "--yes"), bench.folder, bench.environ, runs=3)
    bash = bench.seconds("bash", "-c", f"for i in $(seq {count}); do sleep 0.2 & done; wait", runs=3)
    ratio = mine.seconds / bash
    more = mine.mebibytes - idle.mebibytes
    yield Line(f"{count} parallel `sleep 0.2`, beside bash", f"{ratio:.2f}x of {bash:.2f} s", "<= 1.2x", ratio <= 1.2)
    yield Line("  memory above an idle run", f"{more:.0f} MiB", "<= 40 MiB", more <= 40)


def validate(bench: Bench) -> Iterator[Line]:
    """Loading and checking long playbooks."""
    for count, goal in ((1000, 0.2), (5000, 0.7)):
        steps = "".join(
            f"  - id: s{n}\n    name: Step {n}\n    when: inputs.go\n    action: shell.run\n"
            f"    with: {{command: [echo, '{{{{ inputs.word }}}} {n}']}}\n    timeout: 10s\n"
            for n in range(count)
        )
        (bench.folder / f"v{count}.yaml").write_text(
            f"runbook: 1\nname: v{count}\n"
            "inputs: {go: {type: boolean, default: true}, word: {type: string, default: a}}\n"
            f"steps:\n{steps}",
            encoding="utf-8",
        )
        took = bench.seconds(bench.runbook, "validate", f"v{count}.yaml", runs=3)
        yield Line(f"validate {count} steps (whole command)", f"{took:.2f} s", f"<= {goal} s", took <= goal)


def resume(bench: Bench) -> Iterator[Line]:
    """Going on with a run of which 10,000 steps are recorded: it waits for a person at its end, again."""
    count = 1000 if bench.quick else 10_000
    file = bench.playbook(
        "long",
        f"  - id: all\n    foreach: {{items: '{{{{ range({count}) | list }}}}', as: n}}\n"
        "    steps: [{id: s, action: flow.set, with: {values: {n: '{{ n }}'}}}]\n"
        "  - {id: wait, action: manual.approve, with: {message: Go on?}}\n",
    )
    bench.seconds(bench.runbook, "run", file, "--yes", runs=1, expect=5)
    took = bench.seconds(bench.runbook, "resume", "last", runs=3, expect=5)
    yield Line(f"resume of {count} recorded steps", f"{took:.2f} s", "<= 1 s", took <= 1)


CASES: tuple[Callable[[Bench], Iterator[Line]], ...] = (cold, per_step, parallel, validate, resume)


def main() -> None:
    """Print one line a figure as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer runs and smaller cases, to see that all of it works"
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(case.__name__ for case in CASES)}; default all")
    arguments = parser.parse_args()
    measured = 0
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as folder:
        bench = Bench(Path(folder), arguments.quick)
        if arguments.cases and "cold" not in arguments.cases:
            bench.playbook("one", STEPS_TRUE.format(n=0))
        for case in CASES:
            if arguments.cases and case.__name__ not in arguments.cases:
                continue
            for line in case(bench):
                verdict = "" if line.met is None else ("met" if line.met else "MISSED")
                print(f"{line.what:<48} {line.value:>18}   {line.goal:<10} {verdict}", flush=True)
                measured += 1
    print(f"{measured} figures measured")


if __name__ == "__main__":
    main()
