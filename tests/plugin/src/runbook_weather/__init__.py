"""A plug-in for runbook. Nothing here is imported until one of its actions is used."""
