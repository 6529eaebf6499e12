"""Pictures of results that one understands at a glance: masks, classes, boxes, times, answers. Pillow and NumPy only.

Everything here takes plain arrays and strings and returns an RGB image of width `WIDTH`. Nothing fails on odd answers:
text of any length and any script is cleaned, wrapped and cut; what the font cannot draw appears as a dot, and the label
above it says so (the files of results hold the text itself). The colours
are those of Okabe and Ito, which people with any kind of colour vision can tell apart; only semantic masks keep the
palette of their data set.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.image import PALETTE, colors_from_labels

WIDTH = 1120
PAD, GAP = 30, 20
TALLEST = 620  # of one picture

PAPER, PANEL, LINE = (252, 252, 250), (240, 241, 243), (221, 224, 228)
INK, MUTED = (26, 29, 36), (104, 111, 122)
BLUE, ORANGE, VERMILION = (0, 114, 178), (230, 159, 0), (213, 94, 0)
BARS = (BLUE, ORANGE, (0, 158, 115), (204, 121, 167), (86, 180, 233), VERMILION, (240, 228, 66), (92, 92, 92))
PREDICTION, TRUTH = (56, 170, 255), (255, 196, 37)  # lighter than the bars, because they stand on photographs

Rows = Sequence[tuple[str, Sequence[tuple[str, float, float]]]]


# ------------------------------------------------------------------------------------------------- whole pictures


def overlay_mask(
    image: np.ndarray, mask: np.ndarray, *, truth: np.ndarray | None = None, title: str = "", answer: str = ""
) -> Image.Image:
    """A binary mask on its picture: tinted and outlined, everything else dimmed.

    Args:
        image: uint8 [H W 3].
        mask: bool or integers [h w], true where marked; spread over the picture with nearest neighbours.
        truth: the same for the ground truth. With it the picture shows prediction beside truth and their IoU, counted
            on the grid of `mask`; without it, the bare picture beside the prediction.
        title: heading.
        answer: what the model said, shown below.
    """
    image, mask = _picture(image), _plane(mask) != 0
    marked = _Tile(image, f"Prediction · {_percent(mask.mean())} of the picture", lambda p: _mark(p, mask, PREDICTION))
    if truth is None:
        return _assemble(title, "", _tiles([_Tile(image, "Picture"), marked]), _said(answer))
    truth = _nearest(_plane(truth) != 0, mask.shape)
    expected = _Tile(image, f"Truth · {_percent(truth.mean())} of the picture", lambda p: _mark(p, truth, TRUTH))
    union, inter = int((mask | truth).sum()), int((mask & truth).sum())
    score = f"IoU {inter / union:.2f}" if union else "both empty"
    return _assemble(title, score, _tiles([marked, expected]), _said(answer))


def overlay_semantic(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    truth: np.ndarray | None = None,
    title: str = "",
    answer: str = "",
) -> Image.Image:
    """Classes on their picture in the colours of the 71-class palette, with a legend and the share of each.

    Args:
        image: uint8 [H W 3].
        labels: integers [h w]; 0 is background and stays clear.
        names: of the classes, in order.
        truth: the same for the ground truth; shows both and the mean IoU over the classes that are in either.
    """
    image, labels = _picture(image), _classes(labels)
    painted = _Tile(image, "Prediction", lambda p: _color_classes(p, labels, names))
    if truth is None:
        legend = _legend(labels, None, names)
        return _assemble(title, "", _tiles([_Tile(image, "Picture"), painted]), legend, _said(answer))
    truth = _nearest(_classes(truth), labels.shape)
    expected = _Tile(image, "Truth", lambda p: _color_classes(p, truth, names))
    present = sorted(({*np.unique(labels).tolist()} | {*np.unique(truth).tolist()}) - {0})
    each = [((labels == c) & (truth == c)).sum() / ((labels == c) | (truth == c)).sum() for c in present]
    score = f"mean IoU {np.mean(each):.2f}" if each else "both empty"
    return _assemble(title, score, _tiles([painted, expected]), _legend(labels, truth, names), _said(answer))


def overlay_box(
    image: np.ndarray,
    box: Sequence[float],
    *,
    label: str = "",
    text: str = "",
    truth: Sequence[float] | None = None,
    title: str = "",
    grid: int = 224,
) -> Image.Image:
    """A box on its picture.

    Args:
        image: uint8 [H W 3].
        box: x1, y1, x2, y2 in pixels of the picture squashed to a square of side `grid`; corners included, any order.
        label: written on the box.
        text: what the model said, shown below.
        truth: the true box, drawn dashed; then the IoU is written too.
    """
    image, box = _picture(image), _corners(box, grid)
    truth = None if truth is None else _corners(truth, grid)
    where = f"({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g}) on a grid of {grid}"
    tile = _Tile(image, f"Prediction · {where}", lambda p: _frame_box(p, box, label, truth, grid))
    score = "" if truth is None else f"IoU {_box_iou(box, truth):.2f}"
    return _assemble(title, score, _tiles([_Tile(image, "Picture"), tile]), _said(text))


def timeline(
    rows: Rows,
    *,
    duration_s: float,
    wave: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    aspect: float | None = None,
    truth: Rows = (),
    title: str = "",
    answer: str = "",
) -> Image.Image:
    """What happens when: thumbnails, the waveform and one lane per row, over one axis of seconds.

    Args:
        rows: (name of the row, [(label, start_s, end_s), …]); a label keeps its colour in all rows. Events that overlap
            get a line each.
        duration_s: length of the axis.
        wave: float [n] or [n channels], over the whole duration.
        frames: uint8 [T H W 3], evenly spread over the whole duration.
        aspect: width over height of the video, if the frames were squashed.
        truth: rows of the ground truth, drawn below as outlines.
        answer: what the model said, shown below.
    """
    duration_s = _duration(duration_s)
    axis = _Axis(left=PAD + 118, right=WIDTH - PAD, duration_s=duration_s)
    colours = _bar_colours([*rows, *truth])
    lanes = [_lanes(rows, axis, colours, hollow=False)]
    if truth:
        lanes.append(_lanes(truth, axis, colours, hollow=True))
    lanes[-1] = _above(lanes[-1], _ruler(axis))
    return _assemble(title, "", _strip(frames, axis, aspect), _waveform(wave, axis), *lanes, _said(answer))


def card(
    *,
    answer: str,
    frames: np.ndarray | None = None,
    wave: np.ndarray | None = None,
    duration_s: float | None = None,
    aspect: float | None = None,
    question: str = "",
    label: str = "Answer",
    text: str = "",
    truth: str = "",
    title: str = "",
) -> Image.Image:
    """A question and its answer, or a caption, under the video and the sound it is about.

    Args:
        answer: the answer itself, in large letters.
        frames, wave, aspect: as in `timeline`.
        duration_s: length of the sound; without it there is no axis of seconds.
        label: what the answer is ("Answer", "Caption").
        text: what the model said in full, shown below in small letters.
        truth: the right answer, if known.
    """
    blocks = [*_media(None, frames, wave, duration_s, aspect)]
    if question:
        blocks.append(_panel("Question", question, size=20))
    blocks.append(_panel(label, answer, size=26, bar=BLUE, lines=12))
    if truth:
        blocks.append(_panel("Truth", truth, size=20, bar=ORANGE))
    return _assemble(title, "", *blocks, _said(text))


def unparsed(
    reason: str,
    text: str,
    *,
    image: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    wave: np.ndarray | None = None,
    duration_s: float | None = None,
    aspect: float | None = None,
    question: str = "",
    title: str = "",
) -> Image.Image:
    """The media of a sample whose answer could not be understood, the reason, and what the model said.

    Args:
        reason: why, in one sentence.
        text: the raw answer.
        image: uint8 [H W 3], for tasks on a single picture.
        frames, wave, duration_s, aspect: as in `card`.
    """
    blocks = [*_media(image, frames, wave, duration_s, aspect)]
    if question:
        blocks.append(_panel("Question", question, size=20))
    blocks.append(
        _panel("The answer could not be parsed", reason or "no reason was given", size=18, bar=VERMILION, lines=6)
    )
    return _assemble(title, "not parsed", *blocks, _said(text or "(an empty answer)", lines=10))


# ---------------------------------------------------------------------------------------------------- mask files


def write_mask_png(path: str | os.PathLike[str], mask: np.ndarray) -> None:
    """A binary mask as 8-bit gray PNG: 255 where marked.  bool or integers [h w]. Source: specification 9.4."""
    Image.fromarray(np.where(_plane(mask) != 0, np.uint8(255), np.uint8(0))).save(path, format="PNG")


def write_semantic_png(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Classes as RGB PNG in the colours of the 71-class palette.  labels integers [h w]. Source: specification 9.4."""
    Image.fromarray(colors_from_labels(_classes(labels))).save(path, format="PNG")


