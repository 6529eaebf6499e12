"""Kaldi's log-mel filter bank, in NumPy.

Everything behind the tables is float64, whatever goes in. The reference has two paths: float32, and float64 for
segments that it had padded with double zeros (Q-25). Float64 agrees with the latter to the last bits, and with the
former to the noise that float32 leaves in near-silent bins.
"""

from __future__ import annotations

import functools

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
_CHUNK_FRAMES = 200  # frames in work at once: 2 MB, which a cache holds, however long the sound is


def frame_count(samples: int) -> int:
    """Frames that fit entirely into `samples`; 0 if there is not even one."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


def fbank(wave: np.ndarray) -> np.ndarray:
    """Log-mel energies, natural logarithm, before normalisation.

    Per frame: minus its mean, pre-emphasis, Povey window, power spectrum of 512 points, 128 triangles on the mel scale,
        floor at
    float32's epsilon. No dither, no energy term; frames that would reach over the end are left out.

    Args:
        wave: floating-point `[… n]` in [-1, 1) at 16 kHz; leading axes are windows of the same length.

    Returns:
        float32 `[… F 128]`, F = 1 + floor((n - 400) / 160).

    Raises:
        ValueError: less than one frame.

    Source: specification 4.3.
    """
    return _log_mel(wave).astype(np.float32)


def normalised_fbank(wave: np.ndarray) -> np.ndarray:
    """What BEATs hears: (fbank - 15.41663) / (2 · 6.55582).  As `fbank` otherwise."""
    return ((_log_mel(wave) - MEAN) / (2 * STD)).astype(np.float32)


def _log_mel(wave: np.ndarray) -> np.ndarray:
    wave = np.asarray(wave)
    if wave.ndim < 1 or not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"expected a floating-point wave [… n], found {wave.dtype} of shape {wave.shape}")
    n = wave.shape[-1]
    count = frame_count(n)
    if count == 0:
        raise ValueError(f"expected at least {WINDOW} samples (25 ms) for one frame, found {n}")
    windows = wave.reshape(-1, n)
    out = np.empty((len(windows), count, BINS))
    step = max(1, _CHUNK_FRAMES // count)
    for first in range(0, len(windows), step):
        for start in range(0, count, _CHUNK_FRAMES):  # more than one only for a single very long window
            stop = min(start + _CHUNK_FRAMES, count)
            part = windows[first : first + step, start * SHIFT : (stop - 1) * SHIFT + WINDOW]
            out[first : first + step, start:stop] = _frames_to_log_mel(part)
    return out.reshape(*wave.shape[:-1], count, BINS)


def _frames_to_log_mel(wave: np.ndarray) -> np.ndarray:
    """[A n] → float64 [A F 128]"""
    scaled = wave.astype(np.float64) * 2.0**15  # Kaldi thinks in 16-bit integers
    frames = np.lib.stride_tricks.sliding_window_view(scaled, WINDOW, axis=-1)[:, ::SHIFT]  # [A F 400]
    frames = frames - frames.mean(axis=-1, keepdims=True)
    # In place from here on: fresh memory costs time.
    padded = np.zeros((*frames.shape[:2], FFT))
    shaped = padded[..., :WINDOW]
    np.multiply(frames[..., :-1], -PREEMPHASIS, out=shaped[..., 1:])
    shaped[..., 1:] += frames[..., 1:]
    shaped[..., 0] = (1 - PREEMPHASIS) * frames[..., 0]  # the first sample is its own predecessor
    shaped *= povey()
    spectrum = np.fft.rfft(padded)  # [A F 257]
    real, imaginary = spectrum.real, spectrum.imag
    power = np.square(real, out=real) + np.square(imaginary, out=imaginary)
    energy = power.reshape(-1, power.shape[-1]) @ mel()
    np.log(np.maximum(energy, FLOOR, out=energy), out=energy)
    return energy.reshape(*frames.shape[:2], BINS)


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
