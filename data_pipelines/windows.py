"""Which parts of the sound are heard, per task, and how they are laid out for BEATs.

A task fixes how many nominal seconds a clip has, whatever its real length: a nominal second is p = floor(samples /
seconds) samples. So ten windows of a twelve-second clip are 1.2 s each, and a little sound at the end is never heard
(Q-46, Q-47: as the reference).
"""

from __future__ import annotations

import math

import numpy as np

from data_pipelines.audio import RATE
from data_pipelines.fbank import SHIFT, WINDOW, normalised_fbank
from data_pipelines.media import bad

PATCH = 16  # frames of the filter bank per patch row of BEATs
MIN_WINDOW = WINDOW + (PATCH - 1) * SHIFT  # 2800 samples: the shortest window with one patch row
MAX_WINDOW_S = 30  # half a minute in 32 tokens says little, and attention over a window costs its square
RULES = ("each_second", "six_second_grid", "one_second_of_image", "whole_seconds")

_GRID_STEP = 6  # nominal seconds between the windows of `six_second_grid`


def window_bounds(samples: int, *, rule: str, seconds: int | None = None, second: int | None = None) -> np.ndarray:
    """First and one-past-last sample of every window, in integers; all windows of a clip have the same length.

    | rule                  | windows, in nominal seconds       | tasks                                          |
    |-----------------------|-----------------------------------|------------------------------------------------|
    | `each_second`         | [j, j + 1), j < `seconds`         | ave, avvp, avcap, ref-avs; s4, ms3, arig, avss |
    | `six_second_grid`     | [t - 0.5, t + 1.5), t = 0, 6, 12… | avqa (`seconds` = 60)                          |
    | `one_second_of_image` | [j, j + 1), only j = `second`     | s4, ms3, arig, avss, asked about one image     |
    | `whole_seconds`       | [j, j + 1), real seconds          | caption pretraining                            |

    Args:
        samples: length of the sound.
        rule: one of `RULES`.
        seconds: nominal length of the clip; not for `whole_seconds`.
        second: j of `one_second_of_image` (the number that names the image file).

    Returns:
        int64 `[A 2]`. What lies before 0 or after the end of the sound is silence: half a nominal second at the start
        of `six_second_grid`, the rest of the last second of `whole_seconds`.

    Source: specification 4.2.
    """
    if rule not in RULES:
        raise ValueError(f"expected an audio rule out of {', '.join(RULES)}, found {rule!r}")
    if (seconds is None) != (rule == "whole_seconds") or (seconds is not None and seconds < 1):
        raise ValueError(
            f"rule {rule} {'takes no' if rule == 'whole_seconds' else 'needs a positive'} `seconds`, found {seconds}"
        )
    if (second is None) != (rule != "one_second_of_image"):
        raise ValueError(f"rule {rule} {'needs' if second is None else 'takes no'} `second`, found {second}")
    if rule == "whole_seconds":
        start = np.arange(max(1, -(-samples // RATE))) * RATE
        return np.stack([start, start + RATE], axis=1)
    p = samples // seconds
    if rule == "six_second_grid":
        t = np.arange(0, seconds, _GRID_STEP)
        stop = (2 * t + 3) * p // 2  # the halves of odd p are cut off, as `int((t + 1.5) * p)` does
        return np.stack([stop - 2 * p, stop], axis=1)
    start = p * (np.arange(seconds) if rule == "each_second" else np.array([second]))
    return np.stack([start, start + p], axis=1)


def usable_bounds(
    samples: int, *, rule: str, seconds: int | None = None, second: int | None = None, where: object = "the sound"
) -> np.ndarray:
    """`window_bounds` of a sound that the encoder can take; needs its length only, so it can be asked ahead of time.

    Args:
        samples: length of the sound.
        rule: as in `window_bounds`, like `seconds` and `second`.
        where: what to call the sound in messages, best the path of its file.

    Returns:
        int64 `[A 2]`.

    Raises:
        MediaError: as `audio_windows`.
    """
    bounds = window_bounds(samples, rule=rule, seconds=seconds, second=second)
    found = f"{samples / RATE:.2f} s"
    if samples == 0:
        raise bad(where, expected="sound", found="0 samples")
    if second is not None and not 0 <= second < seconds:
        raise bad(
            where,
            expected=f"an image named after its second, 0 to {seconds - 1}",
            found=f"second {second} of a clip that counts {seconds}",
        )
    width = int(bounds[0, 1] - bounds[0, 0])
    nominal = 2 if rule == "six_second_grid" else 1  # nominal seconds per window
    if width < MIN_WINDOW:
        need_s = seconds * math.ceil(MIN_WINDOW / nominal) / RATE
        raise bad(
            where,
            expected=f"at least {need_s:.3f} s of sound, which this task divides into {seconds} parts",
            found=found,
        )
    if width > MAX_WINDOW_S * RATE:
        most_s = seconds * MAX_WINDOW_S // nominal
        advice = "cut the clip to the part in question"
        raise bad(
            where,
            expected=f"at most {most_s} s of sound, which this task divides into {seconds} parts",
            found=found,
            advice=advice,
        )
    return bounds


def audio_windows(
    wave: np.ndarray, *, rule: str, seconds: int | None = None, second: int | None = None, where: object = "the sound"
) -> np.ndarray:
    """The windows of a clip, zero where they reach beyond it.

    Args:
        wave: float32 `[n]` at 16 kHz.
        rule: as in `window_bounds`, like `seconds` and `second`.
        where: what to call the sound in messages, best the path of its file.

    Returns:
        float32 `[A n]`.

    Raises:
        MediaError: sound too short for one patch row per window, or so long that windows exceed `MAX_WINDOW_S`;
            `second` outside the clip.
    """
    if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"expected a mono floating-point wave [n], found {wave.dtype} of shape {wave.shape}")
    bounds = usable_bounds(len(wave), rule=rule, seconds=seconds, second=second, where=where)
    before, after = max(0, -int(bounds[0, 0])), max(0, int(bounds[-1, 1]) - len(wave))
    padded = np.pad(wave, (before, after)) if before or after else wave
    return np.stack([padded[start:stop] for start, stop in bounds + before])


def log_mel_windows(
    wave: np.ndarray, *, rule: str, seconds: int | None = None, second: int | None = None, where: object = "the sound"
) -> np.ndarray:
    """`audio_windows` as BEATs hears them.

    Returns:
        Normalised log-mel, float32 `[A F 128]`, F the same for all windows of a clip.
    """
    return normalised_fbank(audio_windows(wave, rule=rule, seconds=seconds, second=second, where=where))
