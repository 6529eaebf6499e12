"""A run of `launch.train` → a whole model: its trainables over whatever it started from, and overlays beside them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from crab_jax import assets, checkpoint
from crab_jax.backbones.mask_decoder import MaskDecoderConfig
from crab_jax.checkpoint import CheckpointError
from crab_jax.config import ConfigError, build, to_dict
from crab_jax.convert.crab import CRAB_FILES, OVERLAYS, locate
from crab_jax.convert.tensors import Tensor, in_memory
from crab_jax.groups import load_group
from crab_jax.model import CrabConfig
from crab_jax.params import split
from crab_jax.recipe import Stage
from crab_jax.sharding import make_mesh, shardings
from crab_jax.starting import SEED_ROWS, draw, handed_on, newest_checkpoint, seed_rows, shapes_of
from crab_jax.system import AXES, stored
from crab_jax.train.checkpoint import read_about, read_trainables
from crab_jax.train.fingerprint import fingerprint

TINY_TOKENIZER = pathlib.Path(assets.__file__).with_name("tiny_tokenizer.model")  # of runs without a base
Moved = Mapping[str, str]  # a folder as the run wrote it down → where it is now


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole model whose parameters are read when they are wanted.

    Attributes:
        config: all sizes.
        params: path → parameter.
        origins: path → where it comes from, for people and to see what two models share.
        trained: paths that the run itself trained.
        tokenizer: `tokenizer.model`.
        stage: name of the run's stage; empty for a weights folder.
        overlays, overlay_configs: as in a weights folder.
        notes: for people.
        kept: part and PyTorch name → tensor of a published file that no network reads.
    """

    config: CrabConfig
    params: dict[str, Tensor]
    origins: dict[str, str]
    trained: frozenset[str] = frozenset()
    tokenizer: pathlib.Path | None = None
    stage: str = ""
    overlays: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    overlay_configs: dict[str, MaskDecoderConfig] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kept: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)


def read_whole(place: str | os.PathLike, *, moved: Moved | None = None, check: bool = True) -> Whole:
    """The model that a run has trained, or that a weights folder holds.

    Args:
        place: workdir of a run (its newest checkpoint), a single checkpoint `WORKDIR/checkpoints/STEP`, or a folder.
        moved: folders that the run started from and that lie elsewhere now.
        check: compare the frozen weights with the fingerprint in the checkpoint, for which all of them are read.

    Raises:
        CheckpointError: something cannot be read, or is not what the run was started with.
    """
    place = pathlib.Path(place)
    if (place / checkpoint.MANIFEST).is_file():
        return _folder(place)
    return _run(newest_checkpoint(place), moved or {}, check)


def _folder(place: pathlib.Path) -> Whole:
    manifest = checkpoint.read_manifest(place)
    sections = {name: _stored(place, manifest["arrays"][name]) for name in ("base", *manifest["overlays"])}
    params = sections.pop("base")
    tokenizer = place / "tokenizer.model"
    return Whole(
        config=checkpoint.read_config(place, manifest),
        params=params,
        origins=dict.fromkeys(params, f"the weights folder {place.absolute()}"),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        overlays=sections,
        overlay_configs={
            name: checkpoint.read_config(place, manifest, name).mask_decoder
            for name, entry in manifest["overlays"].items()
            if entry.get("mask_decoder") is not None
        },
        kept=_kept(place, manifest),
    )


def _stored(place: pathlib.Path, entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arrays of one section, still on disk. Those that lie together should be read one after the other."""
    members: dict[str, dict[str, Any]] = {}
    for path, entry in entries.items():
        members.setdefault(entry["in"], {})[path] = entry

    @functools.lru_cache(maxsize=1)
    def group(name: str) -> dict[str, np.ndarray]:
        return load_group(place.absolute() / "params" / name, members[name])

    def one(path: str, entry: Mapping[str, Any]) -> Tensor:
        return Tensor(tuple(entry["shape"]), np.dtype(entry["dtype"]), lambda: group(entry["in"])[path])

    return {path: one(path, entry) for path, entry in entries.items()}


def _kept(place: pathlib.Path, manifest: Mapping[str, Any]) -> dict[tuple[str, str], Tensor]:
    """What Crab's own files held beside parameters; a later file goes before an earlier one."""
    tables = manifest["kept"].values()
    entries = {f"tensors/{e['number']}": e for names in tables for e in names.values() if e["in"] is not None}
    stored = _stored(place, entries)  # all roles together, because they share groups
    return {
        located: stored[f"tensors/{entry['number']}"]
        for role in CRAB_FILES
        for name, entry in manifest["kept"].get(role, {}).items()
        if entry["in"] is not None and (located := locate(role, name)) is not None
    }


def _run(place: pathlib.Path, moved: Moved, check: bool) -> Whole:
    """The same as `starting.starting_params` and the trainables over it, without holding the base in memory."""
    about = read_about(place)
    try:
        settings = about["config"]
        stage = build(Stage, settings["stage"], where="config.stage")
        sizes = build(CrabConfig, settings["model"], where="config.model")
        frozen_dtype, seed = settings["compute"]["frozen_dtype"], settings["run"]["seed"]
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{place}: no run of Crab, or one of another version ({type(error).__name__}: {error})"
        ) from error
    shapes = shapes_of(sizes)
    trained = read_trainables(place)
    whole = Whole(sizes, {}, {}, frozenset(trained), TINY_TOKENIZER, stage.name)
    if stage.base:
        folder = _folder(_where(stage.base, moved, place))
        fresh = _matching(shapes, stage.fresh)
        _add(whole, {p: x for p, x in folder.params.items() if p in shapes and p not in fresh}, folder.origins, shapes)
        whole = dataclasses.replace(whole, tokenizer=folder.tokenizer, kept=folder.kept)
    for run in stage.start:
        earlier = newest_checkpoint(_where(run, moved, place))
        _add(whole, _held(handed_on(earlier)), f"the run {earlier}", shapes)
    _draw(whole, stage, shapes, frozen_dtype, seed)
    _add(whole, _held(trained), f"the run {place}", shapes)
    if not check:
        return whole
    return dataclasses.replace(whole, notes=_check(place, whole, about.get("fingerprint", {}), frozen_dtype))


