"""The form of the language as JSON Schema: every key once, with the sentence that an editor shows for it.

`schema.py` compiles it for validation; `editor.py` puts it together with the actions' parameters for editors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

ID: Final = r"^[a-z][a-z0-9_]*$"
NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_AMOUNT = r"\d+(?:\.\d+)?"
DURATION_PATTERN: Final = rf"^(?=.)(?:{_AMOUNT}d)?(?:{_AMOUNT}h)?(?:{_AMOUNT}m(?!s))?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?$"

WORD: Final = "a word of lower-case letters, digits and _"

STEPS: Final = "#/$defs/steps"
INPUT: Final = "#/$defs/input"

DURATION: Final[Schema] = {"type": "string", "format": "duration", "pattern": DURATION_PATTERN}
TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{\{", "title": "a template"}
BARE: Final[Schema] = {"type": ["string", "boolean"], "title": "an expression (without braces)"}
VALUE: Final[Schema] = {"type": ["string", "boolean", "number", "null"], "title": "an expression (without braces)"}


def _or_template(schema: Schema) -> dict[str, Any]:
    return {"anyOf": [dict(schema), dict(TEMPLATE)]}


def _said(schema: Schema, description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def _block(description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"steps": {"$ref": STEPS, "title": "a list of steps"}},
        "required": ["steps"],
        "additionalProperties": False,
        "description": description,
    }


_LOCKS = {"type": "array", "items": {"type": "string", "minLength": 1}}

ON_FAILURE: Final[Schema] = {
    "description": (
        "What happens after a failure, a time-out or a cancel: abort (default), continue (a warning), undo, or "
        "{undo, steps, then}. Undo comes first."
    ),
    "anyOf": [
        {"enum": ["abort", "continue", "undo"]},
        {
            "type": "object",
            "properties": {
                "undo": _said(FLAG, "Take back what was changed, before the steps."),
                "steps": {
                    "$ref": STEPS,
                    "title": "a list of steps",
                    "description": "What is done about it; sees `failure`.",
                },
                "then": {
                    "enum": ["abort", "continue"],
                    "description": "Whether the failure stands (abort) or becomes a warning.",
                },
            },
            "additionalProperties": False,
        },
    ],
}
ROOT_ON_FAILURE: Final[Schema] = {
    "description": "After a failure, a time-out or a cancel of the run. Undo comes first.",
    "anyOf": [
        {"enum": ["abort", "undo"]},
        {
            "type": "object",
            "properties": {
                "undo": _said(FLAG, "Take back what the run changed, before the steps."),
                "steps": {
                    "$ref": STEPS,
                    "title": "a list of steps",
                    "description": "What is done about it; sees `failure`.",
                },
            },
            "additionalProperties": False,
        },
    ],
}

COMMON: Final[Mapping[str, Schema]] = {
    "id": {
        "type": "string",
        "pattern": ID,
        "maxLength": 64,
        "title": WORD,
        "description": "The step's name for expressions (`steps.<id>`), unique in the file.",
    },
    "name": _said(TEXT, "Text for people; may hold templates."),
    "when": _said(BARE, "A bare expression; false skips the step. Not a boolean = an error."),
    "timeout": {
        **_or_template(DURATION),
        "description": (
            "Of each attempt of an action, of a whole poll, of a whole block. Clean-up has its own time (`cleanup`)."
        ),
    },
    "on_failure": ON_FAILURE,
    "finally": _block("Steps that run however this one ends, last."),
    "undo": {
        "description": (
            "How an undo that contains this step takes it back: auto (default), none (known and accepted), "
            "again (at the end of every undo), or steps."
        ),
        "anyOf": [
            {"enum": ["auto", "none", "again"]},
            _block("Steps that take it back; they see the scope of the step's end."),
        ],
    },
    "temporary": _said(FLAG, "Take the change back when the enclosing block ends, however it ends."),
    "background": _said(
        FLAG,
        "The run goes on meanwhile; joined by the first template that names it. Only reads, checks and "
        "notifications inside.",
    ),
    "outputs": {
        "type": "object",
        "propertyNames": {"pattern": NAME, "title": "a name"},
        "additionalProperties": dict(VALUE),
        "description": (
            "name: bare expression over `result` (of blocks: over the inner steps), beside the action's own outputs."
        ),
    },
    "milestone": {
        "type": "string",
        "pattern": ID,
        "title": WORD,
        "description": "Met when this step succeeds; objectives measure it.",
    },
    "locks": {**_LOCKS, "description": "Held while the step and its unwinding run."},
}

RETRY: Final[Schema] = {
    "type": "object",
    "description": "Try the action again after a temporary error or a time-out. With jitter.",
    "properties": {
        "max_attempts": {
            "type": "integer",
            "minimum": 1,
            "description": (
                "How many attempts, the first included. Default 3; without it `max_duration` is the only bound."
            ),
        },
        "delay": _said(DURATION, "Before the second attempt. Default 1s."),
        "backoff": {
            "type": "number",
            "minimum": 1,
            "description": "Each further delay is so many times longer. Default 2.",
        },
        "max_delay": _said(DURATION, "No delay is longer. Default 30s."),
        "max_duration": _said(DURATION, "All attempts together; cuts the attempt that is running."),
        "on": {
            "type": "array",
            "minItems": 1,
            "items": {"enum": ["temporary", "timeout"]},
            "description": "Which errors are tried again. Default both.",
        },
    },
    "additionalProperties": False,
}

KEEP_GOING: Final[Schema] = {
    "description": "All children run: true = then it fails if any failed; 2 or 25% = so many may fail.",
    "anyOf": [
        dict(FLAG),
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^(100|\d{1,2})%$", "title": "a share like 25%"},
        dict(TEMPLATE),
    ],
}
_CONCURRENT = _or_template({"type": "integer", "minimum": 1})
_STEPS = {"$ref": STEPS, "title": "a list of steps"}

KINDS: Final[Mapping[str, Mapping[str, Schema]]] = {
    "action": {
        "action": {
            "type": "string",
            "description": "family.verb, for example k8s.patch. `runbook actions` lists them.",
        },
        "with": {"type": "object", "description": "The action's parameters."},
        "retry": RETRY,
        "until": _said(BARE, "Reads and checks: poll until this bare expression over `result` holds."),
        "every": {**_or_template(DURATION), "description": "Between two polls. Default 2s."},
        "for": {**_or_template(DURATION), "description": "`until` must hold so long without a break."},
        "fail_when": _said(BARE, "Reads and checks: fail at once when this bare expression over `result` holds."),
        "idempotent": _said(FLAG, "The author's word that an opaque action may run twice."),
        "effect": {
            "enum": ["read"],
            "description": "The author's word that an opaque action only reads: a plan runs it.",
        },
    },
    "steps": {"steps": _said(_STEPS, "A block: the steps run in order."), "keep_going": KEEP_GOING},
    "parallel": {
        "parallel": _said(_STEPS, "The steps run at once; after a failure nothing new starts."),
        "max_concurrent": {**_CONCURRENT, "description": "How many run at once. Default: all."},
        "keep_going": KEEP_GOING,
    },
    "fallback": {"fallback": _said(_STEPS, "Alternatives, in order until one succeeds.")},
    "choose": {
        "choose": {
            "type": "array",
            "minItems": 1,
            "description": "The first branch whose `when` holds; the last may have none. No branch = failed.",
            "items": {
                "type": "object",
                "properties": {
                    "when": _said(BARE, "A bare expression; the first branch that holds runs."),
                    "steps": _said(_STEPS, "What this branch does."),
                },
                "required": ["steps"],
                "additionalProperties": False,
            },
        }
    },
    "foreach": {
        "foreach": {
            "type": "object",
            "description": "Run `steps` for each item.",
            "properties": {
                "items": {
                    "anyOf": [{"type": "array"}, dict(TEMPLATE)],
                    "description": "A list, or a template that gives one.",
                },
                "as": {"type": "string", "pattern": ID, "title": WORD, "description": "The item's name inside."},
                "max_concurrent": {**_CONCURRENT, "description": "How many at once. Default 1."},
            },
            "required": ["items", "as"],
            "additionalProperties": False,
        },
        "steps": _said(_STEPS, "What is done for each item."),
        "keep_going": KEEP_GOING,
    },
    "playbook": {
        "playbook": {
            "type": "string",
            "minLength": 1,
            "description": "Path of the sub-playbook, relative to this file; no templates.",
        },
        "with": {"type": "object", "description": "Its inputs."},
    },
}

INPUT_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "A typed input. No `default` = required; `default: null` = optional.",
    "properties": {
        "type": {
            "enum": ["string", "integer", "number", "boolean", "duration", "timestamp", "list", "map", "path"],
            "description": "What it takes.",
        },
        "description": _said(TEXT, "What it is for; shown when it is asked for."),
        "default": {"description": "Taken when it is not given; {from_env: NAME} takes it from the environment."},
        "enum": {"type": "array", "minItems": 1, "description": "The values that it takes."},
        "pattern": _said(TEXT, "A regular expression that the whole text must match."),
        "minimum": {"type": "number", "description": "The smallest value."},
        "maximum": {"type": "number", "description": "The largest value."},
        "items": {"$ref": INPUT, "title": "an input", "description": "What the items of a list are."},
        "secret": _said(FLAG, "Takes a reference to a secret, and obeys all rules of secrets."),
    },
    "required": ["type"],
    "additionalProperties": False,
}

SECRET_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "A reference: where the secret is. Exactly one of env, file, k8s.",
    "properties": {
        "env": {"type": "string", "minLength": 1, "description": "An environment variable's name."},
        "file": {"type": "string", "minLength": 1, "description": "A file's path."},
        "k8s": {
            "type": "object",
            "description": "A key of a Kubernetes Secret.",
            "properties": {
                "context": _said(TEXT, "The kubeconfig's context."),
                "namespace": _said(TEXT, "The Secret's namespace."),
                "secret": _said(TEXT, "The Secret's name."),
                "key": _said(TEXT, "The key in it."),
            },
            "required": ["namespace", "secret", "key"],
            "additionalProperties": False,
        },
        "optional": _said(FLAG, "May be absent: then `secrets.NAME is defined` is false."),
    },
    "additionalProperties": False,
}

OBJECTIVE_SCHEMA: Final[Schema] = {
    "description": "A milestone against the wall clock: a duration, or {within, since}.",
    "anyOf": [
        dict(DURATION),
        {
            "type": "object",
            "properties": {
                "within": _said(DURATION, "The time that it may take."),
                "since": {
                    "type": ["string", "null"],
                    "description": "A milestone's name, or a template of a timestamp; null = the run's start.",
                },
            },
            "required": ["within"],
            "additionalProperties": False,
        },
    ],
}


def _named(item: Schema, description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "propertyNames": {"pattern": NAME, "title": "a name (letters, digits, _)"},
        "additionalProperties": dict(item),
        "description": description,
    }


ROOT: Final[Mapping[str, Schema]] = {
    "runbook": {"const": 1, "description": "The language's version."},
    "name": {
        "type": "string",
        "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "maxLength": 80,
        "title": "a name (letters, digits, . _ -)",
        "description": "The playbook's name; part of the run's id. Default: the file's.",
    },
    "description": _said(TEXT, "What it does, for people."),
    "import": {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "description": "Files whose inputs, secrets, vars and defaults are merged in; what stands here wins.",
    },
    "inputs": _named({"$ref": INPUT, "title": "an input"}, "What it takes, typed."),
    "secrets": _named(SECRET_SCHEMA, "References to secrets; never their values."),
    "vars": _named({}, "Computed once, top to bottom, before the first step."),
    "defaults": {
        "type": "object",
        "description": "What every step has unless it says otherwise.",
        "properties": {
            "timeout": _said(
                DURATION, "Of each attempt of an action; not of people, waits, blocks, sub-playbooks. Built in: 5m."
            ),
            "with": {
                "type": "object",
                "additionalProperties": {"type": "object"},
                "description": "Parameters by action family, as if written in each step that uses them.",
            },
            "locks": {
                "type": "string",
                "pattern": r"^(file|k8s|k8s:(.+/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$",
                "title": "file, k8s, k8s:NAMESPACE or k8s:CONTEXT/NAMESPACE",
                "description": "Where locks live: this machine's file, or the Leases of a namespace.",
            },
        },
        "additionalProperties": False,
    },
    "timeout": {**_or_template(DURATION), "description": "The time box of the run's work."},
    "cleanup": _said(
        DURATION,
        "For each phase (undo, on_failure, temporary, finally) of each scope. Default: the plan's worst "
        "case, at least 60s.",
    ),
    "objectives": {
        "type": "object",
        "propertyNames": {"pattern": r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", "title": "a milestone's name"},
        "additionalProperties": dict(OBJECTIVE_SCHEMA),
        "description": "Milestones against the wall clock, reported met, missed or n/a.",
    },
    "locks": {**_LOCKS, "description": "Two runs never hold the same one."},
    "steps": _said(_STEPS, "What is done, in order."),
    "on_failure": ROOT_ON_FAILURE,
    "finally": _block("Steps that run however the run ends, last."),
    "outputs": _named({}, "What the playbook returns: name: template."),
}

KIND_NAMES: Final[Mapping[str, str]] = {
    "action": "action steps",
    "steps": "blocks (`steps`)",
    "parallel": "`parallel`",
    "fallback": "`fallback`",
    "choose": "`choose`",
    "foreach": "`foreach`",
    "playbook": "sub-playbooks",
}

FOREIGN: Final[Mapping[str, str]] = {
    "if": "write `when`",
    "condition": "write `when`",
    "args": "write `with`",
    "params": "write `with`",
    "parameters": "write `with`",
    "inputs": "write `with`",
    "arguments": "write `with`",
    "loop": "write `foreach: {items, as}`",
    "with_items": "write `foreach: {items, as}`",
    "for_each": "write `foreach: {items, as}`",
    "matrix": "write `foreach: {items, as}`",
    "uses": "write `action`",
    "module": "write `action`",
    "run": "write `action: shell.run` with `command`",
    "cmd": "write `action: shell.run` with `command`",
    "command": "parameters stand under `with`",
    "shell": "write `action: shell.run`",
    "script": "write `action: shell.run`",
    "depends": "steps run in order; `parallel` runs them at once",
    "dependsOn": "steps run in order; `parallel` runs them at once",
    "dependencies": "steps run in order; `parallel` runs them at once",
    "depends_on": "steps run in order; `parallel` runs them at once",
    "needs": "steps run in order; `parallel` runs them at once",
    "register": "every result is at `steps.<id>.outputs`",
    "ignore_errors": "write `on_failure: continue`",
    "continue_on_error": "write `on_failure: continue`",
    "continue-on-error": "write `on_failure: continue`",
    "failed_when": "write `fail_when`",
    "retries": "write `retry: {max_attempts: ...}`",
    "attempts": "write `retry: {max_attempts: ...}`",
    "delay": "write `retry: {delay: ...}` or `every`",
    "rollback": "write `undo` or `on_failure: undo`",
    "compensate": "write `undo`",
    "always": "write `finally: {steps: [...]}`",
    "cleanup": "write `finally: {steps: [...]}`; `cleanup` (a duration) stands at the root",
    "rescue": "write `on_failure: {steps: [...]}`",
    "catch": "write `on_failure: {steps: [...]}`",
    "block": "write `steps`",
    "tasks": "write `steps`",
    "max_failures": "write `keep_going`",
    "fail_fast": "write `keep_going`",
    "env": "parameters stand under `with`",
    "description": "write `name`",
    "title": "write `name`",
    "include": "write `playbook`",
    "import_playbook": "write `playbook`",
    "call": "write `playbook`",
    "async": "write `background: true`",
    "switch": "write `choose`",
    "case": "write `choose`",
    "try": "write `fallback`",
    "any_of": "write `fallback`",
    "else": "the last branch of `choose` has no `when`",
}

FOREIGN_ROOT: Final[Mapping[str, str]] = {
    "tasks": "write `steps`",
    "jobs": "write `steps`; `parallel` runs some of them at once",
    "stages": "write `steps`",
    "workflow": "write `steps`",
    "env": "there is none for all steps: `vars`, and `env` of `shell.run`",
    "params": "write `inputs`",
    "parameters": "write `inputs`",
    "arguments": "write `inputs`",
    "always": "write `finally: {steps: [...]}`",
    "rescue": "write `on_failure: {steps: [...]}`",
    "rollback": "write `on_failure: {undo: true}`",
    "include": "write `import`",
    "concurrency": "write `locks`",
}
"""Keys of other tools at the root, and what is written here."""

FOREIGN_INPUT: Final[Mapping[str, str]] = {
    "required": "an input without `default` is required; `default: null` makes it optional",
    "optional": "`default: null` makes an input optional",
    "choices": "write `enum`",
    "options": "write `enum`",
    "regex": "write `pattern`",
    "min": "write `minimum`",
    "max": "write `maximum`",
    "sensitive": "write `secret: true`",
}
"""Keys of other tools at an input."""

LONG_FORMS: Final[Mapping[str, str]] = {
    "retry": "write `retry: {max_attempts: 3}`",
    "foreach": "write `foreach: {items: [...], as: item}`, and `steps` beside it",
}
"""Keys of a step that hold a map, where other tools have a number or a list."""
