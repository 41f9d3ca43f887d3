"""The sandbox that expressions run in: Jinja's, with keys before methods, native values, and bounds on what it may eat.

Kept apart from `expressions` because jinja2 costs 55 ms to import, and a playbook of plain paths needs none of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, UndefinedError, nodes
from jinja2.compiler import Frame
from jinja2.nativetypes import NativeCodeGenerator
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, missing

from runbook.interpreter import bounds, filters, jinja_filters
from runbook.interpreter.expressions import ABSENT, ExpressionError, Names
from runbook.interpreter.times import Duration, Timestamp
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import Sealed, joined, kind_of, text_of

MAX_SOURCE: Final = 20_000
GLOBALS: Final = ("range", "dict", "namespace")

_STRING_METHODS: Final = frozenset(
    (  # noqa: SIM905  # so many words read better as a text
        "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii "
        "isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines "
        "startswith strip swapcase title upper zfill"
    ).split()
)
_MAP_METHODS: Final = frozenset(["get", "items", "keys", "values"])
_LIST_METHODS: Final = frozenset(["index", "count"])


class Missing(StrictUndefined):
    """Undefined, in the language's words. A path into it is undefined, too (`default` sees it); its use is an error."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        obj, name = self._undefined_obj, self._undefined_name
        if self._undefined_hint:
            return self._undefined_hint.rstrip(".")
        if isinstance(obj, Missing):
            return obj._undefined_message
        if obj is missing:
            return f"{name} is not defined"
        if isinstance(name, int):
            size = f" of {len(obj)} items" if isinstance(obj, (list, tuple)) else ""
            return f"{kind_of(obj)}{size} has no item {name}"
        return f"{kind_of(obj)} has no {name!r}"


class _Code(NativeCodeGenerator):
    """Values instead of text from `{{ }}`; `~` prints as text does."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802  # Jinja's name
        self.write("environment.side_by_side((")
        for item in node.nodes:
            self.visit(item, frame)
            self.write(", ")
        self.write("))")


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox. One instance serves all; it holds no state of a run."""

    code_generator_class = _Code
    concat = staticmethod(joined)  # type: ignore[assignment]  # it may give an Unknown; and not native_concat: that one evaluates data as Python literals
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def side_by_side(self, values: tuple[Any, ...]) -> Any:
        """`a ~ b`."""
        return bounds.checked(joined(values))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: on a map the key, then a method; else a method that is known to be harmless."""
        if isinstance(obj, Mapping):
            if attribute in obj:
                return obj[attribute]
            if attribute in _MAP_METHODS:
                return getattr(obj, attribute)
        elif isinstance(obj, Unknown):
            return obj[attribute]
        elif isinstance(obj, str) and attribute in _STRING_METHODS:
            if attribute in ("format", "format_map"):
                bounds.check_format(obj)
                return self.wrap_str_format(getattr(obj, attribute))
            return getattr(obj, attribute)
        elif isinstance(obj, (list, tuple)) and attribute in _LIST_METHODS:
            return getattr(obj, attribute)
        elif type(obj).__module__.startswith("jinja2.") and not isinstance(obj, Undefined):
            return super().getattr(obj, attribute)
        return Missing(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`: a key of a map, a position in a list or text. Never a method."""
        if isinstance(obj, Unknown):
            return obj[argument]
        if isinstance(argument, Unknown):
            raise Unknown.Reached(argument)
        if not isinstance(obj, Undefined):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        return Missing(obj=obj, name=argument)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A method or global. Data cannot be called."""
        if isinstance(obj, Unknown):
            return Unknown(obj.why)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            for operand in args:
                if isinstance(operand, Unknown):
                    raise Unknown.Reached(operand)
            bounds.check_method(owner, name, args)
        elif isinstance(obj, Undefined):
            return obj(*args, **kwargs)
        elif not callable(obj):
            raise TypeError(f"{kind_of(obj)} cannot be called")
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`* ** % +`, refused where the result would be out of proportion."""
        if operator == "*":
            bounds.check_product(left, right)
        elif operator == "**":
            bounds.check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            bounds.check_format(left)
        elif operator == "+":
            bounds.check_sum(left, right)
        return self.binop_table[operator](left, right)


