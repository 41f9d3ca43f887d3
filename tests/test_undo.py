"""`runbook undo` of a finished run gives back the observed state: files, what a shell did, a cluster, a release.

As commands, in one run that changes all of them; the cluster is the SIMULATED one, the files and processes are real.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter.errors import Exit
from runbook.runner.journal import Journal
from runbook.runner.store import Store
from runbook.sandbox import surroundings
from runbook.sandbox.surroundings import Sandbox
from tests import emergency
from tests.command import Commands, end

TOKEN = "hunter2-hunter2-hunter2"

PLAYBOOK = f"""\
runbook: 1
name: changes
secrets: {{token: {{env: TOKEN}}}}
defaults: {{with: {{k8s: {{namespace: {emergency.SPACE}}}, helm: {{namespace: {emergency.SPACE}}}}}}}
steps:
  - {{id: fresh, action: file.write, with: {{to: fresh.txt, content: new}}}}
  - {{id: over, action: file.write, with: {{to: over.txt, content: "new {{{{ secrets.token }}}}", mode: "0640"}}}}
  - {{id: again, action: file.write, with: {{to: over.txt, content: newer}}}}
  - {{id: binary, action: file.write, with: {{to: data.bin, content: text now}}}}
  - {{id: linked, action: file.write, with: {{to: link, content: through the link}}}}
  - {{id: env, action: file.write, with: {{to: app.env, content: "A=1"}}}}
  - {{id: folder, action: file.restore, with: {{from: backup, to: live}}}}
  - id: shell
    action: shell.run
    with: {{command: "cp counter counter.before; echo 2 > counter"}}
    undo: {{steps: [{{id: unshell, action: shell.run, with: {{command: "mv counter.before counter"}}}}]}}
  - id: at_once
    parallel:
      - id: switch
        action: k8s.patch
        with: {{kind: Service, name: tracktion, patch: {{spec: {{selector: {{slot: blue}}}}}}}}
      - {{id: up, action: k8s.scale, with: {{name: analysis-service-blue, replicas: 3}}}}
      - id: labels
        action: k8s.patch
        with: {{kind: Deployment, name: file-watcher-blue, patch: {{metadata: {{annotations: {{seen: "y"}}}}}}}}
  - id: hidden
    action: k8s.patch
    with: {{kind: Secret, name: db-credentials, patch: {{stringData: {{url: other, more: x}}}}}}
  - id: json
    action: k8s.patch
    with:
      kind: Service
      name: prometheus
      type: json
      patch: [{{op: add, path: /metadata/labels, value: {{a: b}}}}]
  - {{id: rolled, action: helm.rollback, with: {{release: tracktion, revision: 2}}}}
  - {{id: once, temporary: true, action: k8s.scale, with: {{name: tracklist-service-blue, replicas: 0}}}}
  - {{id: slow, action: flow.wait, with: {{for: 10ms}}}}
