"""`crab plan`: whether a run fits a TPU slice and how fast it can be, before anyone books it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_DESCRIPTION = """\
Compiles the real train step, and generation, for a TPU slice on this CPU, from shapes alone. Prints memory per chip by
kind, floating-point work, the least time of matrix units, memory and interconnect, collectives, and the upper bound on
tokens per second that follows. Values of the config are changed as in launch.train: --config.run.rows=256
"""
# Without these libtpu looks for chips, or asks the machine that it believes to be on.
# Only compiling needs it: AVS finetune for TPU7x overran the stacks that libtpu gives its threads.
_STACK = "--fibers_default_thread_stack_size=4194304"
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip
PROGRAMS = ("train", "generation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For the `crab` command."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARGUMENTS]", help="a stage, such as configs/finetune.py"
    )
    parser.add_argument("--topology", required=True, metavar="KIND:AxB", help="a slice, such as v5e:16x16 or v5p:4x4x4")
    parser.add_argument("--only", choices=PROGRAMS, help="one of the two programs")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every number there")
    parser.add_argument("--hlo", type=pathlib.Path, metavar="FOLDER", help="keep the compiled programs there, as text")
    parser.add_argument("--markdown", action="store_true", help="also print one row of a Markdown table per program")
    parser.add_argument(
        "--quick", action="store_true",
        help="let the compiler optimize as little as it can: several times faster, but that program moves more bytes",
    )  # fmt: skip
    parser.add_argument("--batch", type=_positive, metavar="N", help="generation: answers at once (4 per device)")
    parser.add_argument(
        "--prompt", type=_positive, default=768, metavar="N", help="generation: tokens of a prompt (%(default)s)"
    )
    parser.add_argument(
        "--new-tokens", type=_positive, default=64, metavar="N", help="generation: tokens of an answer (%(default)s)"
    )
    parser.add_argument(
        "--generation-mesh", default="data=-1", metavar="AXIS=N,…",
        help="generation: mesh, such as data=-1,fsdp=4 (%(default)s: every device holds the whole model)",
    )  # fmt: skip


def _positive(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Makes and prints the plans. Returns 0 if everything fits, 1 if it does not, 2 for something wrong."""
    from crab_jax.plan.hardware import LIBTPU_FLAGS, Slice, TopologyError

    try:
        where = Slice.parse(args.topology)
        if importlib.util.find_spec("libtpu") is None:
            raise TopologyError(
                'libtpu is not installed: install the extra that has it, pip install -e ".[tpu]" (no TPU is needed)'
            )
        _check_outputs(args.json, args.hlo)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        given = os.environ.get("LIBTPU_INIT_ARGS", LIBTPU_FLAGS)  # somebody's own are planned as they would run
        os.environ["LIBTPU_INIT_ARGS"] = given if _STACK.partition("=")[0] in given else f"{given} {_STACK}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"  # a machine with a TPU plans on its CPU too
        recipe = read_recipe(args.config, args.overrides)
        plans = _plans(args, recipe, where)
    except _expected() as error:
        sys.stderr.write(f"crab plan: {error}\n")
        return 2
    return 0 if all(p.fits for p in plans) else 1


def _check_outputs(file: pathlib.Path | None, folder: pathlib.Path | None) -> None:
    """What is written after minutes has to have a place before. Makes the folder."""
    if file:
        if not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"--json {file}: {file.parent} is no folder; make it first")
        if file.is_dir():
            raise IsADirectoryError(f"--json {file}: expected a file, found a folder; name a file in it")
        if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
            raise PermissionError(f"--json {file}: may not be written; name a file elsewhere")
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"--hlo {folder}: expected a folder, or a place for one ({error.strerror})") from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"--hlo {folder}: may not be written; name a folder elsewhere")


