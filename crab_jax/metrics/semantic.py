"""Semantic masks: IoU and F per class, averaged in the ways that are in use (AVSS)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crab_jax.metrics.masks import BETA2
from crab_jax.metrics.state import Item, ItemError, Metric, fixed_array, mean, ratio, share, zeros
from crab_jax.tasks import MaskTokens
from crab_jax.tasks.vocabulary import AVSS_CLASSES


def class_ids(output: np.ndarray) -> np.ndarray:
    """Class of each pixel, int64 [H W]: the largest of float logits [C H W] (the first of equals), or ids [H W].

    Raises:
        ValueError: neither, or logits that are NaN.
    """
    output = np.asarray(output)
    if output.ndim == 2 and np.issubdtype(output.dtype, np.integer):
        return output.astype(np.int64)
    if output.ndim != 3 or not len(output) or np.issubdtype(output.dtype, np.integer) or output.dtype == bool:
        raise ValueError(f"expected logits [C H W] or class ids [H W], found {output.dtype} {list(output.shape)}")
    # A running maximum reads the logits in the order in which they lie, in half the time of argmax(0).
    best, ids = output[0].copy(), np.zeros(output.shape[1:], np.int64)
    for c in range(1, len(output)):
        ids[output[c] > best] = c
        np.maximum(best, output[c], out=best)  # keeps a NaN
    if broken := int(np.isnan(best).sum()):
        raise ValueError(f"expected logits, found NaN in {broken} of {best.size} pixels")
    return ids


def confusion(predicted: np.ndarray, true: np.ndarray, *, classes: int, ignore: int | None = None) -> np.ndarray:
    """Pixels of each true class (row) given each class (column), int64 [C C].

    Args:
        predicted, true: class ids [H W].
        classes: C.
        ignore: pixels with this true id are left out.

    Raises:
        ValueError: shapes differ, or an id is out of range.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"expected masks of one size, found {predicted.shape} predicted and {true.shape} true")
    true = true.astype(np.int64).ravel()
    predicted = predicted.astype(np.int64).ravel()
    if ignore is not None:
        predicted, true = predicted[true != ignore], true[true != ignore]
    for name, ids in (("predicted", predicted), ("true", true)):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            raise ValueError(f"expected {name} class ids 0 … {classes - 1}, found {ids.min()} … {ids.max()}")
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU and F (beta² = 0.3) of each class, and whether it occurs in prediction or truth.

    Args:
        counts: a confusion matrix, int64 [C C].

    Returns:
        float64 [C], float64 [C], bool [C]; scores of a class that does not occur are 0.

    Source: specification 10.8. The reference adds 2.2e-16 to the union, which its float32 does not keep.
    """
    hit, true, said = np.diag(counts), counts.sum(1), counts.sum(0)
    union = true + said - hit
    precision, recall = ratio(hit, said), ratio(hit, true)
    f = ratio((1 + BETA2) * precision * recall, BETA2 * precision + recall)
    return ratio(hit, union), f, union > 0


def frame_miou(counts: np.ndarray) -> float:
    """Mean IoU of one frame over the classes that overlap at all; NaN if none does. As in AVSBench's progress lines."""
    iou, _, _ = class_scores(counts)
    overlap = iou != 0
    return float(iou.sum() / overlap.sum()) if overlap.any() else math.nan


