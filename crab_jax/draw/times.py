"""Things over time: one axis of seconds with thumbnails, a waveform and lanes of events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from crab_jax.draw.marks import check_picture
from crab_jax.draw.sheet import BARS, BLUE, INK, MUTED, PAD, PANEL, PAPER, blank, clean, fit, font, rounded, text_width

Rows = Sequence[tuple[str, Sequence[tuple[str, float, float]]]]


def check_duration(seconds: float) -> float:
    """The duration. Raises `ValueError` unless it is finite and above 0."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"expected a duration above 0 s, found {seconds}")
    return float(seconds)


@dataclasses.dataclass(frozen=True)
class Axis:
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
        """Seconds that are written below the axis."""
        return [k * self.step_s for k in range(int(self.duration_s / self.step_s + 1e-6) + 1)]

    def at(self, time_s: float) -> int:
        """Column of a moment; moments outside are put at the ends."""
        return round(self.left + (self.right - self.left) * min(max(time_s / self.duration_s, 0), 1))


def thumbnails(frames: np.ndarray | None, axis: Axis, aspect: float | None, *, most: int = 10) -> Image.Image | None:
    """Thumbnails, each in the middle of its share of the axis."""
    if frames is None or not len(frames):
        return None
    pictures = [check_picture(f) for f in frames]
    count = min(len(pictures), most)
    chosen = [pictures[k * len(pictures) // count] for k in range(count)]
    aspect = aspect or chosen[0].shape[1] / chosen[0].shape[0]
    slot = (axis.right - axis.left) / count
    width = min(slot - 4, 170 * aspect) if count > 1 else min(slot, 300 * aspect)
    size = max(round(width), 1), max(round(width / aspect), 1)
    block = blank(size[1])
    for k, picture in enumerate(chosen):
        thumb = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
        block.paste(thumb, (round(axis.left + slot * (k + 0.5) - size[0] / 2), 0))
    return block


def waveform(wave: np.ndarray | None, axis: Axis, *, height: int = 84) -> Image.Image | None:
    """The lowest and the highest sample under each column of pixels; the loudest moment fills the height."""
    if wave is None:
        return None
    wave = np.nan_to_num(np.asarray(wave, np.float64), posinf=0.0, neginf=0.0)
    wave = wave.mean(1) if wave.ndim == 2 else wave.ravel()
    block = blank(height)
    draw = ImageDraw.Draw(block)
    draw.rectangle((axis.left, 0, axis.right - 1, height - 1), fill=PANEL)
    middle, columns = height / 2, axis.right - axis.left
    peak = float(np.abs(wave).max(initial=0.0))
    if axis.left > PAD:
        draw.text((PAD, middle + 6), "Sound", font=font(17), fill=MUTED, anchor="ls")
    if peak < 1e-5:
        draw.line((axis.left, middle, axis.right - 1, middle), fill=BLUE)
        draw.text((axis.left + 10, middle - 8), "silence", font=font(15), fill=MUTED, anchor="ls")
        return block
    starts = np.arange(columns) * len(wave) // columns
    high, low = np.maximum.reduceat(wave, starts), np.minimum.reduceat(wave, starts)
    tops = middle - np.maximum(high / peak, 0) * (middle - 5)
    bottoms = middle - np.minimum(low / peak, 0) * (middle - 5)
    for k in range(columns):
        draw.line((axis.left + k, tops[k], axis.left + k, max(bottoms[k], tops[k] + 0.5)), fill=BLUE)
    return block


def ruler(axis: Axis) -> Image.Image:
    """The marks of an axis with their seconds."""
    block = blank(24)
    draw = ImageDraw.Draw(block)
    places = max(0, -math.floor(math.log10(axis.step_s)))
    for mark in axis.marks:
        text, x = f"{mark:.{places}f} s", axis.at(mark)
        draw.line((x, 0, x, 5), fill=MUTED)
        x = min(max(x, axis.left + text_width(text, 14) // 2 - 4), axis.right - text_width(text, 14) // 2)
        draw.text((x, 21), text, font=font(14), fill=MUTED, anchor="ms")
    return block


def bar_colours(rows: Rows) -> dict[str, tuple[int, int, int]]:
    """A colour for each label, in order of appearance."""
    labels = dict.fromkeys(label for _, events in rows for label, _, _ in events)
    return {label: BARS[k % len(BARS)] for k, label in enumerate(labels)}


def stack(events: Sequence[tuple[str, float, float]]) -> list[list[tuple[str, float, float]]]:
    """Lines in which nothing overlaps; a label stays in its line where it can."""
    lines: list[list[tuple[str, float, float]]] = []
    for event in sorted(((label, min(a, b), max(a, b)) for label, a, b in events), key=lambda e: (e[1], e[2])):
        free = [line for line in lines if line[-1][2] <= event[1]]
        home = next((line for line in free if line[-1][0] == event[0]), free[0] if free else None)
        if home is None:
            lines.append(home := [])
        home.append(event)
    return lines


def draw_lanes(rows: Rows, axis: Axis, colours, *, hollow: bool) -> Image.Image:
    """One lane per row; bars are filled, or outlined for the ground truth."""
    bar, step = 34, 42
    stacks = [(name, stack([e for e in events if all(map(math.isfinite, e[1:]))])) for name, events in rows]
    heights = [max(len(lines), 1) * step + 6 for _, lines in stacks]
    block = blank(max(sum(heights) + 8 * (len(heights) - 1), 20))
    draw, top = ImageDraw.Draw(block), 0
    for (name, lines), height in zip(stacks, heights):
        draw.rectangle((axis.left, top, axis.right - 1, top + height - 1), fill=PANEL)
        for mark in axis.marks[1:]:
            if axis.at(mark) < axis.right - 2:
                draw.line((axis.at(mark), top, axis.at(mark), top + height - 1), fill=(255, 255, 255), width=2)
        shown = clean(f"{name} (truth)" if hollow else name)
        draw.text(
            (PAD, top + height / 2 + 6), fit(shown, axis.left - PAD - 10, 17), font=font(17), fill=INK, anchor="ls"
        )
        if not lines:
            draw.text((axis.left + 12, top + height / 2 + 6), "no event", font=font(16), fill=MUTED, anchor="ls")
        for k, line in enumerate(lines):
            y = top + 7 + k * step
            for n, (label, start_s, end_s) in enumerate(line):
                before = axis.at(line[n - 1][2]) if n else axis.left
                after = axis.at(line[n + 1][1]) if n + 1 < len(line) else axis.right
                _bar(block, axis, (y, y + bar), label, start_s, end_s, colours[label], (before, after), hollow)
        top += height + 8
    return block


def _bar(block, axis, span, label, start_s, end_s, colour, free, hollow):
    """A bar; its label inside, or beside it where there is more room. `free`: where its neighbours end and begin."""
    (top, bottom), (before, after), left = span, free, axis.at(start_s)
    right = max(axis.at(end_s), left + 4)
    if right > axis.right:
        left, right = axis.right - 4, axis.right
    draw = ImageDraw.Draw(block)
    rounded(block, (left, top, right, bottom), 7, PAPER if hollow else colour, edge=colour, thick=3)
    bright = colour @ np.array([0.299, 0.587, 0.114]) > 140
    ink = INK if hollow or bright else PAPER
    name, times = clean(label), f"{start_s:g} to {end_s:g} s"
    base, both = bottom - 11, text_width(name, 17) + 10 + text_width(times, 14)
    if both <= right - left - 20:
        draw.text((left + 11, base), name, font=font(17), fill=ink, anchor="ls")
        draw.text((left + 21 + text_width(name, 17), base), times, font=font(14), fill=ink, anchor="ls")
    elif text_width(name, 17) <= right - left - 16:
        draw.text((left + 9, base), name, font=font(17), fill=ink, anchor="ls")
    elif after - right > max(right - left, left - before):
        draw.text((right + 7, base), fit(name, after - right - 12, 17), font=font(17), fill=INK, anchor="ls")
    elif left - before > text_width(name, 17) + 12:
        draw.text((left - 7, base), name, font=font(17), fill=INK, anchor="rs")
    else:
        draw.text((left + 7, base), fit(name, right - left - 12, 17), font=font(17), fill=ink, anchor="ls")