def _expected() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a person needs."""
    from jax.errors import JaxRuntimeError  # the compiler's, other than too little memory

    from crab_jax.config import ConfigError
    from crab_jax.groups import CheckpointError
    from crab_jax.plan.hardware import TopologyError
    from crab_jax.plan.programs import PlanError
    from crab_jax.sharding import ShardingError

    return ConfigError, CheckpointError, JaxRuntimeError, TopologyError, PlanError, ShardingError, OSError


def _plans(args: argparse.Namespace, recipe: Any, where: Any) -> list[Any]:
    from crab_jax.plan import programs
    from crab_jax.plan.plan import make_plan
    from crab_jax.plan.report import report, summary

    devices = slice_devices(where)
    plans = []
    for name in PROGRAMS if args.only is None else (args.only,):
        if name == "train":
            mesh = mesh_of(devices, dataclasses.asdict(recipe.mesh))
            program = programs.train_step(recipe, mesh)
        else:
            mesh = mesh_of(devices, parse_mesh(args.generation_mesh))
            rows = args.batch or 4 * mesh.shape["data"] * mesh.shape["fsdp"]
            program = programs.generation(recipe, mesh, rows=rows, prompt=args.prompt, new=args.new_tokens)
        sys.stderr.write(f"compiling the {program.name} for {where.name}; this takes minutes …\n")
        plans.append(make_plan(program, recipe, mesh, where, hlo=args.hlo, quick=args.quick))
        sys.stdout.write(report(plans[-1]) + "\n")
        sys.stdout.flush()
        if args.json:  # after each of them: the next one may take long
            numbers = {"config": args.config, "overrides": list(args.overrides), "topology": where.name}
            numbers["programs"] = [dataclasses.asdict(p) for p in plans]
            args.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        sys.stdout.write(summary(plans) + "\n")
    return plans


def slice_devices(where: Any) -> Sequence[Any]:
    """The devices of a slice that need not exist.

    Raises:
        crab_jax.plan.hardware.TopologyError: libtpu knows no such slice.
    """
    import jax
    from jax.experimental import topologies

    from crab_jax.plan.hardware import TopologyError, known_slices

    # Programs for absent devices cannot be read back from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=where.name).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise TopologyError(f"topology {where.name!r}: libtpu refuses it ({reason}); {known_slices()}") from error
    if len(devices) != where.devices:
        raise TopologyError(
            f"topology {where.name!r}: libtpu sees {len(devices)} devices where {where.devices} were expected; "
            "this version of it counts the devices of a chip in another way"
        )
    return devices


def mesh_of(devices: Sequence[Any], sizes: Mapping[str, int]) -> Any:
    """The mesh of a run on these devices.

    Raises:
        crab_jax.plan.programs.PlanError: such a mesh cannot be laid onto the slice.
        crab_jax.sharding.ShardingError: the sizes do not multiply to the number of devices.
    """
    from crab_jax.plan.programs import PlanError
    from crab_jax.sharding import make_mesh

    try:
        return make_mesh(**sizes, devices=devices)
    except NotImplementedError as error:
        raise PlanError(
            f"mesh {dict(sizes)}: cannot be laid onto the axes of the slice ({str(error).split('. ', 1)[0]}); "
            "choose sizes that are products of whole axes"
        ) from error


def parse_mesh(text: str) -> dict[str, int]:
    """`data=-1,fsdp=4` → sizes; an axis that is not named has 1.

    Raises:
        crab_jax.plan.programs.PlanError: another axis, or no number.
    """
    from crab_jax.plan.programs import PlanError
    from crab_jax.sharding import MESH_AXES

    sizes = dict.fromkeys(MESH_AXES, 1)
    for item in text.split(","):
        name, _, value = item.partition("=")
        if name not in sizes or not value.removeprefix("-").isdigit():
            raise PlanError(f"--generation-mesh {text}: expected AXIS=NUMBER with {', '.join(sizes)}, found {item!r}")
        sizes[name] = int(value)
    return sizes


def read_recipe(config: str, overrides: Sequence[str]) -> Any:
    """The settings of a run, read as `launch.train` reads them.

    Args:
        config: a file, perhaps with `:ARGUMENTS`.
        overrides: `--config.NAME=VALUE`.

    Raises:
        crab_jax.config.ConfigError: an unknown or mistyped value.
        OSError: no such file.
    """
    from absl import flags
    from ml_collections import config_flags

    from crab_jax.command_line import FLAG_ERRORS, explain, no_config
    from crab_jax.config import ConfigError, build
    from crab_jax.recipe import Recipe

    path = pathlib.Path(config.partition(":")[0]).absolute()
    if not path.is_file():
        raise FileNotFoundError(no_config(path))
    # A config imports its neighbours as `configs.…`; launch.train finds them because it runs in the checkout.
    sys.path.insert(0, str(path.parents[1]))
    values, words = flags.FlagValues(), ["crab plan", f"--config={config}", *overrides]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=words)
    try:
        values(words)
        return build(Recipe, values["config"].value.to_dict(), where="config")
    except ConfigError:
        raise
    except (flags.Error, *FLAG_ERRORS) as error:
        raise ConfigError(f"{config}: {explain(error)}") from error
    finally:
        sys.path.remove(str(path.parents[1]))
