"""What holds for every metric: merging, saving, empty sets, and data that do not fit."""

import dataclasses
import functools
import json
import math
import pathlib
import re
from fractions import Fraction

import metric_items
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax.metrics import (
    METRICS,
    BinaryMasks,
    CaptionScores,
    ChoiceAccuracy,
    Grounding,
    Item,
    ItemError,
    Metric,
    NullMasks,
    SegmentAccuracy,
    SemanticMasks,
    VideoParsing,
    match,
    metric_for,
    reported,
)
from crab_jax.metrics.paper import REPORTED
from crab_jax.metrics.state import fixed, fixed_array, mean
from crab_jax.tasks import TASKS, Box, Caption, Choice, Event, Events, Row, Unparsed

POOLS = {
    ChoiceAccuracy: metric_items.choices(),
    SegmentAccuracy: metric_items.events(),
    VideoParsing: metric_items.parsing(),
    Grounding: metric_items.boxes(),
    BinaryMasks: metric_items.binary(),
    NullMasks: metric_items.null(),
    SemanticMasks: metric_items.semantic(),
    CaptionScores: metric_items.captions(),
}
every_metric = pytest.mark.parametrize("kind", POOLS, ids=lambda kind: kind.__name__)


def counted(kind, items):
    metric = kind()
    for item in items:
        metric.update(item)
    return metric


def same(a, b):
    """Equal numbers under equal names, NaN being equal to NaN."""
    return a.keys() == b.keys() and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)


@every_metric
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_partition_in_any_order_is_the_same_state(kind, data):
    """Hosts may split the items as they like: state and results are identical, not nearly so."""
    pool = POOLS[kind]
    whole = counted(kind, pool)
    order = data.draw(st.permutations(range(len(pool))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pool)), max_size=4)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(pool)])]
    hosts = data.draw(st.permutations([counted(kind, [pool[i] for i in part]) for part in parts]))
    merged = functools.reduce(Metric.merge, hosts)
    assert merged.to_json() == whole.to_json()
    assert same(merged.result(), whole.result())


@every_metric
def test_a_saved_state_goes_on(kind):
    """An evaluation that was killed and resumed ends with the identical state."""
    pool = POOLS[kind]
    saved = json.loads(json.dumps(counted(kind, pool[:3]).to_json()))
    resumed = kind().from_json(saved)
    for item in pool[3:]:
        resumed.update(item)
    assert resumed.to_json() == counted(kind, pool).to_json()
    assert same(resumed.result(), counted(kind, pool).result())


@every_metric
def test_merge_leaves_both_sides_alone(kind):
    a, b = counted(kind, POOLS[kind][:2]), counted(kind, POOLS[kind][2:5])
    before = a.to_json(), b.to_json()
    a.merge(b).update(dataclasses.replace(POOLS[kind][0], id="another"))
    assert (a.to_json(), b.to_json()) == before


@every_metric
def test_without_items_everything_is_undefined(kind):
    """The same names as ever, no number invented, and no warning."""
    empty, full = kind().result(), counted(kind, POOLS[kind]).result()
    assert set(empty) <= set(full)
    assert {re.sub(r"/(smell|other).*", "", k) for k in full} - {"accuracy", "unparsed", "items"} <= set(empty)
    assert all(v == 0 if name.startswith("items") else math.isnan(v) for name, v in empty.items())
    assert set(kind.headline) <= set(empty)