def _heedful(function: Callable[..., Any], skip: int) -> Callable[..., Any]:
    """A filter or test that an Unknown operand makes unknown, where the original would call it false or no number."""

    @functools.wraps(function)  # keeps Jinja's mark of what it wants passed first
    def heeding(*args: Any, **kwargs: Any) -> Any:
        for operand in (*args[skip:], *kwargs.values()):
            if type(operand) is Unknown:
                raise Unknown.Reached(operand)
        return bounds.checked(function(*args, **kwargs))

    return heeding


@functools.cache
def environment() -> Environment:
    """The one environment, made when it is first needed."""
    made = Environment(undefined=Missing, autoescape=False, keep_trailing_newline=True, optimized=False, cache_size=0)
    made.globals = {name: made.globals[name] for name in GLOBALS}
    for unwanted in ("random", "pprint"):  # chance would break replay; the printer shows Python
        del made.filters[unwanted]
    made.filters.update(jinja_filters.FILTERS)
    made.filters.update(filters.OWN)
    tables: tuple[dict[str, Any], ...] = (made.filters, made.tests)
    for table in tables:
        for name, function in table.items():
            if name not in ("default", "d"):
                table[name] = _heedful(function, 1 if hasattr(function, "jinja_pass_arg") else 0)
    return made


def parse(source: str) -> nodes.Expr:
    """The syntax tree of one bare expression. TemplateSyntaxError."""
    if len(source) > MAX_SOURCE:
        raise TemplateSyntaxError(f"an expression has at most {MAX_SOURCE} characters", 1)
    try:
        parser = Parser(environment(), source, state="variable")
        tree = parser.parse_expression()
        if not parser.stream.eos:
            raise TemplateSyntaxError(
                f"unexpected {parser.stream.current.value!r} after the expression", parser.stream.current.lineno
            )
    except RecursionError:
        raise TemplateSyntaxError("the expression is nested too deeply", 1) from None
    return tree


def parse_file(text: str) -> nodes.Template:
    """The syntax tree of a template file. TemplateSyntaxError."""
    try:
        return environment().parse(text)
    except RecursionError:
        raise TemplateSyntaxError("the template is nested too deeply", 1) from None


@functools.lru_cache(maxsize=8192)
def compiled(source: str) -> Callable[[Names], Any]:
    """A bare expression as a function of the names in scope that gives data, an Unknown, or ABSENT. ExpressionError.

    The function lets Unknown.Reached through.
    """
    try:
        tree = parse(source)
        for name in tree.find_all(nodes.Name):
            if name.name == "self":
                raise TemplateSyntaxError("`self` is not defined", 1)
        target = nodes.Name("_value", "store", lineno=1)
        template = environment().from_string(nodes.Template([nodes.Assign(target, tree, lineno=1)], lineno=1))
    except (TemplateSyntaxError, TemplateError) as error:
        raise ExpressionError(f"{(error.message or 'not an expression').rstrip('.')}: {_excerpt(source)}") from None
    except RecursionError:
        raise ExpressionError(f"the expression is nested too deeply: {_excerpt(source)}") from None

    def value(names: Names) -> Any:
        try:
            context = template.new_context(names)  # type: ignore[arg-type]  # any mapping: it is copied
            for _nothing in template.root_render_func(context):
                pass
            result = context.vars["_value"]
            if isinstance(result, Missing):
                if _is_secret(result, names):
                    return ABSENT
                result._fail_with_undefined_error()
            return plain(result)
        except UndefinedError as error:
            raise undefined(error, tree, source, names) from None
        except Exception as error:  # noqa: BLE001  # whatever an operator or filter raises is the expression's failure
            raise ExpressionError(f"{words(error)}: {_excerpt(source)}") from None

    return value


def _is_secret(result: Missing, names: Names) -> bool:
    return result._undefined_obj is not missing and result._undefined_obj is names.get("secrets", missing)


def _excerpt(source: str) -> str:
    line = " ".join(source.split())
    return f"`{line}`" if len(line) <= 120 else f"`{line[:119]}…`"


