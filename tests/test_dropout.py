"""Dropout with bits of either generator: rates, means, rows, meshes."""

import json
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from crab_jax.nn.dropout import Dropout, dropout_key
from crab_jax.sharding import make_mesh

ROOT = pathlib.Path(__file__).parents[1]
X = np.ones((6, 64, 128), np.float32)


def dropped(module, key):
    return np.asarray(module.apply({}, X, rngs={"dropout": key}))


@pytest.mark.parametrize("bits", ["threefry", "rbg"])
def test_rate_and_mean(bits):
    y = dropped(Dropout(0.05), dropout_key(jax.random.key(1), bits))
    dropped_share = (y == 0).mean()
    assert abs(dropped_share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / X.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.95, rtol=1e-6)


def test_rows_and_calls_are_independent():
    """Both of two independent draws keep a value with 0.5² + 0.5²."""
    key = dropout_key(jax.random.key(1), "rbg")
    y = dropped(Dropout(0.5), key) > 0
    again = dropped(Dropout(0.5), jax.random.fold_in(key, 1)) > 0
    for one, other in [(y[0], y[1]), (y[2], y[5]), (y, again)]:
        assert abs((one == other).mean() - 0.5) < 0.03


def test_threefry_is_that_of_flax():
    key = jax.random.key(2)
    np.testing.assert_array_equal(dropped(Dropout(0.1), key), dropped(nn.Dropout(0.1, deterministic=False), key))


@pytest.mark.parametrize("module", [Dropout(0.1, deterministic=True), Dropout(0.0)])
def test_nothing_is_dropped_if_told_so(module):
    np.testing.assert_array_equal(np.asarray(module.apply({}, X)), X)


def test_the_hardware_is_asked_on_tpus_only(monkeypatch):
    key = jax.random.key(3)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert dropout_key(key, "auto") is key
    monkeypatch.setattr("crab_jax.nn.dropout.platform", lambda: "tpu")
    assert str(jax.random.key_impl(dropout_key(key, "auto"))) == "rbg"
    assert dropout_key(key, "threefry") is key


def test_every_mesh_drops_the_same():
    done = subprocess.run([sys.executable, "tests/dropout_run.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"same": [True] * 3, "another": False}
