"""Writes what a stage renders as ordinary files: H.264 video with AAC sound, MP3, WAV, JPEG and PNG."""

from __future__ import annotations

import fractions
import pathlib

import av
import numpy as np
import soundfile
from PIL import Image


def write_video(
    path: pathlib.Path,
    frames: np.ndarray,
    *,
    fps: int,
    wave: np.ndarray | None = None,
    rate_hz: int = 44100,
    bit_rate: int = 128_000,
):
    """An MP4 with H.264 pictures and, if a wave is given, AAC sound.

    Args:
        frames: uint8 [T H W 3] with even H and W.
        wave: float32 [n 2] in [-1, 1].
        bit_rate: of the sound. Far above what its rate needs, the encoder becomes several times slower.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] % 2 or frames.shape[2] % 2 or not len(frames):
        raise ValueError(f"expected frames [T H W 3] with T above 0 and even H and W, got {frames.shape}")
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        # With threads or its macroblock tree, x264 sometimes writes other bytes for the same frames.
        video.options = {"crf": "19", "preset": "veryfast", "x264-params": "threads=1:sync-lookahead=0:mbtree=0"}
        audio = None if wave is None else container.add_stream("aac", rate=rate_hz, layout="stereo")
        if audio is not None:
            audio.bit_rate = bit_rate
            audio.options = {"aac_coder": "fast"}
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            _encode(container, audio, wave, sample_format="fltp", rate_hz=rate_hz)


def write_mp3(path: pathlib.Path, wave: np.ndarray, *, rate_hz: int, bit_rate: int = 128_000) -> pathlib.Path:
    """An MP3.  wave float32 [n 2], or [n 1] for a mono file

    Where PyAV was built without an MP3 encoder, a WAV beside it: readers go by the name that is returned.
    """
    if "libmp3lame" not in av.codecs_available:
        return write_wav(path.with_suffix(".wav"), wave, rate_hz=rate_hz)
    with av.open(str(path), "w") as container:
        audio = container.add_stream("libmp3lame", rate=rate_hz, layout=_layout(wave))
        audio.bit_rate = bit_rate
        audio.options = {"compression_level": "7"}  # twice as fast as the default
        _encode(container, audio, wave, sample_format="fltp", rate_hz=rate_hz)
    return path


def write_wav(path: pathlib.Path, wave: np.ndarray, *, rate_hz: int) -> pathlib.Path:
    """A 16-bit WAV.  wave float32 [n 2]"""
    soundfile.write(path, wave, rate_hz, subtype="PCM_16")
    return path


def write_jpeg(path: pathlib.Path, picture: np.ndarray) -> pathlib.Path:
    """A JPEG of quality 95.  picture uint8 [H W 3]"""
    Image.fromarray(picture).save(path, quality=95, subsampling=0)
    return path


def write_png(path: pathlib.Path, picture: np.ndarray) -> pathlib.Path:
    """A PNG.  picture uint8 [H W] or [H W 3]"""
    Image.fromarray(picture).save(path)
    return path


def _layout(wave: np.ndarray) -> str:
    return {1: "mono", 2: "stereo"}[wave.shape[1]]


def _encode(container, stream, wave: np.ndarray, *, sample_format: str, rate_hz: int, chunk: int = 1152):
    planes = np.ascontiguousarray(wave.T, np.float32)
    for start in range(0, planes.shape[1], chunk):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(planes[:, start : start + chunk]), format=sample_format, layout=_layout(wave)
        )
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, fractions.Fraction(1, rate_hz)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
