"""Pictures and sounds of the gallery as small files inside the page."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from data_pipelines.display import address, playable, shaped
from data_pipelines.fbank import fbank, frame_count
from data_pipelines.records import Record

STRIP = 10  # pictures side by side
_THUMB = 116  # pixels, the longer side of each
_SPECTRUM = (560, 64)  # pixels
# From quiet to loud: dark in both colour schemes, like the pictures above it.
_LOUDNESS = ((18, 22, 34), (24, 62, 110), (40, 128, 158), (142, 190, 120), (250, 220, 130))
_RANGE = 11.0  # of the natural logarithm of energy, below the loudest moment


@dataclasses.dataclass
class Budget:
    """What may still go into the page. Sound is left out first, because it is largest and can be done without.

    Attributes:
        left: bytes.
        silent: how many sounds were left out.
    """

    left: int
    silent: int = 0

    def spend(self, text: str) -> str:
        """Takes note of something that is in the page in any case."""
        self.left -= len(text)
        return text

    def sound(self, wave: np.ndarray, *, reserve: int) -> str:
        """The sound as an address of data; empty if less than `reserve` bytes would be left for what must follow."""
        made = playable(wave)
        if self.left - len(made) < reserve:
            self.silent += 1
            return ""
        return self.spend(made)


def webp(image: Image.Image, *, quality: int = 74) -> str:
    """The picture as an address of data."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=quality, method=2)
    return address("image/webp", file.getvalue())


def strip(record: Record) -> tuple[Image.Image, list[int]] | None:
    """At most `STRIP` pictures side by side, spread over the clip, and which; None for fewer than two.

    Raises:
        data_pipelines.records.CorruptRecord: one cannot be decoded.
    """
    count = min(len(record.frames), STRIP)
    if count < 2:
        return None
    chosen = [k * len(record.frames) // count for k in range(count)]
    thumbs = [shaped(record, k, _THUMB) for k in chosen]
    width, height = thumbs[0].size
    sheet = Image.new("RGB", (count * width, height))
    for k, thumb in enumerate(thumbs):
        sheet.paste(thumb.resize((width, height)), (k * width, 0))
    return sheet, chosen


def spectrogram(wave: np.ndarray) -> Image.Image | None:
    """The log-mel filter bank that the model hears, low notes at the bottom; None for less than one frame of sound.

    Args:
        wave: float32 [n] at 16 kHz.
    """
    if not frame_count(len(wave)):
        return None
    energy = fbank(wave).T[::-1]  # [128 F]
    loudest = float(energy.max())
    share = np.clip((energy - (loudest - _RANGE)) / _RANGE, 0, 1)
    image = Image.fromarray((255 * share).astype(np.uint8))
    image = image.resize(_SPECTRUM, Image.Resampling.BOX)
    stops = np.linspace(0, 255, len(_LOUDNESS))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in zip(*_LOUDNESS)], axis=1)
    return Image.fromarray(table.astype(np.uint8)[np.asarray(image)])
