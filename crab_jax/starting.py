"""The parameters that a run starts from: base weights, what earlier runs trained, and fresh parts, put into place."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from crab_jax import checkpoint, model
from crab_jax.backbones.mask_decoder import PE_TENSORS
from crab_jax.config import ConfigError, to_dict
from crab_jax.convert.safetensors_format import read_safetensors
from crab_jax.convert.tensors import SourceError
from crab_jax.convert.unsaved import candidates
from crab_jax.groups import CheckpointError
from crab_jax.model import ADDED_TOKENS, CrabConfig
from crab_jax.params import Flat, split
from crab_jax.recipe import SeedRows, Stage
from crab_jax.sharding import shardings
from crab_jax.system import AXES, stored
from crab_jax.train.checkpoint import read_trainables

shapes_of = functools.cache(model.abstract)  # seconds of tracing for every set of sizes; not to be changed by anybody


def model_config(stage: Stage, config: CrabConfig | None) -> CrabConfig:
    """The sizes of the model: those of the recipe, or those of the base.

    Raises:
        CheckpointError: the base has a part of other sizes, and the stage does not start that part anew.
    """
    if not stage.base:
        return config
    base = checkpoint.read_config(stage.base, checkpoint.read_manifest(stage.base))
    if config is None:
        return base
    wanted, there = to_dict(config), to_dict(base)
    wrong = []
    for part in wanted:
        if there[part] is None or wanted[part] is None or any(p.startswith(f"{part}/.*") for p in stage.fresh):
            continue
        then, now = dict(there[part]), dict(wanted[part])
        if any("lora" in p for p in stage.fresh):
            then.pop("lora", None), now.pop("lora", None)
        _settings_are_free(then, now)
        wrong += [f"{part}.{n} is {then.get(n)} there, {now.get(n)} here" for n in now if then.get(n) != now.get(n)]
    if wrong:
        raise CheckpointError(
            f"{stage.base}: another model than the config asks for: {'; '.join(wrong[:8])}. Leave `model` out to take "
            "the sizes of the base, or name what starts anew in stage.fresh"
        )
    return config


def _settings_are_free(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Dropout and how parameters start are no sizes: a run may choose others."""
    for one in (then, now):
        one.pop("dropout", None), one.pop("init_std", None)
        if isinstance(one.get("lora"), dict):
            one["lora"] = {k: v for k, v in one["lora"].items() if not k.startswith("dropout")}


def starting_params(stage: Stage, config: CrabConfig, mesh: Mesh, *, frozen_dtype: str, seed: int) -> tuple[Flat, Flat]:
    """Reads and places everything.

    Args:
        stage: base, earlier runs, what is trained and what starts anew.
        config: all sizes.
        mesh: of the run.
        frozen_dtype: of frozen matrices; everything else is float32.
        seed: of whatever starts at random.

    Returns:
        The trainables and the frozen parameters, on the mesh.

    Raises:
        CheckpointError: something is nowhere to be found or has another shape; everything wrong is listed.
        ConfigError: a pattern that matches nothing, or encoders that get no gradient.
        crab_jax.sharding.ShardingError: a parameter that does not fit the mesh.
    """
    shapes = shapes_of(config)
    places = shardings(shapes, AXES, mesh)
    chosen, _ = split(shapes, stage.train)
    fresh = set(split(shapes, stage.fresh)[0]) if stage.fresh else set()
    if not stage.train_encoders and (barred := [p for p in chosen if p.startswith(("clip/", "beats/"))]):
        raise ConfigError(
            f"stage.train matches {barred[0]} and {len(barred) - 1} more of the encoders; no gradient reaches them "
            "unless stage.train_encoders is True"
        )
    dtype = {p: np.dtype("float32") if p in chosen else stored(p, frozen_dtype) for p in shapes}
    flat: Flat = {}
    if stage.base:
        flat = _from_base(stage.base, shapes, places, dtype, fresh)
    for run in stage.start:
        flat |= _from_run(run, shapes, places, dtype)
    missing = set(shapes) - set(flat)
    if stage.base and (lost := sorted(missing - fresh)):
        raise CheckpointError(
            f"{stage.base}: {len(lost)} parameters are neither there nor in stage.start: {', '.join(lost[:6])} …; "
            "convert the file that has them, or name them in stage.fresh to start them at random"
        )
    if missing:
        flat |= draw(config, sorted(missing), places, dtype, seed)
    if stage.seed_rows != "base":
        flat |= seed_rows(flat, stage.seed_rows, places)
    ordered = {path: flat[path] for path in shapes}
    return split(ordered, stage.train)


def _cast(x: Any, place: NamedSharding, dtype: np.dtype) -> jax.Array:
    if isinstance(x, jax.Array) and x.dtype == dtype and x.sharding == place:
        return x
    if not isinstance(x, jax.Array):
        x = jax.device_put(np.asarray(x), place)
    return _caster(place, dtype)(x)


@functools.cache
def _caster(place: NamedSharding, dtype: np.dtype):
    return jax.jit(lambda x: x.astype(dtype), out_shardings=place)


