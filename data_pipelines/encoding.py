"""Pictures, masks and sound as bytes of a record, and back. Everything but JPEG comes back as it was."""

from __future__ import annotations

import enum
import io
from collections.abc import Callable

import numpy as np
import soundfile
from PIL import Image

RATE = 16_000  # as `data_pipelines.audio.RATE`, which needs more libraries than a reader of records should

_BITS = 23  # of a FLAC sample beside its sign


class PictureFormat(enum.StrEnum):
    """How the pictures of a record are stored."""

    JPEG = "jpeg"
    PNG = "png"


def encode_picture(picture: np.ndarray, *, kind: PictureFormat, quality: int) -> bytes:
    """A picture as a JPEG or PNG file.

    JPEG keeps the full resolution of the colours (4:4:4). On frames squashed to 224 pixels that is a sixth more bytes
    than 4:2:0 for half its largest error, and takes less time to write.

    Args:
        picture: uint8 `[S S 3]`.
        kind: of file.
        quality: of a JPEG, 1 to 100.
    """
    file = io.BytesIO()
    if kind is PictureFormat.JPEG:
        Image.fromarray(picture).save(file, format="JPEG", quality=quality, subsampling="4:4:4")
    else:
        # Higher levels take three times as long to save a tenth.
        Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def decode_picture(data: bytes) -> np.ndarray:
    """The inverse of `encode_picture`: uint8 `[S S 3]`.

    Raises:
        ValueError: the bytes are no picture.
    """
    return _decode(data, formats=("JPEG", "PNG"), mode="RGB")


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask uint8 `[S S]`, 0 and 1 or class ids, as a gray PNG."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """The inverse of `encode_mask`: uint8 `[S S]`.

    Raises:
        ValueError: the bytes are no mask.
    """
    return _decode(data, formats=("PNG",), mode="L")


def _decode(data: bytes, *, formats: tuple[str, ...], mode: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.mode != mode:
                raise ValueError(f"expected pixels of mode {mode}, found {image.mode}")
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{len(data)} bytes that do not decode as {' or '.join(formats)} ({error})") from error


def encode_sound(wave: np.ndarray) -> tuple[bytes, int]:
    """Sound as FLAC with 24 bits, scaled by a power of two so that the loudest sample uses all of them.

    Sound that came from 16-bit files at 16 kHz is kept exactly. Of other sound the error is at most half a unit in the
    last place that float32 has at the loudest sample. The scaling also keeps samples beyond ±1, which MP3 decoders and
    resamplers produce.

    Args:
        wave: finite float32 `[n]` at 16 kHz.

    Returns:
        A FLAC file and an exponent: `wave` is its samples · 2^exponent. No bytes for no samples.
    """
    if not len(wave):
        return b"", 0
    exponent = int(np.frexp(np.abs(wave).max())[1])
    whole = np.rint(np.ldexp(wave.astype(np.float64), _BITS - exponent))
    samples = np.clip(whole, -(1 << _BITS), (1 << _BITS) - 1).astype(np.int32)
    file = io.BytesIO()
    # libsndfile takes the upper 24 of 32 bits.
    soundfile.write(file, samples << (31 - _BITS), RATE, format="FLAC", subtype="PCM_24")
    return file.getvalue(), exponent


def decode_sound(data: bytes, exponent: int) -> np.ndarray:
    """The inverse of `encode_sound`: float32 `[n]`.

    Raises:
        ValueError: the bytes are no mono sound at 16 kHz.
    """
    if not data:
        return np.zeros(0, np.float32)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            announced, rate, channels = file.frames, file.samplerate, file.channels
            samples = file.read(dtype="int32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{len(data)} bytes that do not decode as FLAC ({error.error_string})") from error
    if (rate, channels, len(samples)) != (RATE, 1, announced):
        found = f"{rate} Hz, {channels} channels, {len(samples)} of {announced} samples"
        raise ValueError(f"expected mono sound at {RATE} Hz, found {found}")
    return _to_wave(samples, exponent)


def _joined(parts: np.ndarray) -> list[list[int]]:
    """Parts that touch become one: looking for a place in a FLAC file costs more than reading on."""
    joined: list[list[int]] = []
    for start, stop in parts.tolist():
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(stop, joined[-1][1])
        else:
            joined.append([start, stop])
    return joined


def _to_wave(samples: np.ndarray, exponent: int) -> np.ndarray:
    """Exact: the lowest eight of 32 bits are zero."""
    wave = samples.astype(np.float32)
    if abs(exponent) > 64:
        return np.ldexp(wave, exponent - 31)
    wave *= np.float32(2.0 ** (exponent - 31))  # the same, in a third of the time
    return wave


def decode_sound_parts(data: bytes, exponent: int, parts: Callable[[int], np.ndarray]) -> np.ndarray:
    """`decode_sound` for who listens to parts only: silence elsewhere. Of a minute of avqa, 20 s are heard.

    Args:
        data, exponent: as in `decode_sound`.
        parts: number of samples → int `[A 2]`, first and one-past-last sample of every part, in ascending order; what
            lies outside the sound is left out.

    Returns:
        float32 `[n]`, n the length of the whole sound.

    Raises:
        ValueError: as `decode_sound`, if the damage is in these parts; and whatever `parts` raises.
    """
    if not data:
        parts(0)
        return np.zeros(0, np.float32)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if (file.samplerate, file.channels) != (RATE, 1):
                found = f"{file.samplerate} Hz, {file.channels} channels"
                raise ValueError(f"expected mono sound at {RATE} Hz, found {found}")
            wave = np.zeros(file.frames, np.float32)
            for start, stop in _joined(np.clip(parts(file.frames), 0, file.frames)):
                file.seek(start)
                samples = file.read(stop - start, dtype="int32")
                if len(samples) != stop - start:
                    raise ValueError(f"expected samples {start} to {stop}, found {len(samples)} of them")
                wave[start:stop] = _to_wave(samples, exponent)
            return wave
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{len(data)} bytes that do not decode as FLAC ({error.error_string})") from error
