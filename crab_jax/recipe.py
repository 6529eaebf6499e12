"""All settings of one training run of Crab, as one tree of dataclasses. The files in `configs/` are values of it."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from crab_jax.config import ConfigError, check_path, check_sizes
from crab_jax.layout import Layout
from crab_jax.model import CrabConfig
from crab_jax.system import ComputeConfig, LossConfig
from crab_jax.tasks import ALL
from crab_jax.train.config import LogConfig, MeshConfig, OptimConfig, RunConfig, SaveConfig

SeedRows = Literal["base", "T3", "I3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained, and from where.

    Attributes:
        name: for people.
        base: a weights folder of `crab convert`; empty: random weights of the sizes in `model`.
        start: workdirs of earlier runs (or single checkpoints `WORKDIR/checkpoints/STEP`, or safetensors files whose
            tensors have the names of our parameters); what they hold replaces what the base has, in this order.
        train: patterns (full match) of the parameters that are trained; all others are frozen.
        fresh: patterns of parameters that start at random whatever the base has, for parts that the base lacks.
        train_encoders: gradients go through CLIP and BEATs; needed if `train` matches any of their parameters.
        seed_rows: what the 17 added rows of both vocabulary matrices and the position frequencies of the mask decoder
            start from, which no published file of the joint stage holds: as in the base, or the seed-42 draws in the
            order of the reference's training (T3) or inference scripts (I3); Q-1, Q-2.

    Source: specification 1.3, 1.6.
    """

    name: str
    base: str = ""
    start: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    train_encoders: bool = False
    seed_rows: SeedRows = "base"

    def __post_init__(self):
        if not self.train:
            raise ConfigError("stage.train: no pattern, so nothing would be trained")
        for name in ("train", "fresh"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ConfigError(f"stage.{name}: {pattern!r} is no regular expression ({error})") from error
        check_path("stage.base", self.base)
        for run in self.start:
            check_path("stage.start", run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which examples, and how they are laid out; see `data_pipelines.stream`.

    Attributes:
        shards: folder that `crab data build` wrote.
        sources: `task/split`.
        weights: share of each source; empty: all are joined and shuffled as one, as the reference does.
        wording: how tasks ask: "quick-start", or "release-train" as the reference's training code (Q-22).
        reasoning: targets say what leads to the answer, as the reference's do; without, they are the answer's clause.
        choose: "one" frame of a clip per epoch, or "all" (Q-24).
        packed: several examples per row.
        layout: the static shape of a row.
        seed: of the order.
        block: examples that are packed together.
        max_left_out: share of the examples that may be too large or unusable.
        max_skipped: examples that may turn out to be unreadable.
        workers: processes that read for one process of the run; 0: a thread.
        buffer: batches that each of them keeps ready.
    """

    shards: str
    sources: tuple[str, ...]
    layout: Layout
    weights: tuple[float, ...] = ()
    wording: Literal["quick-start", "release-train", "release-test"] = "quick-start"
    reasoning: bool = True
    choose: Literal["one", "all"] = "all"
    packed: bool = True
    seed: int = 42
    block: int = 2048
    max_left_out: float = 0.01
    max_skipped: int = 100
    workers: int = 4
    buffer: int = 2

    def __post_init__(self):
        check_sizes("data", self, ("block", "buffer"))
        check_sizes("data", self, ("seed", "max_skipped", "workers"), least=0)
        if wrong := [s for s in self.sources if s.count("/") != 1] or not self.sources:
            raise ConfigError(f"data.sources: expected task/split, such as avqa/train, found {wrong or 'none'}")
        if unknown := [s for s in self.sources if s.partition("/")[0] not in ALL]:
            raise ConfigError(f"data.sources: {unknown[0]!r} is of no known task; known: {', '.join(ALL)}")
        check_path("data.shards", self.shards)
        if self.weights and len(self.weights) != len(self.sources):
            raise ConfigError(
                f"data.weights: {len(self.weights)} of them for {len(self.sources)} sources; give one each, or none"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run.

    Attributes:
        model: all sizes; None: those of the base.
    """

    stage: Stage
    data: Data
    model: CrabConfig | None = None
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)

    def __post_init__(self):
        if self.model is None and not self.stage.base:
            raise ConfigError("model: give its sizes, or stage.base, a weights folder that has them")
        if self.loss.heads and not self.data.layout.masks:
            raise ConfigError("data.layout.masks is 0, but loss.heads asks for mask losses; give room for masks")
        # A mask whose head is missing has no loss: the step would be NaN.
        for source in self.data.sources if self.loss.heads else ():
            spec = ALL[source.partition("/")[0]]
            kind = "semantic" if spec.semantic else "binary"
            if spec.needs_masks and kind not in self.loss.heads:
                raise ConfigError(
                    f"loss.heads is {tuple(self.loss.heads)}, but {source} has {kind} masks; add {kind!r} or leave "
                    "the source out (data.sources)"
                )
        if self.data.layout.tokens % self.compute.logit_chunks:
            raise ConfigError(
                f"compute.logit_chunks: {self.compute.logit_chunks} does not divide the {self.data.layout.tokens} "
                "tokens of a row (data.layout.tokens)"
            )
