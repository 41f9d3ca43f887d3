"""How much a step may give back: 1 MiB. Text is cut and says so; structured data cannot be cut and is an error."""

from __future__ import annotations

from typing import Any

LIMIT = 1024 * 1024  # bytes of all outputs of one call, as UTF-8


class TooLargeError(Exception):
    """Structured outputs over the limit."""


def limited(outputs: Any) -> Any:
    """The outputs (masked already: a secret must not be cut in two), texts cut so that all of it fits."""
    size = weigh(outputs)
    if size <= LIMIT or not isinstance(outputs, dict):
        if size > LIMIT:
            raise TooLargeError(f"its outputs have {size} bytes; at most {LIMIT} are kept")
        return outputs
    texts = {name: text for name, text in outputs.items() if isinstance(text, str)}
    rest = size - sum(len(text.encode("utf-8", "replace")) for text in texts.values())
    if rest > LIMIT // 2:
        raise TooLargeError(f"its outputs have {size} bytes of structured data; at most {LIMIT} are kept: ask for less")
    share = (LIMIT - rest) // max(1, len(texts))
    cut = {name: text.encode("utf-8", "replace")[:share].decode("utf-8", "ignore") for name, text in texts.items()}
    return {**outputs, **cut, "truncated": True}


def weigh(value: Any) -> int:
    """About how many bytes a value has as JSON."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return 2 + sum(len(key) + 4 + weigh(item) for key, item in value.items())
    if isinstance(value, list):
        return 2 + sum(1 + weigh(item) for item in value)
    return 8
