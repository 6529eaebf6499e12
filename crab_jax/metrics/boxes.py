"""Boxes: how well they overlap, and how often well enough (audio-referred image grounding)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crab_jax.metrics.state import Item, ItemError, Metric, fixed, mean, share
from crab_jax.tasks import Box

STEPS = 20  # thresholds 0, 0.05, …, 1
SUCCESS_AT = (0.25, 0.5, 0.75, 0.9)


def areas(a: Sequence[float], b: Sequence[float], *, inclusive: bool = False) -> tuple[float, float]:
    """Areas of intersection and union of two boxes `(x1, y1, x2, y2)`, in pixels².

    Args:
        a, b: upper left and lower right corners.
        inclusive: whether the pixel of the lower right corner belongs to the box, so that sides are longer by 1.
    """
    more = int(inclusive)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + more, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + more, 0)
    inter = width * height
    size_a, size_b = ((x[2] - x[0] + more) * (x[3] - x[1] + more) for x in (a, b))
    return inter, size_a + size_b - inter


def box_iou(a: Sequence[float], b: Sequence[float], *, inclusive: bool = False) -> float:
    """Intersection over union of two boxes `(x1, y1, x2, y2)`; 0 if both have no area."""
    inter, union = areas(a, b, inclusive=inclusive)
    return inter / union if union > 0 else 0.0


def complete_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Complete IoU of two boxes `(x1, y1, x2, y2)`, the corrected form, between -1 and 1.

    IoU − d²/c² − αv: d is the distance of the centres, c the diagonal of the smallest box around both,
    v = 4/π² (atan w/h − atan w'/h')², α = v / (1 − IoU + v).

    Source: Zheng et al., "Distance-IoU Loss" (AAAI 2020). The two forms that the reference carries are in
    `recorded_boxes`.
    """
    iou = box_iou(a, b)
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    # atan2 takes a box without height as well.
    angles = math.atan2(a[2] - a[0], a[3] - a[1]) - math.atan2(b[2] - b[0], b[3] - b[1])
    v = 4 / math.pi**2 * angles**2
    aspect = v * v / (1 - iou + v) if v else 0.0
    return max(iou - (apart / diagonal if diagonal else 0.0) - aspect, -1.0)


class Grounding(Metric):
    """Success rates over IoU thresholds, their area, and mean IoU. An unparsed answer has IoU 0.

    `ciou`: share of boxes with IoU of at least 0.5, as the literature of this task uses the word. `auc`: area under the
    share of boxes with IoU ≥ t over t = 0, 0.05, …, 1, by the trapezoid rule; at t = 0 every item succeeds, even an
    unparsed one. `auc:overlap`: the same, but at t = 0 a box has to overlap at all. `success@t`: further thresholds.
    `complete_iou`: mean of the corrected Complete IoU, -1 for an unparsed answer. `:inclusive`: the pixel of the lower
    right corner belongs to the box. `:unparsed_left_out`: among those parsed.

    Source: specification 10.5; whether the corner's pixel belongs to the box is silent there.
    """

    headline = ("ciou", "auc", "mean_iou")
    unparsed_as = "a box that misses the true one"

    def _zero(self) -> dict[str, Any]:
        return {
            "items": 0,
            "unparsed": 0,
            "overlap": 0,
            "success": np.zeros(STEPS + 1, np.int64),
            "success_inclusive": np.zeros(STEPS + 1, np.int64),
            "iou": 0,
            "iou_inclusive": 0,
            "complete_iou": 0,
        }

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = _corners(item, "truth")
        if not item.parsed:
            success = (np.arange(STEPS + 1) == 0).astype(np.int64)  # 0 ≥ 0
            sums = {"items": 1, "unparsed": 1, "success": success, "success_inclusive": success}
            return {"iou": 0.0, "iou:inclusive": 0.0, "complete_iou": -1.0}, sums
        said = _corners(item, "prediction")
        (inter, union), (inter_i, union_i) = areas(said, truth), areas(said, truth, inclusive=True)
        complete = complete_iou(said, truth)
        steps = np.arange(STEPS + 1)
        # Compared in whole numbers, so that an IoU of exactly 0.05 k succeeds. Without any area the IoU is 0.
        sums = {
            "items": 1,
            "overlap": int(inter > 0),
            "success": (STEPS * inter >= steps * max(union, 1)).astype(np.int64),
            "success_inclusive": (STEPS * inter_i >= steps * union_i).astype(np.int64),
            "iou": fixed(inter / max(union, 1)),
            "iou_inclusive": fixed(inter_i / union_i),
            "complete_iou": fixed(complete),
        }
        return {"iou": inter / max(union, 1), "iou:inclusive": inter_i / union_i, "complete_iou": complete}, sums

    def result(self) -> dict[str, float]:
        """See the class."""
        s = self._sums
        items, parsed = s["items"], s["items"] - s["unparsed"]
        curve = [share(int(n), items) for n in s["success"]]
        values = {
            "ciou": curve[STEPS // 2],
            "ciou:inclusive": share(int(s["success_inclusive"][STEPS // 2]), items),
            "ciou:unparsed_left_out": share(int(s["success"][STEPS // 2]), parsed),
            "auc": _area(curve),
            "auc:inclusive": _area([share(int(n), items) for n in s["success_inclusive"]]),
            "auc:overlap": _area([share(s["overlap"], items), *curve[1:]]),
            # At t = 0 each parsed box succeeds; beyond it no unparsed answer does.
            "auc:unparsed_left_out": _area([share(parsed, parsed), *(share(int(n), parsed) for n in s["success"][1:])]),
            "mean_iou": mean(s["iou"], items),
            "mean_iou:inclusive": mean(s["iou_inclusive"], items),
            "mean_iou:unparsed_left_out": mean(s["iou"], parsed),
            "complete_iou": mean(s["complete_iou"] - fixed(1) * s["unparsed"], items),
            "complete_iou:unparsed_left_out": mean(s["complete_iou"], parsed),
        }
        values |= {f"success@{t:g}": curve[round(t * STEPS)] for t in SUCCESS_AT}
        return values | {"unparsed": share(s["unparsed"], items), "items": float(items)}


def _corners(item: Item, field: str) -> tuple[int, int, int, int]:
    box = item.expect(field, Box)
    if box.x1 > box.x2 or box.y1 > box.y2:
        raise ItemError(f"item {item.id}: expected the {field}'s upper left corner first, found {box}")
    return box.x1, box.y1, box.x2, box.y2


def _area(curve: Sequence[float]) -> float:
    return sum(a + b for a, b in itertools.pairwise(curve)) / (2 * STEPS)