# --------------------------------------------------------------------------------------------------------- layout


def _assemble(title: str, score: str, *blocks: Image.Image | None) -> Image.Image:
    """Heading, then the blocks one below the other."""
    present = [_heading(title, score), *(b for b in blocks if b is not None)]
    height = PAD + sum(b.height for b in present) + GAP * (len(present) - 1) + PAD - 8
    sheet, top = Image.new("RGB", (WIDTH, height), PAPER), PAD - 8
    for block in present:
        sheet.paste(block, (0, top))
        top += block.height + GAP
    return sheet


def _blank(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH, max(int(height), 1)), PAPER)


def _above(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Two blocks that belong together, with little between them."""
    block = _blank(upper.height + 4 + lower.height)
    block.paste(upper, (0, 0))
    block.paste(lower, (0, upper.height + 4))
    return block


def _heading(title: str, score: str) -> Image.Image:
    block = _blank(40)
    draw = ImageDraw.Draw(block)
    room = WIDTH - 2 * PAD
    if score:
        size = _width(score, 22)
        _rounded(block, (WIDTH - PAD - size - 28, 1, WIDTH - PAD, 37), 18, VERMILION if score == "not parsed" else INK)
        draw.text((WIDTH - PAD - 14 - size, 27), score, font=_font(22), fill=PAPER, anchor="ls")
        room -= size + 28 + GAP
    draw.text((PAD, 29), _fit(_clean(title), room, 26), font=_font(26), fill=INK, anchor="ls")
    return block


def _panel(label: str, text: str, *, size: int, bar=LINE, lines: int = 8, ink=INK) -> Image.Image:
    """A labelled paragraph with a coloured bar at its left."""
    if any(MISSING in _clean(c) and c not in "·•" for c in set(str(text)[:LONGEST])):
        label += f" ({MISSING} stands for what this font cannot show)"
    wrapped, step = _wrap(text, WIDTH - 2 * PAD - 22, size, lines), round(size * 1.36)
    block = _blank(24 + step * len(wrapped) + 6)
    draw = ImageDraw.Draw(block)
    _rounded(block, (PAD, 0, PAD + 6, block.height), 3, bar)
    draw.text((PAD + 22, 15), _fit(_clean(label), WIDTH - 2 * PAD - 22, 15), font=_font(15), fill=MUTED, anchor="ls")
    for k, line in enumerate(wrapped):
        draw.text((PAD + 22, 24 + step * k + round(size * 1.02)), line, font=_font(size), fill=ink, anchor="ls")
    return block


def _said(text: str, *, lines: int = 5) -> Image.Image | None:
    return _panel("The model said", text, size=16, lines=lines, ink=MUTED) if text else None


# ------------------------------------------------------------------------------------------------------------ text


LONGEST = 8000  # characters that are looked at
MISSING = "·"
_PLAIN = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "×": "x", "•": "·", "→": "->", "←": "<-", "ß": "ss", "æ": "ae", "œ": "oe"}
    | {"Æ": "AE", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "¿": "?", "¡": "!"}
)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow. The basic engine, because the other one is not on every machine."""
    return ImageFont.load_default(size).font_variant(layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4096)
def _drawable(character: str) -> bool:
    """Whether the font has a glyph for it, other than the one for everything it lacks."""
    if character.isspace():
        return True
    if unicodedata.category(character)[0] in "CM":  # controls, surrogates, unassigned, marks
        return False
    return _glyph(character) != _glyph("\U0010fffd")


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(20).getmask(character)
    return mask.size, bytes(mask)


def _clean(text: str) -> str:
    """One paragraph that the font can draw, which knows little more than ASCII.

    Accents are dropped and what has a plain spelling gets it; anything else becomes `MISSING`.
    """
    plain = unicodedata.normalize("NFKD", str(text)[:LONGEST].translate(_PLAIN))
    kept = (c for c in plain if unicodedata.category(c) != "Mn")
    return "".join(" " if c.isspace() else c if _drawable(c) else MISSING for c in kept)


def _width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))


