"""Scores of one binary mask: IoU, the F-measure over 255 thresholds, and S of an expression that refers to nothing."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from crab_jax.metrics.state import ratio

BETA2 = 0.3
THRESHOLDS = 255


@functools.lru_cache(maxsize=1)
def thresholds() -> np.ndarray:
    """The 255 thresholds of the F-measure, float32 from 0 to 1.

    `linspace(0, 1 - 1e-10, 255)` in float32, where the end rounds to 1. The step is rounded to float32 and the upper
    half counts down from the end; NumPy's own linspace differs from that in the last bit of ten thresholds.

    Source: specification 10.6; the rounding follows the recorded thresholds.
    """
    end = np.float32(1 - 1e-10)
    step = np.float64(end / np.float32(THRESHOLDS - 1))
    n = np.arange(THRESHOLDS)
    values = np.where(n < THRESHOLDS // 2, step * n, np.float64(end) - step * (THRESHOLDS - 1 - n)).astype(np.float32)
    values.flags.writeable = False
    return values


def probabilities(output: np.ndarray) -> np.ndarray:
    """float32 probabilities of a predicted mask.

    Args:
        output: float logits before the sigmoid, or bool or 0/1 integers, any shape.

    Raises:
        ValueError: integers other than 0 and 1, or logits that are NaN.
    """
    output = np.asarray(output)
    if output.dtype == bool or np.issubdtype(output.dtype, np.integer):
        return foreground(output).astype(np.float32)
    logits = output.astype(np.float32)
    if broken := int(np.isnan(logits).sum()):
        raise ValueError(f"expected logits, found NaN in {broken} of {logits.size} pixels")
    # In float32 on purpose: a logit of 1e-9 has the probability 0.5 there, which is background.
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def foreground(mask: np.ndarray) -> np.ndarray:
    """A mask of bool or 0/1 integers as bool.

    Raises:
        ValueError: it holds something else, such as 255 for the foreground or class ids.
    """
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    if not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"expected a mask of bool or of the integers 0 and 1, found {mask.dtype}")
    if mask.size and (mask.min() < 0 or mask.max() > 1):
        raise ValueError(f"expected a mask of 0 and 1, found values from {mask.min()} to {mask.max()}")
    return mask == 1


def mask_iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks; bool [H W] each.

    Where the true mask is empty, the share of pixels that are background in both. The reference adds 1e-7 to the union,
    which its float32 does not keep.

    Source: specification 10.6.
    """
    if not true.any():
        return float(np.mean(~predicted)) if true.size else 1.0
    return int((predicted & true).sum()) / int((predicted | true).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """Pixels of a probability map at each of the 255 thresholds, `p >= threshold`.

    Attributes:
        hits: predicted and true, int64 [255].
        predicted: int64 [255].
        true: pixels of the true mask, whatever the threshold.
    """

    hits: np.ndarray
    predicted: np.ndarray
    true: int

    def precision(self) -> np.ndarray:
        """float64 [255]; 0 where nothing is predicted."""
        return ratio(self.hits, self.predicted)

    def recall(self) -> np.ndarray:
        """float64 [255]; 0 if the true mask is empty."""
        return ratio(self.hits, np.full(THRESHOLDS, self.true))

    def f(self) -> np.ndarray:
        """F with beta² = 0.3 at each threshold, float64 [255]; 0 where nothing is hit."""
        precision, recall = self.precision(), self.recall()
        return ratio((1 + BETA2) * precision * recall, BETA2 * precision + recall)


def threshold_counts(probability: np.ndarray, true: np.ndarray) -> ThresholdCounts:
    """Counts at all thresholds from one histogram instead of 255 comparisons of the whole picture.

    A pixel that reaches `k` thresholds counts for the first `k` of them, so the counts are sums from the right over a
    histogram of `k`. They are whole numbers and equal those of the loop.

    Args:
        probability: float32 [H W].
        true: bool [H W].
    """
    limits = thresholds()
    p = np.asarray(probability, np.float32).ravel()
    # The thresholds are nearly even, so the place of a pixel is off by one at most; two exact comparisons settle it.
    guess = np.clip(p * np.float32(THRESHOLDS - 1), 0, THRESHOLDS - 1).astype(np.int32)
    above = np.append(limits, np.float32(np.inf))[guess + 1] <= p
    below = limits[guess] > p
    reached = guess + 1 + above - below
    histogram = np.bincount(reached + (THRESHOLDS + 1) * true.ravel(), minlength=2 * (THRESHOLDS + 1))
    off, on = np.flip(np.cumsum(np.flip(histogram.reshape(2, -1), 1), 1), 1)[:, 1:]
    return ThresholdCounts(hits=on, predicted=on + off, true=int(true.sum()))


def f_measure(probability: np.ndarray, true: np.ndarray) -> float:
    """Largest F over the thresholds of one frame; 0 if the true mask is empty. float32 [H W], bool [H W].

    At threshold 0 everything is predicted, so a map of zeros scores as a full one.

    Source: specification 10.6.
    """
    return float(threshold_counts(probability, true).f().max())


def mean_f_measure(frames: list[ThresholdCounts]) -> float:
    """F averaged over the frames with a true mask at each threshold, then the largest; 0 without such frames.

    Source: the reference's own function on a batch of several frames, recorded case c10a.
    """
    curves = [counts.f() for counts in frames if counts.true]
    return float(np.mean(curves, axis=0).max()) if curves else 0.0


def null_s(predicted: np.ndarray) -> float:
    """Square root of the share of pixels taken for foreground, where nothing should be; bool [H W].

    Source: specification 10.7.
    """
    return float(np.sqrt(predicted.mean())) if predicted.size else 0.0
