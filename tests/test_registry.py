"""Actions described once: parameters, schemas, documentation, and plug-ins."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runbook.contract import Action, Call, Change, Duration, Opaque, PermanentError, param
from runbook.interpreter.catalogue import from_schema
from runbook.interpreter.times import parse_duration, parse_timestamp
from runbook.runner import describe, registry
from runbook.runner.parameters import parameters, parse

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A nested map."""

    port: int = param("A port.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllArgs:
    """One of each kind."""

    text: str = param("Text.")
    replicas: int = param("Number.", default=1, minimum=0, maximum=10)
    share: float = param("Share.", default=0.5)
    force: bool = param("Flag.", default=False)
    wait: Duration = param("How long.", default=Duration(90))
    file: Path | None = param("A file.", default=None, path=True)
    files: list[Path] = param("Files.", default_factory=list, path=True)
    folder: Path = param("A folder.", default=Path(), path=True)
    kind: Literal["a", "b"] = param("One of two.", default="a")
    labels: dict[str, str] = param("Labels.", default_factory=dict)
    counts: dict[str, list[int]] = param("Counts.", default_factory=dict)
    anything: Any = param("Anything.", default=None)
    either: int | str = param("Either.", default=0)
    from_: str | None = param("Where from.", default=None, wire="from")
    token: str | None = param("A token.", default=None, secret=True)
    parts: list[Part] = param("Parts.", default_factory=list)
    code: str = param("A code.", default="ab", pattern="^[a-z]+$")


class All(Opaque[AllArgs]):
    """Takes everything."""

    name = "test.all"


def test_committed_schemas_and_documentation_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runbook.runner.describe", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_committed_schema_is_one_and_is_complete() -> None:
    names: set[str] = set()
    for path in sorted(registry.SCHEMAS.glob("*.schema.json")):
        document = json.loads(path.read_text())
        for name, spec in from_schema(document).items():
            names.add(name)
            jsonschema.Draft202012Validator.check_schema(dict(spec.parameters))
            assert spec.family == path.name.partition(".")[0]
            assert spec.description
            assert spec.parameters["additionalProperties"] is False
            assert all(
                item["description"].endswith((".", ")", ":")) or item["description"]
                for item in spec.parameters["properties"].values()
            )
            assert not {"items", "keys", "values", "get", "copy"} & set(spec.outputs), (
                f"{name}: a map's own method is hidden"
            )
    assert names == set(registry.catalogue())
    assert {"shell.run", "http.check", "file.write", "slack.post", "pg.query", "flow.set"} <= names


def test_every_action_of_the_catalogue_is_found_and_agrees_with_it() -> None:
    for name, spec in registry.catalogue().items():
        action = registry.find(name)
        assert action.name == name
        assert describe.action_schema(action) == spec.parameters
        assert (action.effect, action.idempotent, action.irreversible) == (
            spec.effect,
            spec.idempotent,
            spec.irreversible,
        )


def test_the_catalogue_imports_no_action(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from runbook.runner.registry import catalogue
        known = catalogue()
        assert known["shell.run"].effect == "opaque" and "nothing.here" not in known and len(list(known)) > 10
        loaded = [name for name in sys.modules if name.startswith("runbook.actions.")]
        assert loaded == [], loaded
        heavy = {"kubernetes", "urllib3", "sh", "psycopg", "jinja2", "jsonschema"} & set(sys.modules)
        assert not heavy, heavy
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)


@pytest.mark.parametrize("name", ["nothing.here", "shell.walk", "shell", ""])
def test_an_unknown_action_is_told(name: str) -> None:
    assert name not in registry.catalogue()
    with pytest.raises(PermanentError, match="there is no action"):
        registry.find(name)


def test_parse_gives_types_and_defaults() -> None:
    args = parse(
        All,
        {"text": "x", "wait": "1h30m", "from": "here", "parts": [{"port": 1}], "file": "a/b", "files": ["/c", "d"]},
        "/base",
    )
    assert args == AllArgs(
        text="x",
        wait=Duration(5400),
        from_="here",
        parts=[Part(port=1)],
        file=Path("/base/a/b"),
        files=[Path("/c"), Path("/base/d")],
        folder=Path("/base"),
    )
    assert isinstance(args.wait, Duration)
    assert parse(All, {"text": "x"}).folder == Path()


def test_an_absent_optional_secret_is_the_default() -> None:
    assert parse(All, {"text": "x", "token": None, "replicas": None}) == AllArgs(text="x")


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"replicas": "three"}, "replicas: expected an integer, got the text 'three'"),
        ({"replicas": True}, "replicas: expected an integer, got true"),
        ({"replicas": 1.5}, "replicas: expected an integer, got the number 1.5"),
        ({"replicas": -1}, "replicas: expected at least 0, got the integer -1"),
        ({"replicas": 11}, "replicas: expected at most 10, got the integer 11"),
        ({"text": [5]}, "text: expected text, got a list"),
        ({"text": None}, "text: expected text, got null"),
        ({"share": "half"}, "share: expected a number, got the text 'half'"),
        ({"force": "yes"}, "force: expected true or false, got the text 'yes'"),
        ({"wait": "soon"}, "wait: expected a duration (500ms, 30s, 5m, 1h30m), got the text 'soon'"),
        ({"wait": -5}, "wait: expected a duration"),
        ({"kind": "c"}, "kind: expected one of a, b, got the text 'c'"),
        ({"labels": ["x"]}, "labels: expected a map, got a list"),
        ({"labels": {"x": {}}}, "labels.x: expected text, got a map"),
        ({"counts": {"x": [1, "2"]}}, "counts.x[1]: expected an integer, got the text '2'"),
        ({"either": []}, "either: expected an integer or text, got a list"),
        ({"files": "x"}, "files: expected a list, got the text 'x'"),
        ({"file": ""}, "file: expected a path, got the text ''"),
        ({"parts": [{"port": "x"}]}, "port: expected an integer, got the text 'x'"),
        ({"code": "A"}, "code: expected text that matches ^[a-z]+$, got the text 'A'"),
        ({"token": ["canary"]}, "token: expected text, got a list"),
        ({"colour": 1}, "test.all has no parameter colour"),
    ],
)
def test_parse_names_the_parameter_what_was_expected_and_what_came(given_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse(All, {"text": "x", **given_})
    assert sentence in caught.value.message


def test_parse_tells_all_problems_and_never_a_secret() -> None:
    with pytest.raises(PermanentError) as caught:
        parse(All, {"replicas": "x", "force": 1, "token": [5]})
    assert caught.value.message.count("expected") == 3
    assert "text: required, and not given" in caught.value.message
    assert "got a list" in caught.value.message


def test_what_a_template_computed_is_written_where_text_is_taken_as_it_is_inside_text() -> None:
    """`PORT: "{{ inputs.port }}"`, `{{ inputs.patience }}`: a literal number is refused by the schema before."""
    values = {"a": 8080, "b": 0.5, "c": True, "d": parse_duration("1h30m"), "e": parse_timestamp("2026-05-01T12:00Z")}
    assert parse(All, {"text": "x", "labels": values}).labels == {
        "a": "8080", "b": "0.5", "c": "true", "d": "1h30m", "e": "2026-05-01T12:00Z",
    }  # fmt: skip
    assert parse(All, {"text": "x", "either": 5}).either == 5


@given(st.floats(min_value=0, max_value=1e7).map(lambda seconds: round(seconds, 3)))
def test_a_duration_is_read_as_it_is_written(seconds: float) -> None:
    text = describe.duration_text(seconds)
    assert parse(All, {"text": "x", "wait": text}).wait == pytest.approx(seconds, abs=0.0006)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([item.wire for item in parameters(AllArgs)] + ["other"]), json_values, max_size=6)
)
def test_any_data_is_parsed_or_refused_with_a_sentence(data: dict[str, Any]) -> None:
    try:
        args = parse(All, data)
    except PermanentError as refused:
        args = None
        sentence = refused.message
    assert isinstance(args, AllArgs) or "expected" in sentence or "no parameter" in sentence or "required" in sentence


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([item.wire for item in parameters(AllArgs)]), json_values, max_size=2))
def test_what_the_schema_takes_parse_takes(data: dict[str, Any]) -> None:
    """The editor never says yes to what the run refuses."""
    data = {"text": "x", **data}
    assume(jsonschema.Draft202012Validator(describe.action_schema(All)).is_valid(data))
    assert isinstance(parse(All, data), AllArgs)


