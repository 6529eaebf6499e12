"""Questions, events and boxes by hand: AVQA, AVE, AVVP, ARIG."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax.metrics import (
    ChoiceAccuracy,
    Grounding,
    Item,
    ItemError,
    SegmentAccuracy,
    VideoParsing,
    avvp,
    box_iou,
    complete_iou,
    video_scores,
)
from crab_jax.metrics.seconds import names_per_second
from crab_jax.tasks import AudioVisualEvents, Box, Choice, Event, Events, Unparsed

NOTHING = Unparsed("hm", "no tag")


def results(metric, *pairs, **rest):
    """Results over (truth, prediction) pairs."""
    for i, (truth, prediction) in enumerate(pairs):
        metric.update(Item(id=str(i), truth=truth, prediction=prediction, **rest))
    return metric.result()


# ------------------------------------------------------------------------------------------------------------- avqa


def test_accuracy_is_over_questions_not_over_types():
    """Three counting questions and one of another type: 2/4 in all, not the mean of 2/3 and 0."""
    metric = ChoiceAccuracy()
    for i, (kind, truth, said) in enumerate(
        [
            (("Audio", "Counting"), "two", Choice("two")),
            (("Audio", "Counting"), "two", Choice("Two ")),  # case and blanks do not count
            (("Audio", "Counting"), "three", Choice("two")),
            (("Audio-Visual", "Temporal"), "piano", NOTHING),
        ]
    ):
        metric.update(Item(id=str(i), kind=kind, truth=Choice(truth), prediction=said))
    r = metric.result()
    assert r["accuracy"] == 0.5
    assert r["accuracy/audio"] == r["accuracy/audio/counting"] == 2 / 3
    assert r["accuracy/audio_visual"] == r["accuracy/audio_visual/temporal"] == 0
    assert r["accuracy:unparsed_left_out"] == 2 / 3
    assert r["unparsed"] == 0.25
    assert r["unparsed/audio_visual"] == 1
    assert math.isnan(r["accuracy/visual"])


def test_the_substring_convention_flatters():
    """(S): "ten" occurs in "more than ten"; what is outside the 42 answers leaves the denominator."""
    pairs = [("ten", "more than ten"), ("two", "two"), ("two", "a pair"), ("yes", None), ("yes", "no")]
    r = results(ChoiceAccuracy(), *[(Choice(t), Choice(s) if s else NOTHING) for t, s in pairs])
    assert r["accuracy"] == 1 / 5
    assert r["accuracy:substring"] == 2 / 3
    assert r["items:substring"] == 3


def test_types_of_questions_that_are_new_are_kept():
    r = results(ChoiceAccuracy(), (Choice("a"), Choice("a")), kind=("Smell", "Sour & sweet"))
    assert r["accuracy/smell/sour_sweet"] == 1
    assert results(ChoiceAccuracy(), (Choice("a"), Choice("a")))["accuracy/other"] == 1


# -------------------------------------------------------------------------------------------------------------- ave


def test_end_seconds_in_and_out():
    """Truth [2, 6), prediction [2, 5): one second of ten differs, whichever end counts; times beyond 10 are cut."""
    truth = Events((Event("Bark", 2, 6),))
    r = results(SegmentAccuracy(), (truth, Events((Event("Bark", 2, 5),))))
    assert (r["accuracy"], r["accuracy:inclusive"]) == (0.9, 0.9)
    # [4, 10) and [4, 12): the same seconds. [4, 9] ends one second early if ends count.
    late = Events((Event("Bark", 4, 10),))
    assert results(SegmentAccuracy(), (late, Events((Event("Bark", 4, 12),))))["accuracy"] == 1
    r = results(SegmentAccuracy(), (Events((Event("Bark", 0, 3),)), Events((Event("Bus", 0, 3),))))
    assert (r["accuracy"], r["accuracy:inclusive"], r["event"]) == (0.7, 0.6, 0)


def test_unparsed_answers_of_ave_in_every_convention():
    """One clip right, one unparsed whose event fills 4 of 10 seconds (5 with the end)."""
    truth = Events((Event("Bark", 3, 7),))
    r = results(SegmentAccuracy(), (truth, truth), (truth, NOTHING))
    assert r["accuracy"] == (10 + 6) / 20
    assert r["accuracy:inclusive"] == (10 + 5) / 20
    assert r["accuracy:sibling"] == 1
    assert r["accuracy:unparsed_zero"] == 0.5
    assert r["accuracy:unparsed_left_out"] == 1
    assert r["event"] == r["unparsed"] == 0.5


def test_two_names_for_one_second_are_wrong():
    truth = Events((Event("Bark", 0, 10),))
    r = results(SegmentAccuracy(), (truth, Events((Event("Bark", 0, 10), Event("Bus", 0, 5)))))
    assert r["accuracy"] == 0.5


def test_an_event_without_length():
    """[4, 4) is nothing, [4, 4] is one second; nothing true and nothing said is all right."""
    assert sum(map(bool, names_per_second([Event("Bark", 4, 4)], seconds=10))) == 0
    assert sum(map(bool, names_per_second([Event("Bark", 4, 4)], seconds=10, inclusive=True))) == 1
    assert results(SegmentAccuracy(), (Events(()), Events(())))["accuracy"] == 1


# ------------------------------------------------------------------------------------------------------------- avvp


def test_video_parsing_by_hand():
    """Half of the speech is heard, a dog is seen that is not there; nothing is both heard and seen."""
    truth = AudioVisualEvents((Event("Speech", 0, 4),), ())
    said = AudioVisualEvents((Event("Speech", 0, 2),), (Event("Dog", 0, 1),))
    r = results(VideoParsing(), (truth, said))
    assert r["segment/audio"] == pytest.approx(2 / 3)  # 2 hits, 2 missed
    assert r["segment/visual"] == 0
    assert r["segment/audio_visual"] == 1  # none true, none said
    assert r["segment/event"] == pytest.approx(1 / 3)
    assert r["segment/type"] == pytest.approx(5 / 9)
    assert r["segment/mean"] == pytest.approx((2 / 3 + 0 + 1 + 1 / 3 + 5 / 9) / 5)
    assert [r[f"event/{s}"] for s in avvp.STREAMS] == [1, 0, 1, 0.5]  # 2 of 4 seconds are just enough
    assert r["event/type"] == pytest.approx(2 / 3)


def test_unparsed_answers_of_avvp_in_every_convention():
    """A silent video: nothing said is right, nothing legible is not."""
    empty = AudioVisualEvents((), ())
    some = AudioVisualEvents((Event("Speech", 0, 4),), (Event("Speech", 0, 4),))
    r = results(VideoParsing(), (empty, empty), (empty, NOTHING), (some, NOTHING), (some, some))
    for name in ("segment/type", "event/event", "segment/mean"):
        assert r[name] == 0.5
        assert r[f"{name}:unparsed_empty"] == 0.75
        assert r[f"{name}:unparsed_left_out"] == 1


def test_names_outside_the_vocabulary_are_refused():
    truth = AudioVisualEvents((Event("Whale", 0, 4),), ())
    with pytest.raises(ItemError, match="item 0: event 'Whale' is not among the 25 classes"):
        results(VideoParsing(), (truth, NOTHING))


def naive_f(predicted, true, *, level):
    """One stream of one video, by loops as the definition reads."""
    scores = []
    for p, t in zip(predicted, true):
        if level == "segment":
            tp, fp, fn = (p & t).sum(), (p & ~t).sum(), (~p & t).sum()
        else:
            found = [[set(r) for r in np.split(np.flatnonzero(x), np.flatnonzero(np.diff(np.flatnonzero(x)) > 1) + 1)]
                     for x in (p, t)]  # fmt: skip
            said, there = ([r for r in runs if r] for runs in found)
            near = [[2 * len(a & b) >= len(a | b) for b in there] for a in said]
            tp = sum(any(row) for row in near)
            fp = len(said) - tp
            fn = sum(not any(row[j] for row in near) for j in range(len(there)))
        if tp + fp + fn:
            scores.append(2 * tp / (2 * tp + fp + fn))
    return np.mean(scores) if scores else 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.05, 0.95))
def test_video_scores_equal_loops(seed, density):
    a, v, ta, tv = np.random.default_rng(seed).random((4, 5, 10)) < density
    ours = video_scores(a, v, ta, tv)
    for level in avvp.LEVELS:
        for stream, pair in (("audio", (a, ta)), ("visual", (v, tv)), ("audio_visual", (a & v, ta & tv))):
            assert ours[f"{level}/{stream}"] == pytest.approx(naive_f(*pair, level=level), abs=1e-12)


# ------------------------------------------------------------------------------------------------------------- arig


def test_overlap_of_boxes_by_hand():
    """10 × 10 pixels against the same shifted by 5: 50 of 150; with the corner's pixel 11 × 11 and 6 in common."""
    a, b = (0, 0, 10, 10), (5, 0, 15, 10)
    assert box_iou(a, b) == 1 / 3
    assert box_iou(a, b, inclusive=True) == 66 / (121 + 121 - 66)
    assert complete_iou(a, b) == pytest.approx(1 / 3 - 25 / (15**2 + 10**2))  # the same shape: no aspect term
    assert complete_iou(a, a) == 1
    wide = (0, 0, 20, 5)
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(4)) ** 2
    iou = 50 / 150
    assert complete_iou(a, wide) == pytest.approx(iou - (25 + 6.25) / 500 - v * v / (1 - iou + v))


