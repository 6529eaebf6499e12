"""The sheet every picture is set on: sizes, colours, headings, paragraphs, and text that always fits."""

from __future__ import annotations

import functools
import math
import unicodedata

from PIL import Image, ImageDraw, ImageFont

WIDTH = 1120
PAD, GAP = 30, 20
TALLEST = 620  # of one picture

PAPER, PANEL, LINE = (252, 252, 250), (240, 241, 243), (221, 224, 228)
INK, MUTED = (26, 29, 36), (104, 111, 122)
BLUE, ORANGE, VERMILION = (0, 114, 178), (230, 159, 0), (213, 94, 0)
BARS = (BLUE, ORANGE, (0, 158, 115), (204, 121, 167), (86, 180, 233), VERMILION, (240, 228, 66), (92, 92, 92))
PREDICTION, TRUTH = (56, 170, 255), (255, 196, 37)  # lighter than the bars, because they stand on photographs


def assemble(title: str, score: str, *blocks: Image.Image | None) -> Image.Image:
    """Heading, then the blocks one below the other."""
    present = [heading(title, score), *(b for b in blocks if b is not None)]
    height = PAD + sum(b.height for b in present) + GAP * (len(present) - 1) + PAD - 8
    sheet, top = Image.new("RGB", (WIDTH, height), PAPER), PAD - 8
    for block in present:
        sheet.paste(block, (0, top))
        top += block.height + GAP
    return sheet


def blank(height: int) -> Image.Image:
    """An empty block of the width of a sheet."""
    return Image.new("RGB", (WIDTH, max(int(height), 1)), PAPER)


def above(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Two blocks that belong together, with little between them."""
    block = blank(upper.height + 4 + lower.height)
    block.paste(upper, (0, 0))
    block.paste(lower, (0, upper.height + 4))
    return block


def heading(title: str, score: str) -> Image.Image:
    """The title, and at its right the score, if there is one."""
    block = blank(40)
    draw = ImageDraw.Draw(block)
    room = WIDTH - 2 * PAD
    if score:
        size = text_width(score, 22)
        rounded(block, (WIDTH - PAD - size - 28, 1, WIDTH - PAD, 37), 18, VERMILION if score == "not parsed" else INK)
        draw.text((WIDTH - PAD - 14 - size, 27), score, font=font(22), fill=PAPER, anchor="ls")
        room -= size + 28 + GAP
    draw.text((PAD, 29), fit(clean(title), room, 26), font=font(26), fill=INK, anchor="ls")
    return block


def panel(label: str, text: str, *, size: int, bar=LINE, lines: int = 8, ink=INK) -> Image.Image:
    """A labelled paragraph with a coloured bar at its left."""
    if clean(text).count(MISSING) > sum(map(text.count, "·•")):
        label += f" ({MISSING} stands for what this font cannot show)"
    wrapped, step = wrap(text, WIDTH - 2 * PAD - 22, size, lines), round(size * 1.36)
    block = blank(24 + step * len(wrapped) + 6)
    draw = ImageDraw.Draw(block)
    rounded(block, (PAD, 0, PAD + 6, block.height), 3, bar)
    draw.text((PAD + 22, 15), fit(clean(label), WIDTH - 2 * PAD - 22, 15), font=font(15), fill=MUTED, anchor="ls")
    for k, line in enumerate(wrapped):
        draw.text((PAD + 22, 24 + step * k + round(size * 1.02)), line, font=font(size), fill=ink, anchor="ls")
    return block


def said(text: str, *, lines: int = 5) -> Image.Image | None:
    """What the model said; None if it said nothing."""
    return panel("The model said", text, size=16, lines=lines, ink=MUTED) if text else None


LONGEST = 8000  # characters that are looked at
MISSING = "·"
_PLAIN = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "×": "x", "•": "·", "→": "->", "←": "<-", "ß": "ss", "æ": "ae", "œ": "oe"}
    | {"Æ": "AE", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "¿": "?", "¡": "!"}
)


@functools.lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow. The basic engine, because the other one is not on every machine."""
    return ImageFont.load_default(size).font_variant(layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=1 << 16)
def _drawable(character: str) -> bool:
    """Whether the font has a glyph for it, other than the one for everything it lacks."""
    if character.isspace():
        return True
    if unicodedata.category(character)[0] in "CM":  # controls, surrogates, unassigned, marks
        return False
    return _glyph(character) != _glyph("\U0010fffd")


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = font(20).getmask(character)
    return mask.size, bytes(mask)


def clean(text: str) -> str:
    """One paragraph that the font can draw, which knows little more than ASCII.

    Accents are dropped and what has a plain spelling gets it; anything else becomes `MISSING`.
    """
    plain = unicodedata.normalize("NFKD", str(text)[:LONGEST].translate(_PLAIN))
    kept = (c for c in plain if unicodedata.category(c) != "Mn")
    return "".join(" " if c.isspace() else c if _drawable(c) else MISSING for c in kept)


def text_width(text: str, size: int) -> int:
    """Pixels that a line takes."""
    return math.ceil(font(size).getlength(text))


def fit(text: str, room: float, size: int) -> str:
    """The text, or as much of it as there is room for and an ellipsis."""
    low, high = 0, min(len(text), int(room))  # no glyph is narrower than a pixel
    if len(text) == high and text_width(text, size) <= room:
        return text
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle] + "…", size) <= room else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""


def wrap(text: str, room: int, size: int, lines: int) -> list[str]:
    """At most so many lines; words that are too long are broken; what does not fit is announced."""
    result: list[str] = []
    for paragraph in str(text)[:LONGEST].splitlines() or [""]:
        line = ""
        for word in clean(paragraph).split():
            joined = f"{line} {word}" if line else word
            if text_width(joined, size) <= room:
                line = joined
                continue
            if line:
                result.append(line)
            while len(result) <= lines and (shorter := fit(word, room, size)) != word:
                head = max(len(shorter) - 1, 1)
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
    last = fit(shown[-1], room - text_width(note, size) - 12, size).removesuffix("…")
    return [*shown[:-1], f"{last} {note}".strip()]


def percent(share: float) -> str:
    """A share for people, without calling anything above nothing 0.0 %."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.1f} %"


def rounded(image: Image.Image, box, radius: float, fill, *, edge=None, thick: int = 1) -> None:
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
