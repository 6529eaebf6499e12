"""Trains one stage on whatever devices there are.

    python -m launch.train --config configs/finetune.py --workdir runs/joint \\
        --config.stage.base=WEIGHTS --config.data.shards=DATA [--config.run.steps=50 …]

The same command on every host of a pod trains on the pod. Started again after anything, it goes on from the newest
checkpoint. Exit codes: 0 finished, 75 asked to stop (SIGTERM, Ctrl-C) after saving: start it again, 1 an error that a
message explains (or a second Ctrl-C while it saved), 2 wrong arguments.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import signal
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, perhaps with :ARGUMENTS.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets checkpoints, metrics and the resolved config.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0. Empty: found in the environment (TPU pod, Slurm, GKE), or one process."
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "With --coordinator: how many processes there are.")
_PROCESS = flags.DEFINE_integer("process", -1, "With --coordinator: the number of this one.")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "Pretend that the CPU is so many devices; 0: one.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """See the module. Leaves through `sys.exit`."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from crab_jax.config import ConfigError, check_path

    try:
        check_path("--workdir", _WORKDIR.value)
        _check_processes(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    except ConfigError as error:
        _refuse(error)
    if logging.get_verbosity() == logging.INFO:  # absl's choice; Orbax then writes twenty lines about every checkpoint
        logging.set_verbosity(logging.WARNING)  # --verbosity=1 shows them
    sys.exit(run(_CONFIG.value, pathlib.Path(_WORKDIR.value)))


def run(config, workdir: pathlib.Path) -> int:
    """Builds everything from a config and trains.

    Args:
        config: a `ConfigDict`, see `crab_jax.recipe.Recipe`.
        workdir: of the run.

    Returns:
        The exit code.
    """
    from crab_jax.config import ConfigError, build
    from crab_jax.recipe import Recipe

    try:
        recipe = build(Recipe, config.to_dict(), where="config")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _start_jax()
    from crab_jax.train.loop import PREEMPTED, Abandoned, CheckpointError, NonFinite, Recompiled

    try:
        return 0 if _train(recipe, workdir) else PREEMPTED
    except Abandoned as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:  # a signal before the first step: there is nothing to save yet
        return PREEMPTED
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (CheckpointError, NonFinite, Recompiled, ValueError, OSError, RuntimeError) as error:
        if type(error) in (RuntimeError, ValueError):  # not one of those that we raise ourselves: where matters
            raise
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1


def _parse(words: list[str]) -> list[str]:
    """Reads the flags, among them the config. Ends the program with one sentence if they cannot be."""
    from crab_jax.command_line import FLAG_ERRORS, explain, no_config

    try:
        others = flags.FLAGS(words)
        # A file that is not there would only be missed when its values are asked for.
        path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(no_config(path))
    except (flags.Error, *FLAG_ERRORS) as error:
        _refuse(explain(error))
    return others


def _refuse(why: Any) -> NoReturn:
    sys.stderr.write(f"launch.train: {why}\n")
    sys.exit(2)


def _check_processes(coordinator: str, processes: int, process: int) -> None:
    """Three flags that mean something only together.

    Raises:
        ConfigError: one of them without the others, or a value that cannot be.
    """
    from crab_jax.config import ConfigError

    expected = "expected --coordinator HOST:PORT --processes N --process I, the same N for all and I from 0 to N - 1"
    if not coordinator:
        if processes or process != -1:
            raise ConfigError(
                f"--processes {processes} --process {process} without --coordinator: each would be a run of its own; "
                f"{expected}"
            )
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"--coordinator is {coordinator}, expected HOST:PORT, such as 10.0.0.1:1234")
    if not 0 <= process < processes:
        raise ConfigError(f"--coordinator with --processes {processes} --process {process}: {expected}")