def _matching(shapes: Mapping[str, Any], patterns: tuple[str, ...]) -> set[str]:
    """Parameters that match any of these patterns."""
    return set(split(shapes, patterns)[0]) if patterns else set()


def _held(flat: Mapping[str, Any]) -> dict[str, Tensor]:
    return {path: in_memory(np.asarray(x)) for path, x in flat.items()}


def _where(name: str, moved: Moved, place: pathlib.Path) -> pathlib.Path:
    """Where a folder is that a run wrote down, perhaps relative to the working directory of that time."""
    found = pathlib.Path(moved.get(name, name))
    if not found.exists():
        raise CheckpointError(
            f"{place}: the run started from {name}, which is not {'there' if name in moved else 'here'} "
            f"({found.absolute()}); say where it is with --moved {name}=FOLDER"
        )
    return found


def _add(
    whole: Whole, params: Mapping[str, Tensor], origin: str | Mapping[str, str], shapes: Mapping[str, Any]
) -> None:
    for path, x in params.items():
        about = origin if isinstance(origin, str) else origin[path]
        if path not in shapes or tuple(shapes[path].shape) != tuple(x.shape):
            wanted = list(shapes[path].shape) if path in shapes else "no such parameter"
            raise CheckpointError(
                f"{about}: {path} is {list(x.shape)}, the run has {wanted}; it was started with others"
            )
        whole.params[path] = x
        whole.origins[path] = about


def _draw(whole: Whole, stage: Stage, shapes: Mapping[str, Any], frozen_dtype: str, seed: int) -> None:
    """What the run drew at random, and the seed rows, on one device."""
    places = shardings(shapes, AXES, make_mesh(devices=jax.local_devices()[:1]))
    if missing := sorted(set(shapes) - set(whole.params) - whole.trained):
        dtype = {p: stored(p, frozen_dtype) for p in missing}
        drawn = draw(whole.config, missing, places, dtype, seed)
        _add(whole, _held(drawn), f"drawn at random with seed {seed}", shapes)
    if stage.seed_rows != "base":
        flat = {p: np.asarray(whole.params[p]).astype(np.float32) for p in SEED_ROWS if p in whole.params}
        _add(whole, _held(seed_rows(flat, stage.seed_rows, places)), f"seed rows {stage.seed_rows}", shapes)


def _check(place: pathlib.Path, whole: Whole, wanted: Mapping[str, str], frozen_dtype: str) -> tuple[str, ...]:
    """Compares the frozen weights with those that the run was trained with, part by part.

    Raises:
        CheckpointError: they are others.
    """
    frozen = [path for path in whole.params if path not in whole.trained]
    notes = []
    for part in dict.fromkeys(path.split("/", 1)[0] for path in frozen):
        mine = [path for path in frozen if path.startswith(f"{part}/")]
        flat = {path: jax.numpy.asarray(np.asarray(whole.params[path]), stored(path, frozen_dtype)) for path in mine}
        if fingerprint(flat)[part] == wanted.get(part):
            continue
        origins = sorted({whole.origins[path] for path in mine})
        drawn = sum(whole.origins[path].startswith("drawn") for path in mine)
        if not drawn:
            raise CheckpointError(
                f"{place}: the frozen {part} is not what the run was trained with; it was read from "
                f"{', '.join(origins)}. If a run that this one started from has gone on since, name the checkpoint: "
                "--moved WORKDIR=WORKDIR/checkpoints/STEP"
            )
        notes.append(
            f"{part}: {drawn} parameters were drawn again, and are not bit for bit those of the run; another kind of "
            "device or other XLA flags change their last digits"
        )
    return tuple(notes)