def _fit(text: str, room: float, size: int) -> str:
    """The text, or as much of it as there is room for and an ellipsis."""
    if _width(text, size) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(text[:middle] + "…", size) <= room else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""


def _wrap(text: str, room: int, size: int, lines: int) -> list[str]:
    """At most so many lines; words that are too long are broken; what does not fit is announced."""
    result: list[str] = []
    for paragraph in str(text)[:LONGEST].splitlines() or [""]:
        line = ""
        for word in _clean(paragraph).split():
            joined = f"{line} {word}" if line else word
            if _width(joined, size) <= room:
                line = joined
                continue
            if line:
                result.append(line)
            while _width(word, size) > room and len(result) <= lines:
                head = max(len(_fit(word, room, size)) - 1, 1)
                result.append(word[:head])
                word = word[head:]
            line = word
            if len(result) > lines:
                break
        if line or not result or result[-1]:
            result.append(line)
        if len(result) > lines:
            break
    while len(result) > 1 and not result[-1]:
        result.pop()
    if len(result) <= lines and len(text) <= LONGEST:
        return result
    shown = result[:lines]
    more = max(len(text) - sum(len(line) + 1 for line in shown), 1)
    note = f"… and {more} more characters"
    last = _fit(shown[-1], room - _width(note, size) - 12, size).removesuffix("…")
    return [*shown[:-1], f"{last} {note}".strip()]


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.1f} %"