class SemanticMasks(Metric):
    """Mean IoU and F over classes; class 0 is the background.

    A class's score is its mean over the frames in which it occurs in prediction or truth. `miou` and `f` are means over
    all classes, and a class that never occurs counts as 0. For an unparsed answer every class of the true mask has
    IoU 0 in that frame.

    - `:no_background`: over all classes but class 0. `:no_last_class`: over all but the last one, which the reference
      prints as "noBg" (Q-39). `:seen`: over the classes that occur. `:seen_no_background`: both.
    - `:unparsed_left_out`: over the frames with a mask, as the reference does. `:unparsed_empty`: an unparsed answer
      predicts background everywhere.
    - `:pooled`: from the pixels of all frames together, one division per class; IoU over all classes, F and
      `f1:pooled` (beta² = 1) over those that occur, `fdr:pooled` (false discovery rate) over those predicted.
      `accuracy:pooled`: share of pixels with the right class. The pixels of an unparsed answer are all missed.

    Source: specification 10.8; c10b and c10e of the recorded cases. Pooled numbers: as CAVP evaluates this data set.
    """

    headline = ("miou", "f")

    def __init__(self, *, classes: int = len(AVSS_CLASSES), ignore: int | None = None):
        self._classes, self._ignore = classes, ignore
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """Number of classes, and the id that is left out."""
        return {"classes": self._classes, "ignore": self._ignore}

    def _zero(self) -> dict[str, Any]:
        c = self._classes
        none = {"iou": zeros(c), "f": zeros(c), "frames": np.zeros(c, np.int64)}
        return {
            "items": 0,
            "unparsed": 0,
            "parsed": dict(none),
            "unparsed_empty": dict(none),
            "confusion": np.zeros((c, c), np.int64),
            "missed": np.zeros(c, np.int64),  # pixels of the true masks of unparsed answers
            "missed_frames": np.zeros(c, np.int64),
        }

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = item.mask
        if truth is None or np.ndim(truth) != 2 or not np.issubdtype(truth.dtype, np.integer):
            found = "none" if truth is None else f"{truth.dtype} {list(np.shape(truth))}"
            raise ItemError(f"item {item.id}: expected a true mask of class ids [H W], found {found}")
        predicted = np.zeros(truth.shape, np.int64)
        try:
            if item.parsed:
                item.expect("prediction", MaskTokens)
                if item.output is None:
                    raise ValueError("the answer has its mask tokens, but no predicted mask is given")
                if np.ndim(item.output) == 3 and len(item.output) != self._classes:
                    raise ValueError(f"expected logits of {self._classes} classes, found {len(item.output)}")
                predicted = class_ids(item.output)
            counts = confusion(predicted, truth, classes=self._classes, ignore=self._ignore)
        except ItemError:
            raise
        except ValueError as error:
            raise ItemError(f"item {item.id}: {error}") from error
        iou, f, occurs = class_scores(counts)
        sums = {"iou": fixed_array(iou), "f": fixed_array(f), "frames": occurs.astype(np.int64)}
        if not item.parsed:
            true = counts.sum(1)
            missed = {"missed": true, "missed_frames": (true > 0).astype(np.int64)}
            return {"miou": 0.0, "f": 0.0}, {"items": 1, "unparsed": 1, "unparsed_empty": sums} | missed
        seen = max(int(occurs.sum()), 1)
        scores = {"miou": float(iou.sum() / seen), "f": float(f.sum() / seen)}
        return scores, {"items": 1, "parsed": sums, "confusion": counts}

    def confusion(self) -> np.ndarray:
        """Pixels of each true class (row) given each class (column) over the parsed answers, int64 [C C]."""
        return self._sums["confusion"].copy()

    def per_class(self) -> dict[str, np.ndarray]:
        """`iou` and `f` of each class in the headline convention, float64 [C], and `frames` in which it occurs."""
        yes, frames = self._sums["parsed"], self._sums["parsed"]["frames"] + self._sums["missed_frames"]
        return {"iou": _means(yes["iou"], frames), "f": _means(yes["f"], frames), "frames": frames}

    def result(self) -> dict[str, float]:
        """See the class."""
        s, own = self._sums, self.per_class()
        yes, empty = s["parsed"], s["unparsed_empty"]
        seen = own["frames"] > 0
        no_background = np.arange(self._classes) > 0
        values = {}
        for name, score in (("miou", own["iou"]), ("f", own["f"])):
            part = "iou" if name == "miou" else name
            values |= {
                name: _mean(score),
                f"{name}:no_background": _mean(score[1:]),
                f"{name}:no_last_class": _mean(score[:-1]),
                f"{name}:seen": _mean(score[seen]),
                f"{name}:seen_no_background": _mean(score[seen & no_background]),
                f"{name}:unparsed_left_out": _mean(_means(yes[part], yes["frames"])),
                f"{name}:unparsed_left_out_no_last_class": _mean(_means(yes[part], yes["frames"])[:-1]),
                f"{name}:unparsed_empty": _mean(_means(yes[part] + empty[part], yes["frames"] + empty["frames"])),
            }
        values |= self._pooled()
        parsed = s["items"] - s["unparsed"]
        for name in values:
            if not s["items"] or (not parsed and "unparsed_left_out" in name):
                values[name] = math.nan
        return values | {"unparsed": share(s["unparsed"], s["items"]), "items": float(s["items"])}

    def _pooled(self) -> dict[str, float]:
        counts, missed = self._sums["confusion"], self._sums["missed"]
        hit, said, true = np.diag(counts), counts.sum(0), counts.sum(1) + missed
        iou = ratio(hit, true + said - hit)
        seen = (said + true) > 0
        f1, f = (((1 + b) * hit[seen]) / (b * true + said)[seen] for b in (1.0, BETA2))
        predicted = said > 0
        return {
            "miou:pooled": _mean(iou),
            "miou:pooled_no_background": _mean(iou[1:]),
            "f:pooled": _mean(f),
            "f1:pooled": _mean(f1),
            "fdr:pooled": _mean(1 - hit[predicted] / said[predicted]),
            "accuracy:pooled": share(int(hit.sum()), int(true.sum())),
        }


def _means(sums: np.ndarray, frames: np.ndarray) -> np.ndarray:
    return np.array([mean(total, int(n)) if n else 0.0 for total, n in zip(sums, frames)])


def _mean(scores: np.ndarray) -> float:
    return float(scores.mean()) if scores.size else math.nan
