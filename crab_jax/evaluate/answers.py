"""From the text of an answer to what it means; what else is known about how the text came is taken into account."""

from __future__ import annotations

import dataclasses

from crab_jax.tasks import Answer, MaskTokens, TaskSpec, Unparsed


def understand(
    spec: TaskSpec, text: str, *, mask_tokens: int | None = None, cut_off_after: int | None = None
) -> Answer | Unparsed:
    """Parses an answer.

    Args:
        spec: the task.
        text: what was said.
        mask_tokens: how many mask tokens were emitted, if that is known: a model can also spell them in letters, and
            then there is no state to make a mask of.
        cut_off_after: number of tokens after which the answer was stopped; None if it ended by itself.
    """
    value = spec.parse(text)
    if isinstance(value, MaskTokens) and mask_tokens is not None and mask_tokens < len(value.order):
        value = Unparsed(text, f"{mask_tokens} mask tokens; the others are spelled in letters")
    if cut_off_after is not None and isinstance(value, Unparsed):
        reason = f"{value.reason} (the answer was cut off after {cut_off_after} tokens)"
        value = dataclasses.replace(value, reason=reason)
    return value
