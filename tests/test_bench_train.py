"""The training benchmark with toy sizes: what its rows are made of, never how fast anything is."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crab_jax.flops import matmul_flops
from crab_jax.layout import Layout
from crab_jax.params import count
from crab_jax.starting import shapes_of
from launch import bench
from launch.benchmarks import products, train
from launch.benchmarks.steps import Kind

SIZES = train.Sizes(
    model="tiny",
    matmul=32,
    kinds={
        "finetune": Kind(frames=1, windows=1, masks=0, per_row=2),
        "finetune_avs": Kind(frames=1, windows=1, masks=1, per_row=2),
    },
    layout=dict.fromkeys(("finetune", "finetune_avs"), Layout(tokens=64, frames=2, windows=2, patch_rows=2, masks=2)),
    clips=1,
    padded=2,
)


@pytest.fixture(scope="module")
def first():
    """A step, and what its first run gave."""
    step = train._prepared("finetune", SIZES, "float32")
    return step, step.run()


@pytest.fixture
def step(first):
    return first[0]


@pytest.fixture
def prepared(step, monkeypatch):
    """Compiling is the same everywhere: one step stands for all."""
    asked = []
    monkeypatch.setattr(train, "prepare", lambda recipe, batch, **how: asked.append((recipe, batch, how)) or step)
    monkeypatch.setattr(train.products, "seconds", lambda jaxpr: 0.001)
    return asked


def test_a_step_is_full_and_trains(first):
    step, metrics = first
    layout = SIZES.layout["finetune"]
    assert step.tokens == layout.tokens
    assert 0 < step.counts["tokens"] < layout.tokens
    assert metrics["ok"]
    assert metrics["loss"] != step.run()["loss"]
    sizes = shapes_of(train.recipe("finetune", SIZES, "float32").model)
    assert step.trained + step.frozen == count(sizes)


def test_products_are_all_of_them(step):
    def flops_of(product):
        operands = [jax.ShapeDtypeStruct(*shape) for shape in product.shapes]
        return matmul_flops(product.apply, *operands)

    found = products.products(step.jaxpr)
    assert sum(times * flops_of(product) for product, times in found.items()) == step.flops
    assert {product.name for product in found} == {"dot_general", "conv_general_dilated"}

    def scanned(a, b):
        return jax.lax.scan(lambda carry, _: (carry + (a @ b).sum(), None), 0.0, None, length=11)[0] + (a @ b).sum()

    jaxpr = jax.make_jaxpr(scanned)(jnp.zeros((3, 5)), jnp.zeros((5, 7))).jaxpr
    assert list(products.products(jaxpr).values()) == [12]
    assert products.seconds(jaxpr, rounds=1) > 0


def test_masking_computes_more(first):
    step, metrics = first
    masked = train._prepared("finetune", SIZES, "float32", masked=True)
    assert masked.flops > step.flops
    assert (masked.trained, masked.frozen) == (step.trained, step.frozen)
    np.testing.assert_allclose(masked.run()["loss"], metrics["loss"], rtol=1e-5)


def test_every_section_has_its_rows(prepared, monkeypatch, tmp_path, capsys):
    lengths = np.array([[20, 1, 1, 0], [30, 1, 0, 0], [64, 2, 2, 0], [99, 1, 1, 0]])
    monkeypatch.setattr(train, "example_sizes", lambda config, clips: lengths)
    monkeypatch.setattr(train, "Sizes", lambda model: SIZES)
    document = tmp_path / "text.md"
    document.write_text("<!-- bench:train -->\n<!-- /bench:train -->\n")
    arguments = ["train", "--rounds", "2", "--json", str(tmp_path / "n.json"), "--update", str(document)]
    assert bench.main(arguments) == 0
    assert capsys.readouterr().out.strip() in document.read_text()
    rows = json.loads((tmp_path / "n.json").read_text())["rows"]
    assert [(row["section"], row["dtype"]) for row in rows] == [
        *[("Training steps", dtype) for _ in train.STAGES for dtype in train.DTYPES for _ in range(3)],
        ("Packed rows, nine tasks", "float32"),
        ("Frozen weights", "float32"),
    ]
    for row in rows:
        assert math.isfinite(row["reference"])
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    # The example of 99 tokens fits no row; 20 and 30 share one, 64 has its own: three in two rows.
    assert "1.50 examples per row" in rows[-2]["what"]
    dtypes = {recipe.compute.dtype for recipe, _, _ in prepared}
    assert dtypes == {"float32", "bfloat16"}
    (padded,) = (batch for _, batch, _ in prepared if len(batch.tokens) == SIZES.padded)
    assert padded.frames.shape[1] == 1
    assert [how for _, _, how in prepared if how] == [{"masked": True}]


def test_lengths_of_real_examples():
    found = train.example_sizes(train.recipe("finetune", SIZES, "float32"), clips=1)
    assert found.shape[1] == 4
    assert (found[:, 0] > 0).all()
    assert len({tuple(row) for row in found}) >= 9


def test_the_published_model_wants_an_accelerator(capsys):
    assert bench.main(["train", "--full"]) == 2
    shown = capsys.readouterr()
    assert "expected a data-centre GPU or a TPU, found cpu" in shown.err
    assert not shown.out


def test_the_published_model_on_an_accelerator(prepared, monkeypatch):
    monkeypatch.setattr(train, "peak_flops", lambda kind: 1e12)
    sizes = dataclasses.replace(SIZES, full_model="tiny", full_rows=3)
    (row,) = train.measure(sizes, rounds=1, full=True, progress=lambda row: None)
    ((recipe, batch, _),) = prepared
    assert recipe.compute.dtype == "bfloat16"
    assert len(batch.tokens) == 3
    assert row.ratio.median == pytest.approx(row.reference / row.measured.median)
