"""The weights folder: an Orbax checkpoint of the flat parameters, its config, and where everything came from.

    DIR/crab.json         format, config, every array with shape and dtype, every file with its size, provenance, report
    DIR/params/<group>/   Orbax checkpoints of at most `groups.GROUP_BYTES` (or of one larger parameter); a small model
                          may be one safetensors file instead
    DIR/tokenizer.model   the base tokenizer
    DIR/originals/        small files of the originals that an export needs (config.json and the like)

Parameters are saved in groups, so that a model needs far less memory than its size; see `groups.py`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from crab_jax.backbones.mask_decoder import MaskDecoderConfig
from crab_jax.config import ConfigError, build, to_dict
from crab_jax.folders import check_space, publish
from crab_jax.groups import CheckpointError, describe, groups, load_group, nbytes, save_group, save_single
from crab_jax.manifest import FORMAT, MANIFEST, read_manifest
from crab_jax.model import CrabConfig
from crab_jax.params import Flat

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "Weights",
    "check_target",
    "load",
    "read_config",
    "read_manifest",
    "save",
    "stream",
]


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model read from a weights folder.

    Attributes:
        config: all sizes; with an overlay, its own mask decoder.
        params: path → array.
        overlays: "avs", "avss" → the parameters that it replaces; empty once one is chosen.
        tokenizer: `tokenizer.model`, or None if the folder has none.
        manifest: the content of crab.json.
    """

    config: CrabConfig
    params: Flat
    overlays: dict[str, Flat]
    tokenizer: pathlib.Path | None
    manifest: dict[str, Any]

    def with_overlay(self, name: str) -> Weights:
        """The same weights with one overlay in place; nothing is copied.

        Raises:
            CheckpointError: there is no such overlay.
        """
        if name not in self.overlays:
            raise CheckpointError(f"no overlay {name!r}; loaded are: {', '.join(self.overlays) or 'none'}")
        config = _overlay_config(self.config, self.manifest, name)
        return dataclasses.replace(self, config=config, params=self.params | self.overlays[name], overlays={})


# --- saving -----------------------------------------------------------------------------------------------------------