@every_metric
def test_nothing_parsed(kind):
    """A model that says nothing legible: scored, never a division by zero, and nowhere better than it deserves."""
    items = [i.without_prediction("nothing came") for i in POOLS[kind]]
    result = counted(kind, items).result()
    assert result["items"] == len(items)
    assert result["unparsed"] == 1
    left_out = [name for name in result if "unparsed_left_out" in name]
    assert left_out
    assert all(math.isnan(result[name]) for name in left_out)
    worst = {
        ChoiceAccuracy: {"accuracy": 0},
        SegmentAccuracy: {"accuracy:unparsed_zero": 0, "accuracy:sibling": 1},
        VideoParsing: dict.fromkeys(VideoParsing.headline, 0),
        Grounding: {"ciou": 0, "auc": 0.025, "auc:overlap": 0, "mean_iou": 0, "complete_iou": -1},
        BinaryMasks: {"miou:unparsed_zero": 0, "miou:empty_truth_left_out": 0, "f": 0, "f:pooled": 0},
        NullMasks: {"s": 1, "s:unparsed_empty": 0},
        SemanticMasks: {"miou": 0, "f": 0, "miou:pooled": 0, "accuracy:pooled": 0},
        CaptionScores: {"cider_d": 0, "bleu_1": 0, "rouge_l": 0},
    }[kind]
    assert {name: result[name] for name in worst} == worst


STANDS_FOR = {
    "silence in every second": lambda item: {"prediction": Events(())},
    "a box that misses the true one": lambda item: {"prediction": Box(200, 200, 220, 220)},
    "an empty mask with an F of 0": lambda item: {"prediction": metric_items.MASK, "output": item.mask & False},
    "a mask of the whole picture": lambda item: {"prediction": metric_items.MASK, "output": item.mask | True},
    "an empty sentence": lambda item: {"prediction": Caption("")},
}


@every_metric
def test_what_an_unparsed_answer_counts_as(kind):
    """As people are told: worth nothing in any headline, or as much as some answer."""
    for item in POOLS[kind]:
        numbers = counted(kind, [item.without_prediction("hm")]).result()
        if kind.unparsed_as == "wrong":
            assert all(numbers[name] == 0 or math.isnan(numbers[name]) for name in kind.headline)
            continue
        other = counted(kind, [dataclasses.replace(item, **STANDS_FOR[kind.unparsed_as](item))]).result()
        if kind is BinaryMasks:
            other["f"] = 0.0
        assert [numbers[name] for name in kind.headline] == [other[name] for name in kind.headline]


@every_metric
def test_the_score_of_one_item_is_that_of_a_set_of_one(kind):
    """Galleries show the numbers of the table."""
    for item in POOLS[kind]:
        score, metric = kind().score(item), kind()
        assert same(metric.update(item), score)
        result = metric.result()
        for name, value in score.items():
            name = {"iou": "mean_iou" if kind is Grounding else "miou", "iou:inclusive": "mean_iou:inclusive"}.get(
                name, name
            )
            if kind is SemanticMasks:  # over the classes of the frame, not over all classes
                name = f"{name}:seen"
            if kind is SemanticMasks and not item.parsed:
                assert value == 0
            else:
                assert result[name] == pytest.approx(value, abs=1e-15)


@every_metric
def test_a_reference_of_another_task_is_named(kind):
    """Wrong types of truth or prediction are refused with the item's name, and nothing is counted."""
    metric = kind()
    other = Caption("a dog") if kind is not CaptionScores else Choice("two")
    masks = kind in (BinaryMasks, NullMasks, SemanticMasks)
    for field in ("prediction",) if masks else ("truth", "prediction"):
        item = next(i for i in POOLS[kind] if i.parsed)
        with pytest.raises(ItemError, match=f"item {item.id}: .*{type(other).__name__}"):
            metric.update(dataclasses.replace(item, **{field: other}))
    assert metric.to_json() == kind().to_json()


def test_merging_different_metrics_is_refused():
    with pytest.raises(ValueError, match="cannot merge Grounding"):
        Grounding().merge(NullMasks())
    with pytest.raises(ValueError, match=r"frames_per_video': 5.*frames_per_video': 10"):
        BinaryMasks().merge(BinaryMasks(frames_per_video=10))
    with pytest.raises(ValueError, match="expected the state of NullMasks"):
        NullMasks().from_json(Grounding().to_json())
    state = NullMasks().to_json()
    del state["sums"]["s"]
    with pytest.raises(ValueError, match="no sums called"):
        NullMasks().from_json(state)
    state = BinaryMasks().to_json()
    state["sums"]["curve"].pop()
    with pytest.raises(ValueError, match="254"):
        BinaryMasks().from_json(state)


