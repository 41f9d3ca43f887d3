"""`python -m runbook.cli`."""

from runbook.cli.main import main

main()
