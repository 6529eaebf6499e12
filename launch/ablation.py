"""The claim of the paper at the scale of a small model: does one model learn many tasks better with several LoRA heads?

    python -m launch.ablation --base WEIGHTS --shards SHARDS --out runs/ablation [--steps 300] [--seeds 3]

Every variant starts from the same frozen base, gets the same number of optimizer steps, and is scored on the same
items by `crab eval`. Started again, it goes on where it was, and refuses scores of another budget; docs/ablation.md has
what came out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from configs.train_mini import STAGES
from crab_jax.evaluate import journal
from crab_jax.evaluate.ablation import ABLATION, cell
from crab_jax.tasks import TASKS

SCORES = "scores.json"
SETTINGS = "settings.json"  # what all scores in a folder depend on
PREEMPTED = 75  # exit code of launch.train that was asked to stop


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of the table.

    Attributes:
        name: of its folder.
        about: for people.
        argument: for `configs/finetune.py`.
        reasoning: targets say what leads to the answer.
        alone: one model per task, which share the steps.
    """

    name: str
    about: str
    argument: str
    reasoning: bool = True
    alone: bool = False


VARIANTS = (
    Variant("single-task", "one model per task, plain LoRA", "train=lora", alone=True),
    # Also the interaction-aware LoRA with one head: a router of one head has nothing to choose.
    Variant("heads-1", "all tasks, plain LoRA (interaction-aware LoRA with 1 head)", "heads=1"),
    Variant("heads-3", "all tasks, interaction-aware LoRA, 3 heads", "heads=3"),
    Variant("heads-5", "all tasks, interaction-aware LoRA, 5 heads", "heads=5"),
    Variant("heads-3-no-reasoning", "3 heads, targets without reasoning", "heads=3", reasoning=False),
)
MASK_TASKS = ("s4", "ms3", "ref-avs", "avss")


class SettingsError(ValueError):
    """A folder that holds scores of other settings, or something else."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        variant: what is trained.
        seed: of everything that is drawn.
        tasks: of this model.
        asked: tasks of all models that share the steps of the variant.
        steps: of this model.
    """

    variant: Variant
    seed: int
    tasks: tuple[str, ...]
    asked: tuple[str, ...]
    steps: int

    @property
    def folder(self) -> str:
        """Below the folder of the whole ablation; it names all that two trials of one folder may differ in."""
        # With other tasks beside it, a model has other data or another share of the steps.
        parts = [self.variant.name, f"seed{self.seed}", "+".join(self.asked)]
        return "/".join([*parts, *(self.tasks if self.variant.alone else ())])


