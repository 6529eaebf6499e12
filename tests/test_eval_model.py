"""`crab eval` with a tiny random model: what it says, teacher forcing, and several devices."""

import json
import os
import pathlib
import subprocess
import sys

import eval_run
import pytest

from crab_jax import cli

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