# ---------------------------------------------------------------------------------------------------------- arrays


def _picture(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(f"expected a picture uint8 [H W 3], found {image.dtype} {list(image.shape)}")
    return image


def _plane(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"expected a mask [h w], found {mask.dtype} {list(mask.shape)}")
    return mask


def _classes(labels: np.ndarray) -> np.ndarray:
    labels = _plane(labels).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(PALETTE):
        raise ValueError(f"expected classes 0 to {len(PALETTE) - 1}, found {labels.min()} to {labels.max()}")
    return labels


def _duration(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"expected a duration above 0 s, found {seconds}")
    return float(seconds)


def _nearest(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
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


# ---------------------------------------------------------------------------------------------- pictures and masks


@dataclasses.dataclass(frozen=True)
class _Tile:
    """A picture with a line below it; `paint` works on its pixels at the size they are shown in."""

    image: np.ndarray
    caption: str
    paint: object = None


def _tiles(tiles: Sequence[_Tile]) -> Image.Image:
    """Pictures side by side, or one below the other if they are very wide."""
    height, width = tiles[0].image.shape[:2]
    columns = 1 if width > 2.6 * height else len(tiles)
    room = (WIDTH - 2 * PAD - GAP * (columns - 1)) // columns
    scale = min(room / width, TALLEST / height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    block = _blank((size[1] + 30) * (len(tiles) // columns) + GAP * (len(tiles) // columns - 1))
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
        draw.text((left, top + size[1] + 22), _fit(tile.caption, room, 16), font=_font(16), fill=MUTED, anchor="ls")
    return block


def _mark(pixels: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
    mask = _nearest(mask, pixels.shape[:2])
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
    size = _width(text, 18)
    if image.width < size + 40 or image.height < 44:
        return pixels
    x, y = (image.width - size) // 2, image.height // 2
    _rounded(image, (x - 14, y - 18, x + size + 14, y + 18), 18, INK)
    ImageDraw.Draw(image).text((x, y + 6), text, font=_font(18), fill=PAPER, anchor="ls")
    return np.asarray(image)


def _name(names: Sequence[str], label: int) -> str:
    return _clean(names[label]) if label < len(names) else f"class {label}"


def _color_classes(pixels: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    labels = _nearest(labels, pixels.shape[:2])
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
        size = _width(text, 16)
        if size + 20 > image.width or image.height < 30:
            continue
        x = min(max(x - size // 2, 10), image.width - size - 10)
        y = min(max(y, 14), image.height - 14)
        if any(x < right and left < x + size and abs(y - line) < 26 for left, right, line in written):
            continue
        written.append((x, x + size, y))
        _rounded(image, (x - 9, y - 13, x + size + 9, y + 13), 7, INK)
        draw.text((x, y + 5), text, font=_font(16), fill=PAPER, anchor="ls")
    return np.asarray(image)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """A point of the mask near its middle: x, y."""
    rows, columns = np.nonzero(mask)
    k = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[k]), int(rows[k])


def _legend(labels: np.ndarray, truth: np.ndarray | None, names: Sequence[str], *, most: int = 18) -> Image.Image:
    """A swatch, a name and a share for each class, the largest first, the background last."""
    shares = np.bincount(labels.ravel(), minlength=len(PALETTE)) / labels.size
    true = np.zeros_like(shares) if truth is None else np.bincount(truth.ravel(), minlength=len(PALETTE)) / truth.size
    present = [
        c for c in np.argsort(-np.maximum(shares, true), kind="stable").tolist() if c and max(shares[c], true[c]) > 0
    ]
    entries = [(PALETTE[c], _name(names, c), c) for c in present[:most]] + [(PALETTE[0], _name(names, 0), 0)]
    texts = []
    for colour, name, c in entries:
        share = _percent(shares[c]) + (f" (truth {_percent(true[c])})" if truth is not None else "")
        texts.append((tuple(colour.tolist()), name, share))
    rest = present[most:]
    if rest:
        texts.append((None, f"and {len(rest)} more classes", _percent(shares[rest].sum())))
    places, x, y = [], PAD, 0
    for _, name, share in texts:
        wide = 30 + _width(name, 17) + 8 + _width(share, 17)
        if x > PAD and x + wide > WIDTH - PAD:
            x, y = PAD, y + 32
        places.append((x, y))
        x += wide + 30
    block = _blank(y + 28)
    draw = ImageDraw.Draw(block)
    for (colour, name, share), (x, y) in zip(texts, places):
        if colour is not None:
            _rounded(block, (x, y + 4, x + 20, y + 24), 5, colour, edge=MUTED)
        name = _fit(name, WIDTH - PAD - x - 38 - _width(share, 17), 17)
        draw.text((x + 30, y + 20), name, font=_font(17), fill=INK, anchor="ls")
        draw.text((x + 38 + _width(name, 17), y + 20), share, font=_font(17), fill=MUTED, anchor="ls")
    return block


def _corners(box: Sequence[float], grid: int) -> tuple[float, float, float, float]:
    values = [float(v) for v in box]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"expected a box x1, y1, x2, y2, found {list(box)}")
    x1, y1, x2, y2 = (min(max(v, 0.0), grid - 1.0) for v in values)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _box_iou(a, b) -> float:
    """Both in whole pixels, corners included."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    inter = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return inter / (sum(areas) - inter)


def _frame_box(pixels: np.ndarray, box, label: str, truth, grid: int) -> np.ndarray:
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
    text = _fit(_clean(label), width - 24, 18)
    if text and height >= 40:
        size = _width(text, 18)
        x = min(max(left, 0), max(width - size - 20, 0))
        y = top - 30 if top >= 32 else min(top + 4, height - 30)
        _rounded(image, (x, y, x + size + 20, y + 28), 6, INK)
        ImageDraw.Draw(image).text((x + 10, y + 20), text, font=_font(18), fill=PREDICTION, anchor="ls")
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------ time and sound


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Seconds from left to right."""

    left: int
    right: int
    duration_s: float

    @property
    def step_s(self) -> float:
        """Distance of the marks: 1, 2 or 5 times a power of ten, at most a dozen of them."""
        power = 10.0 ** math.floor(math.log10(self.duration_s / 12))
        return next(power * k for k in (1, 2, 5, 10) if self.duration_s / (power * k) <= 12)

    @property
    def marks(self) -> list[float]:
        return [k * self.step_s for k in range(int(self.duration_s / self.step_s + 1e-6) + 1)]

    def at(self, time_s: float) -> int:
        return round(self.left + (self.right - self.left) * min(max(time_s / self.duration_s, 0), 1))


def _media(image, frames, wave, duration_s, aspect) -> Iterable[Image.Image | None]:
    if image is not None:
        yield _tiles([_Tile(_picture(image), "Picture")])
    known = duration_s is not None
    axis = _Axis(PAD, WIDTH - PAD, _duration(duration_s) if known else 1.0)
    yield _strip(frames, axis, aspect)
    sound = _waveform(wave, axis)
    yield _above(sound, _ruler(axis)) if sound is not None and known else sound


def _strip(frames: np.ndarray | None, axis: _Axis, aspect: float | None, *, most: int = 10) -> Image.Image | None:
    """Thumbnails, each in the middle of its share of the axis."""
    if frames is None or not len(frames):
        return None
    pictures = [_picture(f) for f in frames]
    count = min(len(pictures), most)
    chosen = [pictures[k * len(pictures) // count] for k in range(count)]
    aspect = aspect or chosen[0].shape[1] / chosen[0].shape[0]
    slot = (axis.right - axis.left) / count
    width = min(slot - 4, 170 * aspect) if count > 1 else min(slot, 300 * aspect)
    size = max(round(width), 1), max(round(width / aspect), 1)
    block = _blank(size[1])
    for k, picture in enumerate(chosen):
        thumb = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
        block.paste(thumb, (round(axis.left + slot * (k + 0.5) - size[0] / 2), 0))
    return block


def _waveform(wave: np.ndarray | None, axis: _Axis, *, height: int = 84) -> Image.Image | None:
    """The lowest and the highest sample under each column of pixels; the loudest moment fills the height."""
    if wave is None:
        return None
    wave = np.nan_to_num(np.asarray(wave, np.float64), posinf=0.0, neginf=0.0)
    wave = wave.mean(1) if wave.ndim == 2 else wave.ravel()
    block = _blank(height)
    draw = ImageDraw.Draw(block)
    draw.rectangle((axis.left, 0, axis.right - 1, height - 1), fill=PANEL)
    middle, columns = height / 2, axis.right - axis.left
    peak = float(np.abs(wave).max(initial=0.0))
    if axis.left > PAD:
        draw.text((PAD, middle + 6), "Sound", font=_font(17), fill=MUTED, anchor="ls")
    if peak < 1e-5:
        draw.line((axis.left, middle, axis.right - 1, middle), fill=BLUE)
        draw.text((axis.left + 10, middle - 8), "silence", font=_font(15), fill=MUTED, anchor="ls")
        return block
    starts = np.arange(columns) * len(wave) // columns
    high, low = np.maximum.reduceat(wave, starts), np.minimum.reduceat(wave, starts)
    tops = middle - np.maximum(high / peak, 0) * (middle - 5)
    bottoms = middle - np.minimum(low / peak, 0) * (middle - 5)
    for k in range(columns):
        draw.line((axis.left + k, tops[k], axis.left + k, max(bottoms[k], tops[k] + 0.5)), fill=BLUE)
    return block


def _ruler(axis: _Axis) -> Image.Image:
    block = _blank(24)
    draw = ImageDraw.Draw(block)
    places = max(0, -math.floor(math.log10(axis.step_s)))
    for mark in axis.marks:
        text, x = f"{mark:.{places}f} s", axis.at(mark)
        draw.line((x, 0, x, 5), fill=MUTED)
        x = min(max(x, axis.left + _width(text, 14) // 2 - 4), axis.right - _width(text, 14) // 2)
        draw.text((x, 21), text, font=_font(14), fill=MUTED, anchor="ms")
    return block


def _bar_colours(rows: Rows) -> dict[str, tuple[int, int, int]]:
    """A colour for each label, in order of appearance."""
    labels = dict.fromkeys(label for _, events in rows for label, _, _ in events)
    return {label: BARS[k % len(BARS)] for k, label in enumerate(labels)}


def _stack(events: Sequence[tuple[str, float, float]]) -> list[list[tuple[str, float, float]]]:
    """Lines in which nothing overlaps; a label stays in its line where it can."""
    lines: list[list[tuple[str, float, float]]] = []
    for event in sorted(((label, min(a, b), max(a, b)) for label, a, b in events), key=lambda e: (e[1], e[2])):
        free = [line for line in lines if line[-1][2] <= event[1]]
        home = next((line for line in free if line[-1][0] == event[0]), free[0] if free else None)
        if home is None:
            lines.append(home := [])
        home.append(event)
    return lines


def _lanes(rows: Rows, axis: _Axis, colours, *, hollow: bool) -> Image.Image:
    """One lane per row; bars are filled, or outlined for the ground truth."""
    bar, step = 34, 42
    stacks = [(name, _stack([e for e in events if all(map(math.isfinite, e[1:]))])) for name, events in rows]
    heights = [max(len(lines), 1) * step + 6 for _, lines in stacks]
    block = _blank(max(sum(heights) + 8 * (len(heights) - 1), 20))
    draw, top = ImageDraw.Draw(block), 0
    for (name, lines), height in zip(stacks, heights):
        draw.rectangle((axis.left, top, axis.right - 1, top + height - 1), fill=PANEL)
        for mark in axis.marks[1:]:
            if axis.at(mark) < axis.right - 2:
                draw.line((axis.at(mark), top, axis.at(mark), top + height - 1), fill=(255, 255, 255), width=2)
        shown = _clean(f"{name} (truth)" if hollow else name)
        draw.text(
            (PAD, top + height / 2 + 6), _fit(shown, axis.left - PAD - 10, 17), font=_font(17), fill=INK, anchor="ls"
        )
        if not lines:
            draw.text((axis.left + 12, top + height / 2 + 6), "no event", font=_font(16), fill=MUTED, anchor="ls")
        for k, line in enumerate(lines):
            y = top + 7 + k * step
            for n, (label, start_s, end_s) in enumerate(line):
                before = axis.at(line[n - 1][2]) if n else axis.left
                after = axis.at(line[n + 1][1]) if n + 1 < len(line) else axis.right
                _bar(block, axis, (y, y + bar), label, start_s, end_s, colours[label], (before, after), hollow)
        top += height + 8
    return block


def _bar(block, axis, span, label, start_s, end_s, colour, free, hollow):
    """A bar with its label inside, or beside it where there is more room; `free` is where its neighbours end and begin."""
    (top, bottom), (before, after), left = span, free, axis.at(start_s)
    right = max(axis.at(end_s), left + 4)
    if right > axis.right:
        left, right = axis.right - 4, axis.right
    draw = ImageDraw.Draw(block)
    _rounded(block, (left, top, right, bottom), 7, PAPER if hollow else colour, edge=colour, thick=3)
    bright = colour @ np.array([0.299, 0.587, 0.114]) > 140
    ink = INK if hollow or bright else PAPER
    name, times = _clean(label), f"{start_s:g} to {end_s:g} s"
    base, both = bottom - 11, _width(name, 17) + 10 + _width(times, 14)
    if both <= right - left - 20:
        draw.text((left + 11, base), name, font=_font(17), fill=ink, anchor="ls")
        draw.text((left + 21 + _width(name, 17), base), times, font=_font(14), fill=ink, anchor="ls")
    elif _width(name, 17) <= right - left - 16:
        draw.text((left + 9, base), name, font=_font(17), fill=ink, anchor="ls")
    elif after - right > max(right - left, left - before):
        draw.text((right + 7, base), _fit(name, after - right - 12, 17), font=_font(17), fill=INK, anchor="ls")
    elif left - before > _width(name, 17) + 12:
        draw.text((left - 7, base), name, font=_font(17), fill=INK, anchor="rs")
    else:
        draw.text((left + 7, base), _fit(name, right - left - 12, 17), font=_font(17), fill=ink, anchor="ls")


def _rounded(image: Image.Image, box, radius: float, fill, *, edge=None, thick: int = 1) -> None:
    """A rounded rectangle with smooth corners."""
    left, top, right, bottom = (round(v) for v in box)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return

    def shape(inset):
        mask = Image.new("L", (4 * width, 4 * height))
        area = (4 * inset, 4 * inset, 4 * (width - inset) - 1, 4 * (height - inset) - 1)
        if area[2] > area[0] and area[3] > area[1]:
            corner = max(min(radius - inset, width / 2 - inset, height / 2 - inset), 0)
            ImageDraw.Draw(mask).rounded_rectangle(area, 4 * corner, fill=255)
        return mask.resize((width, height), Image.Resampling.BOX)

    image.paste(tuple(fill if edge is None else edge), (left, top), shape(0))
    if edge is not None:
        image.paste(tuple(fill), (left, top), shape(thick))
