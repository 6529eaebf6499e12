"""Pictures of results that one understands at a glance: masks, classes, boxes, times, answers. Pillow and NumPy only.

Everything here takes plain arrays and strings and returns an RGB image of width `WIDTH`. Nothing fails on odd answers:
text of any length and any script is cleaned, wrapped and cut; what the font cannot draw appears as a dot, and the label
above it says so (the files of results hold the text itself). The colours are those of Okabe and Ito, which people with
any kind of colour vision can tell apart; only semantic masks keep the palette of their data set.

sheet  sizes, colours, headings, paragraphs, text that fits
marks  masks, classes and boxes on pictures
times  thumbnails, waveform and events over seconds
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from crab_jax.draw.marks import (
    Tile,
    box_iou,
    check_classes,
    check_picture,
    check_plane,
    legend,
    mark_box,
    mark_classes,
    mark_mask,
    read_box,
    show_tiles,
    spread,
)
from crab_jax.draw.sheet import (
    BLUE,
    ORANGE,
    PAD,
    PREDICTION,
    TRUTH,
    VERMILION,
    WIDTH,
    above,
    assemble,
    panel,
    percent,
    said,
)
from crab_jax.draw.times import Axis, Rows, bar_colours, check_duration, draw_lanes, ruler, thumbnails, waveform
from data_pipelines.image import colors_from_labels

__all__ = [
    "WIDTH",
    "card",
    "overlay_box",
    "overlay_mask",
    "overlay_semantic",
    "timeline",
    "unparsed",
    "write_mask_png",
    "write_semantic_png",
]


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
    image, mask = check_picture(image), check_plane(mask) != 0
    caption = f"Prediction · {percent(mask.mean())} of the picture"
    marked = Tile(image, caption, lambda p: mark_mask(p, mask, PREDICTION))
    if truth is None:
        return assemble(title, "", show_tiles([Tile(image, "Picture"), marked]), said(answer))
    truth = spread(check_plane(truth) != 0, mask.shape)
    expected = Tile(image, f"Truth · {percent(truth.mean())} of the picture", lambda p: mark_mask(p, truth, TRUTH))
    union, inter = int((mask | truth).sum()), int((mask & truth).sum())
    score = f"IoU {inter / union:.2f}" if union else "both empty"
    return assemble(title, score, show_tiles([marked, expected]), said(answer))


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
    image, labels = check_picture(image), check_classes(labels)
    painted = Tile(image, "Prediction", lambda p: mark_classes(p, labels, names))
    if truth is None:
        tiles = show_tiles([Tile(image, "Picture"), painted])
        return assemble(title, "", tiles, legend(labels, None, names), said(answer))
    truth = spread(check_classes(truth), labels.shape)
    expected = Tile(image, "Truth", lambda p: mark_classes(p, truth, names))
    present = sorted(({*np.unique(labels).tolist()} | {*np.unique(truth).tolist()}) - {0})
    each = [((labels == c) & (truth == c)).sum() / ((labels == c) | (truth == c)).sum() for c in present]
    score = f"mean IoU {np.mean(each):.2f}" if each else "both empty"
    return assemble(title, score, show_tiles([painted, expected]), legend(labels, truth, names), said(answer))


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
    image, box = check_picture(image), read_box(box, grid)
    truth = None if truth is None else read_box(truth, grid)
    where = f"({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g}) on a grid of {grid}"
    tile = Tile(image, f"Prediction · {where}", lambda p: mark_box(p, box, label, truth, grid))
    score = "" if truth is None else f"IoU {box_iou(box, truth):.2f}"
    return assemble(title, score, show_tiles([Tile(image, "Picture"), tile]), said(text))


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
    duration_s = check_duration(duration_s)
    axis = Axis(left=PAD + 118, right=WIDTH - PAD, duration_s=duration_s)
    colours = bar_colours([*rows, *truth])
    lanes = [draw_lanes(rows, axis, colours, hollow=False)]
    if truth:
        lanes.append(draw_lanes(truth, axis, colours, hollow=True))
    lanes[-1] = above(lanes[-1], ruler(axis))
    return assemble(title, "", thumbnails(frames, axis, aspect), waveform(wave, axis), *lanes, said(answer))


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
        blocks.append(panel("Question", question, size=20))
    blocks.append(panel(label, answer, size=26, bar=BLUE, lines=12))
    if truth:
        blocks.append(panel("Truth", truth, size=20, bar=ORANGE))
    return assemble(title, "", *blocks, said(text))


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
        blocks.append(panel("Question", question, size=20))
    blocks.append(
        panel("The answer could not be parsed", reason or "no reason was given", size=18, bar=VERMILION, lines=6)
    )
    return assemble(title, "not parsed", *blocks, said(text or "(an empty answer)", lines=10))


def write_mask_png(path: str | os.PathLike[str], mask: np.ndarray) -> None:
    """A binary mask as 8-bit gray PNG: 255 where marked.  bool or integers [h w]. Source: specification 9.4."""
    Image.fromarray(np.where(check_plane(mask) != 0, np.uint8(255), np.uint8(0))).save(path, format="PNG")


def write_semantic_png(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Classes as RGB PNG in the colours of the 71-class palette.  labels integers [h w]. Source: specification 9.4."""
    Image.fromarray(colors_from_labels(check_classes(labels))).save(path, format="PNG")


def _media(image, frames, wave, duration_s, aspect) -> Iterable[Image.Image | None]:
    if image is not None:
        yield show_tiles([Tile(check_picture(image), "Picture")], tallest=400)
    known = duration_s is not None
    axis = Axis(PAD, WIDTH - PAD, check_duration(duration_s) if known else 1.0)
    yield thumbnails(frames, axis, aspect)
    sound = waveform(wave, axis)
    yield above(sound, ruler(axis)) if sound is not None and known else sound
