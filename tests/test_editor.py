"""The schemas in a real editor's server: what is offered, what is said, what is marked.

yaml-language-server (VS Code, Neovim, Emacs, Helix ...) reads the schema that a file's first line names; the tests
speak to it as those do. A `@` in a text is where the cursor stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook.interpreter import grammar
from runbook.interpreter.catalogue import ActionSpec
from runbook.runner.registry import catalogue

from .command import Commands
from .language_server import PROPERTY, LanguageServer, Mark, Offer, missing

ROOT = Path(__file__).parent.parent
ACTIONS = catalogue()
KINDS = [kind for kind in grammar.KINDS if kind != "foreach"]
STEP = "runbook: 1\nsteps:\n  - id: look\n"
SCALE = f"{STEP}    action: k8s.scale\n    with:\n      name: web\n      replicas: 3\n"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class Editor:
    """A folder of files that are open in one server."""

    def __init__(self, server: LanguageServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.opened = 0

    def open(self, text: str, schema: str = "playbook") -> str:
        """A new file whose first line names a schema."""
        self.opened += 1
        modeline = f"# yaml-language-server: $schema={ROOT / 'schemas' / f'{schema}.schema.json'}\n"
        return self.server.open(self.folder / f"{self.opened}.yaml", modeline + text)

    def offers(self, text: str, schema: str = "playbook") -> list[Offer]:
        """What is offered at the cursor."""
        return self.server.complete(self.open(text.replace("@", ""), schema), *_cursor(text))

    def keys(self, text: str, schema: str = "playbook") -> set[str]:
        """The keys that are offered at the cursor, each of them explained and written with its colon."""
        keys = [one for one in self.offers(text, schema) if one.kind == PROPERTY]
        assert len({one.label for one in keys}) == len(keys), keys
        assert all(one.documentation and ":" in one.text for one in keys), keys
        return {one.label for one in keys}

    def hover(self, text: str, schema: str = "playbook") -> str:
        """What is said over the cursor, without Markdown's signs."""
        return plain(self.server.hover(self.open(text.replace("@", ""), schema), *_cursor(text)))

    def marks(self, text: str, schema: str = "playbook") -> list[Mark]:
        """What is marked, with its line in `text`."""
        return [Mark(one.line - 1, one.marked, one.message) for one in self.server.diagnose(self.open(text, schema))]


def _cursor(text: str) -> tuple[int, int]:
    before = text.partition("@")[0]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1)


def _unnamed(text: str) -> str:
    return re.sub(r"^# yaml-language-server: .*\n", "", text)


def plain(markdown: str) -> str:
    return " ".join(re.sub(r"\\(?=[\\`*_{}\[\]#+!])", "", markdown).replace("&emsp;", " ").split())


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    with LanguageServer() as running:
        yield running


@pytest.fixture
def editor(server: LanguageServer, tmp_path: Path) -> Editor:
    return Editor(server, tmp_path)


@pytest.mark.slow
def test_each_action_offers_its_parameters_and_says_what_they_are(editor: Editor) -> None:
    full: dict[str, str] = {}
    for name, spec in ACTIONS.items():
        step = f"{STEP}    action: {name}\n    with:\n"
        assert editor.keys(f"{step}      @\n") == spec.parameters["properties"].keys(), name
        full[name] = step + "".join(f'      {one}: "{{{{ inputs.any }}}}"\n' for one in spec.parameters["properties"])
    uris = {name: editor.open(text) for name, text in full.items()}
    for name, spec in ACTIONS.items():
        over = plain(editor.server.hover(uris[name], 4, len("    action: k")))
        assert plain(f"{spec.name} ({spec.effect}") in over, (name, over)
        assert plain(spec.description) in over, (name, over)
        assert all(plain(f"- `{output}`: {text}") in over for output, text in spec.outputs.items()), (name, over)
        assert "Allowed Values" not in over, over  # not the names of all the others
        _over_parameters(editor, uris[name], spec)
        assert editor.server.diagnose(uris[name]) == [], name  # a template may stand for every value


def _over_parameters(editor: Editor, uri: str, spec: ActionSpec) -> None:
    properties: Mapping[str, Mapping[str, Any]] = spec.parameters["properties"]
    for line, (name, schema) in enumerate(properties.items(), start=6):
        over = plain(editor.server.hover(uri, line, 7))
        assert plain(schema["description"]) in over, (spec.name, name, over)
        assert "||" not in over, (spec.name, name, over)  # the server's sign for texts that it ran together


