"""`python -m launch.bench train`: optimizer steps of two stages against this machine's own limit of matrix products."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.config import build
from crab_jax.layout import Layout
from crab_jax.recipe import Recipe
from crab_jax.tasks import TASKS
from crab_jax.tokens import Tokenizer
from crab_jax.train.log import peak_flops
from data_pipelines.build import Options
from data_pipelines.build import build as build_shards
from data_pipelines.records import open_shards
from data_pipelines.stream.packing import PACKED, best_fit
from data_pipelines.stream.tables import Source, read_table
from data_pipelines.world import build as world
from launch.benchmarks import data, limits, products
from launch.benchmarks.answer import precision
from launch.benchmarks.report import Row
from launch.benchmarks.steps import Kind, Step, full_rows, prepare
from launch.benchmarks.timing import Spread, race

DTYPES = ("float32", "bfloat16")
STAGES = {"finetune": "joint finetune", "finetune_avs": "AVS finetune"}

# Ten seconds of video with sound; a picture with sound and a mask, about as many per row as the planner puts there.
KINDS = {
    "finetune": Kind(frames=10, windows=10, masks=0, per_row=3),
    "finetune_avs": Kind(frames=1, windows=5, masks=1, per_row=10),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that is measured.

    Attributes:
        model: `configs/MODEL.py`, of the steps.
        matmul: edge of the square matrices whose product is the limit of arithmetic.
        rows: packed rows of one step.
        kinds: stage → the examples of its rows.
        layout: stage → row; those that are not in it have the one of their config.
        clips: rendered per task, for the lengths of examples.
        padded: examples of a padded batch.
        full_model, full_rows: of the step on a data-centre GPU.
    """

    model: str = "bench_mid"
    matmul: int = 2048
    rows: int = 1
    kinds: dict[str, Kind] = dataclasses.field(default_factory=lambda: dict(KINDS))
    layout: dict[str, Layout] = dataclasses.field(default_factory=dict)
    clips: int = 2
    padded: int = 4
    full_model: str = "published"
    full_rows: int = 4


class Unsuitable(ValueError):
    """A section that this machine cannot run; the message says why."""


def recipe(stage: str, sizes: Sizes, dtype: str, *, model: str | None = None) -> Recipe:
    """The recommended recipe of a stage, computed and stored in one dtype."""
    config = importlib.import_module(f"configs.{stage}").get_config(f"model={model or sizes.model}").to_dict()
    config["compute"] |= {"dtype": dtype, "frozen_dtype": dtype}
    config["data"] |= {"shards": "none"}
    if stage in sizes.layout:
        config["data"]["layout"] = dataclasses.asdict(sizes.layout[stage])
    return build(Recipe, config, where=f"configs/{stage}.py")


def _prepared(stage: str, sizes: Sizes, dtype: str, **how) -> Step:
    r = recipe(stage, sizes, dtype)
    rows = full_rows(r.model, r.data.layout, sizes.kinds[stage], rows=sizes.rows)
    return prepare(r, rows, **how)


def _size(stage: str, sizes: Sizes) -> str:
    tokens = recipe(stage, sizes, "float32").data.layout.tokens
    rows = "one row" if sizes.rows == 1 else f"{sizes.rows} rows"
    return f"{STAGES[stage]}, {rows} of {tokens} tokens, {sizes.kinds[stage].per_row} examples each"


# ------------------------------------------------------------------------------------------------------- sections