def _start_jax() -> None:
    """Devices and processes, before anything asks JAX for either."""
    from crab_jax.plan.hardware import LIBTPU_FLAGS

    os.environ.setdefault("LIBTPU_INIT_ARGS", LIBTPU_FLAGS)  # read when the first TPU is looked for
    import jax

    from crab_jax.train import processes

    if not jax.config.jax_compilation_cache_dir:  # JAX has read its environment variable by now
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "crab_jax", "xla")
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    processes.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    # JAX catches SIGTERM itself when there are several processes; the loop wants it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _train(recipe, workdir: pathlib.Path) -> bool:
    """Returns whether the run is finished."""
    import jax

    from crab_jax.config import to_dict
    from crab_jax.sharding import make_mesh, rows_here
    from crab_jax.starting import model_config, starting_params
    from crab_jax.system import CrabSystem
    from crab_jax.train.loop import Training, train
    from data_pipelines.stream.loader import Stream

    say = (lambda text: print(text, flush=True)) if jax.process_index() == 0 else (lambda _: None)
    sizes = model_config(recipe.stage, recipe.model)
    tokenizer = _tokenizer(recipe.stage.base, sizes)
    mesh = make_mesh(data=recipe.mesh.data, fsdp=recipe.mesh.fsdp, tensor=recipe.mesh.tensor)
    first, last = rows_here(mesh, recipe.run.rows)
    count = recipe.run.rows // (last - first)
    with Stream(
        _sources(recipe.data),
        _settings(recipe),
        tokenizer=tokenizer,
        sizes=sizes.feature_sizes,
        process=first // (last - first),
        processes=count,
        workers=recipe.data.workers,
        buffer=recipe.data.buffer,
        max_skipped=recipe.data.max_skipped,
    ) as stream:
        if stream.left_out:
            example = stream.left_out[0]
            say(f"{len(stream.left_out)} examples are left out, for example {example.name}: {example.reason}")
        trainable, frozen = starting_params(
            recipe.stage, sizes, mesh, frozen_dtype=recipe.compute.frozen_dtype, seed=recipe.run.seed
        )
        system = CrabSystem(
            sizes,
            recipe.loss,
            recipe.compute,
            train_encoders=recipe.stage.train_encoders,
            trains_llama=any(p.startswith("llama/layers/") and p.endswith("kernel") for p in trainable),
        )
        numbers = {
            name: sum(x.size for x in flat.values()) for name, flat in (("trains", trainable), ("frozen", frozen))
        }
        say(f"{recipe.stage.name}: trains {numbers['trains']:,} numbers, {numbers['frozen']:,} are frozen")
        settings = Training(
            run=recipe.run, optim=recipe.optim, save=recipe.save, log=recipe.log, mesh=mesh, workdir=workdir,
            about=to_dict(recipe) | {"model": to_dict(sizes)}, total=_steps(recipe, stream),
        )  # fmt: skip
        return train(settings, system, trainable, frozen, stream, say=say).finished


def _sources(data):
    from crab_jax.config import ConfigError
    from crab_jax.tasks import ALL
    from data_pipelines.records import open_shards
    from data_pipelines.stream.tables import Source

    if not data.shards:
        raise ConfigError(
            "data.shards is not given: name a folder that `crab data build` wrote, --config.data.shards=FOLDER; see "
            "docs/data.md"
        )
    pairs = [source.split("/") for source in data.sources]
    specs = {name: dataclasses.replace(spec, reasoning=data.reasoning) for name, spec in ALL.items()}
    return [Source(open_shards(data.shards, task, split), specs[task]) for task, split in pairs]


def _settings(recipe):
    from crab_jax.tasks import Wording
    from data_pipelines.stream.loader import StreamSettings

    data = recipe.data
    return StreamSettings(
        layout=data.layout,
        rows=recipe.run.rows,
        wording=Wording(data.wording),
        seed=data.seed,
        weights=dict(zip(data.sources, data.weights, strict=True)) if data.weights else None,
        choose=data.choose,
        packed=data.packed,
        epochs=None,
        block=data.block,
        max_left_out=data.max_left_out,
    )


def _tokenizer(base: str, sizes):
    """That of the weights folder; random weights read with the small one that comes with the project.

    Raises:
        ConfigError: its added tokens are not those of the model, which would not see any picture or sound.
    """
    from crab_jax.config import ConfigError
    from crab_jax.model import ADDED_TOKENS
    from crab_jax.tokens import Tokenizer

    rows = sizes.llama.vocab_size
    if base:
        return Tokenizer.load(base, base_vocabulary=rows - ADDED_TOKENS)
    tokenizer = Tokenizer.tiny()
    if tokenizer.token_ids != sizes.token_ids:
        raise ConfigError(
            f"model: a vocabulary of {rows} tokens, but without stage.base text is read with the small tokenizer that "
            f"comes with the project, which has {tokenizer.size}. Give a weights folder, --config.stage.base=FOLDER, "
            "or choose model=tiny or model=mini"
        )
    return tokenizer


def _steps(recipe, stream) -> int:
    """Optimizer steps of the whole run; epochs are counted in examples, of which a packed row holds several."""
    if recipe.run.steps:
        return recipe.run.steps
    return math.ceil(stream.units * recipe.run.epochs / (recipe.run.rows * stream.examples_per_row()))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