def test_the_schema_says_what_the_parameters_say() -> None:
    schema = describe.action_schema(All)
    assert schema["required"] == ["text"]
    properties = schema["properties"]
    assert properties["replicas"] == {
        "description": "Number.",
        "type": "integer",
        "minimum": 0,
        "maximum": 10,
        "default": 1,
    }
    assert properties["wait"]["default"] == "1m30s"
    assert properties["kind"]["enum"] == ["a", "b"]
    assert properties["token"] == {"description": "A token.", "type": ["string", "null"], "x-secret": True}
    assert properties["files"] == {
        "description": "Files.",
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "default": [],
        "x-path": True,
    }
    assert "from" in properties
    assert "from_" not in properties


# -- a plug-in that somebody else wrote

PLUGIN = ROOT / "tests" / "plugin"


def load_plugin_family() -> tuple[type[Action[Any]], ...]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("weather_actions", PLUGIN / "src" / "runbook_weather" / "actions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["weather_actions"] = module
    spec.loader.exec_module(module)
    return tuple(module.ACTIONS)


def test_the_plugin_ships_the_schema_that_its_code_says() -> None:
    shipped = json.loads((PLUGIN / "src" / "runbook_weather" / "schemas" / "weather.schema.json").read_text())
    assert shipped == describe.family_document("weather", load_plugin_family())


USE = textwrap.dedent("""
    import sys
    from pathlib import Path
    from runbook.runner import registry
    known = registry.catalogue()
    spec = known["weather.set"]
    assert spec.effect == "change" and "weather.dry" in list(known), spec
    assert known["shell.run"].effect == "opaque"
    assert "runbook_weather" not in sys.modules, "the catalogue imported the plug-in"
    action = registry.find("weather.set")
    flag = Path(sys.argv[1])
    args = registry.parse(action, {"file": str(flag), "to": "rain", "for": "2h"})
    one = action()
    before = one.observe(args, None)
    assert before != one.expect(args, before, None)
    one.apply(args, before, None)
    assert flag.read_text() == "rain"
    dry = registry.find("weather.dry")
    assert dry().read(registry.parse(dry, {"file": str(flag)}), None)["ok"] is False
""")


def test_an_installed_plugin_is_found_and_used(tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(site),
            str(PLUGIN),
        ],
        check=True,
        timeout=120,
        capture_output=True,
    )
    run_with_plugin(site, tmp_path)


