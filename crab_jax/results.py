"""What comes back from asking: a sample that was read, its answer, or why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crab_jax.tasks import Answer, Unparsed
from crab_jax.tasks.samples import Sample

if TYPE_CHECKING:
    from crab_jax.evaluate.engine import Request


class WeightsError(ValueError):
    """The weights cannot answer what is asked; the message says which part is missing and how to get it."""


class SampleError(ValueError):
    """A sample that cannot be answered; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A sample that was read and tokenised.

    Attributes:
        sample: as asked.
        prompt: the instruction, before the chat template.
        request: what the engine gets.
        frames: uint8 [T S S 3], the pictures of the video, or None.
        wave: float32 [n] at 16 kHz, the whole sound.
        notes: what the reader of the answer should know.
    """

    sample: Sample
    prompt: str
    request: Request
    frames: np.ndarray | None
    wave: np.ndarray
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One answer.

    Attributes:
        sample: as asked.
        prompt: the instruction.
        text: what the model said, without the end token.
        value: the typed answer in it, or `Unparsed` with the reason.
        mask: for segmentation, bool [S S] (foreground) or uint8 [S S] (the 71 classes of AVSS); None if the model did
            not say the six mask tokens.
        mask_logits: float32 [C S S] behind `mask`.
        finished: whether the model ended its answer itself, before the limit of new tokens.
        tokens: number of new tokens.
        seconds: wall time by phase of the batch that it was answered in, and how many samples shared it.
        notes: what one should know about the answer, for example that another set of weights had to stand in.
        frames, wave: the media as the model got them (`Prepared`).
    """

    sample: Sample
    prompt: str
    text: str
    value: Answer | Unparsed
    mask: np.ndarray | None
    mask_logits: np.ndarray | None
    finished: bool
    tokens: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    frames: np.ndarray | None = dataclasses.field(repr=False)
    wave: np.ndarray = dataclasses.field(repr=False)

    @property
    def parsed(self) -> bool:
        """Whether the text could be understood."""
        return not isinstance(self.value, Unparsed)

    def picture(self):
        """The answer as one picture (a `PIL.Image`)."""
        from crab_jax.evaluate.pictures import picture

        return picture(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample that could not be answered, in place of its `Result`."""

    index: int
    reason: str
    raw: Any
