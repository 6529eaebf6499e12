"""Makes small media files for tests: videos with sound through PyAV, sound through soundfile."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import soundfile


def tone(seconds: float, rate: int, *, channels: int = 1, hz: float = 440.0) -> np.ndarray:
    """A sine with a fade and a little noise, different in every channel.  float32 `[channels n]`"""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((channels, t.size))
    pitch = hz * (1 + np.arange(channels))[:, None]
    return (0.3 * np.sin(2 * np.pi * pitch * t) * np.minimum(1, 4 * t) + 0.01 * noise).astype(np.float32)


_BITS = 8


def numbered(i: int, width: int, height: int) -> np.ndarray:
    """A picture that tells its number, 0 to 255, in black and white bars.  uint8 `[height width 3]`"""
    bars = np.array([200 * (i >> bit & 1) + 20 for bit in range(_BITS)], np.uint8)
    row = bars[np.arange(width) * _BITS // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of pictures made by `numbered`, at any size.  uint8 `[n height width 3]`"""
    width = frames.shape[2]
    centres = (2 * np.arange(_BITS) + 1) * width // (2 * _BITS)
    bits = frames[:, frames.shape[1] // 2, centres, 1] > 120
    return [int(b @ (1 << np.arange(_BITS))) for b in bits]


def write_video(
    path: pathlib.Path,
    *,
    frames: int,
    width: int = 64,
    height: int = 48,
    rate: int = 10,
    picture: Callable[[int, int, int], np.ndarray] = numbered,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 44100,
    sound_codec: str = "aac",
    colorspace: int | None = None,
    color_range: int | None = None,
) -> pathlib.Path:
    """A video; the name's ending chooses the container.

    Args:
        path: where to.
        frames: pictures; 0 with a `width` still makes a video stream, without pictures.
        width: in pixels, 0 for no video stream.
        height: in pixels.
        rate: pictures per second.
        picture: (i, width, height) → uint8 `[height width 3]`.
        codec: of the pictures.
        pix_fmt: of the pictures.
        codec_options: of the video encoder; libx264 is lossless without.
        options: of the container.
        sound: float32 `[channels n]`, 1, 2 or 6 channels, or None for no audio stream.
        sound_rate: in samples per second.
        sound_codec: "aac", "pcm_s16le", "libopus" …
        colorspace: tag of the pictures, and how they are converted.
        color_range: likewise.
    """
    with av.open(str(path), "w", options=options or {}) as out:
        video = audio = None
        if width:
            if codec_options is None:
                codec_options = {"qp": "0", "preset": "ultrafast"} if codec == "libx264" else {}
            video = out.add_stream(codec, rate=rate, options=codec_options)
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            if colorspace is not None:
                video.codec_context.colorspace = colorspace
            if color_range is not None:
                video.codec_context.color_range = color_range
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = out.add_stream(sound_codec, rate=sound_rate, layout=layout)
        if frames == 0 and video is not None:
            out.start_encoding()
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, width, height), format="rgb24")
            if colorspace is not None or color_range is not None:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range)
            frame.pts, frame.time_base = i, Fraction(1, rate)
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sound_rate, 0, Fraction(1, sound_rate)
            resampler = av.AudioResampler(format=audio.codec_context.format, layout=layout, rate=sound_rate)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(audio.encode(part))
            out.mux(audio.encode(None))
    return path


def write_sound(path: pathlib.Path, sound: np.ndarray, rate: int, *, subtype: str | None = None) -> pathlib.Path:
    """A sound file of float32 `[channels n]`; the name's ending chooses the format, `subtype` the kind of samples."""
    soundfile.write(path, sound.T, rate, subtype=subtype)
    return path


def rotate_mp4(path: pathlib.Path, *, clockwise: int) -> pathlib.Path:
    """Notes in an MP4's track header that players must turn the picture, as a phone held sideways does."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of other fields
    for place, value in ((0, cos), (1, sin), (3, -sin), (4, cos)):
        data[matrix + 4 * place : matrix + 4 * place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def cut(path: pathlib.Path, share: float) -> pathlib.Path:
    """Keeps the first part of a file, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
