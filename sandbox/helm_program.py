"""The `helm` that stands on PATH in a sandbox: a small script that asks the sandbox what helm would have done."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = '''\
"""SIMULATED helm of a runbook sandbox: everything is answered by the sandbox on loopback."""
import http.client, json, os, sys
connection = http.client.HTTPConnection("127.0.0.1", {port})
environ = {{k: v for k, v in os.environ.items() if k.startswith("HELM_") or k == "KUBECONFIG"}}
body = {{"argv": sys.argv[1:], "environ": environ}}
try:
    connection.request("POST", "/helm", json.dumps(body), {{"Authorization": "Bearer {token}"}})
    response = connection.getresponse()
    answer = json.loads(response.read())
except (OSError, ValueError, http.client.HTTPException) as error:
    sys.exit(f"Error: Kubernetes cluster unreachable: SIMULATED sandbox: {{error!r}}")
sys.stdout.write(answer["stdout"])
sys.stdout.flush()
sys.stderr.write(answer["stderr"])
sys.exit(answer["rc"])
'''


def write(folder: Path, port: int, token: str) -> Path:
    """Write the program into `folder` (private), executable; it asks the control server at `port`."""
    program = folder / "helm"
    interpreter = f"#!{sys.executable} -IS\n"
    if " " in sys.executable or len(interpreter) > 120:  # what a kernel takes after `#!`
        code = folder / "helm.py"
        code.write_text(_PROGRAM.format(port=port, token=token))
        code.chmod(0o600)
        quoted = [text.replace("'", "'\\''") for text in (sys.executable, str(code))]
        program.write_text(f"#!/bin/sh\nexec '{quoted[0]}' -IS '{quoted[1]}' \"$@\"\n")
    else:
        program.write_text(interpreter + _PROGRAM.format(port=port, token=token))
    program.chmod(0o700)
    return program
