"""The way back: from a weights folder to the published files; every tensor byte for byte, in the order of its file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from crab_jax import checkpoint
from crab_jax.backbones.mask_decoder import PE_TENSORS
from crab_jax.convert.crab import OVERLAYS, VOCABULARY, locate, table, vocabulary_table
from crab_jax.convert.engine import common_dtype, export_rule
from crab_jax.convert.sources import Tensor, write_safetensors, write_torch
from crab_jax.folders import check_space, publish
from crab_jax.model import CrabConfig
from crab_jax.weights import Rule

_INDEX = {"safetensors": "model.safetensors.index.json", "torch": "pytorch_model.bin.index.json"}


class ExportError(ValueError):
    """A weights folder that cannot become the published files; the message says why."""


@dataclasses.dataclass
class Exported:
    """What an export wrote.

    Attributes:
        files: path inside the output folder → number of tensors.
        dropped: role → tensors of the original files that were not kept, and are therefore not in these.
        rounded: tensors that are not equal to the original, because the weights were converted with another dtype.
    """

    files: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    rounded: list[str] = dataclasses.field(default_factory=list)


def export(
    weights: str | os.PathLike,
    out: str | os.PathLike,
    *,
    lossy: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Exported:
    """Writes the files that a weights folder was converted from.

    The tensors are first spread over a scratch file in the order of their files, because parameters hold all layers of
    one kind and files all kinds of one layer; so nothing large is ever in memory, and twice the disk is needed.

    Args:
        weights: the weights folder.
        out: the new folder; Crab's files lie in it, those of LLaMA, CLIP and BEATs in folders of these names.
        lossy: also write tensors whose values were rounded by `--dtype`.
        progress: called with the number of bytes after each tensor.

    Raises:
        ExportError: the folder does not know any files, or its values were rounded.
        CheckpointError: it cannot be read, `out` is not empty, or the disk is too small.
    """
    weights, out = pathlib.Path(weights), pathlib.Path(os.path.abspath(out))
    manifest = checkpoint.read_manifest(weights)
    records = manifest["files"]
    if not records:
        raise ExportError(f"{weights}: was not converted from files, so there are no names to export to")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise checkpoint.CheckpointError(f"{out}: exists and is not empty; choose another folder")
    sections = _sections(weights, manifest)
    result = Exported(rounded=_rounded(manifest, sections))
    if result.rounded and not lossy:
        raise ExportError(
            f"{weights}: {len(result.rounded)} tensors were rounded when they were converted with --dtype (the first "
            f"is {result.rounded[0]}), so the original bytes are gone; convert without --dtype, or pass --lossy"
        )
    size = sum(_size(e) for record in records for e in record["tensors"] if e["in"] not in ("dropped", "twin"))
    check_space(out.parent, 2 * size, what=f"the export to {out}, with its scratch file,")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        with _Scratch(partial / "scratch", size) as scratch:
            _spread(weights, manifest, sections, scratch, progress or (lambda _: None))
            for record in records:
                _write(partial, record, scratch, result)
        _originals(weights, partial, {record["role"] for record in records})
        if out.exists():
            out.rmdir()
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


class _Scratch(contextlib.AbstractContextManager):
    """Tensors in a file, in any order: role and name → array. Deleted at the end."""

    def __init__(self, path: pathlib.Path, size: int):
        self.path = path
        self._memory = np.memmap(path, np.uint8, "w+", shape=(max(size, 1),))
        self._places: dict[tuple[str, str], tuple[int, np.dtype, tuple[int, ...]]] = {}
        self._end = 0

    def put(self, role: str, name: str, x: np.ndarray) -> None:
        raw = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        self._memory[self._end : self._end + raw.size] = raw
        self._places[role, name] = self._end, x.dtype, x.shape
        self._end += raw.size

    def tensor(self, role: str, name: str) -> Tensor:
        start, dtype, shape = self._places[role, name]
        size = math.prod(shape) * dtype.itemsize

        def read() -> np.ndarray:
            return self._memory[start : start + size].view(dtype).reshape(shape)

        return Tensor(shape, dtype, read, self.path, (start,) if size else None)

    def __exit__(self, *_: Any) -> None:
        del self._memory
        self.path.unlink()


def _size(entry: Mapping[str, Any]) -> int:
    return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def _destinations(manifest: Mapping[str, Any], section: str) -> dict[tuple[str, str], tuple[str, Mapping[str, Any]]]:
    """Part and key → the file and the entry that it was read from, for one section of the weights folder."""
    found = {}
    for record in manifest["files"]:
        for entry in record["tensors"]:
            if entry["in"] == section:
                found[locate(record["role"], entry["name"])] = (record["role"], entry)
    return found


def _rules(manifest: Mapping[str, Any], section: str, config: CrabConfig) -> Iterator[tuple[str, Rule]]:
    """The rules of all parts of one section, each with its part."""
    stored = manifest["arrays"][section]
    for part in dict.fromkeys(path.split("/", 1)[0] for path in stored):
        if section in OVERLAYS and part == "llama":
            rows, width = stored["llama/embed/embedding"]["shape"]
            rules = vocabulary_table(rows, width).rules
        else:
            rules = table(part, getattr(config, part)).rules
            if part == "mask_decoder":  # a whole state dict has these, too
                rules += tuple(Rule(path, name) for path, name in PE_TENSORS.items())
        for rule in rules:
            yield part, rule


def _sections(weights: pathlib.Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, Rule]]]:
    """Section → parameter path → part and rule."""
    sections = {}
    for section in manifest["arrays"]:
        config = checkpoint.read_config(weights, manifest, None if section == "base" else section)
        rules = {f"{part}/{rule.path}": (part, rule) for part, rule in _rules(manifest, section, config)}
        sections[section] = {path: rule for path, rule in rules.items() if path in manifest["arrays"][section]}
    return sections


def _rounded(manifest: Mapping[str, Any], sections: Mapping[str, Mapping[str, tuple[str, Rule]]]) -> list[str]:
    """Tensors whose parameter is stored in a type that cannot hold them exactly."""
    rounded = []
    for section, rules in sections.items():
        destinations = _destinations(manifest, section)
        for path, (part, rule) in rules.items():
            for place in ((part, key) for _, key in rule.keys()):
                if place in destinations:
                    role, entry = destinations[place]
                    stored = np.dtype(manifest["arrays"][section][path]["dtype"])
                    if common_dtype(np.dtype(entry["dtype"]), stored) != stored:
                        rounded.append(f"{role}: {entry['name']}")
    return rounded


def _spread(
    weights: pathlib.Path,
    manifest: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, tuple[str, Rule]]],
    scratch: _Scratch,
    progress: Callable[[int], Any],
) -> None:
    """Writes every tensor to the scratch file."""
    for section, rules in sections.items():
        destinations = _destinations(manifest, section)
        for path, x in checkpoint.stream(weights, manifest, section):
            if path not in rules:
                continue  # a source was chosen for it: no file held it
            part, rule = rules[path]
            for key, tensor in export_rule(rule, x):
                if (part, key) not in destinations:
                    continue
                role, entry = destinations[part, key]
                if key in VOCABULARY:
                    tensor = tensor[: entry["shape"][0]]  # without the rows that no file held
                if tensor.shape != tuple(entry["shape"]):
                    raise ExportError(f"{path}: gives {entry['name']} {tensor.shape}, it was {tuple(entry['shape'])}")
                scratch.put(role, entry["name"], tensor.astype(entry["dtype"], copy=False))
                progress(_size(entry))
    for (role, name), x in checkpoint.stream(weights, manifest, "kept"):
        scratch.put(role, name, x)
        progress(x.nbytes)


def _write(partial: pathlib.Path, record: Mapping[str, Any], scratch: _Scratch, result: Exported) -> None:
    role, names = record["role"], [_plain(weight["name"]) for weight in record["weights"]]
    folder = not record["path"].endswith(".bin")
    shards: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for entry in record["tensors"]:
        if entry["in"] == "dropped":
            result.dropped.setdefault(role, []).append(entry["name"])
        else:
            shards[names[entry.get("file", 0)]][entry["name"]] = scratch.tensor(
                role, entry.get("same_as", entry["name"])
            )
    target = partial / _plain(record["path"])
    if folder:
        target.mkdir()
    for name, tensors in shards.items():
        path = target / name if folder else target
        if record["format"] == "safetensors":
            write_safetensors(path, tensors, metadata={"format": "pt"})
        else:
            write_torch(path, {**record["extra"], "model": tensors} if record["extra"] else tensors)
        result.files[path.relative_to(partial).as_posix()] = len(tensors)
    if folder and len(shards) > 1 and role in result.dropped:  # otherwise the original index is copied
        index = {
            "metadata": {"total_size": sum(t.nbytes for tensors in shards.values() for t in tensors.values())},
            "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (target / _INDEX["safetensors" if record["format"] == "safetensors" else "torch"]).write_text(text)


def _plain(name: str) -> str:
    """A file name that cannot lead out of the folder."""
    if pathlib.PurePath(name).name != name or name in ("", ".", ".."):
        raise ExportError(f"{checkpoint.MANIFEST}: the file name {name!r} leads out of the folder; refused")
    return name


def _originals(weights: pathlib.Path, partial: pathlib.Path, roles: set[str]) -> None:
    """config.json and the like, and the tokenizer, beside the weights that they belong to."""
    for path in sorted((weights / "originals").glob("*/*")):
        target = partial / path.parent.name / path.name
        if path.parent.name in roles and target.parent.is_dir() and not target.exists():
            shutil.copyfile(path, target)
    if "llama" in roles and (weights / "tokenizer.model").is_file():
        shutil.copyfile(weights / "tokenizer.model", partial / "llama" / "tokenizer.model")