"""


@dataclass
class Place:
    """A folder with files, a cluster, and commands in them."""

    cli: Commands
    sandbox: Sandbox

    def run(self) -> None:
        done = self.cli("run", "playbook.yaml")
        assert done.code == Exit.SUCCEEDED, done.out[-3000:] + done.err

    def files(self) -> dict[str, Any]:
        """Every file beside the playbook: what it is, its bytes and its mode."""
        found = {}
        for path in sorted(self.cli.folder.rglob("*")):
            name = str(path.relative_to(self.cli.folder))
            if name.startswith(("home", "playbook.yaml")):
                continue
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[name] = (stat.S_IMODE(path.lstat().st_mode), what)
        return found

    def cluster(self) -> dict[str, Any]:
        emergency.at_rest(self.sandbox)
        found = emergency.observed(self.sandbox)
        found["release"] = found["release"][-1][2:4] + found["release"][-1][5:]  # a way back is a revision more
        # what a controller keeps of its history serves nobody
        found["ReplicaSets"] = {one: count for one, count in found["ReplicaSets"].items() if one[2]}
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with surroundings.start(emergency.world("traffic")) as sandbox:
        cli = Commands(tmp_path / "here")
        cli.folder.mkdir()
        tools = sandbox.surroundings.coordinates.tools
        cli.environ |= {
            "KUBECONFIG": str(sandbox.kubeconfig),
            "PATH": os.pathsep.join([tools, os.environ["PATH"]]),
            "TOKEN": TOKEN,
        }
        cli.write("playbook.yaml", PLAYBOOK)
        cli.write("over.txt", f"old\nwith {TOKEN}\n")
        (cli.folder / "over.txt").chmod(0o604)
        (cli.folder / "data.bin").write_bytes(bytes(range(256)) * 40)
        cli.write("real.txt", "behind a link\n")
        (cli.folder / "link").symlink_to("real.txt")
        cli.write("app.env", "PASSWORD=undeclared\n")
        for name, text in {
            "backup/a.txt": "a",
            "backup/b/c.txt": "c",
            "live/a.txt": "live a",
            "live/z.txt": "z",
        }.items():
            (cli.folder / name).parent.mkdir(parents=True, exist_ok=True)
            cli.write(name, text)
        (cli.folder / "live/b").mkdir()
        cli.write("counter", "1\n")
        yield Place(cli, sandbox)


def test_everything_is_as_it_was(place: Place) -> None:
    files, cluster = place.files(), place.cluster()
    place.run()
    changed, moved = place.files(), place.cluster()
    for name in ("fresh.txt", "over.txt", "data.bin", "real.txt", "app.env", "live/b/c.txt", "counter"):
        assert changed.get(name) != files.get(name), name
    for name in ("Service/tracktion", "Deployment/analysis-service-blue", "Secret/db-credentials", "release"):
        assert moved[name] != cluster[name], name
    undone = place.cli("undo")
    assert undone.code == Exit.SUCCEEDED, undone.out + undone.err
    assert place.files() == files
    assert place.cluster() == cluster
    report = json.loads(place.cli("report", "--format", "json").out)
    assert TOKEN not in json.dumps(report)
    again = place.cli("undo")
    assert again.code == Exit.SUCCEEDED, again.out + again.err
    assert place.files() == files, "a second undo has nothing left to do"
    assert place.cluster() == cluster


@pytest.mark.parametrize("after", [2, 5, 9, 13])
def test_an_undo_that_was_killed_is_resumed(place: Place, after: int) -> None:
    """`kill -9` in the middle of the undo, then `resume`: the same state."""
    files, cluster = place.files(), place.cluster()
    place.run()
    process = place.cli.start("undo", "--output", "jsonl")
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += json.loads(line)["kind"] == "undone"
        if seen >= after:
            break
    end(process, signal.SIGKILL)
    resumed = place.cli("resume")
    if "has ended" in resumed.err:
        assert seen >= after
    else:
        assert resumed.code == Exit.SUCCEEDED, resumed.out + resumed.err
    assert place.files() == files
    assert place.cluster() == cluster
    journal = Journal.open(Store(place.cli.home).find("last").journal, readonly=True)
    assert journal.verify() == []
    undone = [event.data["seq"] for event in journal.events() if event.kind == "undone" and event.data["ok"]]
    journal.close()
    assert len(undone) == len(set(undone)), "nothing is taken back twice"


def test_what_somebody_else_changed_is_not_overwritten(place: Place) -> None:
    files = place.files()
    place.run()
    place.cli.write("fresh.txt", "somebody else's")
    time.sleep(0.05)
    refused = place.cli("undo")
    assert refused.code == Exit.FAILED, refused.out + refused.err
    assert "fresh.txt was changed by somebody else" in refused.out
    assert (place.cli.folder / "fresh.txt").read_text() == "somebody else's"
    place.cli.write("fresh.txt", "new")
    done = place.cli("undo")
    assert done.code == Exit.SUCCEEDED, done.out + done.err
    assert place.files() == files
