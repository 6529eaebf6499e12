"""All six stages on a small generated world, each from the checkpoints of those before, and weights made of them."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from models import tiny_config

from crab_jax import assets, checkpoint
from crab_jax.starting import shapes_of
from crab_jax.tasks import ALL
from crab_jax.train.checkpoint import read_trainables
from data_pipelines.build import Options, build
from data_pipelines.world import build as world

ROOT = pathlib.Path(__file__).parents[1]
# Stage, the tasks that it learns here, and parts whose weights it must have taken over from another stage.
STAGES = [
    ("visual_pretrain", "pretrain-image", {}),
    ("audio_pretrain", "pretrain-audio", {}),
    ("seg_pretrain", "pretrain-seg", {}),
    ("finetune", "ave+s4", {"vl_projector": "visual_pretrain", "al_projector": "audio_pretrain"}),
    ("finetune_avs", "s4", {"mask_decoder": "seg_pretrain"}),
    ("finetune_avss", "avss", {"mask_decoder": "finetune_avs", "llama": "finetune_avs"}),
]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # most of it is compiling


def small_config():
    """The tiny model with one layer of whatever is not scanned: half of all the time here is compiling."""
    c = tiny_config()
    one = {part: dataclasses.replace(getattr(c, part), num_layers=1) for part in ("vl_projector", "al_projector")}
    return dataclasses.replace(c, **one, mask_decoder=dataclasses.replace(c.mask_decoder, depth=1, query_layers=1))


def random_params():
    rng = np.random.default_rng(0)
    return {
        path: np.float32(path.endswith("/scale")) + 0.1 * rng.standard_normal(x.shape, np.float32)
        for path, x in shapes_of(small_config()).items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips of every task in pictures of the tiny model's size, and random weights."""
    root = tmp_path_factory.mktemp("stages")
    tasks = sorted({task for _, names, _ in STAGES for task in names.split("+")})
    world.build(root / "media", clips=2, seed=3, tasks=tasks, size=(96, 72), fps=1, least=1, quiet=True)
    for task in tasks:
        build(ALL[task], root=root / "media", out=root / "shards", options=Options(jobs=0, size=112, splits=("train",)))
    tokenizer = pathlib.Path(assets.__file__).with_name("tiny_tokenizer.model")
    checkpoint.save(root / "base", config=small_config(), params=random_params(), tokenizer=tokenizer)
    return root


def values(folder, done, **more):
    """What is set on the command line of every stage."""
    start = [str(folder / stage) for stage in done]
    return {"stage.base": str(folder / "base"), "data.shards": str(folder / "shards"), "stage.start": start, **more}


def process(folder, *arguments):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "XDG_CACHE_HOME": str(folder),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def runs(folder):
    """The first stage by its command, the others one after the other. → what they said"""
    (first, tasks, _), *others = STAGES
    set_here = [f"--config.{name}={tuple(x) if isinstance(x, list) else x}" for name, x in values(folder, ()).items()]
    said = process(
        folder, "-m", "launch.train", "--config", f"configs/{first}.py:preset=smoke,model=base,tasks={tasks}",
        "--workdir", str(folder / first), *set_here,
    )  # fmt: skip
    jobs, done, codes = [], [first], []
    for stage, tasks, _ in others:
        job = ["train", stage, f"preset=smoke,model=base,tasks={tasks}", str(folder / stage)]
        if stage == "finetune":  # the machine is taken away once
            jobs.append([*job, values(folder, done, **{"run.stop_after": 1})])
            codes.append(75)
        jobs.append([*job, values(folder, done, **{"log.diagnose_every": 3 if stage == "finetune" else 0})])
        codes.append(0)
        done.append(stage)
    joint, avs, avss = (str(folder / stage) for stage in ("finetune", "finetune_avs", "finetune_avss"))
    jobs.append(["crab", "convert", joint, "--avs", avs, "--avss", avss, "--out", str(folder / "weights")])
    jobs.append(["crab", "convert", "--to", "torch", joint, "--out", str(folder / "published")])
    (folder / "jobs.json").write_text(json.dumps(jobs))
    said += process(folder, "tests/stages_run.py", str(folder / "jobs.json"))
    assert json.loads(said.splitlines()[-1]) == [*codes, 0, 0]
    return said


def trained(run, step):
    return read_trainables(run / "checkpoints" / str(step))


def test_six_stages_one_after_another(folder, runs):
    assert runs.count("finished: checkpoint 3") == len(STAGES)
    assert runs.count("stopped: checkpoint 1") == runs.count("continued after step 1") == 1
    for stage, _, inherited in STAGES:
        lines = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "kind" not in line]
        assert [line["step"] for line in steps] == [1, 2, 3], stage
        assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in steps), stage
        kind = {"seg_pretrain": "binary", "finetune_avs": "binary", "finetune_avss": "semantic"}.get(stage)
        loss = {"binary": "bce", "semantic": "semantic_ce"}.get(kind)
        assert kind is None or all(line[f"loss/{loss}"] > 0 and line[f"count/{kind}"] > 0 for line in steps), stage
        routers = str([line for line in lines if line.get("kind") == "router"])
        assert ("/layer01/head2" in routers) == (stage == "finetune")
        # The rate of the first step is 0, so checkpoint 1 holds what the stage started from.
        first, last = trained(folder / stage, 1), trained(folder / stage, 3)
        assert any(np.any(x != first[path]) for path, x in last.items()), stage
        for part, earlier in inherited.items():
            there = trained(folder / earlier, 3)
            mine = [path for path in first if path.startswith(f"{part}/")]
            assert mine
            for path in mine:
                np.testing.assert_array_equal(first[path], there[path], err_msg=f"{stage}: {path}")


def test_the_runs_make_up_weights(folder, runs):
    assert "note" not in runs
    base = random_params()
    for variant, stage in ((None, "finetune"), ("avs", "finetune_avs"), ("avss", "finetune_avss")):
        params = checkpoint.load(folder / "weights", variant=variant).params
        for path, x in trained(folder / stage, 3).items():
            np.testing.assert_array_equal(params[path], x, err_msg=f"{stage}: {path}")
        frozen = "clip/layers/up/kernel"
        np.testing.assert_array_equal(params[frozen], base[frozen])
    assert (folder / "published" / "finetune_weights.bin").stat().st_size > 1000
