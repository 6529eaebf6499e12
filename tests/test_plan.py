"""crab plan: a toy on four pretended devices, what is said when something does not fit, and the command's errors."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from crab_jax import cli
from crab_jax.config import ConfigError
from crab_jax.model import abstract
from crab_jax.params import split
from crab_jax.plan import command
from crab_jax.plan.command import parse_mesh, read_recipe
from crab_jax.plan.hardware import GIB, LIBTPU_FLAGS, Slice
from crab_jax.plan.plan import make_plan
from crab_jax.plan.programs import PlanError, Program, train_step
from crab_jax.plan.report import report, summary
from crab_jax.sharding import make_mesh

ROOT = pathlib.Path(__file__).parents[1]
TINY = str(ROOT / "configs" / "finetune.py:model=tiny")

# Nothing of what is compiled here is ever run.
QUICK = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}


@pytest.fixture(scope="module")
def made():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "plan_run.py")], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | QUICK,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_train_step_of_a_toy(made):
    plan = made["plans"][0]
    assert plan["fits"]
    assert (plan["devices"], plan["rows_per_device"]) == (4, 1)  # 8 rows, 2 micro-batches
    sizes = read_recipe(TINY, []).model
    trained, frozen = split(abstract(sizes), read_recipe(TINY, []).stage.train)
    numbers = {"trained weights": trained, "frozen weights": frozen}
    for kind, flat in numbers.items():
        whole = 4 * sum(np.prod(x.shape) for x in flat.values())
        assert whole / 4 <= plan["memory"][kind] <= whole
    # Two moments of Adam for every trained number, wherever it is, and the step.
    assert plan["memory"]["optimizer state"] == pytest.approx(2 * plan["memory"]["trained weights"], abs=64)
    parts = sum(plan["memory"][kind] for kind in (*numbers, "optimizer state", "batch"))
    held = plan["memory"]["held, not read"]  # this stage has no use for the mask decoder, nor for masks
    assert held > 100_000
    assert parts - held == pytest.approx(plan["memory"]["arguments"], rel=0.01)
    assert plan["memory"]["temporaries"] > 0


def test_loops_of_the_compiled_program_count_fully(made):
    """The compiler computes what was written: layers, micro-batches and decode steps are loops in both counts."""
    step, answers = (plan["flops"] for plan in made["plans"])
    assert step["compiled"] == pytest.approx(step["traced"], rel=0.35)
    assert answers["compiled"] == pytest.approx(answers["traced"], rel=0.35)
    assert not made["plans"][0]["unknown_loops"]
    assert not made["plans"][1]["unknown_loops"]


def test_weights_are_gathered_and_gradients_reduced(made):
    kinds = made["plans"][0]["collectives"]
    assert "all-gather" in kinds
    assert {"all-reduce", "reduce-scatter"} & set(kinds)
    for kind in kinds.values():
        assert kind["count"] > 0
        assert kind["seconds"] >= 0


def test_bound_and_rate(made):
    for plan, tokens in zip(made["plans"], (8 * 288, 4 * 5)):
        assert plan["bound"] == max(plan["seconds"].values())
        assert plan["without_overlap"] == pytest.approx(sum(plan["seconds"].values()))
        assert plan["tokens_per_second"] == pytest.approx(tokens / plan["bound"])
        peak = 4 * Slice.parse("v5e:2x2").chip.flops
        assert plan["mfu"] == pytest.approx(plan["flops"]["model"] / plan["bound"] / peak)


def test_the_report_says_it_all(made):
    step, answers = made["texts"]
    assert "(counts 4N per token, as for LoRA: " in step
    assert "(counts 2N per token: forwards only" in answers
    assert [plan["counted"][:12] for plan in made["plans"]] == ["4N per token", "2N per token"]
    for text in (
        "frozen weights",
        "optimizer state",
        "temporaries",
        "peak",
        "fits:",
        "matrix units",
        "all-gather",
        "MFU",
    ):
        assert text in step
    assert "new tokens/s" in answers


def test_a_quick_plan_says_that_it_was_quick(made):
    assert [plan["quick"] for plan in made["plans"]] == [False, True]
    assert ["least effort" in text for text in made["texts"]] == [False, True]


# --- what does not fit ------------------------------------------------------------------------------------------------

REFUSAL = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 23.50G of 15.75G "
    "hbm. Exceeded hbm capacity by 7.75G."
)


def refused(message: str, rows: float = 1, name: str = "train step") -> Program:
    def compile(options):
        raise jax.errors.JaxRuntimeError(message)

    traced = types.SimpleNamespace(lower=lambda: types.SimpleNamespace(compile=compile))
    return Program(
        name=name, traced=traced, arguments={"frozen weights": 3.0 * GIB}, flops=1.0, useful_flops=1.0,
        counted="4N per token", tokens=1, rows_per_device=rows,
    )  # fmt: skip


def mesh(**sizes):
    return types.SimpleNamespace(
        shape={"data": 1, "fsdp": 1, "tensor": 1} | sizes, size=int(np.prod([*sizes.values()]))
    )


@pytest.mark.parametrize(
    ("overrides", "sizes", "rows", "expected"),
    [
        (["run.rows=64"], {"fsdp": 16}, 4, "--config.run.accumulation=2"),
        (["run.rows=96"], {"fsdp": 16}, 6, "--config.run.accumulation=2"),
        (["run.rows=48"], {"fsdp": 16}, 3, "--config.run.accumulation=3"),
        (["run.rows=16", "compute.remat=dots_saveable"], {"fsdp": 16}, 1, "--config.compute.remat=nothing_saveable"),
        (["run.rows=16"], {"data": 4, "fsdp": 4}, 1, "--config.mesh.data=2 --config.mesh.fsdp=8"),
        (["run.rows=16"], {"data": 3, "fsdp": 4}, 1, "--config.mesh.data=1 --config.mesh.fsdp=12"),
        (["run.rows=16"], {"data": 9, "fsdp": 1}, 1, "--config.mesh.data=3 --config.mesh.fsdp=3"),
        (["run.rows=16"], {"fsdp": 16}, 1, "--config.data.layout.tokens="),
        (["run.rows=16"], {"fsdp": 16}, 1, "--config.mesh.tensor=2"),
        (["run.rows=16", "compute.logit_chunks=1"], {"fsdp": 16}, 1, "--config.compute.logit_chunks=8"),
    ],
)
def test_what_does_not_fit_says_by_how_much_and_what_to_change(overrides, sizes, rows, expected):
    recipe = read_recipe(TINY, [f"--config.{text}" for text in overrides])
    plan = make_plan(refused(REFUSAL, rows), recipe, mesh(**sizes), Slice.parse("v5e:4x4"))
    assert not plan.fits
    assert any(expected in text for text in plan.advice), plan.advice
    text = report(plan)
    assert "does NOT fit: needs 23.50 GiB, there are 15.75 GiB: 7.75 GiB too many" in text
    assert expected in text
    assert "does not fit" in summary([plan])


@pytest.mark.parametrize(
    ("sizes", "rows", "batch"),
    [({"data": 4}, 4, 8), ({"data": 2, "tensor": 8}, 4, 4), ({"fsdp": 4, "tensor": 4}, 3, 4)],
)
def test_fewer_answers_than_did_not_fit(sizes, rows, batch):
    plan = make_plan(refused(REFUSAL, rows, "generation"), read_recipe(TINY, []), mesh(**sizes), Slice.parse("v5e:4x4"))
    assert f"fewer answers at once: --batch {batch} or less" in plan.advice


def test_other_failures_of_the_compiler_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        make_plan(refused("INTERNAL: no"), read_recipe(TINY, []), mesh(fsdp=4), Slice.parse("v5e:2x2"))


def test_rows_that_do_not_divide_are_answered_with_those_that_do():
    recipe = dataclasses.replace(read_recipe(TINY, []), run=read_recipe(TINY, ["--config.run.rows=30"]).run)
    shape = types.SimpleNamespace(shape={"data": 1, "fsdp": 16, "tensor": 1}, size=16)
    with pytest.raises(PlanError, match="choose 16 or 32 rows"):
        train_step(recipe, shape)


# --- the command ------------------------------------------------------------------------------------------------------


def test_overrides_and_arguments_reach_the_recipe():
    recipe = read_recipe(str(ROOT / "configs" / "finetune.py:model=tiny,heads=2"), ["--config.run.rows=12"])
    assert (recipe.run.rows, recipe.model.llama.lora.heads) == (12, 2)


@pytest.mark.parametrize("override", ["--config.run.rowz=3", "--config.run.rows=many", "--config.run.rows=0"])
def test_wrong_overrides(override):
    with pytest.raises(ConfigError, match="rows"):
        read_recipe(TINY, [override])


def test_wrong_arguments_of_a_config_are_one_sentence():
    with pytest.raises(ConfigError) as error:
        read_recipe(TINY.replace("model=tiny", "preset=paper"), [])
    assert str(error.value).endswith("config argument preset=paper: expected one of recommended, reference, smoke")
    assert len(str(error.value).splitlines()) == 1


def test_meshes():
    assert parse_mesh("data=-1,tensor=4") == {"data": -1, "fsdp": 1, "tensor": 4}
    with pytest.raises(PlanError, match="found 'model=4'"):
        parse_mesh("model=4")


def crab_plan(*args):
    try:
        return cli.main(["plan", *args])
    except SystemExit as end:
        return end.code


def test_the_command_says_which_extra_it_needs(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a))
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2") == 2
    assert '".[tpu]"' in capsys.readouterr().err


def test_the_command_knows_its_slices(capsys):
    assert crab_plan("--config", TINY, "--topology", "v9:2x2") == 2
    assert "v6e:{1x1" in capsys.readouterr().err


def test_the_command_refuses_what_it_does_not_know(capsys):
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2", "--bogus") == 2
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--batch", "0"), ("--batch", "-4"), ("--prompt", "0"), ("--new-tokens", "many")]
)
def test_the_command_checks_its_numbers(capsys, option, value):
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2", option, value) == 2
    assert f"{option}: {value!r}: expected a whole number from 1 on" in capsys.readouterr().err


@pytest.fixture
def instead_of_planning(monkeypatch):
    """What LIBTPU_INIT_ARGS are when the plans would be made."""
    seen = []
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name == "libtpu" or find(name, *a))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(command, "_plans", lambda *_: seen.append(os.environ["LIBTPU_INIT_ARGS"]) or [])
    return seen


def test_the_command_looks_first_where_it_is_to_write(tmp_path, capsys, instead_of_planning):
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2", "--json", str(tmp_path / "no" / "x.json")) == 2
    assert f"{tmp_path / 'no'} is no folder; make it first" in capsys.readouterr().err
    assert not instead_of_planning
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2", "--json", str(tmp_path / "x.json")) == 0


def test_the_command_makes_or_refuses_the_places_of_its_files_first(tmp_path, capsys, instead_of_planning):
    """They are written after minutes of compiling."""
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for option, path, message in (
        ("--json", tmp_path, "expected a file, found a folder"),
        ("--hlo", taken, "expected a folder, or a place for one (File exists)"),
        ("--hlo", taken / "below", "expected a folder, or a place for one (Not a directory)"),
    ):
        assert crab_plan("--config", TINY, "--topology", "v5e:2x2", option, str(path)) == 2
        assert f"crab plan: {option} {path}: {message}" in capsys.readouterr().err
    assert not instead_of_planning
    assert taken.read_text() == "a file"
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2", "--hlo", str(tmp_path / "a" / "b")) == 0
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, f"{LIBTPU_FLAGS} {command._STACK}"),
        ("--mine=1", f"--mine=1 {command._STACK}"),
        ("--fibers_default_thread_stack_size=7", "--fibers_default_thread_stack_size=7"),
    ],
)
def test_flags_of_somebody_keep_the_larger_stacks(instead_of_planning, given, used):
    os.environ.pop("LIBTPU_INIT_ARGS", None)
    if given:
        os.environ["LIBTPU_INIT_ARGS"] = given
    assert crab_plan("--config", TINY, "--topology", "v5e:2x2") == 0
    assert instead_of_planning == [used]


def test_devices_of_the_toy_stand_in_order():
    where = Slice.parse("v5e:2x2")
    device = types.SimpleNamespace(id=3)
    assert where.place(device) == (1, 1)
    assert make_mesh(data=1, fsdp=1, devices=jax.devices()[:1]).size == 1


# --- the real thing ---------------------------------------------------------------------------------------------------

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is not installed: pip install -e ".[tpu]"'
)


def ask(*args):
    return subprocess.run(
        [sys.executable, "-m", "crab_jax.cli", "plan", *args], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.slow
@needs_libtpu
def test_a_toy_on_a_tpu_slice(tmp_path):
    out = tmp_path / "plan.json"
    done = ask(
        "--config", "configs/finetune.py:model=tiny", "--topology", "v5e:2x2", "--only", "train", "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(out.read_text())["programs"]
    assert plan["fits"]
    assert not plan["unknown_loops"]
    assert plan["flops"]["compiled"] == pytest.approx(plan["flops"]["traced"], rel=0.5)
    assert plan["memory"]["peak"] < 15.75 * GIB
    assert "all-gather" in plan["collectives"]


@pytest.mark.slow
@needs_libtpu
def test_libtpu_refuses_a_slice_that_cannot_be():
    done = ask("--config", "configs/finetune.py:model=tiny", "--topology", "v5e:3x5")
    assert done.returncode == 2
    assert "libtpu refuses it" in done.stderr


@pytest.mark.slow
@needs_libtpu
def test_the_published_model_on_one_chip_is_too_much():
    done = ask("--config", "configs/finetune.py", "--topology", "v5e:1x1", "--only", "train", "--config.run.rows=1")
    assert done.returncode == 1, done.stderr
    assert "does NOT fit" in done.stdout
