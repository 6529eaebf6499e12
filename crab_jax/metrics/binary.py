"""Binary masks over a test set: S4, MS3, Ref-AVS, and Ref-AVS expressions that refer to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from crab_jax.metrics import masks
from crab_jax.metrics.masks import THRESHOLDS, ThresholdCounts
from crab_jax.metrics.state import Item, ItemError, Metric, fixed, fixed_array, mean, share, zeros
from crab_jax.tasks import MaskTokens


def read_truth(item: Item) -> np.ndarray:
    """The true mask as bool [H W].

    Raises:
        ItemError: there is none, or it is no binary mask.
    """
    if item.mask is None:
        raise ItemError(f"item {item.id}: expected a true mask, found none")
    if np.ndim(item.mask) != 2:
        raise ItemError(f"item {item.id}: expected a true mask [H W], found shape {np.shape(item.mask)}")
    try:
        return masks.foreground(item.mask)
    except ValueError as error:
        raise ItemError(f"item {item.id}, true mask: {error}") from error


def read_output(item: Item, shape: tuple[int, ...] | None) -> np.ndarray:
    """The predicted mask as float32 probabilities [H W].

    Raises:
        ItemError: there is none although the answer has mask tokens, or its shape or its values are wrong.
    """
    item.expect("prediction", MaskTokens)
    if item.output is None:
        raise ItemError(f"item {item.id}: the answer has its mask tokens, but no predicted mask is given")
    found = np.shape(item.output)
    if len(found) != 2 or (shape is not None and found != shape):
        expected = f"{shape[0]} × {shape[1]}, the size of the true one" if shape else "[H W]"
        raise ItemError(f"item {item.id}: expected a predicted mask of {expected}, found shape {found}")
    try:
        return masks.probabilities(item.output)
    except ValueError as error:
        raise ItemError(f"item {item.id}, predicted mask: {error}") from error


def mean_over_videos(videos: Mapping[str, Mapping[str, int]], *, frames: int = 1) -> float:
    """Mean over videos of the mean over their frames.

    Args:
        videos: for each video the sum `iou` in fixed units and the number of `frames`.
        frames: videos with fewer frames are left out.
    """
    means = [mean(v["iou"], v["frames"]) for v in videos.values() if v["frames"] >= frames]
    return math.fsum(means) / len(means) if means else math.nan


class BinaryMasks(Metric):
    """J (mean IoU) and F of binary masks, over frames.

    `miou`: IoU per frame, mean over all frames. An unparsed answer is an empty prediction. Where the true mask is
    empty, the score is the share of background predicted as background.

    - `:unparsed_left_out`: over the frames with a mask, as the reference does. `:unparsed_zero`: an unparsed answer
      scores 0 even where the true mask is empty.
    - `:empty_truth_left_out`: over the frames with something to segment. `:empty_truth_exact`: where there is nothing,
      1 for an empty prediction and 0 for any other.
    - `:pooled`: pixels of all frames together, then one division.
    - `:per_video`: mean over videos of the mean over frames. `:per_complete_video`: of the videos with all their
      frames, as a helper of the reference does it.

    `f`: largest F over 255 thresholds per frame, mean over all frames; 0 where the true mask is empty or the answer is
    unparsed. `:unparsed_left_out` and `:empty_truth_left_out` as above.

    - `:one_threshold`: F averaged over the frames that have a true mask at each threshold, then the largest: one
      threshold for all frames, as in AVSBench's own evaluation of a batch.
    - `:pooled`: pixels of all frames together at each threshold, then the largest F.

    `empty_truth`: share of frames without a true mask.

    Source: specification 10.6; c10a and c10e of the recorded cases.
    """

    headline = ("miou", "f")
    unparsed_as = "an empty mask with an F of 0"

    def __init__(self, *, frames_per_video: int = 5):
        self._frames = frames_per_video
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """Frames of a complete video."""
        return {"frames_per_video": self._frames}

    def _zero(self) -> dict[str, Any]:
        return {
            "items": 0,
            "unparsed": 0,
            "empty_truth": 0,
            "empty_truth_unparsed": 0,
            "empty_truth_exact": 0,  # … and the prediction is empty as well
            "iou": 0,
            "iou_empty_truth": 0,
            "f": 0,
            "inter": 0,
            "union": 0,
            "curve": zeros(THRESHOLDS),
            "hits": np.zeros(THRESHOLDS, np.int64),
            "predicted": np.zeros(THRESHOLDS, np.int64),
            "true": 0,
            "videos": {},
        }

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = read_truth(item)
        empty = not truth.any()
        sums: dict[str, Any] = {"items": 1, "true": int(truth.sum()), "empty_truth": int(empty)}
        if item.parsed:
            probability = read_output(item, truth.shape)
            predicted = probability > 0.5  # strictly: a logit of exactly 0 is background
            counts = masks.threshold_counts(probability, truth)
            curve = counts.f()
            iou, f = masks.mask_iou(predicted, truth), float(curve.max())
            sums |= {
                "iou": fixed(iou),
                "f": fixed(f),
                "inter": int((predicted & truth).sum()),
                "union": int((predicted | truth).sum()),
                "curve": fixed_array(curve),
                "hits": counts.hits,
                "predicted": counts.predicted,
            }
            if empty:
                sums |= {"iou_empty_truth": fixed(iou), "empty_truth_exact": int(not predicted.any())}
        else:
            iou, f = float(empty), 0.0
            sums |= {"unparsed": 1, "union": int(truth.sum()), "empty_truth_unparsed": int(empty)}
        if item.video:
            sums["videos"] = {item.video: {"iou": fixed(iou), "frames": 1}}
        return {"iou": iou, "f": f}, sums

    def result(self) -> dict[str, float]:
        """See the class."""
        s = self._sums
        items, parsed, with_truth = s["items"], s["items"] - s["unparsed"], s["items"] - s["empty_truth"]
        unparsed_right = fixed(1) * s["empty_truth_unparsed"]  # an empty prediction, and nothing to segment
        exact = fixed(1) * (s["empty_truth_exact"] + s["empty_truth_unparsed"])
        pooled = ThresholdCounts(s["hits"], s["predicted"], s["true"])
        return {
            "miou": mean(s["iou"] + unparsed_right, items),
            "miou:unparsed_left_out": mean(s["iou"], parsed),
            "miou:unparsed_zero": mean(s["iou"], items),
            "miou:empty_truth_left_out": mean(s["iou"] - s["iou_empty_truth"], with_truth),
            "miou:empty_truth_exact": mean(s["iou"] - s["iou_empty_truth"] + exact, items),
            "miou:pooled": share(s["inter"], s["union"]),
            "miou:per_video": mean_over_videos(s["videos"]),
            "miou:per_complete_video": mean_over_videos(s["videos"], frames=self._frames),
            "f": mean(s["f"], items),
            "f:unparsed_left_out": mean(s["f"], parsed),
            "f:empty_truth_left_out": mean(s["f"], with_truth),
            "f:one_threshold": mean(max(s["curve"]), with_truth),
            "f:pooled": float(pooled.f().max()) if items else math.nan,
            "empty_truth": share(s["empty_truth"], items),
            "unparsed": share(s["unparsed"], items),
            "items": float(items),
        }


class NullMasks(Metric):
    """S of expressions that refer to nothing in the video, over frames; lower is better.

    `s`: square root of the share of pixels taken for foreground, mean over frames; an unparsed answer scores 1, the
    worst, so that a model which never answers does not win. `:unparsed_empty`: it is an empty prediction and scores 0.
    `:unparsed_left_out`: over the frames with a mask, as the reference does. `empty`: share of frames whose answer is a
    mask without any foreground.

    Source: specification 10.7; unparsed answers are silent there.
    """

    headline = ("s",)
    lower_is_better = True
    unparsed_as = "a mask of the whole picture"

    def _zero(self) -> dict[str, Any]:
        return {"items": 0, "unparsed": 0, "s": 0, "empty": 0}

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        shape = None
        if item.mask is not None:
            truth = read_truth(item)
            shape = truth.shape
            if truth.any():
                raise ItemError(
                    f"item {item.id}: expected an expression that refers to nothing, found a true mask of "
                    f"{int(truth.sum())} pixels"
                )
        if not item.parsed:
            return {"s": 1.0}, {"items": 1, "unparsed": 1}
        predicted = read_output(item, shape) > 0.5
        s = masks.null_s(predicted)
        return {"s": s}, {"items": 1, "s": fixed(s), "empty": int(not predicted.any())}

    def result(self) -> dict[str, float]:
        """See the class."""
        s = self._sums
        items, parsed = s["items"], s["items"] - s["unparsed"]
        return {
            "s": mean(s["s"] + fixed(1) * s["unparsed"], items),
            "s:unparsed_empty": mean(s["s"], items),
            "s:unparsed_left_out": mean(s["s"], parsed),
            "empty": share(s["empty"], items),
            "unparsed": share(s["unparsed"], items),
            "items": float(items),
        }
