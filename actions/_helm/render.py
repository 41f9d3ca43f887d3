"""What a chart becomes: its parameters, and what it renders, by the server's dry run or by helm alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbook.actions._helm import client
from runbook.actions._helm.client import HelmArgs
from runbook.contract import Context, PermanentError, param


@dataclass(frozen=True, kw_only=True)
class ChartArgs(HelmArgs):
    """Parameters of what renders a chart."""

    chart: str = param("Chart: a folder or archive (relative to `folder`), `repository/name`, `oci://...` or a URL.")
    folder: Path = param("Folder that relative paths of charts start at.", default=Path(), path=True)
    version: str | None = param("Version of the chart, or a range; the latest by default.", default=None)
    repository: str | None = param("URL of the chart repository that `chart` is a name in.", default=None)
    values: dict[str, Any] = param(
        "Values over those of the chart. Helm reads them from its standard input: they are on no command line.",
        default_factory=dict,
        secret=True,
    )
    reuse_values: bool = param(
        "Keep the values that were given before, where `values` has none (Helm's --reset-then-reuse-values: what the"
        " chart itself brings is the new chart's).",
        default=True,
    )


def what(args: ChartArgs) -> list[str]:
    """The arguments of `helm upgrade` that say what is rendered; the values come by standard input."""
    reuse = "--reset-then-reuse-values" if args.reuse_values else "--reset-values"
    return [args.release, reference(args), "--install", "--values", "-", *_source(args), reuse]


def reference(args: ChartArgs) -> str:
    """The chart for Helm's command line: a path where there is one, else as it is written."""
    path = args.folder / args.chart
    if args.repository is None and path.exists():
        return str(path if path.is_absolute() else Path.cwd() / path)
    bare = args.repository is None and "/" not in args.chart
    if bare or args.chart.startswith((".", "/")) or (args.chart.endswith(".tgz") and "://" not in args.chart):
        raise PermanentError(
            f"there is no chart {args.chart} (in {args.folder})",
            hint="a chart of a repository is `repository/name`, or a name with `repository`" if bare else None,
        )
    return args.chart


def _source(args: ChartArgs) -> list[str]:
    options = [f"--version={args.version}"] if args.version is not None else []
    return options + ([f"--repo={args.repository}"] if args.repository is not None else [])


def by_server(ctx: Context, args: ChartArgs) -> dict[str, Any]:
    """The release as it would be, by the server's dry run: `manifest`, `hooks`, `config`, `chart`, as helm says it."""
    arguments = ["upgrade", *what(args), "--dry-run=server", "--output", "json"]
    done = client.helm(ctx, args, *arguments, stdin=json.dumps(args.values).encode())
    if done.rc != 0:
        raise client.said(done, f"helm upgrade {args.release}")
    return release(done.stdout, args)


def alone(ctx: Context, args: ChartArgs, *, upgrades: bool) -> dict[str, Any]:
    """The same without the API server: what a chart asks it for (its versions, what is there) is not known.

    `upgrades`: there is a release, whose values may be kept.
    """
    values: Mapping[str, Any] = args.values
    if upgrades and args.reuse_values:
        done = client.helm(ctx, args, "get", "values", args.release, "--output", "json")
        if done.rc != 0:
            raise client.said(done, f"helm get values {args.release}")
        values = _over(json.loads(done.stdout or "{}") or {}, values)
    arguments = [args.release, reference(args), "--values", "-", *_source(args), *(["--is-upgrade"] * upgrades)]
    done = client.helm(ctx, args, "template", *arguments, stdin=json.dumps(values).encode())
    if done.rc != 0:
        raise client.said(done, f"helm template {args.release}")
    pieces = [piece for piece in re.split(r"^---\s*$", done.stdout, flags=re.MULTILINE) if piece.strip()]
    hooks = [{"manifest": piece} for piece in pieces if _HOOK.search(piece)]
    manifest = "".join(f"---\n{piece.strip()}\n" for piece in pieces if not _HOOK.search(piece))
    return {"manifest": manifest, "hooks": hooks, "config": values, "chart": {"metadata": _metadata(ctx, args)}}


_HOOK = re.compile(r"[\"']?helm\.sh/hook[\"']?\s*:")


def _over(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values over those of before, map by map; what is given as null is not there any more."""
    found = dict(before)
    for name, value in given.items():
        was = found.get(name)
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _over(was, value) if isinstance(was, Mapping) and isinstance(value, Mapping) else value
    return found


def definitions(ctx: Context, args: ChartArgs) -> str:
    """The custom resource definitions in a chart's folder `crds`, which Helm makes before it installs; '' for none."""
    done = client.helm(ctx, args, "show", "crds", reference(args), *_source(args))
    if done.rc != 0:
        raise client.said(done, f"helm show crds {args.chart}")
    return done.stdout.strip()


def chart(ctx: Context, args: ChartArgs) -> tuple[str, str]:
    """Name with version, and the version of what is in it, without rendering."""
    return named({"chart": {"metadata": _metadata(ctx, args)}})


def _metadata(ctx: Context, args: ChartArgs) -> Any:
    import yaml

    done = client.helm(ctx, args, "show", "chart", reference(args), *_source(args))
    if done.rc != 0:
        raise client.said(done, f"helm show chart {args.chart}")
    return yaml.safe_load(done.stdout)


def named(found: Mapping[str, Any]) -> tuple[str, str]:
    """Name with version, and the version of what is in it, of a release's chart."""
    metadata = (found.get("chart") or {}).get("metadata") or {}
    return f"{metadata.get('name')}-{metadata.get('version')}", str(metadata.get("appVersion") or "")


def release(text: str, args: HelmArgs) -> dict[str, Any]:
    """A release as helm says it in JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        raise PermanentError(f"what helm says about {args.release} is no JSON") from None
    return dict(found)
