"""Kaldi's log-mel filter bank, in NumPy.

Everything behind the tables is float64, whatever goes in. The reference has two paths: float32, and float64 for
segments that it had padded with double zeros (Q-25). Float64 agrees with the latter to the last bits, and with the
former to the noise that float32 leaves in near-silent bins.
"""

from __future__ import annotations

import functools
import math
import threading

import numpy as np

WINDOW = 400  # samples per frame, 25 ms at 16 kHz
SHIFT = 160  # samples between frames, 10 ms
BINS = 128  # mel bins
MEAN, STD = 15.41663, 6.55582  # of the sound BEATs was trained on

FFT = 512
_RATE = 16_000
_LOW_HZ, _HIGH_HZ = 20.0, 8_000.0
PREEMPHASIS = 0.97
FLOOR = float(np.finfo(np.float32).eps)
_BLOCK_BINS = 32  # mel bins that are computed together
_CHUNK_FRAMES = 100  # frames in work at once: 1 MB, which a cache holds, however long the sound is


def frame_count(samples: int) -> int:
    """Frames that fit entirely into `samples`; 0 if there is not even one."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


def fbank(wave: np.ndarray) -> np.ndarray:
    """Log-mel energies, natural logarithm, before normalisation.

    Per frame: minus its mean, pre-emphasis, Povey window, power spectrum of 512 points, 128 triangles on the mel scale,
    floor at float32's epsilon. No dither, no energy term; frames that would reach over the end are left out.

    Args:
        wave: floating-point `[… n]` in [-1, 1) at 16 kHz; leading axes are windows of the same length.

    Returns:
        float32 `[… F 128]`, F = 1 + floor((n - 400) / 160).

    Raises:
        ValueError: less than one frame.

    Source: specification 4.3.
    """
    return _log_mel(wave, mean=0.0, scale=1.0)


def normalised_fbank(wave: np.ndarray) -> np.ndarray:
    """What BEATs hears: (fbank - 15.41663) / (2 · 6.55582).  As `fbank` otherwise."""
    return _log_mel(wave, mean=MEAN, scale=2 * STD)


def _log_mel(wave: np.ndarray, *, mean: float, scale: float) -> np.ndarray:
    wave = np.asarray(wave)
    if wave.ndim < 1 or not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"expected a floating-point wave [… n], found {wave.dtype} of shape {wave.shape}")
    n = wave.shape[-1]
    count = frame_count(n)
    if count == 0:
        raise ValueError(f"expected at least {WINDOW} samples (25 ms) for one frame, found {n}")
    windows = wave.reshape(-1, n)
    out = np.empty((len(windows), count, BINS), np.float32)
    step = max(1, _CHUNK_FRAMES // count)
    for first in range(0, len(windows), step):
        for start in range(0, count, _CHUNK_FRAMES):  # more than one only for a single very long window
            stop = min(start + _CHUNK_FRAMES, count)
            part = windows[first : first + step, start * SHIFT : (stop - 1) * SHIFT + WINDOW]
            energy = _frames_to_log_mel(part)
            energy -= mean
            np.divide(energy, scale, out=out[first : first + step, start:stop], casting="same_kind")
    return out.reshape(*wave.shape[:-1], count, BINS)


class _Scratch(threading.local):
    """Arrays of a chunk, one set per thread: fresh memory for each would cost as much time as the arithmetic."""

    def __init__(self):
        self.padded = np.zeros((_CHUNK_FRAMES, FFT))  # what lies behind the window stays zero
        self.spectrum = np.empty((_CHUNK_FRAMES, FFT // 2 + 1), np.complex128)
        self.power = np.empty((_CHUNK_FRAMES, FFT // 2 + 1))
        self.energy = np.empty((_CHUNK_FRAMES, BINS))


_scratch = _Scratch()


def _frames_to_log_mel(wave: np.ndarray) -> np.ndarray:
    """[A n] → float64 [A F 128], F whole frames and no sample more; overwritten by the next call in this thread."""
    windows, frames = len(wave), frame_count(wave.shape[1])
    padded, spectrum, power, energy = (
        buffer[: windows * frames] for buffer in (_scratch.padded, _scratch.spectrum, _scratch.power, _scratch.energy)
    )
    scaled = np.multiply(wave, 2.0**15, dtype=np.float64)  # Kaldi thinks in 16-bit integers
    # Emphasis takes neighbours apart, also those of different frames: once for the sound instead of once per frame.
    emphasised = scaled[:, 1:] - PREEMPHASIS * scaled[:, :-1]
    mean = _frame_sums(scaled, frames) / WINDOW
    shaped = padded.reshape(windows, frames, FFT)[..., :WINDOW]
    offset = (1 - PREEMPHASIS) * mean  # what is left of the mean behind the emphasis
    np.subtract(_overlapping(emphasised, WINDOW - 1), offset[..., None], out=shaped[..., 1:])
    first = scaled[:, : (frames - 1) * SHIFT + 1 : SHIFT]
    shaped[..., 0] = (1 - PREEMPHASIS) * first - offset  # the first sample is its own predecessor
    shaped *= povey()
    np.fft.rfft(padded, out=spectrum)
    real, imaginary = spectrum.real, spectrum.imag
    np.square(real, out=power)
    power += np.square(imaginary, out=imaginary)
    for columns, rows, triangles in _mel_blocks():
        np.matmul(power[:, rows], triangles, out=energy[:, columns])
    np.log(np.maximum(energy, FLOOR, out=energy), out=energy)
    return energy.reshape(windows, frames, BINS)


def _overlapping(signal: np.ndarray, width: int) -> np.ndarray:
    """Every `SHIFT`-th run of `width` neighbours, a view: [A n] → [A F width]"""
    return np.lib.stride_tricks.sliding_window_view(signal, width, axis=-1)[:, ::SHIFT]


def _frame_sums(signal: np.ndarray, frames: int) -> np.ndarray:
    """Sums over frames from those over what two frames share at least: [A n] → [A F]"""
    unit = math.gcd(WINDOW, SHIFT)
    sums = signal.reshape(len(signal), -1, unit).sum(axis=-1)
    per, hop = WINDOW // unit, SHIFT // unit
    return sum(sums[:, k : k + (frames - 1) * hop + 1 : hop] for k in range(per))


@functools.cache
def _mel_blocks() -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """`mel` cut into blocks of bins, each with the frequencies that reach it only: a quarter of the product."""
    blocks = []
    for first in range(0, BINS, _BLOCK_BINS):
        columns = slice(first, first + _BLOCK_BINS)
        used = np.flatnonzero(mel()[:, columns].any(axis=1))
        rows = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((columns, rows, np.ascontiguousarray(mel()[rows, columns])))
    return tuple(blocks)


@functools.cache
def povey() -> np.ndarray:
    """Hann window, symmetric, to the power 0.85.  [400]"""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85


@functools.cache
def mel() -> np.ndarray:
    """Triangles that are straight on the mel scale; the Nyquist bin has no weight.  float64 [257 128]

    Computed in float32, as Kaldi and torchaudio do also for double sound: where a triangle just touches a frequency its
    weight is a small difference, and another rounding would show in a tone that lies there. Only the logarithm goes
    through float64: NumPy's own for float32 differs between processors in the last bit.
    """
    low, high = (1127.0 * np.log(1.0 + hz / 700.0) for hz in (_LOW_HZ, _HIGH_HZ))
    delta = (high - low) / (BINS + 1)
    number = np.arange(BINS, dtype=np.float32)
    left, centre, right = (np.float32(low) + (number + np.float32(i)) * np.float32(delta) for i in range(3))
    hz = np.float32(_RATE / FFT) * np.arange(FFT // 2, dtype=np.float32)
    log = np.log((np.float32(1) + hz / np.float32(700)).astype(np.float64)).astype(np.float32)
    bins = (np.float32(1127) * log)[:, None]  # [256 1]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.concatenate([np.maximum(triangles, 0), np.zeros((1, BINS), np.float32)]).astype(np.float64)