def test_all_actions_are_offered_with_what_they_do(editor: Editor) -> None:
    offers = {one.label: one.documentation for one in editor.offers(f"{STEP}    action: @\n")}
    assert offers.keys() == ACTIONS.keys()
    assert all(plain(spec.description) in plain(offers[name]) for name, spec in ACTIONS.items())
    over_key = editor.hover(SCALE.replace("action:", "ac@tion:"))
    assert plain(ACTIONS["k8s.scale"].description) in over_key


@pytest.mark.parametrize(
    "place",
    [
        "runbook: 1\nsteps:\n  - @\n",
        f"{STEP}    parallel:\n      - @\n",
        f"{STEP}    action: flow.wait\n    on_failure:\n      steps:\n        - @\n",
        f"{STEP}    choose:\n      - when: inputs.now\n        steps:\n          - @\n",
        "runbook: 1\nfinally:\n  steps:\n    - @\n",
    ],
)
def test_a_new_step_offers_what_all_steps_have_and_the_kinds(editor: Editor, place: str) -> None:
    assert editor.keys(place) == {*grammar.COMMON, *KINDS, "foreach"}


@pytest.mark.parametrize(
    ("kind", "begun"),
    [
        ("action", "action: k8s.scale\n"),
        ("action", "action: mycompany.failover\n"),
        ("steps", "steps: [{id: inner, action: flow.wait, with: {for: 1s}}]\n"),
        ("parallel", "parallel: [{id: inner, action: flow.wait, with: {for: 1s}}]\n"),
        ("fallback", "fallback: [{id: inner, action: flow.wait, with: {for: 1s}}]\n"),
        ("choose", "choose: [{steps: [{id: inner, action: flow.wait, with: {for: 1s}}]}]\n"),
        ("foreach", "foreach: {items: [1, 2], as: one}\n"),
        ("playbook", "playbook: other.yaml\n"),
    ],
)
def test_a_step_offers_the_keys_of_its_kind_and_no_others(editor: Editor, kind: str, begun: str) -> None:
    assert editor.keys(f"{STEP}    {begun}    @\n") == {*grammar.COMMON, *grammar.KINDS[kind]} - {"id", kind}


def test_every_key_of_a_step_is_explained(editor: Editor) -> None:
    text = (
        f"{STEP}    action: k8s.get\n    name: Look\n    when: inputs.now\n    timeout: 3m\n    on_failure: abort\n"
        "    retry: {}\n    until: result.found\n    every: '{{ inputs.pause }}'\n    for: 10s\n    undo: none\n"
        "    temporary: true\n    milestone: seen\n    locks: [a]\n    outputs: {}\n    idempotent: true\n"
    )
    uri = editor.open(text)
    for number, line in enumerate(text.splitlines()[4:], start=5):
        key = line.split(":")[0].strip()
        said = {**grammar.COMMON, **grammar.KINDS["action"]}[key]["description"]
        over = plain(editor.server.hover(uri, number, 5))
        assert plain(said) in over, key
        assert "||" not in over, key


def test_keys_of_the_file_and_of_its_parts(editor: Editor) -> None:
    assert editor.keys("runbook: 1\n@\n") == grammar.ROOT.keys() - {"runbook"}
    assert editor.keys(f"{STEP}    action: k8s.get\n    retry:\n      @\n") == grammar.RETRY["properties"].keys()
    assert editor.keys("runbook: 1\ninputs:\n  soak:\n    @\n") == grammar.INPUT_SCHEMA["properties"].keys()
    family = {name for spec in ACTIONS.values() if spec.family == "k8s" for name in spec.parameters["properties"]}
    assert editor.keys("runbook: 1\ndefaults:\n  with:\n    k8s:\n      @\n") == family
    types = {one.label for one in editor.offers("runbook: 1\ninputs:\n  soak:\n    type: @\n")}
    assert types == set(grammar.INPUT_SCHEMA["properties"]["type"]["enum"])
    ways = {one.label for one in editor.offers(f"{STEP}    on_failure: @\n")}
    assert ways == {"abort", "continue", "undo"}


