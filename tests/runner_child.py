"""One process of a run that dies at a journal write: `python -m tests.runner_child FOLDER start|resume|undo AT WHEN`.

Real death: SIGKILL to itself, before or after the AT-th commit (0: it lives to its end). Prints the outcome as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from runbook.interpreter.errors import RunbookError
from runbook.runner import session
from runbook.runner.journal import Journal
from tests.runner_toys import Lab


def main(folder: str, what: str, at: int, when: str) -> None:
    lab = Lab.at(Path(folder))
    text = (Path(folder) / "p.yaml").read_text()
    count, write = 0, Journal._write

    def dying(self: Journal) -> None:
        nonlocal count
        count += 1
        if count == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(self)
        if count == at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    Journal._write = dying  # type: ignore[method-assign]  # the fault of this test
    limit = int(os.environ.get("FILE_LIMIT", "0"))
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    in_doubt = os.environ.get("IN_DOUBT", "ask")
    try:
        if what == "start":
            ended = lab.run(text)
        elif what == "undo":
            accept = tuple(os.environ.get("ACCEPT", "").split())
            ended = lab.undo(in_doubt=in_doubt, accept=accept)
        else:
            ended = lab.resume(in_doubt=in_doubt)
    except RunbookError as error:
        print(
            json.dumps({"error": type(error).__name__, "message": error.message, "exit": int(error.exit)}), flush=True
        )
        os._exit(int(error.exit))
    outcome = ended.outcome
    found = {
        "status": ended.status,
        "exit": int(ended.exit),
        "writes": count,
        "outputs": outcome.outputs if outcome is not None else None,
        "error": outcome.error.message if outcome is not None and outcome.error is not None else None,
        "questions": [question.key for question in ended.questions],
    }
    print(json.dumps(found), flush=True)
    os._exit(int(ended.exit))


if __name__ == "__main__":
    session.here()  # imports what a run needs before the first write
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