def step_rows(sizes: Sizes, dtypes: Sequence[str], rounds: int) -> Iterator[Row]:
    """A step against its own products at the rate of a large square product, and its products one by one."""
    for stage in STAGES:
        for dtype in dtypes:
            with precision(jnp.dtype(dtype)):
                step = _prepared(stage, sizes, dtype)
                probe = limits.matmul(sizes.matmul, jnp.dtype(dtype))
                found = race({"step": step.run, "limit": probe.run}, rounds=rounds)
                alone = products.seconds(step.jaxpr)
            took, limit = found["step"], step.flops / probe.work * found["limit"]
            section, about = "Training steps", _size(stage, sizes)
            against = f"{step.flops / 1e9:.0f} GFLOP at the rate of a {probe.name}"
            yield Row(
                section=section, what=f"{about}: seconds per step", dtype=dtype, unit="s", measured=Spread.of(took),
                against=against, reference=float(np.median(limit)), ratio=Spread.of(took / limit),
            )  # fmt: skip
            yield Row(
                section=section, what=f"{about}: tokens per second", dtype=dtype, unit="tokens/s",
                measured=Spread.of(step.tokens / took), against=against,
                reference=float(np.median(step.tokens / limit)), ratio=Spread.of(took / limit),
            )  # fmt: skip
            outside = took - alone
            yield Row(
                section=section, what=f"{about}: outside of matrix products", dtype=dtype, unit="s",
                measured=Spread.of(outside),
                against=f"the whole step; its products, each timed alone at its own shape, are {alone:.2f} s",
                reference=float(np.median(took)), ratio=Spread.of(outside / took),
            )  # fmt: skip
            del step


