"""Predicted masks as small files from which every metric can be computed again, bit for bit. No jax here.

Classes are an 8-bit PNG of class ids. A binary mask is a 1-bit PNG of the foreground, and beside it an 8-bit PNG of
levels: how many of the 255 thresholds of the F-measure each pixel's probability reaches. F depends on nothing else.
"""

from __future__ import annotations

import functools
import os
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from crab_jax.metrics.masks import THRESHOLDS, probabilities, thresholds
from crab_jax.metrics.semantic import class_ids

LEVELS = ".levels.png"
# What Pillow raises on damaged files; ValueError also comes of a path that no file can have.
_DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, IndexError, OverflowError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


class MaskFileError(ValueError):
    """A file that holds no mask, or not the one it should; names the file."""


def write_mask(path: pathlib.Path, logits: np.ndarray, *, semantic: bool) -> None:
    """Writes what a mask decoder gave.

    Args:
        path: of the PNG; the levels of a binary mask lie beside it, with `.levels.png` in place of `.png`.
        logits: float32 [C H W]; C is 1 for a binary mask.
        semantic: whether they are classes.

    Raises:
        ValueError: NaN among the logits.
        OSError: it cannot be written.
    """
    if semantic:
        _write(path, Image.fromarray(class_ids(logits).astype(np.uint8)))
        return
    probability = probabilities(logits[0])
    levels = np.searchsorted(thresholds(), probability, side="right").astype(np.uint8)
    _write(levels_of(path), Image.fromarray(levels))
    _write(path, Image.fromarray(probability > 0.5))  # last: a mask that is there is complete


def levels_of(path: pathlib.Path) -> pathlib.Path:
    """Where the levels of a binary mask lie."""
    return path.with_name(path.stem + LEVELS)


def read_mask(path: pathlib.Path, *, semantic: bool) -> tuple[np.ndarray, str]:
    """What a metric takes as `Item.output`, and what is wrong with the files although the mask can be used.

    Args:
        path: of the PNG.
        semantic: whether it holds classes.

    Returns:
        uint8 [H W] class ids. For a binary mask float32 [H W] logits that give the same scores as the model's own; or
        bool [H W] where there are no levels, or the levels do not belong to the mask: then the remark says so.

    Raises:
        MaskFileError: missing, no picture, or a picture of another kind.
    """
    if semantic:
        return _read(path, "L"), ""
    mask = _read(path, "1")
    try:
        levels = _read(levels_of(path), "L")
    except MaskFileError as error:
        return mask, f"no levels, F from the mask alone ({error})"
    even = _even_level()
    fits = levels.shape == mask.shape and mask[levels > even].all() and not mask[levels < even].any()
    if not fits:
        return mask, f"{levels_of(path)}: levels of another mask, F from the mask alone"
    logits = _logits()[levels]
    logits[(levels == even) & ~mask] = 0  # a probability of exactly one half is background
    return logits, ""


@functools.lru_cache(maxsize=1)
def _even_level() -> int:
    """The level of the probability 0.5."""
    return int(np.searchsorted(thresholds(), np.float32(0.5), side="right"))


@functools.lru_cache(maxsize=1)
def _logits() -> np.ndarray:
    """For each level a logit whose probability reaches as many thresholds: float32 [256]. Level 0 does not occur."""
    limits = thresholds().astype(np.float64)
    middle = (limits[:-1] + limits[1:]) / 2
    logits = np.concatenate([[-200.0], np.log(middle / (1 - middle)), [200.0]]).astype(np.float32)
    reached = np.searchsorted(thresholds(), probabilities(logits), side="right")
    assert np.array_equal(reached[1:], np.arange(1, THRESHOLDS + 1)), "levels and logits disagree"
    return logits


def _write(path: pathlib.Path, image: Image.Image) -> None:
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG")
    os.replace(part, path)


def _read(path: pathlib.Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            found, pixels = image.mode, np.array(image)
    except FileNotFoundError as error:
        raise MaskFileError(f"{path}: missing") from error
    except _DAMAGE as error:
        raise MaskFileError(f"{path}: no PNG that can be read ({error})") from error
    if found != mode:
        raise MaskFileError(f"{path}: expected pixels of mode {mode}, found {found}")
    return pixels
