"""What absl and ml_collections say about a command line, as one sentence for people. No jax here."""

from __future__ import annotations

import re
from typing import Any

# What they raise. An unknown or mistyped value, a config that refuses its arguments, no such file.
FLAG_ERRORS: tuple[type[Exception], ...] = (AttributeError, KeyError, TypeError, ValueError, OSError)
_TRACEBACK = "Traceback (most recent call last):"


def explain(error: Exception) -> str:
    """The message of an error of `FLAG_ERRORS` or of absl, without the traceback that ml_collections writes into it."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error if isinstance(error, OSError) or not error.args else error.args[0])
    if missing := re.search(r"(?s)config file.*No such file or directory: '([^']*)'", text):
        return no_config(missing[1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if _TRACEBACK in lines:
        kind, _, message = lines[-1].partition(": ")
        if kind.rpartition(".")[2] in ("ValueError", "ConfigError"):  # what our configs raise says enough
            return message
        return f"{lines[-1]} ({[line for line in lines if line.startswith('File ')][-1]})"
    if isinstance(error, (AttributeError, KeyError)) and text.startswith("'"):
        return f"the config has no value {'; '.join(lines)}"
    return "; ".join(lines)


def no_config(path: Any) -> str:
    """The message for a config file that is not there."""
    return f"{path}: no such config; give a file of configs/, such as configs/finetune.py"


__all__ = ["FLAG_ERRORS", "explain", "no_config"]
