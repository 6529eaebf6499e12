"""What the stages have in common: presets, sizes, mixtures. One stage is one file beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from crab_jax.config import to_dict
from crab_jax.train.config import LogConfig, MeshConfig, OptimConfig, RunConfig, SaveConfig

# What trains a whole small model: everything but the frequencies, which the reference keeps in a buffer.
FULL = (r"(?!mask_decoder/pe/).*",)
PLAIN_LORA = (r"llama/layers/.*/lora_(a|b)",)  # one head needs no router
LORA = (r"llama/layers/.*/lora_.*",)
PROJECTORS = (r"vl_projector/.*", r"al_projector/.*")
MASKS = (r"mask_decoder/(?!pe/).*",)
SMOKE_TOKENS = 768  # of a row: an example with a long question, and the tiny tokenizer's many pieces
VOCABULARY = (r"llama/embed/.*", r"llama/head/.*")


class Argument:
    """What stands behind the colon of `--config configs/finetune.py:heads=5,tasks=avqa+ave`.

    Every stage knows these names; a stage may know more.

        preset   recommended | reference: the published recipe with its surprises | smoke: three steps of the tiny model
        model    published | bench_mid | mini | tiny | base (all of the weights folder: sizes, LoRA, dropout)
        heads    LoRA heads of the sizes in `model`, unless that is base
        train    stage | full (every weight, for small models) | lora (plain LoRA: one head, no router; not with base)
        tasks    all, or some of the stage's, joined by +
    """

    def __init__(self, text: str, **defaults: Any):
        known = {
            "preset": "recommended",
            "model": "published",
            "heads": 3,
            "train": "stage",
            "tasks": "all",
            **defaults,
        }
        given = set()
        for item in filter(None, text.split(",")):
            name, equals, value = item.partition("=")
            if name not in known or not equals:
                raise ValueError(f"config argument {item!r}: expected NAME=VALUE with one of {', '.join(known)}")
            if name in given:
                raise ValueError(f"config argument {item!r}: {name} is given twice in {text!r}")
            given.add(name)
            if isinstance(known[name], int):
                if not value.isdigit():
                    raise ValueError(f"config argument {item!r}: expected a whole number")
                known[name] = int(value)
            else:
                known[name] = value
        if known["preset"] == "smoke" and "model" not in given:
            known["model"] = "tiny"
        if known["model"] == "base" and ("heads" in given or known["train"] == "lora"):
            raise ValueError(
                f"config argument {text!r}: model=base has the LoRA heads of the weights folder; leave heads and "
                "train=lora out, or name the sizes (such as model=published)"
            )
        self._values = known
        self.one_of("preset", "recommended", "reference", "smoke")
        self.one_of("train", "stage", "full", "lora")

    def __getattr__(self, name: str) -> Any:
        return self._values[name]

    def one_of(self, name: str, *allowed: str) -> None:
        """Raises `ValueError` unless the argument has one of these values."""
        if self._values[name] not in allowed:
            raise ValueError(f"config argument {name}={self._values[name]}: expected one of {', '.join(allowed)}")

    def choose(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The tasks that were asked for, in the order of the stage."""
        if self.tasks == "all":
            return tuple(tasks)
        chosen = self.tasks.split("+")
        if unknown := [t for t in chosen if t not in tasks]:
            raise ValueError(f"config argument tasks: {unknown[0]!r} is none of {', '.join(tasks)}")
        return tuple(t for t in tasks if t in chosen)

    @property
    def reference(self) -> bool:
        """Whether the published recipe is asked for."""
        return self.preset == "reference"


