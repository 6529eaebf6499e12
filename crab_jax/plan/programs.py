"""The programs of a run, traced from shapes alone and placed on a mesh of devices that need not exist."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crab_jax import model, sharding
from crab_jax.batch import pack
from crab_jax.evaluate.engine import encode
from crab_jax.evaluate.generate import generate
from crab_jax.flops import jaxpr_flops
from crab_jax.layout import Layout
from crab_jax.model import Crab, CrabConfig
from crab_jax.params import nest, split
from crab_jax.recipe import Recipe
from crab_jax.starting import model_config
from crab_jax.system import CrabSystem, stored
from crab_jax.train.optim import make_optimizer, rates
from crab_jax.train.step import State, init_state, jit_step, make_step

Struct = jax.ShapeDtypeStruct


class PlanError(ValueError):
    """A run that cannot even be compiled; the message says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Something to compile.

    Attributes:
        name: for people.
        traced: from `jax.jit(…).trace(…)`.
        arguments: kind → bytes on one device, without the padding of tiles.
        flops: matrix products of all devices together, as traced; loops count fully.
        useful_flops: what counts for the MFU.
        counted: how it counts, for people.
        tokens: that one call reads and learns from, or writes.
        rows_per_device: at once.
    """

    name: str
    traced: Any
    arguments: Mapping[str, float]
    flops: float
    useful_flops: float
    counted: str
    tokens: int
    rows_per_device: float


def train_step(recipe: Recipe, mesh: Mesh) -> Program:
    """The optimizer step of `crab_jax.train`, on full rows.

    Raises:
        PlanError: rows that do not divide over the mesh.
        crab_jax.sharding.ShardingError: parameters that do not.
    """
    sizes = model_config(recipe.stage, recipe.model)
    micro = recipe.run.rows // recipe.run.accumulation
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    _check_rows(micro, parts, recipe.run.accumulation)
    trainable, frozen, places = _parameters(recipe, sizes, mesh)
    system = CrabSystem(
        sizes,
        recipe.loss,
        recipe.compute,
        train_encoders=recipe.stage.train_encoders,
        trains_llama=any(p.startswith("llama/layers/") and p.endswith("kernel") for p in trainable),
    )
    total = recipe.run.steps or 1000  # the length of the table of rates; it changes nothing else
    table = rates(recipe.optim, total)
    optimizer = make_optimizer(recipe.optim, table)
    own = {path: places[path] for path in trainable}
    shapes = jax.eval_shape(functools.partial(init_state, optimizer=optimizer, seed=0), trainable)
    whole = sharding.replicated(mesh)
    state_places = State(whole, own, sharding.like_params(shapes.opt, own, mesh), whole)
    state = jax.tree.map(lambda x, s: Struct(x.shape, x.dtype, sharding=s), shapes, state_places)
    rows = sharding.by_rows(mesh)
    batch = jax.tree.map(
        lambda x: Struct((recipe.run.rows, *x.shape[1:]), x.dtype, sharding=rows), _row(sizes, recipe.data.layout)
    )
    stop = Struct((mesh.size,), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    step = make_step(system, optimizer, table, accumulation=recipe.run.accumulation)
    precision = None if recipe.run.matmul_precision == "default" else recipe.run.matmul_precision
    with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
        traced = jit_step(step, state_places, mesh).trace(state, frozen, batch, stop)
    positions = recipe.run.rows * recipe.data.layout.tokens
    return Program(
        name="train step",
        traced=traced,
        arguments={
            "frozen weights": _bytes(frozen),
            "trained weights": _bytes(state.params),
            "optimizer state": _bytes(state.opt),
            "batch": _bytes(batch),
        },
        flops=jaxpr_flops(traced.jaxpr.jaxpr),
        useful_flops=system.flops({"positions": positions}),
        counted=(
            "6N per token: 2N forwards, 4N backwards"
            if system.trains_llama
            else "4N per token, as for LoRA: 2N forwards, 2N backwards through frozen matrices"
        ),
        tokens=positions,
        rows_per_device=micro / parts,
    )


def generation(recipe: Recipe, mesh: Mesh, *, rows: int, prompt: int, new: int) -> Program:
    """One batch of answers: encoders and projectors, prefill, and a decode step per token, all rows to the last token.

    Layers are stacked; greedy.

    Args:
        recipe: sizes and dtype.
        mesh: where; rows are split over data and fsdp.
        rows: answers at once.
        prompt: tokens of each prompt, media included; as much media as fits the layout of the config.
        new: tokens of each answer.

    Raises:
        PlanError: rows that do not divide over the mesh.
    """
    sizes = model_config(recipe.stage, recipe.model)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    _check_rows(rows, parts, 1)
    dtype = jnp.dtype(recipe.compute.dtype)
    shapes = model.abstract(sizes)
    places = sharding.shardings(shapes, sharding_rules(), mesh)
    params = {p: Struct(x.shape, dtype, sharding=places[p]) for p, x in shapes.items()}
    by_rows = sharding.by_rows(mesh)
    layout = _media_of(prompt, recipe.data.layout, sizes)
    batch = jax.tree.map(lambda x: Struct((rows, *x.shape[1:]), x.dtype, sharding=by_rows), _row(sizes, layout))
    per_row = Struct((rows,), jnp.int32, sharding=by_rows)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    keys = Struct(keys.shape, keys.dtype, sharding=by_rows)
    net = Crab(sizes, dtype)

    def answer(params, batch, mask_frame, limit, keys):
        variables = {"params": nest(params)}
        visual, audio, scales = encode(
            net, variables, batch.frames, batch.fbank, batch.patch_rows, mask_frame, with_scales=bool(layout.frames)
        )
        knobs = (jnp.float32(0), jnp.int32(0), jnp.float32(1))
        out = generate(
            net, variables, batch.tokens, batch.segment, batch.position, visual, audio, limit, keys, knobs,
            capacity=new, greedy=True,
        )  # fmt: skip
        return out, scales

    with jax.set_mesh(mesh):
        traced = jax.jit(answer).trace(params, batch, per_row, per_row, keys)
    llama = sizes.llama
    cache = 2 * llama.num_layers * rows * llama.num_kv_heads * llama.head_size * (prompt + new) * dtype.itemsize
    return Program(
        name="generation",
        traced=traced,
        arguments={"weights": _bytes(params), "batch": _bytes(batch), "cache (temporary)": cache / parts},
        flops=jaxpr_flops(traced.jaxpr.jaxpr, while_trips=new - 1),
        useful_flops=CrabSystem(sizes).flops({"positions": rows * (prompt + new)}) / 2,  # forwards only
        counted="2N per token: forwards only",
        tokens=rows * new,
        rows_per_device=rows / parts,
    )


def sharding_rules() -> sharding.Axes:
    """Of all parts of the model."""
    return CrabSystem.axes


def _parameters(recipe: Recipe, sizes: CrabConfig, mesh: Mesh) -> tuple[dict, dict, dict[str, NamedSharding]]:
    """Trainables, frozen parameters and all places, as `crab_jax.starting` makes them."""
    shapes = model.abstract(sizes)
    places = sharding.shardings(shapes, sharding_rules(), mesh)
    trainable, frozen = split(shapes, recipe.stage.train)
    return (
        {p: Struct(x.shape, jnp.float32, sharding=places[p]) for p, x in trainable.items()},
        {p: Struct(x.shape, stored(p, recipe.compute.frozen_dtype), sharding=places[p]) for p, x in frozen.items()},
        places,
    )


def _row(sizes: CrabConfig, layout: Layout) -> Any:
    """An empty row, for shapes and dtypes."""
    return pack([[]], layout=layout, ids=sizes.token_ids, **dataclasses.asdict(sizes.feature_sizes))


def _media_of(prompt: int, layout: Layout, sizes: CrabConfig) -> Layout:
    """As many frames and windows as a prompt holds beside sixty tokens of text, in equal parts."""
    each = max(0, prompt - 60) // (sizes.feature_sizes.frame_tokens + sizes.feature_sizes.window_tokens)
    return dataclasses.replace(
        layout, tokens=prompt, frames=min(layout.frames, each), windows=min(layout.windows, each), masks=0
    )


def _check_rows(rows: int, parts: int, accumulation: int) -> None:
    if rows % parts:
        below, above = rows // parts * parts * accumulation, math.ceil(rows / parts) * parts * accumulation
        fitting = f"{below} or {above}" if below else str(above)
        raise PlanError(
            f"{rows} rows at a time do not divide over data x fsdp = {parts} devices; choose {fitting} rows "
            f"(--config.run.rows), or a mesh with fewer (--config.mesh.tensor)"
        )


def _bytes(tree: Any) -> float:
    """Of one device, without padding."""
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)))