def test_nothing_is_marked_in_what_ships(editor: Editor, tmp_path: Path) -> None:
    shipped = [*sorted(ROOT.glob("playbooks/*.yaml")), *sorted(ROOT.glob("playbooks/scenarios/*/*.yaml"))]
    assert len(shipped) > 8
    for path in shipped:
        assert "yaml-language-server: $schema=" in path.read_text(encoding="utf-8").partition("\n")[0], path
    commands = Commands(tmp_path)
    assert commands("new", "first").code == 0  # its first line names the installed schema
    uris = {path: editor.server.open(path) for path in [*shipped, tmp_path / "first.yaml"]}
    for path in sorted(ROOT.glob("tests/cases/every-key/*.yaml")):
        uris[path] = editor.open(path.read_text(encoding="utf-8"))
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        uris |= {page / str(at): editor.open(_unnamed(text)) for at, text in enumerate(blocks) if "runbook: 1" in text}
    assert {path: editor.server.diagnose(uri) for path, uri in uris.items()} == {path: [] for path in uris}
    first = uris[tmp_path / "first.yaml"]
    assert "The language's version." in editor.server.hover(first, 1, 2)  # so it was read against the schema


@pytest.mark.parametrize(
    ("wrong", "right", "marks"),
    [
        ("stpes:", "steps:", [Mark(2, "stpes", "Property stpes is not allowed.")]),
        ("    tiemout: 3s\n    with:", "    with:", [Mark(5, "tiemout", "Property tiemout is not allowed.")]),
        ("    steps: []\n    with:", "    with:", [Mark(5, "steps", "Property steps is not allowed.")]),
        ("      nmae: web\n      name: web", "      name: web", [Mark(6, "nmae", "Property nmae is not allowed.")]),
        ("replicas: many", "replicas: 3", [Mark(7, "many", 'Incorrect type. Expected "integer".')]),
        ("      replicas: 3\n", "", [Mark(5, "with", 'Missing property "replicas".')]),
        (
            "    timeout: 3 minutes\n    with:",
            "    with:",
            [Mark(5, "3 minutes", "expected a duration like 90s, 5m or 1h30m")],
        ),
    ],
)
def test_a_mistake_is_marked_once_where_it_stands(editor: Editor, wrong: str, right: str, marks: list[Mark]) -> None:
    if right:
        assert editor.marks(SCALE.replace(right, wrong, 1)) == marks
    else:
        assert editor.marks(SCALE.replace(wrong, "")) == marks


def test_an_action_that_is_not_there(editor: Editor) -> None:
    (mark,) = editor.marks(SCALE.replace("k8s.scale", "k8s.scael"))
    assert (mark.line, mark.marked) == (4, "k8s.scael")
    assert '"k8s.scale"' in mark.message
    assert editor.marks(SCALE.replace("k8s.scale", "mycompany.failover")) == []  # a plug-in's, perhaps
    marks = editor.marks(SCALE.replace("action:", "acton:"))
    assert Mark(4, "acton", "Property acton is not allowed.") in marks
    assert any("this step does nothing" in one.message for one in marks)


def test_scenarios(editor: Editor) -> None:
    assert editor.keys("scenario: 1\n@\n", "scenario") == {
        *("name", "description", "default", "inputs", "world", "faults", "secrets", "answers")
    }
    assert {"versions", "namespaces", "metrics"} < editor.keys("scenario: 1\nworld:\n  @\n", "scenario")
    assert {"on", "answer", "hang", "nth"} < editor.keys("scenario: 1\nfaults:\n  - @\n", "scenario")
    assert {"action", "outputs"} < editor.keys("scenario: 1\nanswers:\n  - @\n", "scenario")
    within = "scenario: 1\nworld:\n  namespaces:\n    shop:\n      deployments:\n        web:\n          @\n"
    assert {"image", "replicas", "previous"} < editor.keys(within, "scenario")
    healths = {
        one.label for one in editor.offers("scenario: 1\nworld:\n  versions:\n    web:\n      health: @\n", "scenario")
    }
    assert {"ok", "failing", "never_ready"} < healths
    assert "What goes wrong on the way." in editor.hover("scenario: 1\nfau@lts: []\n", "scenario")
    assert editor.marks("scenario: 1\nfalts: []\n", "scenario") == [Mark(2, "falts", "Property falts is not allowed.")]
