"""Images and masks, as the reference read them with Pillow and OpenCV: squashed to a square."""

from __future__ import annotations

import os
import pathlib
import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_pipelines.media import MediaError, bad, check_file, sniff

MAX_PIXELS = 89_478_485  # Pillow's own limit; a small file that unfolds to more is refused

# What Pillow may try. Left to itself it would also start Ghostscript, among others.
_FORMATS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "TGA"]

_MOST_UNKNOWN = 0.01  # share of a mask's pixels that may have a colour of no class; a lossy file has nearly only such

# What escapes from Pillow's readers on damaged files.
_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, IndexError, OverflowError, MemoryError, struct.error)


def read_image(path: str | os.PathLike[str], *, size: int) -> np.ndarray:
    """An image as RGB, squashed to a square with Pillow's bicubic filter.

    As in the reference, an orientation noted in EXIF is not applied and transparency is dropped, not blended
    (`convert("RGB")`). Grayscale, palette and CMYK become RGB by Pillow's rules; of 16-bit grayscale the upper eight
    bits are used (Pillow alone would clip it to white); of an animation the first picture is taken.

    Args:
        path: an image file that Pillow reads.
        size: height and width of the result, in pixels.

    Returns:
        uint8 `[size size 3]`.

    Raises:
        MediaError: missing, mislabelled, truncated or damaged file, more than `MAX_PIXELS`, pixels that cannot become
            RGB.

    Source: specification 3.1.
    """
    return np.array(_load(path, expected="an image").resize((size, size), Image.Resampling.BICUBIC))


def read_picture(path: str | os.PathLike[str], *, longest: int = 1280) -> np.ndarray:
    """An image in its own proportions, to be looked at; large ones are reduced.

    Args:
        path: as in `read_image`.
        longest: most pixels of the longer side.

    Returns:
        uint8 `[H W 3]`.

    Raises:
        MediaError: as in `read_image`.
    """
    image = _load(path, expected="an image")
    image.thumbnail((longest, longest))
    return np.asarray(image)


def read_mask(path: str | os.PathLike[str], *, size: int) -> np.ndarray:
    """A binary mask: 1 where the gray value is above 0, then nearest with source index floor(i · source / size).

    The gray value is OpenCV's: `imread` with its default flags turns every file into eight-bit BGR (transparency
    dropped, upper eight bits of sixteen, palette looked up, EXIF orientation applied), and its conversion rounds 0.299
    R + 0.587 G + 0.114 B, so that the darkest colours, (1, 0, 0) or (0, 0, 4) for example, are still 0.

    Args:
        path: an image file; usually 8-bit grayscale with 0 as background.
        size: height and width of the result, in pixels.

    Returns:
        uint8 `[size size]` of 0 and 1.

    Raises:
        MediaError: as `read_image`.

    Source: specification 9.4.
    """
    rgb = np.asarray(_load(path, expected="a mask image", upright=True)).astype(np.int64)
    # OpenCV's weights in units of 2^-15.
    gray = (rgb @ np.array([9798, 19235, 3735]) + (1 << 14)) >> 15
    rows, columns = (np.arange(size) * n // size for n in gray.shape)
    return (gray[rows][:, columns] > 0).astype(np.uint8)


def read_semantic_mask(path: str | os.PathLike[str], *, size: int) -> np.ndarray:
    """A mask whose colours are classes: nearest, then `labels_from_colors`.

    Nearest is Pillow's here, with source index floor((i + 1/2) · source / size); binary masks differ.

    Args:
        path: an image in the colours of `PALETTE`.
        size: height and width of the result, in pixels.

    Returns:
        uint8 `[size size]` of classes.

    Raises:
        MediaError: as `read_image`; colours of no class in more than a hundredth of the pixels, which would all become
            background.

    Source: specification 9.4; a limit is silent there.
    """
    image = _load(path, expected="a mask image").resize((size, size), Image.Resampling.NEAREST)
    colors = np.asarray(image)
    labels = labels_from_colors(colors)
    unknown = ((labels == 0) & colors.any(axis=-1)).mean()
    if unknown > _MOST_UNKNOWN:
        expected = f"a mask in the {len(PALETTE)} colours of the classes"
        advice = "was it saved in a lossy format such as JPEG, or scaled smoothly?"
        raise bad(path, expected=expected, found=f"other colours in {unknown:.1%} of the pixels", advice=advice)
    return labels


def _palette(classes: int) -> np.ndarray:
    """The VOC colour map: the i-th triple of bits of a class is bit 7 - i of R, G and B.  uint8 `[classes 3]`"""
    colors = np.zeros((classes, 3), np.uint8)
    for label in range(classes):
        rest, bit = label, 7
        while rest:
            colors[label] |= np.array([rest & 1, rest >> 1 & 1, rest >> 2 & 1], np.uint8) << bit
            rest, bit = rest >> 3, bit - 1
    return colors


PALETTE = _palette(71)  # class 0, background, is black
PALETTE.setflags(write=False)


def labels_from_colors(rgb: np.ndarray) -> np.ndarray:
    """Classes of colours; a colour that is not in the palette is class 0.

    Args:
        rgb: uint8 `[… 3]`.

    Returns:
        uint8 `[…]`.

    Source: specification 9.4.
    """
    keys, codes = (c.astype(np.int64) @ (1 << 16, 1 << 8, 1) for c in (PALETTE, rgb))
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], codes), len(keys) - 1)
    return np.where(keys[order][place] == codes, order[place], 0).astype(np.uint8)


def colors_from_labels(labels: np.ndarray) -> np.ndarray:
    """The inverse of `labels_from_colors`, for writing masks.

    Args:
        labels: integers `[…]`, 0 to 70.

    Returns:
        uint8 `[… 3]`.

    Raises:
        ValueError: a label outside the palette.
    """
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < len(PALETTE):
        raise ValueError(f"expected classes 0 to {len(PALETTE) - 1}, found {labels.min()} to {labels.max()}")
    return PALETTE[labels]


def _load(path: str | os.PathLike[str], *, expected: str, upright: bool = False) -> Image.Image:
    """The file as an RGB image; `upright` applies the orientation noted in EXIF. All failures become MediaError."""
    path = check_file(path, expected=expected)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                limit = f"{expected} of at most {MAX_PIXELS} pixels"
                raise bad(path, expected=limit, found=f"{width} x {height} pixels")
            image.load()
            rgb = _rgb(image, path)
            return ImageOps.exif_transpose(rgb) if upright else rgb
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        family, description = sniff(path)
        why = f"{description} that cannot be read (damaged, or a kind Pillow does not know)"
        raise bad(path, expected=expected, found=why if family in ("image", "animation") else description) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bad(path, expected=f"{expected} of at most {MAX_PIXELS} pixels", found=str(error)) from error
    except _DAMAGE as error:
        found = f"{sniff(path)[1]} that is truncated or damaged ({str(error) or type(error).__name__})"
        raise bad(path, expected=expected, found=found) from error


def _rgb(image: Image.Image, path: pathlib.Path) -> Image.Image:
    # Older Pillows open 16-bit PNGs as "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise bad(path, expected="an image of 8 or 16 bits per channel", found=f"32-bit pixels (mode {image.mode})")
    return image.convert("RGB")
