"""What a playbook is once it is read: frozen data. `Step` is a closed union; nothing else is ever executed.

The loader normalises: defaults are filled in, `defaults.with` is merged into each step's `with`, durations are seconds,
paths are as written plus the file they stand in. Everything here is picklable and compares by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias

from runbook.interpreter.errors import Place, Problem
from runbook.interpreter.frozen import frozen

NOWHERE = Place("<none>")


@frozen
class Bare:
    """A bare expression (`when`, `until`, `fail_when`, step `outputs`): Jinja source without braces."""

    source: str
    place: Place = NOWHERE
    reads: frozenset[str] = frozenset()  # ids of steps that it names as steps.<id>


@frozen
class Template:
    """Plain JSON data whose strings may hold `{{ ... }}`. `places`: JSON pointer ('' = the whole) -> its place."""

    data: Any
    place: Place = NOWHERE
    reads: frozenset[str] = frozenset()
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)


Seconds: TypeAlias = float | Template
"""A duration in seconds, or a template that gives one (a number of seconds or a duration text) when the step starts."""


@frozen
class Retry:
    """`retry`. One attempt when absent. `max_duration` alone means: no other bound on the number of attempts."""

    max_attempts: int | None = 3  # counts the first; None = unbounded (then max_duration is set)
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 30.0
    max_duration: float | None = None
    on: tuple[Literal["temporary", "timeout"], ...] = ("temporary", "timeout")


@frozen
class Poll:
    """`until`, `every`, `for`, `fail_when` of a read or check. An attempt gets max(every, 10 s)."""

    until: Bare | None
    every: Seconds = 2.0
    hold: Seconds = 0.0  # `for`: without a break for so long
    fail_when: Bare | None = None
    timeout: Seconds = 300.0  # of the whole poll; built-in 5 minutes, not defaults.timeout


@frozen
class OnFailure:
    """`on_failure`. Undo comes first, then the steps, then `then`."""

    undo: bool = False
    steps: tuple[Step, ...] = ()
    then: Literal["abort", "continue"] = "abort"


@frozen
class Undo:
    """`undo` of a step: how an undo that contains it takes it back."""

    kind: Literal["auto", "none", "again", "steps"] = "auto"
    steps: tuple[Step, ...] = ()


@frozen(kw_only=True)
class Common:
    """What every step has."""

    id: str
    place: Place = NOWHERE
    name: str = ""  # may be a template; shown, never decides
    when: Bare | None = None
    timeout: Seconds | None = None  # of the whole step (blocks), None = unbounded by itself; actions: see Action
    on_failure: OnFailure = OnFailure()
    finally_: tuple[Step, ...] = ()
    undo: Undo = Undo()
    temporary: bool = False
    background: bool = False
    outputs: tuple[tuple[str, Bare], ...] = ()
    milestone: str | None = None
    locks: tuple[Template, ...] = ()
    cleanup: float = 60.0  # of each phase of this step's unwinding; resolved by the loader
    sees: frozenset[str] = frozenset()  # ids that this step's own keys name (not its children's): joins


@frozen(kw_only=True)
class Action(Common):
    """One call of an action. `timeout` bounds the whole poll or retry loop when set; `attempt` each attempt."""

    action: str
    with_: Template
    effect: Literal["read", "check", "change", "opaque", "notify", "local", "ask"]
    attempt: Seconds = 300.0  # step's `timeout`, else defaults.timeout, else 5 m; people: None is in `timeout`
    retry: Retry | None = None
    poll: Poll | None = None
    idempotent: bool = False  # by nature, or the author's word
    irreversible: bool = False
    secret_at: tuple[str, ...] = ()  # JSON pointers of `with` that take secrets ("/env/*": every key of a map)
    lane: str = ""  # notify only: the ordered lane (family; what pages people has its own)
    preflight: bool = False  # what it needs is looked for before the run changes anything
    listed: tuple[str, ...] = ()  # parameters that are one unquoted template each: text from it would be run as code


@frozen(kw_only=True)
class Block(Common):
    """`steps`, in order."""

    steps: tuple[Step, ...]
    keep_going: Tolerance = None


@frozen(kw_only=True)
class Parallel(Common):
    """`parallel`, at once. After a failure nothing new starts; branches in flight run to their end."""

    steps: tuple[Step, ...]
    max_concurrent: int | Template | None = None
    keep_going: Tolerance = None


@frozen(kw_only=True)
class Fallback(Common):
    """`fallback`: in order until one succeeds."""

    steps: tuple[Step, ...]


@frozen
class Branch:
    """One branch of `choose`; `when` None is the last, unconditional one."""

    when: Bare | None
    steps: tuple[Step, ...]
    place: Place = NOWHERE


@frozen(kw_only=True)
class Choose(Common):
    """`choose`: the first branch that holds; none = failed."""

    branches: tuple[Branch, ...]


@frozen(kw_only=True)
class Foreach(Common):
    """`foreach` with `steps`."""

    items: Template
    as_: str
    steps: tuple[Step, ...]
    max_concurrent: int | Template = 1
    keep_going: Tolerance = None


@frozen(kw_only=True)
class SubPlaybook(Common):
    """`playbook` with `with`: a static path, loaded; own scope, own handlers."""

    playbook: Playbook
    with_: Template


Step: TypeAlias = Action | Block | Parallel | Fallback | Choose | Foreach | SubPlaybook

Tolerance: TypeAlias = bool | int | str | Template | None
"""`keep_going`: None, False = stop at the first failure; True = all run, any fails it; 2, "25%" = so many may fail."""


@frozen
class Input:
    """One declared input. `default` is ABSENT when the input is required."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "duration", "timestamp", "list", "map", "path"]
    place: Place = NOWHERE
    description: str = ""
    required: bool = True
    default: Any = None
    from_env: str | None = None
    enum: tuple[Any, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    items: Input | None = None
    secret: bool = False


@frozen
class SecretSource:
    """One declared secret: where it is, never what it is. `where` may hold templates of inputs and vars."""

    name: str
    kind: Literal["env", "file", "k8s"]
    where: Template  # env: the variable's name; file: the path; k8s: {context?, namespace, secret, key}
    optional: bool = False
    place: Place = NOWHERE


@frozen
class Objective:
    """A milestone against the wall clock. `since`: None = the run's start, a milestone, a template of a timestamp."""

    name: str
    within: float
    since: str | Template | None = None


@frozen
class Playbook:
    """A whole playbook, imports merged, sub-playbooks loaded."""

    name: str
    file: str  # as given, normalised; relative paths inside are relative to its folder
    steps: tuple[Step, ...]
    description: str = ""
    inputs: tuple[Input, ...] = ()
    secrets: tuple[SecretSource, ...] = ()
    vars: tuple[tuple[str, Template], ...] = ()  # in order
    timeout: Seconds | None = None
    cleanup: float = 60.0  # of each phase of the root's unwinding; resolved
    cleanup_open: bool = False  # nobody said it: what is played back has at least the time that it may take
    objectives: tuple[Objective, ...] = ()
    locks: tuple[Template, ...] = ()
    locks_in: str = ""  # where they live, as `defaults.locks` says it
    on_failure: OnFailure = OnFailure()
    finally_: tuple[Step, ...] = ()
    outputs: tuple[tuple[str, Template], ...] = ()
    place: Place = NOWHERE


@frozen
class Loaded:
    """A playbook, everything that is wrong with it, and every text that was read (the run's snapshot).

    `playbook` is None when there are errors, and for a file that may only be imported (then without errors).
    """

    playbook: Playbook | None
    problems: tuple[Problem, ...]
    files: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether there are no errors (warnings do not count)."""
        return all(problem.severity != "error" for problem in self.problems)
