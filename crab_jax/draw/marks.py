"""Marks on pictures: tinted and outlined masks, coloured classes with their legend, boxes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from crab_jax.draw.sheet import (
    GAP,
    INK,
    MUTED,
    PAD,
    PANEL,
    PAPER,
    PREDICTION,
    TALLEST,
    TRUTH,
    WIDTH,
    blank,
    clean,
    fit,
    font,
    percent,
    rounded,
    text_width,
)
from data_pipelines.image import PALETTE


def check_picture(image: np.ndarray) -> np.ndarray:
    """The picture, uint8 [H W 3]. Raises `ValueError` for anything else."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(f"expected a picture uint8 [H W 3], found {image.dtype} {list(image.shape)}")
    return image


def check_plane(mask: np.ndarray) -> np.ndarray:
    """The mask, [h w]. Raises `ValueError` for anything else."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"expected a mask [h w], found {mask.dtype} {list(mask.shape)}")
    return mask


def check_classes(labels: np.ndarray) -> np.ndarray:
    """The classes, int64 [h w]. Raises `ValueError` for other shapes and for classes without a colour."""
    labels = check_plane(labels).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(PALETTE):
        raise ValueError(f"expected classes 0 to {len(PALETTE) - 1}, found {labels.min()} to {labels.max()}")
    return labels


def spread(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Source index floor(i · source / target), as the masks of the data sets are read (specification 9.4)."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape, plane.shape))
    return plane[rows][:, columns]


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask and everything within so many pixels of it, in the four directions."""
    for _ in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide
    return mask


def _inner_edge(mask: np.ndarray, steps: int) -> np.ndarray:
    """The outermost pixels of the mask; the border of the picture counts as outside."""
    return mask & np.pad(_grow(~np.pad(mask, 1), steps), 0)[1:-1, 1:-1]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture with a line below it; `paint` works on its pixels at the size they are shown in."""

    image: np.ndarray
    caption: str
    paint: Callable[[np.ndarray], np.ndarray] | None = None


def show_tiles(tiles: Sequence[Tile], *, tallest: int = TALLEST) -> Image.Image:
    """Pictures side by side, or one below the other if they are very wide."""
    height, width = tiles[0].image.shape[:2]
    columns = 1 if width > 2.6 * height else len(tiles)
    room = (WIDTH - 2 * PAD - GAP * (columns - 1)) // columns
    scale = min(room / width, tallest / height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    block = blank((size[1] + 30) * (len(tiles) // columns) + GAP * (len(tiles) // columns - 1))
    draw = ImageDraw.Draw(block)
    for k, tile in enumerate(tiles):
        left, top = PAD + (k % columns) * (room + GAP), (k // columns) * (size[1] + 30 + GAP)
        shown = Image.fromarray(tile.image).resize(
            size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
        )
        if tile.paint is not None:
            shown = Image.fromarray(tile.paint(np.asarray(shown)))
        if shown.width < room:
            draw.rectangle((left, top, left + room - 1, top + size[1] - 1), fill=PANEL)
        block.paste(shown, (left + (room - shown.width) // 2, top))
        draw.text((left, top + size[1] + 22), fit(tile.caption, room, 16), font=font(16), fill=MUTED, anchor="ls")
    return block


def mark_mask(pixels: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
    """The picture with a mask in one colour and outlined, the rest dimmed.

    Args:
        pixels: uint8 [H W 3].
        mask: [h w], spread over the picture.
        colour: RGB, 0 to 255.

    Returns:
        uint8 [H W 3].
    """
    mask = spread(mask, pixels.shape[:2])
    if not mask.any():
        return _note(_dim(pixels, 0.55), "nothing is marked")
    shown = np.where(mask[..., None], 0.68 * pixels + 0.32 * np.array(colour), _dim(pixels, 0.62))
    return _outline(shown, mask, colour).astype(np.uint8)


def _dim(pixels: np.ndarray, strength: float) -> np.ndarray:
    """Darker and grayer."""
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    return ((1 - 0.5 * strength) * ((1 - strength) * pixels + strength * gray[..., None])).astype(np.uint8)


def _outline(shown: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
    """A line along the inside of the mask's edge, and a dark one around it that sets it off from bright pictures."""
    shown = shown.astype(np.float64)
    halo = _grow(mask, 2) & ~mask
    shown[halo] *= 0.35
    shown[_inner_edge(mask, 2)] = colour
    return shown


def _note(pixels: np.ndarray, text: str) -> np.ndarray:
    """Words in the middle of a picture, if it is large enough for them."""
    image = Image.fromarray(pixels)
    size = text_width(text, 18)
    if image.width < size + 40 or image.height < 44:
        return pixels
    x, y = (image.width - size) // 2, image.height // 2
    rounded(image, (x - 14, y - 18, x + size + 14, y + 18), 18, INK)
    ImageDraw.Draw(image).text((x, y + 6), text, font=font(18), fill=PAPER, anchor="ls")
    return np.asarray(image)


def _name(names: Sequence[str], label: int) -> str:
    return clean(names[label]) if label < len(names) else f"class {label}"


