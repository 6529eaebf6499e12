"""The arrays of one step, their check on the host, and the builder that turns examples into padded rows. No jax here.

Placeholders are already expanded: a frame or an audio window stands in `tokens` as as many copies of `<image>`,
`<video>` or `<audio>` as its projector gives tokens. Which feature row belongs to which copy is computed inside jit
(`Crab.place`), never shipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crab_jax.layout import Layout


class Batch(NamedTuple):
    """A pytree. Segment ids count from 1 inside a row; 0 is padding. S is the picture size, Q tokens per item."""

    tokens: Any  # int32 [B L]            placeholders carry their own ids
    labels: Any  # int32 [B L]            already shifted inside each example; -1 where there is no loss
    segment: Any  # int32 [B L]           attention never crosses a segment
    position: Any  # int32 [B L]          restarts in each segment
    frames: Any  # uint8 [B T S S 3]      normalised on the device: a quarter of the transfer
    frame_segment: Any  # int32 [B T]
    fbank: Any  # float32 [B A R·p 128]   normalised log-mel, whole patch rows of p frames (16 as published)
    patch_rows: Any  # int32 [B A]        how many of the R rows are real
    window_segment: Any  # int32 [B A]
    masks: Any  # uint8 [B M S S]         0/1, or class ids where `mask_semantic`
    mask_segment: Any  # int32 [B M]
    mask_frame: Any  # int32 [B M]        index of the picture that the mask belongs to, among the row's frames
    mask_semantic: Any  # bool [B M]


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """The ids that the sequence builder has to know."""

    visual: tuple[int, ...]  # <image>, <video>
    audio: int  # <audio>
    masks: tuple[int, ...]  # <mask_0> … <mask_5>, consecutive
    pad: int
    eos: int

    @classmethod
    def after(cls, base: int) -> TokenIds:
        """The ids of the 17 added tokens behind a base vocabulary of `base` pieces (specification 7.2)."""
        masks = tuple(range(base + 11, base + 17))
        return cls(visual=(base, base + 3), audio=base + 6, masks=masks, pad=2, eos=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One example before it is laid out.

    Attributes:
        name: for error messages.
        prompt: ids of the instruction, placeholders expanded.
        target: ids of the answer, empty for inference.
        frames: uint8 [t S S 3], in the order in which their placeholders stand in the prompt; or float32, already
            normalised, for comparisons with recorded pixels.
        unplaced: how many of the last frames have no placeholder: pictures that are segmented but not in the prompt.
        fbank: float32 [a F 128]; frames beyond the last whole patch row are not used.
        mask: uint8 [S S], or None.
        mask_frame: index into `frames` of the picture that is segmented.
        mask_semantic: whether `mask` holds class ids.
    """

    name: str
    prompt: Sequence[int]
    target: Sequence[int] = ()
    frames: np.ndarray | None = None
    unplaced: int = 0
    fbank: np.ndarray | None = None
    mask: np.ndarray | None = None
    mask_frame: int = 0
    mask_semantic: bool = False


class BatchError(ValueError):
    """Tokens and media of an example do not agree; the message names the example."""


def check_counts(example: Example, *, ids: TokenIds, frame_tokens: int, window_tokens: int) -> None:
    """Compares placeholders with media.

    Raises:
        BatchError: naming the example, the placeholders found and the media given.
    """
    tokens = np.asarray([*example.prompt, *example.target])
    frames = 0 if example.frames is None else len(example.frames) - example.unplaced
    windows = 0 if example.fbank is None else len(example.fbank)
    for what, wanted, given, each in (
        ("frames", np.isin(tokens, ids.visual).sum(), frames, frame_tokens),
        ("audio windows", (tokens == ids.audio).sum(), windows, window_tokens),
    ):
        if wanted != given * each:
            raise BatchError(
                f"{example.name}: {wanted} placeholder tokens for {what}, but {given} {what} of {each} tokens each"
            )


def lay_out(
    examples: Sequence[Example],
    *,
    layout: Layout,
    ids: TokenIds,
    image_size: int,
    frame_tokens: int,
    window_tokens: int,
    patch: int,
) -> Batch:
    """One example per row, left-padded: prompts end together, so that generation can continue in one column.

    Labels are shifted: `labels[p]` is the token that the state at `p` has to predict; the first target token is
    predicted from the last prompt token.

    Args:
        examples: one per row.
        layout: the static shape; every example must fit.
        ids: of the added tokens.
        image_size: pixels per side.
        frame_tokens: placeholders per picture.
        window_tokens: placeholders per audio window.
        patch: log-mel frames per patch row, BEATs' `input_patch_size`.

    Raises:
        BatchError: an example does not fit, or its tokens and media do not agree.

    Source: specification 7.4 to 7.6.
    """
    rows = len(examples)
    normalised = any(e.frames is not None and e.frames.dtype != np.uint8 for e in examples)
    pixels = np.float32 if normalised else np.uint8
    batch = Batch(
        tokens=np.full((rows, layout.tokens), ids.pad, np.int32),
        labels=np.full((rows, layout.tokens), -1, np.int32),
        segment=np.zeros((rows, layout.tokens), np.int32),
        position=np.zeros((rows, layout.tokens), np.int32),
        frames=np.zeros((rows, layout.frames, image_size, image_size, 3), pixels),
        frame_segment=np.zeros((rows, layout.frames), np.int32),
        fbank=np.zeros((rows, layout.windows, patch * layout.patch_rows, 128), np.float32),
        patch_rows=np.zeros((rows, layout.windows), np.int32),
        window_segment=np.zeros((rows, layout.windows), np.int32),
        masks=np.zeros((rows, layout.masks, image_size, image_size), np.uint8),
        mask_segment=np.zeros((rows, layout.masks), np.int32),
        mask_frame=np.zeros((rows, layout.masks), np.int32),
        mask_semantic=np.zeros((rows, layout.masks), bool),
    )
    for b, example in enumerate(examples):
        check_counts(example, ids=ids, frame_tokens=frame_tokens, window_tokens=window_tokens)
        tokens = np.asarray([*example.prompt, *example.target], np.int32)
        n, p = len(tokens), len(example.prompt)
        _fits(example, "tokens", n, layout.tokens)
        start = layout.tokens - n
        batch.tokens[b, start:] = tokens
        batch.segment[b, start:] = 1
        batch.position[b, start:] = np.arange(n)
        if n > p:
            batch.labels[b, start + p - 1 : layout.tokens - 1] = tokens[p:]
        if example.frames is not None:
            t = len(example.frames)
            _fits(example, "frames", t, layout.frames)
            batch.frames[b, :t] = example.frames
            batch.frame_segment[b, :t] = 1
        if example.fbank is not None:
            a, length = example.fbank.shape[:2]
            height = length // patch
            _fits(example, "audio windows", a, layout.windows)
            _fits(example, "patch rows", height, layout.patch_rows)
            batch.fbank[b, :a, : patch * height] = example.fbank[:, : patch * height]
            batch.patch_rows[b, :a] = height
            batch.window_segment[b, :a] = 1
        if example.mask is not None:
            _fits(example, "masks", 1, layout.masks)
            batch.masks[b, 0] = example.mask
            batch.mask_segment[b, 0] = 1
            batch.mask_frame[b, 0] = example.mask_frame
            batch.mask_semantic[b, 0] = example.mask_semantic
    return batch


def _fits(example: Example, what: str, found: int, capacity: int) -> None:
    if found > capacity:
        raise BatchError(f"{example.name}: {found} {what}, the layout holds {capacity}")
