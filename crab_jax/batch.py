"""The arrays of one step, their check on the host, and the builders that turn examples into rows. No jax here.

A row is one example, padded on the left (`lay_out`), or several of them, packed (`pack`).

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
class FeatureSizes:
    """What a sequence builder has to know of the encoders.

    Attributes:
        image_size: pixels per side.
        frame_tokens: placeholders per picture.
        window_tokens: placeholders per audio window.
        patch: log-mel frames per patch row, BEATs' `input_patch_size`.
    """

    image_size: int
    frame_tokens: int
    window_tokens: int
    patch: int


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
    sizes = FeatureSizes(image_size=image_size, frame_tokens=frame_tokens, window_tokens=window_tokens, patch=patch)
    batch = _blank([[e] for e in examples], layout, ids, sizes)
    for b, example in enumerate(examples):
        check_counts(example, ids=ids, frame_tokens=frame_tokens, window_tokens=window_tokens)
        n = len(example.prompt) + len(example.target)
        _fits(example.name, "tokens", n, layout.tokens)
        _Row(batch, b, layout, patch).add(example, segment=1, start=layout.tokens - n)
    return batch


def pack(
    rows: Sequence[Sequence[Example]],
    *,
    layout: Layout,
    ids: TokenIds,
    image_size: int,
    frame_tokens: int,
    window_tokens: int,
    patch: int,
) -> Batch:
    """Several examples per row, one segment each, in their order from column 0; the rest of a row is padding.

    Pictures that stand in a prompt come first among the pictures of a row, in the order of the segments, because the
    n-th visual placeholder gets the n-th picture; those that are only segmented follow behind all of them.

    Args:
        rows: the examples of each row; a row may be empty.
        layout: the static shape; the examples of a row must fit into it together.
        ids, image_size, frame_tokens, window_tokens, patch: as in `lay_out`.

    Raises:
        BatchError: the examples of a row do not fit, or tokens and media of one do not agree.

    Source: specification 7.4 to 7.6; packing is ours.
    """
    sizes = FeatureSizes(image_size=image_size, frame_tokens=frame_tokens, window_tokens=window_tokens, patch=patch)
    batch = _blank(rows, layout, ids, sizes)
    for b, examples in enumerate(rows):
        row = _Row(batch, b, layout, patch)
        row.unplaced_from = sum(_placed(e) for e in examples)
        start = 0
        for segment, example in enumerate(examples, 1):
            check_counts(example, ids=ids, frame_tokens=frame_tokens, window_tokens=window_tokens)
            end = start + len(example.prompt) + len(example.target)
            _fits(_names(examples[:segment]), "tokens", end, layout.tokens)
            row.add(example, segment=segment, start=start)
            start = end
    return batch


def _blank(rows: Sequence[Sequence[Example]], layout: Layout, ids: TokenIds, sizes: FeatureSizes) -> Batch:
    """Arrays of padding only."""
    b, size = len(rows), sizes.image_size
    normalised = any(e.frames is not None and e.frames.dtype != np.uint8 for row in rows for e in row)
    return Batch(
        tokens=np.full((b, layout.tokens), ids.pad, np.int32),
        labels=np.full((b, layout.tokens), -1, np.int32),
        segment=np.zeros((b, layout.tokens), np.int32),
        position=np.zeros((b, layout.tokens), np.int32),
        frames=np.zeros((b, layout.frames, size, size, 3), np.float32 if normalised else np.uint8),
        frame_segment=np.zeros((b, layout.frames), np.int32),
        fbank=np.zeros((b, layout.windows, sizes.patch * layout.patch_rows, 128), np.float32),
        patch_rows=np.zeros((b, layout.windows), np.int32),
        window_segment=np.zeros((b, layout.windows), np.int32),
        masks=np.zeros((b, layout.masks, size, size), np.uint8),
        mask_segment=np.zeros((b, layout.masks), np.int32),
        mask_frame=np.zeros((b, layout.masks), np.int32),
        mask_semantic=np.zeros((b, layout.masks), bool),
    )


class _Row:
    """Fills one row of a batch, segment by segment."""

    def __init__(self, batch: Batch, b: int, layout: Layout, patch: int):
        self._batch, self._b, self._layout, self._patch = batch, b, layout, patch
        self._frames = self._windows = self._masks = self._unplaced = 0
        self.unplaced_from: int | None = None  # index of the first picture without placeholder; None: right behind
        self._names: list[Example] = []

    def add(self, example: Example, *, segment: int, start: int) -> None:
        """Writes one example whose first token stands in column `start`."""
        batch, b = self._batch, self._b
        self._names.append(example)
        tokens = np.asarray([*example.prompt, *example.target], np.int32)
        n, p = len(tokens), len(example.prompt)
        batch.tokens[b, start : start + n] = tokens
        batch.segment[b, start : start + n] = segment
        batch.position[b, start : start + n] = np.arange(n)
        if n > p:
            batch.labels[b, start + p - 1 : start + n - 1] = tokens[p:]
        at = self._add_frames(example, segment)
        if example.fbank is not None:
            self._add_windows(example.fbank, segment)
        if example.mask is not None:
            m = self._masks
            self._masks += 1
            self._check("masks", self._masks, self._layout.masks)
            batch.masks[b, m] = example.mask
            batch.mask_segment[b, m] = segment
            batch.mask_frame[b, m] = at[example.mask_frame] if len(at) else 0
            batch.mask_semantic[b, m] = example.mask_semantic

    def _add_frames(self, example: Example, segment: int) -> np.ndarray:
        """Returns where the pictures of the example stand among those of the row."""
        if example.frames is None:
            return np.zeros(0, np.int64)
        placed, unplaced = _placed(example), example.unplaced
        behind = (self._frames + placed if self.unplaced_from is None else self.unplaced_from) + self._unplaced
        at = np.concatenate([self._frames + np.arange(placed), behind + np.arange(unplaced)])
        self._frames += placed
        self._unplaced += unplaced
        self._check("frames", int(at.max(initial=-1)) + 1, self._layout.frames)
        self._batch.frames[self._b, at] = example.frames
        self._batch.frame_segment[self._b, at] = segment
        return at

    def _add_windows(self, fbank: np.ndarray, segment: int) -> None:
        count, length = fbank.shape[:2]
        height = length // self._patch
        first, self._windows = self._windows, self._windows + count
        self._check("audio windows", self._windows, self._layout.windows)
        self._check("patch rows", height, self._layout.patch_rows)
        at = slice(first, self._windows)
        self._batch.fbank[self._b, at, : self._patch * height] = fbank[:, : self._patch * height]
        self._batch.patch_rows[self._b, at] = height
        self._batch.window_segment[self._b, at] = segment

    def _check(self, what: str, found: int, capacity: int) -> None:
        _fits(_names(self._names), what, found, capacity)


def _placed(example: Example) -> int:
    """Pictures of an example that have placeholders."""
    return 0 if example.frames is None else len(example.frames) - example.unplaced


def _names(examples: Sequence[Example]) -> str:
    return ", ".join(e.name for e in examples)


def _fits(who: str, what: str, found: int, capacity: int) -> None:
    if found > capacity:
        raise BatchError(f"{who}: {found} {what}, the layout holds {capacity}")
