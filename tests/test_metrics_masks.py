"""Masks by hand: IoU, the F-measure by histogram, null S, and classes."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_items import MASK, NOTHING

from crab_jax.metrics import BinaryMasks, Item, ItemError, NullMasks, SemanticMasks, f_measure, mask_iou, masks, null_s
from crab_jax.metrics.semantic import class_ids, class_scores, confusion, frame_miou

FIRST = np.array([[True, True], [False, False]])
DIAGONAL = np.array([[True, False], [False, True]])
EMPTY = np.zeros((2, 2), bool)
FULL = np.ones((2, 2), bool)


def results(metric, *triples):
    """Results over (truth, output, video); without an output, the answer is unparsed."""
    for i, (truth, output, video) in enumerate(triples):
        prediction = NOTHING if output is None else MASK
        metric.update(Item(id=str(i), mask=truth, output=output, prediction=prediction, video=video))
    return metric.result()


# ------------------------------------------------------------------------------------------------------------ binary


def test_iou_and_f_by_hand():
    probability = np.array([[1.0, 0.6], [0.2, 0.0]], np.float32)
    assert mask_iou(probability > 0.5, FIRST) == 1
    assert f_measure(probability, FIRST) == 1  # any threshold between 0.2 and 0.6
    assert mask_iou(probability > 0.5, DIAGONAL) == 1 / 3
    # Above 0.6: precision 1, recall 1/2.
    assert f_measure(probability, DIAGONAL) == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))


def test_an_empty_true_mask():
    """IoU is the share of background found as background, F is 0."""
    assert mask_iou(FIRST, EMPTY) == 0.5
    assert mask_iou(EMPTY, EMPTY) == 1
    assert f_measure(FULL.astype(np.float32), EMPTY) == 0
    assert masks.mean_f_measure([]) == 0


def test_an_empty_prediction():
    """At threshold 0 everything is predicted, so a map of zeros has the F of a full mask."""
    assert mask_iou(EMPTY, FIRST) == 0
    assert f_measure(np.zeros((2, 2), np.float32), FIRST) == pytest.approx(1.3 * 0.5 / (0.15 + 1))


def test_a_logit_of_zero_is_background():
    logits = np.array([[0.0, 1e-9], [1e-3, 400.0]], np.float32)
    assert (masks.probabilities(logits) > 0.5).tolist() == [[False, False], [True, True]]
    assert masks.probabilities(-logits)[1, 1] == 0
    assert masks.probabilities(np.array([[1, 0]], np.uint8)).tolist() == [[1, 0]]


def loop(probability, true):
    """The F-measure as it is defined: 255 passes over the picture."""
    counts, scores = [], []
    for threshold in masks.thresholds():
        predicted = probability >= threshold
        hits = int((predicted & true).sum())
        precision, recall = hits / (predicted.sum() + 1e-20), hits / (true.sum() + 1e-20)
        with np.errstate(invalid="ignore"):
            f = np.float64((1 + masks.BETA2) * precision * recall) / np.float64(masks.BETA2 * precision + recall)
        counts.append((hits, int(predicted.sum())))
        scores.append(0.0 if np.isnan(f) else float(f))
    return counts, scores


edges = st.sampled_from([*masks.thresholds().tolist(), 0.0, 1.0])
near = st.builds(
    lambda p, up: float(np.clip(np.nextafter(np.float32(p), np.float32(up)), 0, 1)), edges, st.integers(0, 1)
)
anything = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(edges | near | anything, st.booleans()), min_size=1, max_size=60))
def test_the_histogram_equals_the_loop(pixels):
    """Exactly, and also for pixels on a threshold or one float beside it."""
    probability = np.array([[p for p, _ in pixels]], np.float32)
    true = np.array([[t for _, t in pixels]])
    counts, scores = loop(probability, true)
    ours = masks.threshold_counts(probability, true)
    assert list(zip(ours.hits.tolist(), ours.predicted.tolist())) == counts
    assert ours.f().tolist() == scores


def test_every_threshold_and_its_neighbours():
    """At a few of them the first guess of a pixel's place is one too high, at others one too low."""
    limits = masks.thresholds()
    beside = [np.nextafter(limits, np.float32(end), dtype=np.float32) for end in (0, 1)]
    for p in np.unique(np.concatenate([limits, *beside])):
        ours = masks.threshold_counts(np.full((1, 1), p), np.ones((1, 1), bool))
        assert ours.hits.tolist() == (p >= limits).astype(int).tolist(), p


def test_the_histogram_equals_the_loop_on_a_picture():
    rng = np.random.default_rng(0)
    probability = masks.probabilities(rng.normal(0, 4, (224, 224)).astype(np.float32))
    true = rng.random((224, 224)) < 0.3
    counts, scores = loop(probability, true)
    ours = masks.threshold_counts(probability, true)
    assert list(zip(ours.hits.tolist(), ours.predicted.tolist())) == counts
    assert ours.f().tolist() == scores