def packing_rows(sizes: Sizes, dtypes: Sequence[str], rounds: int) -> Iterator[Row]:
    """Packed rows against batches padded to their longest example, on lengths of the nine tasks."""
    dtype = dtypes[0]
    config = recipe("finetune", sizes, dtype)
    layout = config.data.layout
    found = example_sizes(config, clips=sizes.clips)
    capacity = np.array([getattr(layout, name) for name in PACKED])
    fits = found[(found <= capacity).all(axis=1)]
    per_row = len(fits) / len(best_fit(fits, capacity))
    groups = fits[: len(fits) // sizes.padded * sizes.padded].reshape(-1, sizes.padded, len(PACKED))
    mean = np.ceil(groups.max(axis=1).mean(axis=0)).astype(int)
    chunks = config.compute.logit_chunks
    padded = Layout(
        **dict(zip(PACKED, map(int, mean), strict=True)) | {"tokens": math.ceil(mean[0] / chunks) * chunks},
        patch_rows=layout.patch_rows,
    )
    with precision(jnp.dtype(dtype)):
        packed = _prepared("finetune", sizes, dtype)
        one = dataclasses.replace(config, data=dataclasses.replace(config.data, layout=padded))
        text = Kind(frames=0, windows=0, masks=0, per_row=1)  # empty room for media is computed all the same
        batch = full_rows(config.model, padded, text, rows=sizes.padded)
        beside = prepare(one, batch)
        took = race({"packed": packed.run, "padded": beside.run}, rounds=rounds)
    examples = per_row * sizes.rows
    a, b = took["packed"] / examples, took["padded"] / sizes.padded
    yield Row(
        section="Packed rows, nine tasks",
        what=f"joint finetune, {layout.tokens} tokens, {per_row:.2f} examples per row: seconds per example",
        dtype=dtype, unit="s", measured=Spread.of(a),
        against=f"batches of {sizes.padded} padded to their longest (on average {mean[0]} tokens, {mean[1]} frames, "
        f"{mean[2]} windows)",
        reference=float(np.median(b)), ratio=Spread.of(a / b),
        expected=packed.flops / examples / (beside.flops / sizes.padded),
    )  # fmt: skip


def example_sizes(config: Recipe, *, clips: int) -> np.ndarray:
    """What examples of the nine tasks need, drawn as often as the published data sets are large: int [n 4]."""
    sizes, tokenizer = config.model.feature_sizes, Tokenizer.tiny()
    rng = np.random.default_rng(0)
    total = sum(data.PUBLISHED.values())
    drawn = []
    with tempfile.TemporaryDirectory() as folder:
        media, shards = pathlib.Path(folder, "media"), pathlib.Path(folder, "shards")
        # Lengths do not depend on how large pictures are.
        world.build(media, clips=clips, seed=0, tasks=tuple(TASKS), size=(64, 48), fps=1, least=1, quiet=True)
        for task, spec in TASKS.items():
            build_shards(
                spec, root=media, out=shards, options=Options(jobs=0, size=sizes.image_size, splits=("train",))
            )
            source = Source(open_shards(shards, task, "train"), spec)
            table = read_table(source, wording=data.WORDING, tokenizer=tokenizer, sizes=sizes, cache=None)
            count = max(1, round(1024 * data.PUBLISHED[task] / total))
            drawn.append(table.size[rng.integers(0, len(table), count), : len(PACKED)])
    return rng.permutation(np.concatenate(drawn))


def masked_rows(sizes: Sizes, dtypes: Sequence[str], rounds: int) -> Iterator[Row]:
    """Frozen weights split off before the gradient, against gradients of everything that the optimizer drops."""
    dtype = dtypes[0]
    with precision(jnp.dtype(dtype)):
        ours, theirs = _prepared("finetune", sizes, dtype), _prepared("finetune", sizes, dtype, masked=True)
        took = race({"split": ours.run, "masked": theirs.run}, rounds=rounds)
    yield Row(
        section="Frozen weights",
        what=f"{_size('finetune', sizes)}: {ours.trained / 1e6:.1f} M of {(ours.trained + ours.frozen) / 1e6:.1f} M "
        f"numbers trained, {ours.temporaries / 1e9:.2f} GB of temporaries",
        dtype=dtype, unit="s", measured=Spread.of(took["split"]),
        against=f"masked optimizer, {theirs.temporaries / 1e9:.2f} GB of temporaries",
        reference=float(np.median(took["masked"])), ratio=Spread.of(took["split"] / took["masked"]),
        expected=ours.flops / theirs.flops,
    )  # fmt: skip


def full_step_rows(sizes: Sizes, dtypes: Sequence[str], rounds: int) -> Iterator[Row]:
    """The joint finetune of the published model with random weights, on one accelerator.

    Raises:
        Unsuitable: the accelerator is not known, or is none.
    """
    kind = jax.devices()[0].device_kind
    peak = peak_flops(kind)
    if peak is None:
        raise Unsuitable(
            f"--full: expected a data-centre GPU or a TPU, found {kind} ({jax.default_backend()}); the step of the "
            "published model needs at least 20 GB of memory and makes 60 TFLOP of products per row"
        )
    r = recipe("finetune", sizes, "bfloat16", model=sizes.full_model)
    batch = full_rows(r.model, r.data.layout, sizes.kinds["finetune"], rows=sizes.full_rows)
    step = prepare(r, batch)
    took = race({"step": step.run}, rounds=rounds)["step"]
    limit = step.system.flops(step.counts) / peak
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    about = (
        f"joint finetune, published sizes, {sizes.full_rows} rows of {r.data.layout.tokens} tokens on one {kind}: "
        f"{used / 2**30:.1f} GiB at the peak, MFU at 4N {limit / np.median(took):.1%}"
    )
    yield Row(
        section="The published model", what=f"{about}; tokens per second", dtype="bfloat16", unit="tokens/s",
        measured=Spread.of(step.tokens / took), against=f"4N per token at {peak / 1e12:.0f} TFLOP/s",
        reference=step.tokens / limit, ratio=Spread.of(took / limit), aim=1 / 0.45,
    )  # fmt: skip


SECTIONS: dict[str, Callable[[Sizes, Sequence[str], int], Iterator[Row]]] = {
    "steps": step_rows,
    "packing": packing_rows,
    "masked": masked_rows,
}


def measure(
    sizes: Sizes,
    *,
    dtypes: Iterable[str] = DTYPES,
    rounds: int,
    only: Iterable[str] = (),
    full: bool = False,
    progress: Callable[[Row], None],
) -> list[Row]:
    """Runs the sections in their order.

    Args:
        sizes: what to measure.
        dtypes: names; comparisons of two forms use the first.
        rounds: timed repetitions of everything.
        only: names of `SECTIONS`; empty for all.
        full: the published model on an accelerator, instead of the sections.
        progress: called with every finished row.

    Raises:
        Unsuitable: `full` on a machine that cannot.
    """
    wanted = set(only) or set(SECTIONS)
    chosen = [full_step_rows] if full else [run for name, run in SECTIONS.items() if name in wanted]
    rows = []
    for section in chosen:
        for row in section(sizes, tuple(dtypes), rounds):
            rows.append(row)
            progress(row)
    return rows
