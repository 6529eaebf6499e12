"""`crab eval` with a tiny random model: what it says, teacher forcing, and several devices."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import eval_run
import jax
import numpy as np
import pytest

from crab_jax import checkpoint, cli, load
from crab_jax.batch import pack
from crab_jax.evaluate.report.findings import read_router
from crab_jax.evaluate.routing import write_router
from crab_jax.evaluate.run import Run
from crab_jax.layout import Layout
from crab_jax.system import ComputeConfig, CrabSystem
from crab_jax.tasks import TASKS
from data_pipelines.records import open_shards
from data_pipelines.stream.evaluation import evaluation_items
from data_pipelines.stream.tables import Source

pytestmark = pytest.mark.usefixtures("quick_compilation")
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    eval_run.write_inputs(root)
    return root


def arguments(inputs, out, mode="both"):
    return [
        "eval", "--shards", str(inputs / "shards"), "--weights", str(inputs / "weights"), "--out", str(out),
        "--dtype", "float32", "--batch", "4", "--task", "s4", "--limit", "4", "--max-new-tokens", "16", "--mode", mode,
        "--gallery", "0", "--router", "0",
    ]  # fmt: skip


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_masks_of_a_given_text(inputs, tmp_path):
    assert cli.main(arguments(inputs, tmp_path, "teacher-forced")) == 0
    lines = lines_of(tmp_path / "s4/test/teacher-forced/items.jsonl")
    assert len(lines) == 4
    assert all("mask" in line and line["mask_tokens"] == 6 for line in lines)
    assert all(line["text"].startswith("The object that makes the sound is") for line in lines)
    assert len({line["scores"]["iou"] for line in lines}) == 4
    assert json.loads((tmp_path / "speed.json").read_text())["s4/test, teacher-forced"]["compile_s"] > 0
    assert not (tmp_path / "s4/test/decoded").exists()


def test_router_weights_are_those_of_training(inputs, tmp_path):
    """The mean over two items, read in one pass with their true answers, as the training system diagnoses them."""
    source = Source(open_shards(inputs / "shards", "s4", "test"), TASKS["s4"])
    assistant = load(inputs / "weights", dtype="float32", max_batch=2, tasks=["s4"])
    run = Run(source=source)
    assert write_router(run, assistant, tmp_path, items=2)
    found, reason = read_router(tmp_path)
    assert not reason
    examples = [
        item.example
        for item in evaluation_items(
            source, wording=assistant.wording, tokenizer=assistant.tokenizer, sizes=assistant.config.feature_sizes,
            with_target=True, wanted=lambda number, ask: number in (1, 4),
        )
    ]  # fmt: skip
    length = 64 * -(-max(len(e.prompt) + len(e.target) for e in examples) // 64)
    batch = pack(
        [examples[:1], examples[1:]],
        layout=Layout(tokens=length, frames=1, windows=1, patch_rows=12, masks=0),
        ids=assistant.config.token_ids, **dataclasses.asdict(assistant.config.feature_sizes),
    )  # fmt: skip
    system = CrabSystem(assistant.config, compute=ComputeConfig(dtype="float32", remat="none"))
    params = checkpoint.load(inputs / "weights", dtype=np.float32).params
    with jax.default_matmul_precision("highest"):
        told = np.asarray(jax.jit(system.diagnose)(dict(params), batch))[:, 0]  # of the first segment
    assert found.items == 2
    np.testing.assert_allclose(found.weights, told.mean(0), atol=2e-5)
    assert found.weights.std() > 0.01  # not undecided everywhere
    (tmp_path / "router.json").write_text('{"items": [], "linears": ["q"], "weights": [[[null]]]}')
    found, reason = read_router(tmp_path)
    assert found is None
    assert "expected router weights" in reason


@pytest.mark.slow
def test_several_devices_agree_with_one(inputs, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(arguments(inputs, one)) == 0
    assert any("mask" in line for line in lines_of(one / "s4/test/decoded/items.jsonl"))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = f"import sys; from crab_jax import cli; sys.exit(cli.main({arguments(inputs, two)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=HERE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((two / "speed.json").read_text())["s4/test, decoded"]["devices"] == 2
    for mode in ("decoded", "teacher-forced"):
        pairs = zip(*(lines_of(out / f"s4/test/{mode}/items.jsonl") for out in (one, two)), strict=True)
        for a, b in pairs:
            assert a["text"] == b["text"]
            assert a["scores"]["iou"] == pytest.approx(b["scores"]["iou"], abs=2e-3)
