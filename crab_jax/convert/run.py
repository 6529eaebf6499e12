"""Published files → weights folder, in one call."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from crab_jax import checkpoint
from crab_jax.convert import model_config
from crab_jax.convert.crab import CRAB_FILES, Inputs
from crab_jax.convert.model_config import ModelNumbers
from crab_jax.convert.plan import Keep, Plan, make_plan
from crab_jax.convert.report import Report
from crab_jax.convert.sources import SourceError
from crab_jax.convert.unsaved import Rows
from crab_jax.folders import check_space

_WEIGHT_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")


def find_crab_files(folder: str | os.PathLike) -> dict[str, Any]:
    """Crab's files in a folder, under their published names.

    Returns:
        Role → path, and "strays": other weight files in the folder.

    Raises:
        SourceError: no such folder, or none of the files in it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"--crab {folder}: no such folder")
    found: dict[str, Any] = {r: folder / name for r, name in CRAB_FILES.items() if (folder / name).is_file()}
    others = sorted(p for p in folder.iterdir() if p.suffix in _WEIGHT_SUFFIXES and p not in found.values())
    if not found:
        names = ", ".join(p.name for p in others) or "no weight files"
        raise SourceError(f"--crab {folder}: expected some of {', '.join(CRAB_FILES.values())}; found {names}")
    return found | {"strays": tuple(others)}


def convert(
    inputs: Inputs,
    out: str | os.PathLike,
    *,
    numbers: ModelNumbers | None = None,
    new_rows: Rows | None = None,
    pe: str | None = None,
    dtype: Any = None,
    keep: Keep = "all",
    overwrite: bool = False,
    progress: Callable[[int], Any] | None = None,
    planned: Callable[[Plan, int], Any] | None = None,
) -> Report:
    """Converts the published files.

    Args:
        inputs: the files; see `find_crab_files`.
        out: the new weights folder.
        numbers: what no file carries; None: the published model.
        new_rows, pe, dtype, keep: see `make_plan`.
        overwrite: replace an existing weights folder.
        progress: called with numbers of bytes.
        planned: called once with the plan and the number of bytes that `progress` will be given in all.

    Raises:
        ConversionError: everything that is wrong with the files.
        CheckpointError: the folder exists, or the disk is too small.
    """
    checkpoint.check_target(out, overwrite=overwrite)
    plan = make_plan(
        inputs, model_config.load() if numbers is None else numbers, new_rows=new_rows, pe=pe, dtype=dtype, keep=keep
    )
    progress = progress or (lambda _: None)
    if planned is not None:
        planned(plan, plan.nbytes + sum(weight["size"] for record in plan.files for weight in record["weights"]))
    check_space(pathlib.Path(out), plan.nbytes, what=f"the weights folder {out}")
    for record, path in zip(plan.files, inputs.roles().values(), strict=True):
        for weight in record["weights"]:
            weight["sha256"] = _digest(path / weight["name"] if path.is_dir() else path, progress)
    checkpoint.save(
        out,
        config=plan.config,
        params=plan.params,
        overlays=plan.overlays,
        overlay_configs=plan.overlay_configs,
        kept=plan.kept,
        tokenizer=plan.tokenizer,
        files=plan.files,
        report=plan.report.to_dict(),
        originals=plan.originals,
        overwrite=overwrite,
        progress=progress,
    )
    return plan.report


def _digest(path: pathlib.Path, progress: Callable[[int], Any]) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(8 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            progress(count)
    return digest.hexdigest()