def test_every_convention_of_binary_masks_by_hand():
    """Two videos; frames: right, half right, unparsed, nothing to segment but half predicted, the same unparsed."""
    r = results(
        BinaryMasks(frames_per_video=3),
        (FIRST, FIRST, "a"),
        (FIRST, np.array([[1, 0], [0, 0]], np.uint8), "a"),
        (FIRST, None, "a"),
        (EMPTY, DIAGONAL, "b"),
        (EMPTY, None, "b"),
    )
    assert r["items"] == 5
    assert (r["unparsed"], r["empty_truth"]) == (0.4, 0.4)
    assert r["miou"] == (1 + 0.5 + 0 + 0.5 + 1) / 5
    assert r["miou:unparsed_left_out"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert r["miou:unparsed_zero"] == (1 + 0.5 + 0.5) / 5
    assert r["miou:empty_truth_left_out"] == (1 + 0.5 + 0) / 3
    assert r["miou:empty_truth_exact"] == (1 + 0.5 + 0 + 0 + 1) / 5
    assert r["miou:pooled"] == (2 + 1) / (2 + 2 + 2 + 2)
    assert r["miou:per_video"] == pytest.approx(((1 + 0.5 + 0) / 3 + (0.5 + 1) / 2) / 2)
    assert r["miou:per_complete_video"] == 0.5
    half = 1.3 * 0.5 / (0.3 + 0.5)
    assert r["f"] == pytest.approx((1 + half) / 5)
    assert r["f:unparsed_left_out"] == pytest.approx((1 + half) / 3)
    assert r["f:empty_truth_left_out"] == pytest.approx((1 + half) / 3)
    assert r["f:one_threshold"] == pytest.approx((1 + half) / 3)
    # Above threshold 0: 3 hits of 5 predicted (2 of them where nothing is), 6 true.
    precision, recall = 3 / 5, 3 / 6
    assert r["f:pooled"] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))


def test_one_threshold_for_all_is_less_than_the_best_for_each():
    low = np.where(FIRST, 0.3, 0.1).astype(np.float32)
    high = np.where(FIRST, 0.9, 0.7).astype(np.float32)
    logits = [np.log(p / (1 - p)) for p in (low, high)]
    r = results(BinaryMasks(), *[(FIRST, x, "a") for x in logits])
    assert r["f"] == 1
    assert r["f:one_threshold"] == pytest.approx((1 + 1.3 * 0.5 / 1.15) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"output": np.zeros((3, 2), bool)},
            r"predicted mask of 2 × 2, the size of the true one, found shape \(3, 2\)",
        ),
        ({"output": None}, "mask tokens, but no predicted mask"),
        ({"output": np.array([[0, 255], [0, 0]])}, "values from 0 to 255"),
        ({"output": np.array([[0, np.nan], [0, 0]])}, "NaN in 1 of 4 pixels"),
        ({"mask": None}, "expected a true mask, found none"),
        ({"mask": np.full((2, 2), 255, np.uint8)}, "true mask: .*255"),
        ({"mask": FIRST[None]}, r"true mask \[H W\]"),
        ({"mask": FIRST.astype(float)}, "float64"),
    ],
)
def test_masks_that_do_not_fit_are_named(change, message):
    metric = BinaryMasks()
    item = dataclasses.replace(Item(id="clip7/3", prediction=MASK, mask=FIRST, output=FIRST), **change)
    with pytest.raises(ItemError, match=f"item clip7/3.*{message}"):
        metric.update(item)
    assert metric.result()["items"] == 0


def test_null_s_by_hand():
    assert null_s(FIRST) == math.sqrt(0.5)
    assert null_s(EMPTY) == 0
    r = results(NullMasks(), (None, FULL, ""), (EMPTY, EMPTY, ""), (EMPTY, None, ""), (None, FULL, ""))
    assert r["s"] == 0.75
    assert r["s:unparsed_empty"] == 0.5
    assert r["s:unparsed_left_out"] == pytest.approx(2 / 3)
    assert (r["empty"], r["unparsed"]) == (0.25, 0.25)
    with pytest.raises(ItemError, match="refers to nothing, found a true mask of 2 pixels"):
        results(NullMasks(), (FIRST, FIRST, ""))


# ---------------------------------------------------------------------------------------------------------- semantic

TRUTH = np.array([[1, 1], [0, 0]])
SAID = np.array([[1, 2], [0, 0]])