_PYTHON: Final = (
    (
        re.compile(r"^can only concatenate \w+ .*|^unsupported operand type.*"),
        "these kinds of values cannot be combined so (text is joined by `~`)",
    ),
    (
        re.compile(r"^'(.*)' not supported between instances of '(.*)' and '(.*)'$"),
        r"a \2 and a \3 cannot be compared by `\1`",
    ),
    (re.compile(r"^object of type '(\w+)' has no len\(\)"), r"a \1 has no length"),
    (re.compile(r"^argument of type '(\w+)' is not iterable|^'(\w+)' object is not iterable"), r"a \1\2 is no list"),
    (re.compile(r"^(?:do_|_)?(\w+)\(\) "), r"\1: "),
    (re.compile(r"\ba? ?NoneType\b"), "null"),
    (re.compile(r"\b(?:str|Sealed)\b"), "string"),
    (re.compile(r"\b(?:int|float)\b"), "number"),
    (re.compile(r"\bbool\b"), "boolean"),
    (re.compile(r"\bdict\b"), "map"),
)


def words(error: Exception) -> str:
    """An exception as a sentence without Python's names."""
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    message = str(error).strip().rstrip(".") or type(error).__name__
    if isinstance(error, (TypeError, KeyError, AttributeError)):
        for pattern, words in _PYTHON:
            message = pattern.sub(words, message)
    return message if len(message) <= 300 else message[:299] + "…"


def undefined(error: UndefinedError, tree: nodes.Node, source: str, names: Names) -> ExpressionError:
    """The error of an undefined name: the whole path, what it could have been, and the expression."""
    from runbook.interpreter.syntax import chains, near

    gone: list[tuple[str, str]] = []
    for chain in chains(tree):
        value: Any = names
        for depth, link in enumerate(chain):
            if isinstance(value, Mapping) and link in value:
                value = value[link]
                continue
            if isinstance(value, Unknown):
                break
            path = ".".join(chain[: depth + 1])
            if depth == 0:
                gone.append((path, f"{link} is not defined{near(link, [*map(str, names)])}"))
            elif isinstance(value, Mapping):
                gone.append(
                    (path, f"{path} is not defined{_ended(chain, depth, names) or near(link, [*map(str, value)])}")
                )
            else:
                gone.append((path, f"{path} is not defined: {'.'.join(chain[:depth])} is {kind_of(value)}"))
            break
    if len(gone) == 1 or (gone and all(path == gone[0][0] for path, _ in gone)):
        path, message = gone[0]
    else:
        path, message = next(
            (found for found in gone if repr(found[0].rpartition(".")[2]) in str(error)), ("", words(error))
        )
    return ExpressionError(f"{message}, in {_excerpt(source)}", path)


_NO_OUTPUT: Final = {
    "skipped": "was skipped",
    "pending": "has not run",
    "failed": "failed",
    "timed_out": "was not done in its time",
    "cancelled": "was cancelled",
}


def _ended(chain: tuple[Any, ...], depth: int, names: Names) -> str:
    """Why a step has not the output at `chain[depth]`: how it ended; '' where it ended well, and for other names."""
    if depth != 3 or chain[0] != "steps" or chain[2] != "outputs":
        return ""
    status = names["steps"][chain[1]]["status"]
    words = None if isinstance(status, Unknown) else _NO_OUTPUT.get(status)
    return f": {chain[1]} {words}" if words else ""


def plain(value: Any) -> Any:
    """The value as data: lists for what only runs like one. TypeError: it is none; OverflowError: it has no end."""
    kind = type(value)
    if kind in _DATA:
        return value
    if kind is dict:
        return {key if type(key) is str else _key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (bool, int, float)):
        return value
    if callable(value) or isinstance(value, (Macro, Namespace, bytes)) or not isinstance(value, Iterable):
        raise TypeError(
            "the result is a method, not a value: call it" if callable(value) else f"{kind_of(value)} is no value"
        )
    return [plain(item) for item in _some(value)]


_DATA: Final = frozenset({str, int, float, bool, type(None), Sealed, Unknown, Duration, Timestamp})


def _key(key: Any) -> str:
    if isinstance(key, Unknown):
        raise Unknown.Reached(key)
    return str.__str__(text_of(key))


def _some(values: Iterable[Any]) -> Iterator[Any]:
    for index, value in enumerate(values):
        if index >= bounds.MAX_ITEMS:
            raise OverflowError(f"a list has at most {bounds.MAX_ITEMS} items")
        yield value
