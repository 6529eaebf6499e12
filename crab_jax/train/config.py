"""What a run is, apart from the model and its losses. No jax here."""

from __future__ import annotations

import dataclasses
from typing import Literal

from crab_jax.config import ConfigError, check_positive, check_sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its clipping and its learning rate.

    Attributes:
        learning_rate: the peak.
        schedule: "log_linear" is what the reference really runs (DeepSpeed's WarmupDecayLR): a logarithmic warm-up,
            then a straight line to zero. "cosine" is what its scripts ask for and never get (Q-14): a straight warm-up,
            then half a cosine. "constant" warms up in a straight line and stays.
        warmup_ratio: share of all steps.
        first_step_at_full_rate: DeepSpeed 0.12.6 does not set the rate before the first step, which so runs at the
            peak; every later step gets the rate of the one before it (Q-48).
        b1, b2, eps: of Adam.
        weight_decay: decoupled; never on biases and norms.
        max_grad_norm: global norm over all trainables to which gradients are clipped.

    Source: specification 1.3, 1.4.
    """

    learning_rate: float = 1e-4
    schedule: Literal["log_linear", "cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    first_step_at_full_rate: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self):
        check_positive("optim", self, "learning_rate", "eps", "max_grad_norm")
        for name in ("b1", "b2", "warmup_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim: {name} is {getattr(self, name)}, expected 0 <= {name} < 1")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optim: weight_decay is {self.weight_decay}, expected 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh; one of them may be -1: whatever is left. See `crab_jax.sharding`."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """When checkpoints are written and which of them stay.

    Attributes:
        every_steps: a save each so many steps; 0: only at the end.
        keep_last: newest checkpoints that stay.
        keep_best: checkpoints with the lowest loss since the save before that stay as well.
        timeout_s: after so long a save is an error and not a wait, seconds. What processes tell each other before and
            after has a limit of its own, `crab_jax.train.processes.TIMEOUT_S`.
    """

    every_steps: int = 500
    keep_last: int = 2
    keep_best: int = 1
    timeout_s: int = 1200

    def __post_init__(self):
        check_sizes("save", self, ("keep_last", "timeout_s"))
        check_sizes("save", self, ("every_steps", "keep_best"), least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written down about a run.

    Attributes:
        every_steps: a progress line each so many steps. metrics.jsonl has every step.
        tensorboard: also write event files.
        diagnose_every: steps between two diagnoses of the system (Crab: router weights per task); 0: never.
        profile_from: steps between the start of the process and a profiler window, so that each restart has one; -1:
            none.
        profile_steps: its length; the end of the run cuts it short.
    """

    every_steps: int = 10
    tensorboard: bool = True
    diagnose_every: int = 0
    profile_from: int = -1
    profile_steps: int = 3

    def __post_init__(self):
        check_sizes("log", self, ("every_steps", "profile_steps"))
        check_sizes("log", self, ("diagnose_every",), least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        seed: of everything that is drawn: initial weights, dropout.
        steps: optimizer steps; 0: `epochs` of them.
        epochs: passes over the data, used if `steps` is 0.
        rows: rows of one optimizer step over all devices and micro-batches.
        accumulation: micro-batches per optimizer step.
        stop_after: stop after this step as if the machine had been taken away; 0: never. The schedule is that of the
            whole run.
        matmul_precision: "highest" computes float32 products in float32 on every device, for comparisons.
    """

    seed: int = 42
    steps: int = 0
    epochs: float = 1.0
    rows: int = 8
    accumulation: int = 1
    stop_after: int = 0
    matmul_precision: Literal["default", "highest"] = "default"

    def __post_init__(self):
        check_sizes("run", self, ("rows", "accumulation"))
        check_sizes("run", self, ("steps", "stop_after", "seed"), least=0)
        check_positive("run", self, "epochs")
        if self.rows % self.accumulation:
            raise ConfigError(
                f"run: {self.rows} rows do not divide into {self.accumulation} micro-batches (run.accumulation)"
            )