def test_boxes_without_area():
    line, point = (3, 3, 3, 9), (5, 5, 5, 5)
    assert box_iou(line, line) == 0
    assert box_iou(line, line, inclusive=True) == 1
    assert complete_iou(point, point) == 0
    assert -1 <= complete_iou(line, point) <= 0
    r = results(Grounding(), (Box(*line), Box(*line)))
    assert (r["ciou"], r["ciou:inclusive"], r["mean_iou"], r["mean_iou:inclusive"]) == (0, 1, 0, 1)


def test_success_curve_by_hand():
    """IoU 1, exactly 1/2, 1/3, and an unparsed answer."""
    truth = Box(0, 0, 10, 10)
    said = [truth, Box(0, 0, 10, 5), Box(5, 0, 15, 10), NOTHING]
    r = results(Grounding(), *[(truth, s) for s in said])
    assert r["ciou"] == r["success@0.5"] == 0.5
    assert r["success@0.25"] == 0.75
    assert r["success@0.75"] == r["success@0.9"] == 0.25
    assert r["mean_iou"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    # Success is 1 at t = 0, 3/4 for 0.05 … 0.3, 1/2 for 0.35 … 0.5, 1/4 for 0.55 … 1.
    curve = [1] + [0.75] * 6 + [0.5] * 4 + [0.25] * 10
    assert r["auc"] == pytest.approx(np.trapezoid(curve, dx=0.05))
    assert r["auc:overlap"] == pytest.approx(np.trapezoid([0.75, *curve[1:]], dx=0.05))
    assert r["ciou:unparsed_left_out"] == 2 / 3
    assert r["auc:unparsed_left_out"] == pytest.approx(
        np.trapezoid([1] + [1] * 6 + [2 / 3] * 4 + [1 / 3] * 10, dx=0.05)
    )
    assert r["unparsed"] == 0.25
    apart = results(Grounding(), (truth, Box(20, 20, 30, 30)))
    assert (apart["auc"], apart["auc:overlap"]) == (0.025, 0)


@given(st.tuples(*[st.integers(0, 223)] * 8))
def test_overlap_is_symmetric_and_bounded(corners):
    a, b = Box.spanned(*corners[:4]), Box.spanned(*corners[4:])
    a, b = ((x.x1, x.y1, x.x2, x.y2) for x in (a, b))
    assert box_iou(a, b) == box_iou(b, a)
    assert 0 <= box_iou(a, b) <= 1
    assert -1 <= complete_iou(a, b) <= box_iou(a, b)


def test_a_box_inside_out_is_refused():
    with pytest.raises(ItemError, match="item 0: expected the prediction's upper left corner first"):
        results(Grounding(), (Box(0, 0, 10, 10), Box(10, 10, 0, 0)))
