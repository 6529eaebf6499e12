"""The mesh, the table of logical axes, and training steps that do not depend on either."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from models import tiny_config

from configs import bench_mid, published
from crab_jax.config import build
from crab_jax.model import CrabConfig, abstract
from crab_jax.params import split
from crab_jax.sharding import (
    MESH_AXES,
    ShardingError,
    constrain,
    make_mesh,
    place_batch,
    rows_here,
    rule_of,
    shardings,
)  # fmt: skip
from crab_jax.system import AXES

ALL_MESHES = ["8,1,1", "1,8,1", "1,1,8", "4,2,1", "4,1,2", "2,4,1", "2,1,4", "1,4,2", "1,2,4", "2,2,2"]
MODELS = {
    "tiny": tiny_config,
    "bench_mid": lambda: build(CrabConfig, bench_mid.get_config().model.to_dict()),
    "published": lambda: build(CrabConfig, published.get_config().model.to_dict()),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_one_rule_of_its_rank(name):
    for path, leaf in abstract(MODELS[name]()).items():
        assert len(rule_of(path, AXES)) == len(leaf.shape), path


# The pods that a run is planned for, and what eight devices can be.
@pytest.mark.parametrize("shape", [(1, 256, 1), (1, 64, 4), (4, 16, 4), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_the_published_model_fits(shape):
    flat = abstract(MODELS["published"]())
    placed = shardings(flat, AXES, AbstractMesh(shape, MESH_AXES))
    held = sum(np.prod(s.shard_shape(flat[p].shape)) for p, s in placed.items())
    whole = sum(np.prod(x.shape) for x in flat.values())
    _, fsdp, tensor = shape
    # What is never split (norms, biases, LoRA, most of the mask decoder), and the vocabulary, which only fsdp splits.
    assert held < whole / (fsdp * tensor) + 45e6 + 270e6 / fsdp


def test_layers_are_never_split():
    placed = shardings(abstract(MODELS["published"]()), AXES, AbstractMesh((1, 8, 2), MESH_AXES))
    for path, sharding in placed.items():
        if "/layers/" in path:
            assert sharding.spec[0] is None, path


def test_optimizer_state_follows_the_rules_of_what_trains():
    flat = abstract(tiny_config())
    train, frozen = split(flat, ["llama/.*lora_.*"])
    mesh = AbstractMesh((1, 4, 2), MESH_AXES)
    assert set(shardings(train, AXES, mesh)) | set(shardings(frozen, AXES, mesh)) == set(flat)


def test_no_rule_two_rules_wrong_rank_and_no_divisor_are_all_listed():
    mesh = AbstractMesh((1, 8, 1), MESH_AXES)
    flat = {n: jax.ShapeDtypeStruct((12, 8), np.float32) for n in ("nobody", "twice", "short", "odd", "fine")}
    axes = {
        "tw.*": ("whole", "whole"), ".*ice": ("whole", "whole"), "short": ("whole",), "odd": ("embed", "whole"),
        "fine": ("whole", "embed"),
    }  # fmt: skip
    with pytest.raises(ShardingError) as error:
        shardings(flat, axes, mesh)
    text = str(error.value)
    assert text.startswith("4 parameters")
    for part in ("nobody: none", "'tw.*' and '.*ice'", "names 1 axes", "12 does not divide by mesh axis fsdp = 8"):
        assert part in text
    with pytest.raises(ShardingError, match="'nothing' is not in the table"):
        shardings({"a": flat["odd"]}, {"a": ("nothing", "whole")}, mesh)


def test_meshes_that_cannot_be():
    assert dict(make_mesh().shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(ShardingError, match="does not fit 1 devices"):
        make_mesh(data=1, fsdp=3)
    with pytest.raises(ShardingError, match="at most once"):
        make_mesh(data=-1, fsdp=-1)
    with pytest.raises(ShardingError, match="numbers above 0"):
        make_mesh(data=0)


def test_rows():
    assert rows_here(make_mesh(), 6) == (0, 6)

    class Wide:
        shape = {"data": 2, "fsdp": 4, "tensor": 1}

    with pytest.raises(ShardingError, match="6 rows per micro-batch do not divide over data x fsdp = 8"):
        rows_here(Wide(), 6)
    batch = place_batch({"x": np.arange(6)}, make_mesh())
    np.testing.assert_array_equal(batch["x"], np.arange(6))


def test_activations_are_only_fixed_under_a_mesh():
    x = np.ones((2, 3), np.float32)
    text = str(jax.make_jaxpr(lambda x: constrain(x, "batch", "width"))(x))
    assert "sharding_constraint" not in text
    with jax.set_mesh(make_mesh()):
        text = str(jax.make_jaxpr(lambda x: constrain(x, "batch", "width"))(x))
    assert "sharding_constraint" in text


def run_meshes(meshes, *arguments):
    script = pathlib.Path(__file__).with_name("sharding_run.py")
    command = [sys.executable, str(script), "--meshes", *meshes, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["mesh"] for r in results] == list(meshes)
    for result in results:
        # float32 sums in another order: 1e-5 of the largest entry of each gradient.
        assert result["loss"] < 1e-5, result
        assert result["gradient"] < 1e-5, result


def test_eight_devices_are_one_device():
    """A mesh that is split in all three ways: loss and every gradient."""
    run_meshes(["2,2,2"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--masks"], ["--masks", "--accumulation", "2"]], ids=["whole", "parts"])
def test_every_mesh_of_eight_devices_is_one_device(arguments):
    # Two micro-batches of four rows fit the meshes with at most four places for rows.
    few = [m for m in ALL_MESHES if int(m[0]) * int(m[2]) <= 4]
    run_meshes(few if "--accumulation" in arguments else ALL_MESHES, *arguments)
