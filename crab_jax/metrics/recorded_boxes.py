"""The two forms of Complete IoU that the reference carries, with their quirks. Neither belongs in a headline.

They exist so that recorded numbers can be checked; use `crab_jax.metrics.box_iou` and `complete_iou`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

EPS = 1e-6


def intersection_over_union(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes `(x1, y1, x2, y2)` with 1e-6 added to the union, so that equal boxes stay below 1."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter + EPS)


def c_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Complete IoU of two boxes; the enclosing diagonal takes the sum of the vertical corners, not their difference.

    Raises:
        ZeroDivisionError: a box has no height.

    Source: specification 10.5, recorded case c10d.
    """
    iou = intersection_over_union(a, b)
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) + min(a[1], b[1])) ** 2
    angles = math.atan((a[2] - a[0]) / (a[3] - a[1])) - math.atan((b[2] - b[0]) / (b[3] - b[1]))
    v = 4 / math.pi**2 * angles**2
    return iou - apart / diagonal - v * v / (1 - iou + v)


def bbox_overlaps_ciou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Complete IoU of boxes [N 4] and [N 4], or of one box with many, clipped to [-1, 1]; NaN where boxes are equal.

    The aspect term is the gradient form of an early implementation, not the value. Element-wise: the shape is [N], but
    [N 0] or [0 N] where one side is empty.

    Source: specification 10.5, recorded case c10d.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    if len(a) > len(b):  # the form is not symmetric, and the reference puts the shorter side first
        a, b = b, a
    (w1, h1), (w2, h2) = (a[:, 2:] - a[:, :2]).T, (b[:, 2:] - b[:, :2]).T
    inside = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    around = np.clip(np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2]), 0, None)
    apart = (((b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = inside / (w1 * h1 + w2 * h2 - inside)
        angles = np.arctan(w2 / h2) - np.arctan(w1 / h1)
        v = 4 / np.pi**2 * angles**2
        aspect = v / (1 - iou + v) * (8 / np.pi**2 * angles * -w1 * h1)
        return np.clip(iou - (apart / (around**2).sum(1) + aspect), -1, 1)
