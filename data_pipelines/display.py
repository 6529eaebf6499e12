"""Media and texts of a record in the forms that a page in a browser shows. No jax here."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import soundfile
from PIL import Image

from data_pipelines.encoding import RATE
from data_pipelines.records import Record


def text(value: object) -> str:
    """Safe to stand in HTML."""
    return html.escape(str(value))


def tagged(said: str) -> str:
    """HTML of a prompt or an answer, in which tags stand out from the words."""
    shown = re.sub(r"&lt;/?\w+&gt;", lambda match: f"<code>{match[0]}</code>", text(said))
    return shown.replace("\n", "<br>")


def shaped(record: Record, k: int, longest: int) -> Image.Image:
    """The k-th picture in the proportions that it had before it was squashed.

    Args:
        record: whose.
        k: which.
        longest: pixels of the longer side.

    Raises:
        data_pipelines.records.CorruptRecord: it cannot be decoded.
    """
    image = Image.fromarray(record.picture(k))
    seen = record.provenance.get("video") or (record.provenance.get("pictures") or [{}] * (k + 1))[k]
    width, height = seen.get("size") or image.size
    scale = longest / max(width, height, 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return image.resize(size, Image.Resampling.BICUBIC)


def outline(wave: np.ndarray, *, columns: int, height: int) -> str:
    """The wave as the `d` of an SVG path, its loudest moment as high as the drawing; one unit per column.

    Args:
        wave: float32 [n], not empty.
        columns: at most so many.
        height: of the drawing.
    """
    peak = max(float(np.abs(wave).max()), 1e-9)
    columns = min(columns, len(wave))
    starts = np.arange(columns) * len(wave) // columns
    middle = height / 2
    tops = middle - np.maximum.reduceat(wave, starts) / peak * (middle - 1)
    bottoms = middle - np.minimum.reduceat(wave, starts) / peak * (middle - 1)
    points = [f"{x} {y:.0f}" for x, y in enumerate(tops)] + [f"{x} {y + 1:.0f}" for x, y in enumerate(bottoms)][::-1]
    return f"M{'L'.join(points)}Z"


def playable(wave: np.ndarray) -> str:
    """The sound as a small file that browsers play, an address of data; float32 [n] at 16 kHz."""
    wave = wave / max(1.0, float(np.abs(wave).max(initial=0.0)))
    file = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(file, wave, RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.8)
        return address("audio/mpeg", file.getvalue())
    soundfile.write(file, wave, RATE, format="FLAC", subtype="PCM_16")
    return address("audio/flac", file.getvalue())


def jpeg(image: Image.Image, *, quality: int = 82) -> str:
    """The picture as an address of data."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return address("image/jpeg", file.getvalue())


def address(kind: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