def _from_base(folder: str, shapes: Mapping[str, Any], places: Any, dtype: Any, fresh: set[str]) -> Flat:
    manifest = checkpoint.read_manifest(folder)
    there = manifest["arrays"]["base"]
    wrong = [
        f"{p}: {there[p]['shape']} there, {list(shapes[p].shape)} here"
        for p in shapes
        if p in there and p not in fresh and list(there[p]["shape"]) != list(shapes[p].shape)
    ]
    if wrong:
        raise CheckpointError(f"{folder}: {'; '.join(wrong[:8])}; these are weights of another model")
    parts = sorted({p.split("/", 1)[0] for p in shapes if p in there and p not in fresh})
    everywhere = NamedSharding(next(iter(places.values())).mesh, jax.sharding.PartitionSpec())

    def where(path: str, shape: tuple[int, ...]) -> NamedSharding:
        same = path in shapes and tuple(shapes[path].shape) == shape
        return places[path] if same else everywhere  # what is not wanted is dropped after reading

    flat: Flat = {}
    for part in parts:  # one at a time: the stored dtype may need more room than the wanted one
        loaded = checkpoint.load(folder, parts=[part], overlays=[], shardings=where)
        for path in [p for p in loaded.params if p in shapes and p not in fresh]:
            flat[path] = _cast(loaded.params.pop(path), places[path], dtype[path])
    return flat


def _from_run(run: str, shapes: Mapping[str, Any], places: Any, dtype: Any) -> Flat:
    place = newest_checkpoint(run)
    trained = handed_on(place)
    wrong = [f"{p}: not in this model" for p in trained if p not in shapes]
    wrong += [
        f"{p}: {list(x.shape)} there, {list(shapes[p].shape)} here"
        for p, x in trained.items()
        if p in shapes and tuple(x.shape) != tuple(shapes[p].shape)
    ]
    if wrong:
        raise CheckpointError(f"{place}: a run of another model: {'; '.join(wrong[:8])}")
    return {p: _cast(x, places[p], dtype[p]) for p, x in trained.items()}


def handed_on(place: pathlib.Path) -> Flat:
    """What a checkpoint gives to later stages: its trainables as NumPy arrays; or what a safetensors file holds.

    Without the output matrix that pretraining of a projector alone may train (`head=trained`): the reference trains it
    by omission and throws it away with the next stage (Q-31).
    """
    if place.is_file():
        try:
            return {path: tensor.read() for path, tensor in read_safetensors(place).tensors.items()}
        except SourceError as error:
            raise CheckpointError(str(error)) from error
    trained = read_trainables(place)
    parts = {path.split("/", 1)[0] for path in trained}
    others = [path for path in trained if path.startswith("llama/") and not path.startswith("llama/head/")]
    if parts in ({"vl_projector", "llama"}, {"al_projector", "llama"}) and not others:
        return {path: x for path, x in trained.items() if not path.startswith("llama/")}
    return trained


def newest_checkpoint(run: str | pathlib.Path) -> pathlib.Path:
    """The newest checkpoint of a workdir; a single checkpoint or a safetensors file is returned as it is.

    Raises:
        CheckpointError: there is none.
    """
    run = pathlib.Path(run)
    if (run / "about").is_dir() or (run.suffix == ".safetensors" and run.is_file()):
        return run.absolute()
    folder = run / "checkpoints"
    steps = [p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name)] if folder.is_dir() else []
    if not steps:
        raise CheckpointError(
            f"{run}: no checkpoint in it; expected the workdir of a run that has saved something, or a safetensors "
            "file (stage.start)"
        )
    return max(steps, key=lambda p: int(p.name)).absolute()


def draw(config: CrabConfig, paths: list[str], places: Any, dtype: Mapping[str, Any], seed: int) -> Flat:
    """Random starting values.

    Args:
        config: all sizes.
        paths: parameters that are wanted; nothing else is computed.
        places: path → where it is to live.
        dtype: path → in what.
        seed: of `model.init`.
    """

    def chosen(key: jax.Array) -> Flat:
        flat = model.init(config, key)
        return {p: flat[p].astype(dtype[p]) for p in paths}

    return jax.jit(chosen, out_shardings={p: places[p] for p in paths})(jax.random.key(seed))


SEED_ROWS = ("llama/embed/embedding", "llama/head/kernel", *(f"mask_decoder/{path}" for path in PE_TENSORS))


def seed_rows(flat: Flat, choice: SeedRows, places: Any) -> Flat:
    """The parameters `SEED_ROWS` with the seed-42 draws over what is there; those that are not there are left out.

    Raises:
        CheckpointError: they have other sizes than the model.
    """
    known = candidates()
    new: Flat = {}
    for path, name, axis in (("llama/embed/embedding", "embed_tokens", 0), ("llama/head/kernel", "lm_head", 1)):
        (rows,) = (x for key, x in known.items() if key.startswith(f"{choice}.{name}."))
        if rows.shape != (ADDED_TOKENS, flat[path].shape[1 - axis]):
            raise CheckpointError(
                f"stage.seed_rows {choice}: these rows have the width {rows.shape[1]}, {path} is {flat[path].shape}; "
                "choose base"
            )
        put = functools.partial(_put_last, axis=axis)
        new[path] = jax.jit(put, out_shardings=places[path])(flat[path], np.moveaxis(rows, 0, axis))
    for path, name in PE_TENSORS.items():
        value = known[f"{choice}.seg_module.{name}"]
        full = f"mask_decoder/{path}"
        if full in flat and value.shape == flat[full].shape:
            new[full] = jax.device_put(value.astype(np.float32), places[full])
        elif full in flat:
            raise CheckpointError(f"stage.seed_rows {choice}: {name} is {value.shape}, {full} is {flat[full].shape}")
    return new


def _put_last(table: Any, rows: Any, *, axis: int) -> Any:
    start = table.shape[axis] - rows.shape[axis]
    return jax.lax.dynamic_update_slice_in_dim(table, rows.astype(table.dtype), start, axis)
