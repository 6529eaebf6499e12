"""All static shapes: what one row of a training batch holds, and the ladders of sizes that evaluation rounds up to.

Whatever reaches a jitted function has one of these shapes, so that nothing compiles that nobody planned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One row of a batch; multiply by B for the batch.

    Attributes:
        tokens: L, text and media placeholders.
        frames: T, pictures of `image_size` squared, each worth the projector's number of queries in tokens.
        windows: A, audio windows, likewise.
        patch_rows: capacity of a window in patch rows (of 16 log-mel frames as published: 6 hold one second, 12 two).
        masks: M, segmentation targets.
    """

    tokens: int
    frames: int
    windows: int
    patch_rows: int
    masks: int


class TooLarge(ValueError):
    """A sample is larger than the largest size of its ladder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
    """The sizes that inference rounds up to; one compilation per combination that really occurs.

    A ladder trades wasted work (coarse steps) against compilations (fine steps). The published prompts need about 130
    (one picture, one second) to 730 tokens (ten frames, ten windows).
    """

    batch: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    tokens: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
    frames: tuple[int, ...] = (1, 2, 5, 10, 11, 16, 32, 64)
    windows: tuple[int, ...] = (1, 2, 5, 10, 16, 32, 64)
    patch_rows: tuple[int, ...] = (1, 2, 3, 6, 12, 24, 48, 96, 192)
    new_tokens: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

    def fit(self, ladder: str, size: int) -> int:
        """The smallest rung of `ladder` that holds `size`; zero stays zero.

        Raises:
            TooLarge: `size` is above the last rung.
        """
        if size == 0:
            return 0
        rungs: Iterable[int] = getattr(self, ladder)
        for rung in rungs:
            if rung >= size:
                return rung
        raise TooLarge(
            f"{size} {ladder.replace('_', ' ')} are more than the {max(rungs)} that inference is laid out for"
        )
