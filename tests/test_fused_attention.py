"""The attention kernel gives the numbers of the written-out one, and is chosen where it can run."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from crab_jax.flops import matmul_flops
from crab_jax.nn.fused_attention import Segments, fused_attention, is_fused
from crab_jax.sharding import make_mesh

ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def outcome():
    done = subprocess.run([sys.executable, "tests/fused_run.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_states_and_gradients_are_those_of_the_written_out_one():
    found = outcome()
    assert found["states"] < 1e-5
    assert found["gradients"]
    assert max(found["gradients"].values()) < 1e-5, found["gradients"]


def test_padding_is_finite():
    assert outcome()["finite"]


def test_attention_never_crosses_a_segment():
    found = outcome()
    assert found["first example"] > 1e-3
    assert found["second example"] == 0


SHAPE = dict(length=256, kv_heads=2, size=128)


# These devices are no TPUs.
@pytest.mark.parametrize(("choice", "fused"), [("dot", False), ("auto", False), ("fused", True)])
def test_it_is_chosen_by_config_and_platform(choice, fused):
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert is_fused(choice, **SHAPE) is fused


@pytest.mark.parametrize("changed", [dict(length=200), dict(size=64)])
def test_shapes_that_the_kernel_cannot_do_are_named(changed):
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])), pytest.raises(ValueError, match="choose 'auto' or 'dot'"):
        is_fused("fused", **SHAPE | changed)


def test_without_a_mesh_it_is_written_out():
    assert not is_fused("auto", **SHAPE)
    with pytest.raises(ValueError, match="mesh"):
        is_fused("fused", **SHAPE)


def test_on_tpus_it_is_chosen_if_the_shapes_allow_it(monkeypatch):
    monkeypatch.setattr("crab_jax.nn.fused_attention.platform", lambda: "tpu")
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert is_fused("auto", **SHAPE)
        assert not is_fused("auto", **SHAPE | dict(length=200))


def test_products_in_the_kernel_are_counted():
    """Scores and what they weigh, for all blocks of all heads and rows."""
    q, ids = jax.ShapeDtypeStruct((2, 384, 4, 128), "float32"), jax.ShapeDtypeStruct((2, 384), "int32")
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        counted = matmul_flops(lambda q, ids: fused_attention(q, q, q, Segments(ids)), q, ids)
    assert counted == 2 * 2 * (2 * 4 * 384 * 384 * 128)