# --- weights folders --------------------------------------------------------------------------------------------------


def save_whole(
    run: str | os.PathLike,
    out: str | os.PathLike,
    *,
    overlays: Mapping[str, str | os.PathLike] | None = None,
    moved: Moved | None = None,
    dtype: Any = None,
    single_file: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], Any] | None = None,
    planned: Callable[[int], Any] | None = None,
) -> list[str]:
    """Makes a weights folder of runs.

    Args:
        run: whose model answers by default: a workdir, a checkpoint, or a weights folder to which overlays are added.
        out: the new folder.
        overlays: "avs", "avss" → the run whose model answers the tasks of that overlay. What it shares with `run` is
            stored once.
        moved: see `read_whole`.
        dtype: of all parameters; None: as trained, and what no run trained as in the base.
        single_file: as in `checkpoint.save`.
        overwrite: replace an existing weights folder.
        progress: called with numbers of bytes.
        planned: called once with the number of all bytes.

    Returns:
        Lines for people: what comes from where.

    Raises:
        CheckpointError: a run that cannot be read, models that do not belong together, a folder that cannot be written.
    """
    checkpoint.check_target(out, overwrite=overwrite)
    base = read_whole(run, moved=moved)
    over, configs = dict(base.overlays), dict(base.overlay_configs)
    lines = [f"note: {note}" for note in base.notes]
    for name in OVERLAYS:
        if name in (overlays or {}):
            other = read_whole(overlays[name], moved=moved)
            lines += [f"note: {name}: {note}" for note in other.notes]
            over[name] = _difference(base, other, name)
            if any(path.startswith("mask_decoder/") for path in over[name]):
                configs[name] = other.config.mask_decoder
    sections = {"base": base.params, **over}
    if dtype is not None:
        sections = {name: {p: _as(x, np.dtype(dtype)) for p, x in flat.items()} for name, flat in sections.items()}
    if planned is not None:
        planned(sum(x.nbytes for flat in sections.values() for x in flat.values()))
    origins = {"base": _counted(base.origins.values())}
    origins |= {name: _counted([f"the run {overlays[name]}"] * len(over[name])) for name in overlays or {}}
    checkpoint.save(
        out,
        config=base.config,
        params=sections.pop("base"),
        overlays=sections,
        overlay_configs=configs,
        tokenizer=base.tokenizer,
        report={"made_from": {name: _below(found, pathlib.Path(run).parent) for name, found in origins.items()}},
        single_file=single_file,
        overwrite=overwrite,
        progress=progress,
    )
    for name, found in origins.items():
        lines += [f"{name}: {count} parameters from {origin}" for origin, count in found.items()]
    return lines


def _below(origins: Mapping[str, int], folder: pathlib.Path) -> dict[str, int]:
    """What goes along with the weights says how they were made, not where on somebody's disk."""
    told: dict[str, int] = {}
    for origin, count in origins.items():
        for place in (folder.resolve(), folder):  # a run may name another one by its whole path
            origin = origin.replace(f"{place}{os.sep}", "")
        told[origin] = count
    return told


def _counted(values: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found


def _as(x: Tensor, dtype: np.dtype) -> Tensor:
    return Tensor(x.shape, dtype, lambda: np.asarray(x).astype(dtype))


def _difference(base: Whole, other: Whole, name: str) -> dict[str, Tensor]:
    """The parameters of `other` that `base` does not have; a mask decoder only as a whole.

    Raises:
        CheckpointError: the models differ in more than an overlay can say.
    """
    here, there = to_dict(base.config), to_dict(other.config)
    wrong = [part for part in there if part != "mask_decoder" and _sizes(here[part]) != _sizes(there[part])]
    if wrong:
        raise CheckpointError(f"--{name}: a run of another model, {', '.join(wrong)} have other sizes")
    chosen = {path for path, x in other.params.items() if not _same(base, other, path, x)}
    if any(path.startswith("mask_decoder/") for path in chosen):
        chosen |= {path for path in other.params if path.startswith("mask_decoder/")}
    if not chosen:
        raise CheckpointError(f"--{name}: the same model as the base, so there is nothing to put over it")
    return {path: x for path, x in other.params.items() if path in chosen}


def _sizes(part: Any) -> Any:
    """Without dropout, which means nothing to a model that answers."""
    if not isinstance(part, Mapping):
        return part
    return {name: _sizes(value) for name, value in part.items() if not name.startswith("dropout")}


def _same(base: Whole, other: Whole, path: str, x: Tensor) -> bool:
    y = base.params.get(path)
    if y is None or y.shape != x.shape:
        return False
    if base.origins[path] == other.origins[path] and not base.origins[path].startswith("seed rows"):
        return True
    return np.array_equal(np.asarray(x).astype(np.float32), np.asarray(y).astype(np.float32))