def test_classes_by_hand():
    """Class 1 half found, class 2 imagined, the background right."""
    counts = confusion(SAID, TRUTH, classes=4)
    assert counts[1, 2] == 1
    iou, f, occurs = class_scores(counts)
    assert iou.tolist() == [1, 0.5, 0, 0]
    assert f.tolist() == pytest.approx([1, 1.3 * 0.5 / (0.3 + 0.5), 0, 0])
    assert occurs.tolist() == [True, True, True, False]
    assert frame_miou(counts) == 0.75  # over the classes that overlap
    assert math.isnan(frame_miou(confusion(np.array([[1]]), np.array([[2]]), classes=3)))


def test_every_convention_of_semantic_masks_by_hand():
    """The frame above, and the same one unparsed; four classes, the last never occurs."""
    r = results(SemanticMasks(classes=4), (TRUTH, SAID, ""), (TRUTH, None, ""))
    # Per class: background (1 + 0)/2, class 1 (1/2 + 0)/2, class 2 0/1, class 3 never.
    assert r["miou"] == pytest.approx((0.5 + 0.25) / 4)
    assert r["miou:no_background"] == pytest.approx(0.25 / 3)
    assert r["miou:no_last_class"] == pytest.approx((0.5 + 0.25) / 3)
    assert r["miou:seen"] == pytest.approx((0.5 + 0.25) / 3)
    assert r["miou:seen_no_background"] == pytest.approx(0.25 / 2)
    assert r["miou:unparsed_left_out"] == pytest.approx((1 + 0.5) / 4)
    assert r["miou:unparsed_left_out_no_last_class"] == pytest.approx((1 + 0.5) / 3)
    # All background: 2 of 4 pixels right.
    assert r["miou:unparsed_empty"] == pytest.approx(((1 + 0.5) / 2 + 0.5 / 2) / 4)
    half = 1.3 * 0.5 / (0.3 + 0.5)
    assert r["f"] == pytest.approx((1 / 2 + half / 2) / 4)
    # Pooled: background 2 of 4 true, class 1 hits 1 of 4 true, class 2 one false pixel.
    assert r["miou:pooled"] == pytest.approx((2 / 4 + 1 / 4) / 4)
    assert r["miou:pooled_no_background"] == pytest.approx(0.25 / 3)
    assert r["accuracy:pooled"] == 3 / 8
    assert r["fdr:pooled"] == pytest.approx((0 + 0 + 1) / 3)
    assert r["f1:pooled"] == pytest.approx((2 * 2 / 6 + 2 * 1 / 5 + 0) / 3)
    assert r["f:pooled"] == pytest.approx((1.3 * 2 / (0.3 * 4 + 2) + 1.3 * 1 / (0.3 * 4 + 1)) / 3)
    assert (r["unparsed"], r["items"]) == (0.5, 2)


def test_classes_and_confusion_of_a_set():
    metric = SemanticMasks(classes=4)
    results(metric, (TRUTH, SAID, ""), (TRUTH, None, ""))
    own = metric.per_class()
    assert own["iou"].tolist() == [0.5, 0.25, 0, 0]
    assert own["frames"].tolist() == [2, 2, 1, 0]
    assert metric.confusion().sum() == 4  # the unparsed frame said nothing


def test_logits_and_ignored_pixels():
    logits = np.zeros((3, 1, 2))
    logits[2, 0, 0] = 1
    assert class_ids(logits).tolist() == [[2, 0]]  # the first of equals
    many = np.random.default_rng(0).integers(0, 9, (71, 20, 20)).astype(np.float32)
    assert (class_ids(many) == many.argmax(0)).all()
    counts = confusion(np.array([[2, 0]]), np.array([[2, 255]], np.uint8), classes=3, ignore=255)
    assert counts.sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "found none"),
        ({"mask": FIRST}, "class ids .*bool"),
        ({"output": None}, "no predicted mask"),
        ({"output": np.zeros((4, 3, 2))}, r"one size, found \(3, 2\) predicted and \(2, 2\) true"),
        ({"output": np.zeros((5, 2, 2))}, "logits of 4 classes, found 5"),
        ({"output": np.zeros((2, 2))}, r"class ids \[H W\], found float64"),
        ({"output": np.full((4, 2, 2), np.nan)}, "NaN in 4 of 4 pixels"),
        ({"output": np.full((2, 2), 4)}, "predicted class ids 0 … 3, found 4 … 4"),
        ({"mask": np.full((2, 2), 255)}, "true class ids 0 … 3"),
    ],
)
def test_semantic_masks_that_do_not_fit_are_named(change, message):
    metric = SemanticMasks(classes=4)
    item = dataclasses.replace(Item(id="x/1", prediction=MASK, mask=TRUTH, output=SAID), **change)
    with pytest.raises(ItemError, match=f"item x/1: .*{message}"):
        metric.update(item)
    assert metric.result()["items"] == 0