def trials(variants: Sequence[Variant], tasks: Sequence[str], *, seeds: int, steps: int) -> list[Trial]:
    """All of them, seed by seed, so that an unfinished ablation has whole seeds."""
    found = []
    for seed in range(1, seeds + 1):
        for variant in variants:
            groups = [(task,) for task in tasks] if variant.alone else [tuple(tasks)]
            found += [Trial(variant, seed, group, tuple(tasks), max(1, steps // len(groups))) for group in groups]
    return found


def training(trial: Trial, args: argparse.Namespace) -> list[str]:
    """The command that trains."""
    masks = [task for task in trial.tasks if task in MASK_TASKS]
    heads = tuple(h for h, on in (("binary", set(masks) - {"avss"}), ("semantic", "avss" in masks)) if on)
    train = ["vl_projector/.*", "al_projector/.*", "llama/layers/.*/lora_.*"]
    train += [r"mask_decoder/(?!pe/).*"] if masks else []
    values: dict[str, Any] = {
        "stage.base": str(args.base),
        "stage.fresh": ("llama/layers/.*/lora_.*",),
        "stage.train": tuple(train),
        "data.shards": str(args.shards),
        "data.weights": (1.0,) * len(trial.tasks),  # every task as often, however many clips it has
        "data.reasoning": trial.variant.reasoning,
        "data.seed": trial.seed,
        "data.max_left_out": 0.05,
        "data.workers": 0,
        "loss.heads": heads,
        "compute.dtype": "float32",
        "compute.frozen_dtype": "float32",
        "compute.remat": "none",
        "compute.logit_chunks": 1,
        "run.seed": trial.seed,
        "run.steps": trial.steps,
        "run.rows": args.rows,
        "optim.learning_rate": args.learning_rate,
        "save.every_steps": 100,
        "save.keep_last": 1,
        "save.keep_best": 0,
        "log.tensorboard": False,
        # A row holds one ten-second clip and what fits beside it.
        **{f"data.layout.{name}": size for name, size in STAGES["finetune"]["layout"].items()},
        **dict(args.set),
    }
    config = f"configs/finetune.py:model={args.model},tasks={'+'.join(trial.tasks)},{trial.variant.argument}"
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return [sys.executable, "-m", "launch.train", "--config", config, "--workdir", str(_run(trial, args)), *flags]


def _run(trial: Trial, args: argparse.Namespace) -> pathlib.Path:
    return args.out / trial.folder / "run"


def conduct(trial: Trial, args: argparse.Namespace) -> None:
    """Trains, converts and scores one trial; what is finished is not done again.

    Raises:
        subprocess.CalledProcessError: a command failed, or was asked to stop (`PREEMPTED`).
    """
    place = args.out / trial.folder
    if (place / SCORES).is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    weights, scored = place / "weights", place / "eval"
    crab = [sys.executable, "-m", "crab_jax.cli"]
    commands = [
        training(trial, args),
        # After a kill while it was scored, it is converted once more. `crab eval` goes on only with the same bytes, and
        # Orbax gives its files random names.
        [*crab, "convert", str(_run(trial, args)), "--out", str(weights), "--overwrite", "--single-file"],
        [
            *crab, "eval", "--task", ",".join(trial.tasks), "--shards", str(args.shards), "--weights", str(weights),
            "--out", str(scored), "--split", args.split, "--mode", "decoded", "--dtype", "float32", "--limit",
            str(args.limit), "--gallery", "0", "--router", "0",
        ],
    ]  # fmt: skip
    with (place / "log.txt").open("a", encoding="utf-8") as log:
        for command in commands:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
            if done.returncode:
                raise subprocess.CalledProcessError(done.returncode, command)
    found = headlines(json.loads((scored / "table.json").read_bytes()))
    partial = place / f"{SCORES}.part"
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(place / SCORES)


ROOT = pathlib.Path(__file__).parents[1]


def claim(args: argparse.Namespace) -> None:
    """Makes the folder and writes down what all scores in it depend on; one of other settings is refused.

    Variants, seeds and tasks may be others each time: their trials have folders of their own.

    Raises:
        SettingsError: the folder holds scores of other settings, which are named, or something else.
        crab_jax.checkpoint.CheckpointError: the base is no weights folder.
        OSError: it cannot be made or written.
    """
    settings = {
        "base": f"weights {digest_of(args.base)}",
        "shards": str(args.shards),
        "model": args.model,
        "steps": args.steps,
        "rows": args.rows,
        "learning_rate": args.learning_rate,
        "limit": args.limit,
        "split": args.split,
        "set": dict(args.set),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / SETTINGS
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        if any(not path.name.startswith(".") for path in args.out.iterdir()):
            raise SettingsError(
                f"{args.out}: expected an empty folder or an ablation, found files but no {SETTINGS}, so nobody knows "
                "the budget behind them; choose another --out"
            ) from None
        journal.publish(file, json.dumps(settings, indent=1).encode() + b"\n")
        return
    except ValueError as error:
        raise SettingsError(f"{file}: expected the settings of an ablation, found {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{file}: expected the settings of an ablation, found {type(found).__name__}")
    names = [name for name in dict.fromkeys([*settings, *found]) if settings.get(name) != found.get(name)]
    if names:
        differ = "; ".join(f"{name}: there {found.get(name)}, now {settings.get(name)}" for name in names)
        raise SettingsError(f"{args.out}: holds scores of other settings ({differ}); choose another --out")


def digest_of(weights: pathlib.Path) -> str:
    """Changes with every byte of a weights folder.

    Raises:
        crab_jax.checkpoint.CheckpointError: it is none.
    """
    from crab_jax.evaluate.plan import digest_of_weights  # imports jax: not for --help

    return digest_of_weights(weights)[:16]


def headlines(table: Mapping[str, Any]) -> dict[str, float]:
    """`task/split, number` → score, the strict headlines of a `table.json`."""
    found = {}
    for test_set in table["test_sets"]:
        run = test_set["runs"][0]
        for name in run["headline"]:
            if (value := run["numbers"].get(name)) is not None:
                found[f"{test_set['task']}/{test_set['split']}, {name}"] = float(value)
    return found


def collect(
    out: pathlib.Path, variants: Sequence[Variant], wanted: Sequence[Trial]
) -> dict[str, dict[str, list[float]]]:
    """Variant → number → its scores, seed by seed; a seed counts once all of its models are scored.

    Only of what is wanted, whatever else has been scored in that folder.
    """
    scores: dict[str, dict[str, list[float]]] = {v.name: {} for v in variants}
    for variant in variants:
        for seed in sorted({t.seed for t in wanted}):
            files = [out / t.folder / SCORES for t in wanted if (t.variant, t.seed) == (variant, seed)]
            if all(file.is_file() for file in files):
                for file in files:
                    for name, value in json.loads(file.read_bytes()).items():
                        scores[variant.name].setdefault(name, []).append(value)
    return scores


def markdown(scores: Mapping[str, Mapping[str, Sequence[float]]], variants: Sequence[Variant], settings: str) -> str:
    """The table: mean and standard deviation over seeds."""
    names = list(dict.fromkeys(name for numbers in scores.values() for name in numbers))
    lines = ["# Ablation", "", settings, "", "| number | " + " | ".join(v.name for v in variants) + " |"]
    lines.append("|---" * (len(variants) + 1) + "|")
    for name in names:
        lines.append(f"| {name} | " + " | ".join(cell(scores[v.name].get(name, ())) for v in variants) + " |")
    lines += ["", "Mean ± standard deviation over seeds (their number in brackets).", ""]
    lines += [f"- {v.name}: {v.about}" for v in variants]
    return "\n".join(lines) + "\n"


def write(args: argparse.Namespace, wanted: Sequence[Trial]) -> str:
    """Writes `ablation.md` and `ablation.json` of what there is; returns the Markdown."""
    scores = collect(args.out, args.variants, wanted)
    settings = (
        f"{args.steps} steps of {args.rows} rows per variant, {args.seeds} seeds, rate {args.learning_rate}, model "
        f"{args.model}, at most {args.limit} items per test set, split {args.split}."
    )
    text = markdown(scores, args.variants, settings)
    (args.out / "ablation.md").write_text(text, encoding="utf-8")
    (args.out / ABLATION).write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE of the config, found {text!r}")
    return name, value


def _variants(text: str) -> tuple[Variant, ...]:
    known = {v.name: v for v in VARIANTS}
    if unknown := [name for name in text.split(",") if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in text.split(","))


def _tasks(text: str) -> tuple[str, ...]:
    """In the order of the project, so that the same tasks are the same trials."""
    if unknown := [name for name in text.split(",") if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(TASKS)}")
    return tuple(name for name in TASKS if name in text.split(","))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="launch.ablation", description=__doc__.splitlines()[0])
    path = pathlib.Path
    add = parser.add_argument
    add("--base", type=path, required=True, metavar="DIR", help="weights folder that every variant starts from")
    add("--shards", type=path, required=True, metavar="DIR", help="made by `crab data build`")
    add("--out", type=path, required=True, metavar="DIR", help="runs, scores, table; is continued if it is there")
    add("--model", default="mini", help="sizes of the base, a file of configs/ (default mini)")
    add("--tasks", type=_tasks, default=tuple(TASKS), help="separated by commas (default all nine)")
    add("--variants", type=_variants, default=VARIANTS, help=f"some of {','.join(v.name for v in VARIANTS)}")
    add("--steps", type=int, default=300, help="optimizer steps of each variant (default 300)")
    add("--rows", type=int, default=2, help="packed rows of a step (default 2)")
    add("--seeds", type=int, default=3, help="runs of each variant (default 3)")
    add("--learning-rate", type=float, default=1e-3, help="peak (default 1e-3)")
    add("--limit", type=int, default=100, help="items of each test set (default 100)")
    add("--split", default="test", help="what is scored (default test)")
    add("--set", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="any value of the config")
    args = parser.parse_args(argv)
    args.base, args.shards, args.out = (p.absolute() for p in (args.base, args.shards, args.out))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all trials. Returns 0, 1 if any failed, 2 if the folder is not for them, or 75 if it was asked to stop."""
    args = parse(argv)
    try:
        claim(args)
    except (OSError, ValueError) as error:  # all errors of our own are ValueErrors
        sys.stderr.write(f"error: {error}\n")
        return 2
    wanted = trials(args.variants, args.tasks, seeds=args.seeds, steps=args.steps)
    failed = 0
    for number, trial in enumerate(wanted, 1):
        sys.stderr.write(f"[{number}/{len(wanted)}] {trial.folder}\n")
        try:
            conduct(trial, args)
        except subprocess.CalledProcessError as error:
            if error.returncode in (PREEMPTED, -signal.SIGTERM, -signal.SIGINT):
                sys.stderr.write("stopped; the same command goes on\n")
                return PREEMPTED
            failed += 1
            sys.stderr.write(f"  exit code {error.returncode}, see {args.out / trial.folder / 'log.txt'}\n")
        write(args, wanted)
    sys.stdout.write(write(args, wanted))
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
