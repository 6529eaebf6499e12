"""The log-mel of `data_pipelines.fbank` as a jitted function, to compare with; nothing else uses it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import fbank


@jax.jit
def jitted(windows):
    """`normalised_fbank` in float32.  [A n] → [A F 128]"""
    count = fbank.frame_count(windows.shape[-1])
    at = np.arange(count)[:, None] * fbank.SHIFT + np.arange(fbank.WINDOW)
    frames = (windows.astype(jnp.float32) * 2.0**15)[:, at]  # [A F 400]
    frames = frames - frames.mean(axis=-1, keepdims=True)
    before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    shaped = (frames - fbank.PREEMPHASIS * before) * fbank.povey().astype(np.float32)
    power = jnp.square(jnp.abs(jnp.fft.rfft(shaped, n=fbank.FFT)))
    energy = jnp.maximum(power @ fbank.mel().astype(np.float32), fbank.FLOOR)
    return (jnp.log(energy) - fbank.MEAN) / (2 * fbank.STD)