@given(st.lists(st.floats(2**-7, 1), min_size=1, max_size=50))
def test_sums_are_exact(scores):
    """The mean is the rounded true mean, which a sum of floats does not give."""
    total = sum(fixed(s) for s in scores)
    assert mean(total, len(scores)) == float(sum(map(Fraction, scores)) / len(scores))
    assert fixed_array(np.array(scores)).tolist() == [fixed(s) for s in scores]


def test_each_task_has_its_metric():
    assert set(METRICS) == set(TASKS)
    for task in TASKS:
        assert isinstance(metric_for(task), Metric)
    assert isinstance(metric_for("ref-avs", "test_n"), NullMasks)
    assert metric_for("ref-avs", "test_u").settings() == {"frames_per_video": 10}
    with pytest.raises(ValueError, match="no metric for 'avc'"):
        metric_for("avc")


def test_an_item_from_a_row():
    row = Row(events=(Event("bark", 0, 4),))
    item = Item.from_row("ave", row, Unparsed("", ""), id="7")
    assert item.truth.events == (Event("Bark", 0, 4),)  # as the vocabulary spells it


def test_reported_numbers_have_names_of_ours():
    for entry in REPORTED:
        assert entry.name in metric_for(entry.task, entry.split).result(), entry
        assert 0 < entry.value < 1
    assert reported("arig", "test")["ciou"].value == 0.4178
    assert reported("s4", "test") == {}


@every_metric
def test_every_number_is_documented(kind):
    """docs/metrics.md explains each name, question types apart."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    page = page[page.index(f"`{kind.__name__}`") :]  # from where it is introduced
    names = {re.sub(r"^(accuracy|unparsed|items)/[^:]*", r"\1", name) for name in kind().result()}
    missing = [name for name in sorted(names) if f"`{name}`" not in page and f"`:{name.partition(':')[2]}`" not in page]
    assert not missing


# --------------------------------------------------------------------------------------- predictions against a test set


def test_predictions_are_matched_with_items():
    """Each way to differ is named and counted; equal copies count once, contradictions not at all."""
    given = [("c", 1), ("a", 2), ("x", 3), ("b", 4), ("a", 2), ("b", 5)]
    counted_ones, mismatch = match(["a", "b", "c", "d"], given)
    assert counted_ones == {"a": 2, "c": 1}
    assert list(counted_ones) == ["a", "c"]
    assert mismatch.to_json() == {
        "missing": ["d"],
        "unexpected": ["x"],
        "repeated": ["a"],
        "contradictory": ["b"],
    }
    assert str(mismatch) == "1 missing (d); 1 unexpected (x); 1 repeated (a); 1 contradictory (b)"
    assert mismatch


def test_a_perfect_match_says_so():
    counted_ones, mismatch = match(["a"], [("a", Box(0, 0, 1, 1))])
    assert not mismatch
    assert str(mismatch) == "all items answered once"
    assert counted_ones["a"] == Box(0, 0, 1, 1)
    assert match(["a", "b"], [])[1].missing == ("a", "b")


def test_sets_that_cannot_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"none of the 2 predictions \(the first is x\) belongs to the 1 items"):
        match(["a"], [("x", 1), ("y", 2)])
    with pytest.raises(ValueError, match="found twice: a"):
        match(["a", "b", "a"], [("a", 1)])


def test_long_lists_are_cut_in_messages_only():
    _, mismatch = match([str(i) for i in range(100)], [("0", 1)])
    assert str(mismatch) == "99 missing (1, 2, 3, 4, 5, …)"
    assert len(mismatch.to_json()["missing"]) == 99
