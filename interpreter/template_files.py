"""Template files: all of Jinja, in the sandbox of expressions, with their values and filters."""

from __future__ import annotations

from typing import Any

from jinja2 import Template, TemplateSyntaxError, Undefined, UndefinedError

from runbook.interpreter import bounds
from runbook.interpreter.environment import environment, parse_file, words
from runbook.interpreter.expressions import ExpressionError, Names
from runbook.interpreter.unknown import Unknown
from runbook.interpreter.values import joined, text_of


def render_all(text: str, names: Names) -> str | Unknown:
    """See expressions.render_file."""
    try:
        template = environment().from_string(parse_file(text))
    except TemplateSyntaxError as error:
        raise ExpressionError(f"line {error.lineno}: {error.message}") from None
    output = template.root_render_func(template.new_context(names))  # type: ignore[arg-type]  # any mapping: it is copied
    length, line = 0, 0
    parts: list[Any] = []
    try:
        for part in output:
            line = template.get_corresponding_lineno(output.gi_frame.f_lineno)  # type: ignore[attr-defined]
            if isinstance(part, Undefined):
                part._fail_with_undefined_error()
            shown = part if isinstance(part, Unknown) else text_of(part)
            length += 0 if isinstance(shown, Unknown) else len(shown)
            bounds.check_length(length)
            parts.append(shown)
            line = 0
        return joined(parts)
    except Unknown.Reached as reached:
        return Unknown(reached.unknown.why)
    except Exception as error:  # noqa: BLE001  # whatever a template raises is its failure
        message = error.message if isinstance(error, UndefinedError) else words(error)
        raise ExpressionError(f"{_line(template, error, line)}{message}") from None


def _line(template: Template, error: Exception, line: int) -> str:
    """`line N: ` of the template, known already, or from the traceback's innermost frame of compiled template code."""
    trace = error.__traceback__
    known = line
    while trace is not None and not known:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return f"line {line}: " if line else ""