def mark_classes(pixels: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The picture with classes in the colours of the palette, the largest ones named; background is dimmed.

    Args:
        pixels: uint8 [H W 3].
        labels: int [h w], spread over the picture.
        names: of the classes.

    Returns:
        uint8 [H W 3].
    """
    labels = spread(labels, pixels.shape[:2])
    if not labels.any():
        return _note(_dim(pixels, 0.55), "nothing but background")
    shown = np.where(labels[..., None] > 0, 0.42 * pixels + 0.58 * PALETTE[labels], _dim(pixels, 0.62))
    classes, counts = np.unique(labels[labels > 0], return_counts=True)
    for label in classes:
        mask = labels == label
        shown[_inner_edge(mask, 2)] = PALETTE[label]
        shown[_grow(mask, 1) & (labels == 0)] = (255, 255, 255)
    image = Image.fromarray(shown.astype(np.uint8))
    draw, written = ImageDraw.Draw(image), []
    for k in np.argsort(-counts, kind="stable")[:6]:
        if counts[k] < 0.015 * labels.size:
            continue
        x, y = _middle(labels == classes[k])
        around = labels[max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11]
        if (around == classes[k]).mean() < 0.4:  # speckles: there is nothing to point at
            continue
        text = _name(names, int(classes[k]))
        size = text_width(text, 16)
        if size + 20 > image.width or image.height < 30:
            continue
        x = min(max(x - size // 2, 10), image.width - size - 10)
        y = min(max(y, 14), image.height - 14)
        if any(x < right and left < x + size and abs(y - line) < 26 for left, right, line in written):
            continue
        written.append((x, x + size, y))
        rounded(image, (x - 9, y - 13, x + size + 9, y + 13), 7, INK)
        draw.text((x, y + 5), text, font=font(16), fill=PAPER, anchor="ls")
    return np.asarray(image)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """A point of the mask near its middle: x, y."""
    rows, columns = np.nonzero(mask)
    k = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[k]), int(rows[k])


def legend(labels: np.ndarray, truth: np.ndarray | None, names: Sequence[str], *, most: int = 18) -> Image.Image:
    """A swatch, a name and a share for each class, the largest first, the background last."""
    shares = np.bincount(labels.ravel(), minlength=len(PALETTE)) / labels.size
    true = np.zeros_like(shares) if truth is None else np.bincount(truth.ravel(), minlength=len(PALETTE)) / truth.size
    present = [
        c for c in np.argsort(-np.maximum(shares, true), kind="stable").tolist() if c and max(shares[c], true[c]) > 0
    ]
    entries = [(PALETTE[c], _name(names, c), c) for c in present[:most]] + [(PALETTE[0], _name(names, 0), 0)]
    texts = []
    for colour, name, c in entries:
        share = percent(shares[c]) + (f" (truth {percent(true[c])})" if truth is not None else "")
        texts.append((tuple(colour.tolist()), name, share))
    rest = present[most:]
    if rest:
        texts.append((None, f"and {len(rest)} more classes", percent(shares[rest].sum())))
    places, x, y = [], PAD, 0
    for _, name, share in texts:
        wide = 30 + text_width(name, 17) + 8 + text_width(share, 17)
        if x > PAD and x + wide > WIDTH - PAD:
            x, y = PAD, y + 32
        places.append((x, y))
        x += wide + 30
    block = blank(y + 28)
    draw = ImageDraw.Draw(block)
    for (colour, name, share), (x, y) in zip(texts, places):
        if colour is not None:
            rounded(block, (x, y + 4, x + 20, y + 24), 5, colour, edge=MUTED)
        name = fit(name, WIDTH - PAD - x - 38 - text_width(share, 17), 17)
        draw.text((x + 30, y + 20), name, font=font(17), fill=INK, anchor="ls")
        draw.text((x + 38 + text_width(name, 17), y + 20), share, font=font(17), fill=MUTED, anchor="ls")
    return block


def read_box(box: Sequence[float], grid: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box, whatever the order of its corners, cut at the edges of the grid.

    Raises:
        ValueError: not four finite numbers.
    """
    values = [float(v) for v in box]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"expected a box x1, y1, x2, y2, found {list(box)}")
    x1, y1, x2, y2 = (min(max(v, 0.0), grid - 1.0) for v in values)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def box_iou(a, b) -> float:
    """Both in whole pixels, corners included."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    inter = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return inter / (sum(areas) - inter)


def mark_box(pixels: np.ndarray, box, label: str, truth, grid: int) -> np.ndarray:
    """The picture with a box and its name, and with the true box if there is one.

    Args:
        pixels: uint8 [H W 3].
        box: as `read_box` returns it.
        label: name of what is in it.
        truth: another such box, or None.
        grid: numbers per side that the corners count in.

    Returns:
        uint8 [H W 3].
    """
    height, width = pixels.shape[:2]

    def place(corners):
        x1, y1, x2, y2 = corners
        left, top = math.floor(x1 * width / grid), math.floor(y1 * height / grid)
        return (
            left,
            top,
            max(math.ceil((x2 + 1) * width / grid), left + 1),
            max(math.ceil((y2 + 1) * height / grid), top + 1),
        )

    left, top, right, bottom = place(box)
    shown = _dim(pixels, 0.45)
    shown[top:bottom, left:right] = pixels[top:bottom, left:right]
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = True
    shown = shown.astype(np.float64)
    shown[_grow(inside, 2) & ~inside] *= 0.35
    shown[_inner_edge(inside, 3)] = PREDICTION
    if truth is not None:
        a, b, c, d = place(truth)
        other = np.zeros((height, width), bool)
        other[b:d, a:c] = True
        rows, columns = np.indices(other.shape)
        dashes = (rows + columns) // 9 % 2 == 0
        shown[_inner_edge(other, 3)] = INK
        shown[_inner_edge(other, 3) & dashes] = TRUTH
    image = Image.fromarray(shown.astype(np.uint8))
    text = fit(clean(label), width - 24, 18)
    if text and height >= 40:
        size = text_width(text, 18)
        x = min(max(left, 0), max(width - size - 20, 0))
        y = top - 30 if top >= 32 else min(top + 4, height - 30)
        rounded(image, (x, y, x + size + 20, y + 28), 6, INK)
        ImageDraw.Draw(image).text((x + 10, y + 20), text, font=font(18), fill=PREDICTION, anchor="ls")
    return np.asarray(image)