def save(
    directory: str | os.PathLike,
    *,
    config: CrabConfig,
    params: Mapping[str, Any],
    overlays: Mapping[str, Mapping[str, Any]] | None = None,
    overlay_configs: Mapping[str, MaskDecoderConfig] | None = None,
    kept: Mapping[str, Mapping[str, Any]] | None = None,
    tokenizer: str | os.PathLike | None = None,
    files: list[dict[str, Any]] | None = None,
    report: Mapping[str, Any] | None = None,
    originals: Mapping[str, bytes] | None = None,
    single_file: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Writes a weights folder. It appears under its name only when it is complete.

    Args:
        directory: the new folder.
        config: of the model.
        params: path → anything with `shape` and `dtype` that `np.asarray` reads: NumPy and JAX arrays, or tensors that
            are still in their files. They are read group by group.
        overlays: name → parameters that replace those of `params` for some tasks.
        overlay_configs: name → the overlay's mask decoder, if it has one.
        kept: file → name → tensors that are no parameters and are kept for export.
        tokenizer: `tokenizer.model` to copy.
        files: provenance, JSON types.
        report: what the conversion found, JSON types; also written to report.json.
        originals: relative path → content of small files.
        single_file: one safetensors file per section instead of Orbax checkpoints, for small models that ship.
        overwrite: replace an existing weights folder.
        progress: called with the number of bytes after each array.

    Raises:
        CheckpointError: the folder exists, is something else, or does not fit on the disk.
    """
    directory = pathlib.Path(os.path.abspath(directory))
    check_target(directory, overwrite=overwrite)
    arrays = {"base": dict(params)}
    arrays |= {name: dict(over) for name, over in (overlays or {}).items()}
    if clash := set(overlays or {}) & {"base", "kept"}:
        raise CheckpointError(f"an overlay cannot be called {clash.pop()!r}")
    stored = {f"{file}\n{name}": x for file, tensors in (kept or {}).items() for name, x in tensors.items()}
    total = sum(nbytes(x) for section in (*arrays.values(), stored) for x in section.values())
    check_space(directory.parent, total, what=f"the weights folder {directory}")
    progress = progress or (lambda _: None)

    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
    try:
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "config": to_dict(config),
            "overlays": {
                name: {"mask_decoder": to_dict(overlay_configs[name])} if name in (overlay_configs or {}) else {}
                for name in overlays or {}
            },
            "arrays": {
                section: _save_section(partial, section, values, progress, single_file)
                for section, values in arrays.items()
            },
            "kept": _save_kept(partial, stored, progress),
            "files": files or [],
            "report": dict(report or {}),
        }
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / "tokenizer.model")
        for name, content in (originals or {}).items():
            path = partial / "originals" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if report is not None:
            (partial / "report.json").write_text(_json(report), encoding="utf-8")
        manifest["contents"] = {p.relative_to(partial).as_posix(): p.stat().st_size for p in _walk(partial)}
        (partial / MANIFEST).write_text(_json(manifest), encoding="utf-8")
        publish(partial, directory)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(f"{directory}: the disk is full; nothing was left behind") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(directory: str | os.PathLike, *, overwrite: bool) -> None:
    """Raises `CheckpointError` unless a folder may be written there: nothing, nothing in it, or a weights folder."""
    directory = pathlib.Path(directory)
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: a file, expected a folder to write")
    if not any(directory.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(
            f"{directory}: exists and is not empty; choose another folder, or --overwrite to replace it"
        )
    if not (directory / MANIFEST).is_file():
        raise CheckpointError(
            f"{directory}: no weights folder (it has no {MANIFEST}), so it is not replaced; remove it yourself"
        )


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _walk(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file())


def _save_section(
    partial: pathlib.Path, section: str, values: Mapping[str, Any], progress: Callable[[int], Any], single: bool
) -> dict[str, dict[str, Any]]:
    described = {}
    if single:
        save_single(partial / "params" / section, values, progress)
        return {path: {"in": section, **describe(x)} for path, x in values.items()}
    for group, paths in groups(section, values):
        save_group(partial / "params" / group, {p: values[p] for p in paths}, progress)
        described |= {p: {"in": group, **describe(values[p])} for p in paths}
    return described


def _save_kept(
    partial: pathlib.Path, stored: Mapping[str, Any], progress: Callable[[int], Any]
) -> dict[str, dict[str, Any]]:
    """Tensors under numbers, because their names may hold anything. Orbax refuses empty arrays: they need no bytes."""
    described: dict[str, dict[str, Any]] = {}
    numbered = {f"t{i}": (name, x) for i, (name, x) in enumerate(stored.items())}
    full = {number: x for number, (_, x) in numbered.items() if math.prod(x.shape)}
    where = {}
    # One part for all, hence the common prefix.
    for group, paths in groups("kept", {f"tensors/{number}": x for number, x in full.items()}):
        values = {p: full[p.split("/")[1]] for p in paths}
        save_group(partial / "params" / group, values, progress)
        where |= {p.split("/")[1]: group for p in paths}
    for number, (name, x) in numbered.items():
        file, tensor = name.split("\n", 1)
        described.setdefault(file, {})[tensor] = {"in": where.get(number), "number": number, **describe(x)}
    return described


# --- loading ----------------------------------------------------------------------------------------------------------


def load(
    directory: str | os.PathLike,
    *,
    dtype: Any = None,
    variant: str | None = None,
    overlays: Iterable[str] | None = None,
    parts: Iterable[str] | None = None,
    shardings: Any = None,
    progress: Callable[[int], Any] | None = None,
) -> Weights:
    """Reads a weights folder.

    Args:
        directory: the folder.
        dtype: of all parameters; None: as stored. The cast happens while reading.
        variant: an overlay ("avs", "avss") to put in place; what it replaces is not read. None: the base model, with
            all overlays beside it.
        overlays: without `variant`, which overlays to read; None: all.
        parts: fields of `CrabConfig` to read; None: all. The others are None in the config that is returned.
        shardings: None: NumPy arrays. Otherwise JAX arrays that are read straight into place, shard by shard: one
            `jax.sharding.Sharding` for everything, a mapping path → sharding, or a function of path and shape.
        progress: called with the number of bytes after each group.

    Raises:
        CheckpointError: no weights folder, a half-written or truncated one, another format, no such variant or part.
    """
    directory = pathlib.Path(os.path.abspath(directory))
    manifest = read_manifest(directory)
    _check_files(directory, manifest)
    sections = _choose_sections(directory, manifest, variant)
    if overlays is not None and variant is None:
        chosen = {"base", *overlays}
        if unknown := chosen - set(sections):
            have = ", ".join(sections)
            raise CheckpointError(f"{directory}: no weights {sorted(unknown)[0]!r} in it; it has: {have}")
        sections = {name: skipped for name, skipped in sections.items() if name in chosen}
    config = read_config(directory, manifest, variant)
    if parts is not None:
        parts = set(parts)
        names = {f.name for f in dataclasses.fields(CrabConfig)}
        if unknown := parts - names:
            raise CheckpointError(f"no part {sorted(unknown)[0]!r}; the parts are {', '.join(sorted(names))}")
        config = dataclasses.replace(config, **dict.fromkeys(names - parts))

    loaded: dict[str, Flat] = {}
    for section, skipped in sections.items():
        described = {
            path: entry
            for path, entry in manifest["arrays"][section].items()
            if path not in skipped and (parts is None or path.split("/", 1)[0] in parts)
        }
        loaded[section] = {}
        for group in dict.fromkeys(entry["in"] for entry in described.values()):
            stored = {path: e for path, e in manifest["arrays"][section].items() if e["in"] == group}
            flat = load_group(directory / "params" / group, stored, dtype=dtype, shardings=shardings)
            loaded[section] |= {path: x for path, x in flat.items() if path in described}
            if progress is not None:
                progress(sum(nbytes(x) for x in flat.values()))
    params = loaded.pop("base")
    if variant is not None:
        params, loaded = params | loaded[variant], {}
    tokenizer = directory / "tokenizer.model"
    return Weights(config, params, loaded, tokenizer if tokenizer.is_file() else None, manifest)


def stream(directory: str | os.PathLike, manifest: Mapping[str, Any], section: str) -> Iterator[tuple[Any, Any]]:
    """Reads one section group by group, in less memory than its size.

    Args:
        directory: the weights folder.
        manifest: of it.
        section: "base", an overlay, or "kept".

    Yields:
        Path and NumPy array as stored; for "kept", the pair of file and name instead of the path.
    """
    directory = pathlib.Path(os.path.abspath(directory))
    _check_files(directory, manifest)
    if section == "kept":
        entries = {
            f"tensors/{entry['number']}": ((file, name), entry)
            for file, tensors in manifest["kept"].items()
            for name, entry in tensors.items()
        }
    else:
        entries = {path: (path, entry) for path, entry in manifest["arrays"][section].items()}
    for group in dict.fromkeys(entry["in"] for _, entry in entries.values()):
        stored = {path: entry for path, (_, entry) in entries.items() if entry["in"] == group}
        if group is None:  # empty arrays
            flat = {path: np.empty(entry["shape"], entry["dtype"]) for path, entry in stored.items()}
        else:
            flat = load_group(directory / "params" / group, stored)
        for path, x in flat.items():
            yield entries[path][0], x


def read_config(directory: str | os.PathLike, manifest: Mapping[str, Any], variant: str | None = None) -> CrabConfig:
    """The config in a manifest; with `variant`, the overlay's own mask decoder in it."""
    try:
        config = build(CrabConfig, manifest["config"], where=f"{pathlib.Path(directory) / MANIFEST}: config")
    except ConfigError as error:
        raise CheckpointError(f"{error}; the folder was made by another version, convert the weights again") from error
    return config if variant is None else _overlay_config(config, manifest, variant)


def _overlay_config(config: CrabConfig, manifest: Mapping[str, Any], name: str) -> CrabConfig:
    own = manifest["overlays"][name].get("mask_decoder")
    if own is None:
        return config
    try:
        return dataclasses.replace(config, mask_decoder=build(MaskDecoderConfig, own, where=f"overlays.{name}"))
    except ConfigError as error:
        raise CheckpointError(f"{MANIFEST}: {error}; convert the weights again") from error


def _choose_sections(
    directory: pathlib.Path, manifest: Mapping[str, Any], variant: str | None
) -> dict[str, frozenset[str]]:
    """Section → paths of it that are not needed."""
    if variant is None:
        return {"base": frozenset(), **{name: frozenset() for name in manifest["overlays"]}}
    if variant not in manifest["overlays"]:
        have = ", ".join(manifest["overlays"]) or "none"
        raise CheckpointError(
            f"{directory}: no weights {variant!r} in it (it has: {have}); convert again with --{variant} FILE"
        )
    over = manifest["arrays"][variant]
    # An overlay brings whole parts: whatever the base has of its mask decoder may have other shapes.
    whole = "mask_decoder/" if any(path.startswith("mask_decoder/") for path in over) else None
    return {
        "base": frozenset(p for p in manifest["arrays"]["base"] if p in over or (whole and p.startswith(whole))),
        variant: frozenset(),
    }


def _check_files(directory: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Every file must be there with its size: a copy that broke off is noticed before anything is read."""
    for name, size in manifest["contents"].items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            raise CheckpointError(
                f"{path} {state}, expected {size} bytes: the folder is incomplete, copy it again or convert again"
            )