def test_a_plugin_that_is_installed_editable_is_found_too(tmp_path: Path) -> None:
    import os

    run_with_plugin(install_editable(tmp_path / "site"), tmp_path, str(PLUGIN / "src") + os.pathsep)


def install_editable(site: Path) -> Path:
    """As pip leaves it: a .dist-info that lists no package files, and a .pth with the source folder."""
    info = site / "runbook_weather-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: runbook-weather\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[runbook.actions]\nweather = runbook_weather.actions:ACTIONS\n")
    (info / "RECORD").write_text("runbook_weather.pth,,\n")
    return site


def run_with_plugin(site: Path, tmp_path: Path, more: str = "") -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "flag")],
        env={**os.environ, "PYTHONPATH": more + str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = subprocess.run(
        [sys.executable, "-m", "runbook.cli", "schema"],
        env={**os.environ, "PYTHONPATH": more + str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
    )
    names = {one.get("const") for one in json.loads(printed.stdout)["$defs"]["action"]["anyOf"]}
    assert {"weather.dry", "k8s.get"} <= names  # an editor then offers the plug-in's actions too


def test_a_change_s_call_names_playbook_parameters() -> None:
    """An inverse is data that a playbook could hold: its parameters parse."""
    for action in load_plugin_family():
        if issubclass(action, Change):
            args = parse(action, {"file": "/f", "to": "rain"})
            inverse = action().inverse(args, {"weather:/f": "sun"}, "op")
            assert isinstance(inverse, Call)
            parse(action, inverse.args)