def recipe(
    arg: Argument,
    *,
    name: str,
    train: Sequence[str],
    tasks: Sequence[str],
    layout: Mapping[str, int],
    single: Mapping[str, int],
    examples: int,
    rows: int,
    epochs: float,
    loss: Mapping[str, Any] | None = None,
    frames: str = "one",
) -> ConfigDict:
    """The config of one stage.

    Args:
        arg: see `Argument`.
        name: of the stage.
        train: patterns of what the stage trains.
        tasks: of its mixture, in the order of the reference.
        layout: a packed row, as recommended.
        single: the row of one example, as in the reference.
        examples: of one optimizer step in the reference.
        rows: packed rows that hold about as many.
        epochs: of the reference.
        loss: fields of `LossConfig` that are not the default.
        frames: with the reference preset, "one" or "all" frames of a clip per epoch (Q-24).
    """
    reference = arg.reference
    chosen = arg.choose(tasks)
    loss = dict(text=1.0, heads=(), mask_reduction="mean", mask_group=0, bce=1.0, dice=0.5, semantic=1.0) | dict(
        loss or {}
    )
    c = ConfigDict()
    c.stage = dict(
        name=name, base="", start=(), train=_trained(arg, train), fresh=(), train_encoders=arg.train == "full",
        seed_rows="base",
    )  # fmt: skip
    c.data = dict(
        shards="", sources=tuple(f"{t}/train" for t in chosen), weights=(),
        # Only the quick-start wording shows the single picture that a mask belongs to (9.3).
        wording="release-train" if reference and not loss["heads"] else "quick-start",
        choose=frames if reference else "all", reasoning=True,
        packed=not reference, layout=dict(single if reference else layout), seed=42, block=2048, max_left_out=0.01,
        max_skipped=100, workers=4, buffer=2,
    )  # fmt: skip
    if arg.model == "base":
        c.model = None
    else:
        c.model = _model(arg)
        c.data.layout.update(_fitted(c.model, c.data.layout))
    c.loss = loss | (dict(mask_reduction="sum", mask_group=16) if reference and loss["heads"] else {})
    c.compute = dict(
        dtype="float32" if reference else "bfloat16", frozen_dtype="float32" if reference else "bfloat16",
        remat="nothing_saveable", logit_chunks=1 if reference else 8,
        attention="dot" if reference else "auto", dropout_bits="threefry" if reference else "auto",
    )  # fmt: skip
    c.run = to_dict(RunConfig(rows=examples if reference else rows, epochs=epochs))
    # Q-48 is off in both: whether DeepSpeed really did that is not certain.
    c.optim = to_dict(OptimConfig(schedule="log_linear" if reference else "cosine"))
    c.mesh, c.save, c.log = to_dict(MeshConfig()), to_dict(SaveConfig()), to_dict(LogConfig())
    if arg.preset == "smoke":
        _shrink(c, single)
    return c.lock()


def _shrink(c: ConfigDict, single: Mapping[str, int]) -> None:
    """Makes a stage a matter of seconds: a few short rows, and a checkpoint after every step."""
    c.data.update(layout=dict(single, tokens=SMOKE_TOKENS), workers=0)
    c.compute.update(dtype="float32", frozen_dtype="float32", logit_chunks=1, remat="none")  # quick to compile
    c.run.update(steps=3, rows=2)
    c.save.update(every_steps=1, keep_last=3)
    c.log.tensorboard = False


def _trained(arg: Argument, patterns: Sequence[str]) -> tuple[str, ...]:
    if arg.train == "full":
        return FULL
    if arg.train == "lora":
        if LORA[0] not in patterns:
            raise ValueError("config argument train=lora: this stage trains no LoRA")
        return tuple(p for p in patterns if p not in LORA) + PLAIN_LORA
    return tuple(patterns)


def _model(arg: Argument) -> dict[str, Any]:
    try:
        sizes = importlib.import_module(f"configs.{arg.model}").get_config().model.to_dict()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"config argument model={arg.model}: no such file in configs/ with sizes") from error
    lora = sizes["llama"]["lora"]
    lora["heads"] = 1 if arg.train == "lora" else arg.heads
    lora["dropout_masks"] = "per_head" if arg.reference else "shared"
    return sizes


def _fitted(model: Mapping[str, Any], layout: Mapping[str, int]) -> dict[str, int]:
    """Rows of a small model: its pictures and windows are fewer tokens, so rows need not be as long."""
    queries = max(model["vl_projector"]["num_queries"], model["al_projector"]["num_queries"])
    return {"tokens": max(256, layout["tokens"] * queries // 32)} if queries < 32 else {}
