"""The laws of mixing and packing, on sizes alone: nothing is read here."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax.layout import Layout
from crab_jax.tasks import Row
from crab_jax.tasks.clips import Ask
from data_pipelines.records import Entry
from data_pipelines.stream.mixture import Mixture, random_order
from data_pipelines.stream.packing import PACKED, Plan, best_fit
from data_pipelines.stream.tables import StreamError, Table

LAYOUT = Layout(tokens=100, frames=12, windows=12, patch_rows=6, masks=3)


def table(name: str, units: list[int], seed: int = 0) -> Table:
    """A source whose units have the given numbers of alternatives."""
    n = sum(units)
    rng = np.random.default_rng(seed)
    columns = [rng.integers(low, high, n) for low, high in ((5, 60), (0, 9), (0, 9), (0, 2), (0, 6))]
    unit = np.repeat(np.arange(len(units)), units)
    return Table(name, np.arange(n), np.zeros(n, int), unit, np.stack(columns, axis=1), (), name)


def mixture(*tables, seed=0, weights=None, choose="one", epochs=None, block=16):
    return Mixture(tables, seed=seed, weights=weights, choose=choose, epochs=epochs, block=block)


def everything(mix: Mixture) -> list[int]:
    return [int(i) for b in range(mix.blocks) for i in mix.block(b)]


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 12), st.integers(0, 12), st.integers(0, 3)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_rows_hold_every_example_once_and_never_more_than_the_layout(sizes):
    size = np.array(sizes, np.int64).reshape(-1, 4)
    capacity = np.array([100, 12, 12, 3])
    rows = best_fit(size, capacity)
    assert sorted(int(i) for row in rows for i in row) == list(range(len(size)))
    assert all(len(row) and (size[row].sum(axis=0) <= capacity).all() for row in rows)


def test_best_fit_puts_the_rest_where_it_fits_best():
    size = np.array([[60, 1], [70, 1], [28, 1], [40, 1]])
    rows = best_fit(size, np.array([100, 2]))
    assert [row.tolist() for row in rows] == [[1, 2], [0, 3]]


def test_best_fit_minds_every_resource():
    size = np.array([[50, 2], [10, 1], [10, 0]])
    assert [row.tolist() for row in best_fit(size, np.array([100, 2]))] == [[0, 2], [1]]


def test_an_epoch_holds_every_example_once():
    mix = mixture(table("a", [1] * 37), table("b", [1] * 21), epochs=3)
    found = everything(mix)
    for epoch in range(3):
        assert sorted(found[58 * epoch : 58 * (epoch + 1)]) == list(range(58))
    assert found[:58] != found[58:116]
    assert found[:58] != sorted(found[:58])


def test_alternatives_take_turns():
    """Every question comes once per epoch, with another moment each time, until all have been there."""
    mix = mixture(table("a", [5] * 6 + [1] * 4), epochs=10)
    found = np.array(everything(mix)).reshape(10, 10)
    units = np.repeat(np.arange(10), [5] * 6 + [1] * 4)
    assert all(sorted(units[epoch]) == list(range(10)) for epoch in found)
    times = collections.Counter(found[:5].ravel().tolist())
    assert all(times[i] == (1 if i < 30 else 5) for i in range(34))
    firsts = [i % 5 for i in sorted(found[0]) if i < 30]
    assert len(set(firsts)) > 1, "all questions begin with the same moment"


def test_all_alternatives():
    mix = mixture(table("a", [5] * 6), choose="all", epochs=1)
    assert sorted(everything(mix)) == list(range(30))


def test_weights_hold_exactly_and_each_source_has_its_own_epochs():
    mix = mixture(table("a", [1] * 30), table("b", [1] * 10), table("c", [1] * 5), weights={"a": 1, "b": 3})
    found = np.concatenate([mix.block(b) for b in range(40)])
    assert len(found) == 640
    assert (found < 30).sum() == 160
    assert (found < 40).all()
    b = found[found >= 30].tolist()
    assert all(sorted(b[10 * e : 10 * e + 10]) == list(range(30, 40)) for e in range(48))
    sizes = [len(mix.block(i)) for i in range(40)]
    assert max(sizes) - min(sizes) <= 1


def test_shares_are_exact_for_any_weights():
    mix = mixture(table("a", [1] * 7), table("b", [1] * 3), weights={"a": 0.7, "b": 0.3}, block=10)
    assert sum((mix.block(b) < 7).sum() for b in range(1000)) in (6999, 7000)


def test_blocks_do_not_depend_on_what_was_asked_before():
    a, b = (mixture(table("a", [3] * 50)) for _ in range(2))
    expected = [a.block(i).tolist() for i in range(12)]
    assert [b.block(i).tolist() for i in reversed(range(12))] == expected[::-1]
    assert mixture(table("a", [3] * 50), seed=1).block(0).tolist() != expected[0]


def test_the_shuffle_never_changes():
    """A run that goes on with a newer NumPy needs the same numbers."""
    assert random_order(8, 0, "everything", 0).tolist() == [7, 1, 5, 3, 6, 2, 0, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"c": 1}}, "'c' is no source; there are a"),
        ({"weights": {"a": 0}}, "one above 0"),
        ({"weights": {"a": -1.0}}, "numbers from 0 up"),
        ({"weights": {"a": float("nan")}}, "numbers from 0 up, found nan for a"),
        ({"weights": {"a": float("inf")}}, "numbers from 0 up, found inf for a"),
        ({"weights": {"a": "much"}}, "numbers from 0 up, found 'much' for a"),
        ({"weights": {"a": None}}, "numbers from 0 up, found None for a"),
        ({"choose": "some"}, "expected 'one' or 'all'"),
        ({"epochs": 0}, "one epoch"),
    ],
)
def test_settings_that_make_no_sense(arguments, message):
    with pytest.raises(StreamError, match=message):
        mixture(table("a", [1] * 4), **arguments)


def test_a_source_without_examples():
    with pytest.raises(StreamError, match="b: no example that could be used"):
        mixture(table("a", [1]), table("b", []), weights={"a": 1, "b": 1})


def plan_of(*, epochs=None, packed=True):
    tables = table("a", [1] * 100), table("b", [4] * 30, seed=1)
    size = np.concatenate([t.size for t in tables])
    return Plan(mixture(*tables, epochs=epochs, block=32), size, layout=LAYOUT, packed=packed, seed=0), size


def rows_of(plan):
    rows, k = [], 0
    while (row := plan.row(k)) is not None:
        rows.append(row.tolist())
        k += 1
    return rows


def test_rows_of_a_plan():
    plan, size = plan_of(epochs=4)
    rows = rows_of(plan)
    counts = collections.Counter(i for row in rows for i in row)
    assert all(counts[i] == 4 for i in range(100))
    assert all(counts[i] == 1 for i in range(100, 220))
    capacity = [getattr(LAYOUT, r) for r in PACKED]
    assert all((size[row][:, :4].sum(axis=0) <= capacity).all() for row in rows)
    assert max(map(len, rows)) > 1
    singles = rows_of(plan_of(epochs=4, packed=False)[0])
    assert all(len(row) == 1 for row in singles)
    assert sorted(i for row in singles for i in row) == sorted(counts.elements())


def test_any_row_can_be_asked_for():
    plan, _ = plan_of()
    rows = [plan.row(k).tolist() for k in range(200)]
    block, first = plan.cursor(150)
    assert first <= 150
    later = pickle.loads(pickle.dumps(plan_of()[0]))
    later.start_from(block, first)
    assert [later.row(k).tolist() for k in range(first, 200)] == rows[first:]
    assert later.row(3).tolist() == rows[3]
    with pytest.raises(IndexError):
        plan.row(-1)


def test_cursor_behind_the_last_row():
    plan, _ = plan_of(epochs=1)
    last = len(rows_of(plan))
    assert plan.cursor(last + 7) == (5, last)
    plan.start_from(5, last)
    assert plan.row(last) is None


def test_too_large_examples_are_named_with_every_number():
    t = table("a", [1, 2])
    t.size[1] = 101, 3, 13, 0, 7
    counts = {"frames": 0, "samples": 0, "masks": 0, "size": 0}
    asks = [(Ask(id=f"question {i}", row=Row()),) for i in range(3)]
    index = [Entry(index=i, clip_id="", asks=some, **counts) for i, some in enumerate(asks)]
    left = t.fitting(LAYOUT, index=index.copy)
    assert left.record.tolist() == [0, 2]
    (one,) = left.left_out
    assert one.name == "a, question 1"
    assert one.reason == (
        "101 tokens, the layout holds 100; 13 windows, the layout holds 12; 7 patch rows, the layout holds 6"
    )
    assert t.fitting(Layout(tokens=200, frames=20, windows=20, patch_rows=12, masks=2), index=pytest.fail) is t
