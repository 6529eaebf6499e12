"""Opens weight files and Hugging Face folders: safetensors and PyTorch, single or sharded, told apart by content."""

from __future__ import annotations

import json
import os
import pathlib
import re

from crab_jax.convert.safetensors_format import read_safetensors, write_safetensors
from crab_jax.convert.tensors import HEADER_LIMIT, Source, SourceError, Tensor, in_memory, short
from crab_jax.convert.torch_format import LEGACY_HEAD, read_legacy, read_zip, write_torch

__all__ = ["Source", "SourceError", "Tensor", "in_memory", "open_source", "write_safetensors", "write_torch"]


def open_source(path: str | os.PathLike) -> Source:
    """Opens a weight file or a Hugging Face folder; the kind of a file is told by its content, not by its name.

    Raises:
        SourceError: nothing there, an unknown or broken file, a missing shard.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    return _file(path)


# --- folders ----------------------------------------------------------------------------------------------------------


def _folder(folder: pathlib.Path) -> Source:
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            return _sharded(folder / index)
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return _as_folder(_file(folder / single), folder)
    for pattern in ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"):
        if shards := sorted(folder.glob(pattern)):
            return _without_index(folder, shards)
    if list(folder.glob("consolidated.*.pth")):
        raise SourceError(
            f"{folder}: holds the weights in Meta's own layout (consolidated.*.pth); "
            "download the Hugging Face form of the same model, whose name ends in -hf"
        )
    raise SourceError(
        f"{folder}: no weights here; expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
        f"pytorch_model.bin.index.json, found {_listing(folder)}"
    )


def _as_folder(source: Source, path: pathlib.Path) -> Source:
    """The same tensors, known under the name of their folder."""
    return Source(path, source.tensors, format=source.format, files=source.files, extra=source.extra)


def _listing(folder: pathlib.Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "an empty folder"


def _sharded(index: pathlib.Path) -> Source:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(places, dict) or not all(isinstance(x, str) for x in places.values()):
            raise TypeError("weight_map is not a table of file names")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(f"{index}: not a readable index of shards ({short(error)})") from error
    names = sorted(set(places.values()))
    if not names:
        raise SourceError(f"{index}: lists no shards; download the folder again")
    for name in names:
        if pathlib.PurePath(name).name != name or name in ("", ".", ".."):
            raise SourceError(f"{index}: the shard {name!r} lies outside of the folder; refused")
        if not name.isprintable():
            raise SourceError(f"{index}: a shard is called {name!r:.60}; refused")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise SourceError(f"{index.parent}: {len(absent)} of {len(names)} shards are missing: {', '.join(absent)}")
    source = _joined(index.parent, [index.parent / name for name in names])
    lost = [f"{tensor} (should be in {shard})" for tensor, shard in places.items() if tensor not in source.tensors]
    if lost:
        raise SourceError(f"{index.parent}: the index lists tensors that no shard holds: {', '.join(lost[:10])}")
    return source


def _without_index(folder: pathlib.Path, shards: list[pathlib.Path]) -> Source:
    counts = {int(m[1]) for p in shards if (m := re.search(r"-of-(\d+)\.", p.name))}
    if counts != {len(shards)}:
        raise SourceError(
            f"{folder}: found {len(shards)} shards of {max(counts, default=0)} and no index file "
            f"({', '.join(p.name for p in shards)}); download the folder again"
        )
    return _joined(folder, shards)


def _joined(folder: pathlib.Path, shards: list[pathlib.Path]) -> Source:
    tensors: dict[str, Tensor] = {}
    formats = set()
    for shard in shards:
        part = _file(shard)
        twice = sorted(set(part.tensors) & set(tensors))
        if twice:
            raise SourceError(f"{shard}: {twice[0]} is already held by {tensors[twice[0]].file}")
        tensors |= part.tensors
        formats.add(part.format)
    return Source(folder, tensors, format="safetensors" if formats == {"safetensors"} else "torch", files=shards)


def _file(path: pathlib.Path) -> Source:
    with path.open("rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    if not head:
        raise SourceError(f"{path}: the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return read_zip(path)
    if head.startswith(LEGACY_HEAD):
        return read_legacy(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(size - 8, HEADER_LIMIT):
        return read_safetensors(path)
    if head.startswith(b"version https://git-lfs"):
        raise SourceError(
            f"{path}: a Git LFS pointer ({size} bytes), not the weights; run `git lfs pull` in its repository"
        )
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise SourceError(f"{path}: a web page, not weights; the download needs a login or another address")
    if head.startswith(b"\x89HDF"):
        raise SourceError(f"{path}: an HDF5 file; expected PyTorch (.bin, .pt) or safetensors")
    if head[:1] == b"\x80":
        raise SourceError(f"{path}: a bare pickle, not a PyTorch file; save it again with torch.save")
    raise SourceError(
        f"{path}: neither a PyTorch nor a safetensors file (it begins with {bytes(head[:16])!r}, {size} bytes)"
    )
