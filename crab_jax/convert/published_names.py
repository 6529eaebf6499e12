"""A run of `launch.train` → the PyTorch file that the reference would have written for its stage."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crab_jax.backbones.mask_decoder import PE_TENSORS
from crab_jax.checkpoint import CheckpointError
from crab_jax.convert.crab import CRAB_FILES, VOCABULARY, table
from crab_jax.convert.engine import export_rule
from crab_jax.convert.runs import Moved, Whole, read_whole
from crab_jax.convert.tensors import Tensor
from crab_jax.convert.torch_format import write_torch
from crab_jax.folders import check_space
from crab_jax.weights import Rule

# Stage → the role of its file in `CRAB_FILES`.
ROLES = {
    "visual_pretrain": "visual_pretrain", "audio_pretrain": "audio_pretrain", "seg_pretrain": "segmentation_pretrain",
    "finetune": "finetune", "finetune_avs": "avs", "finetune_avss": "avss",
}  # fmt: skip
_PART_NAMES = {"vl_projector": "vl_projector.", "al_projector": "al_projector.", "mask_decoder": "seg_module."}
# Pretraining saves the bare model, finetuning the one that PEFT has wrapped. Source: specification 2.2.
_BARE, _WRAPPED = "", "base_model.model."
_OWN = {
    "visual_pretrain": ("vl_projector",), "audio_pretrain": ("al_projector",),
    "segmentation_pretrain": ("mask_decoder",), "finetune": ("vl_projector", "al_projector", "llama", "mask_decoder"),
    "avs": ("mask_decoder", "vocabulary"), "avss": ("mask_decoder", "vocabulary"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Written:
    """A file of a run.

    Attributes:
        path: of the file.
        tensors: how many it holds.
        unread: how many of them no network reads; they come from the base.
        missing: tensors of the published file that no network reads and that nobody had.
    """

    path: pathlib.Path
    tensors: int
    unread: int
    missing: int


def export_run(
    run: str | os.PathLike,
    out: str | os.PathLike,
    *,
    moved: Moved | None = None,
    overwrite: bool = False,
    planned: Callable[[int], Any] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Written:
    """Writes what a run has trained under the published names.

    Beside the trained tensors, the file of a mask decoder holds the two frequency matrices that it was trained with
    (the reference never saves them: Q-2; both readers take them), and tensors that no network reads are taken over from
    the base if it was converted with them.

    Args:
        run: workdir or checkpoint.
        out: folder; the file in it has the published name of the stage. The files of several stages may lie together.
        moved: see `read_whole`.
        overwrite: replace a file of that name.
        planned: called once with the number of bytes.
        progress: called with numbers of bytes.

    Raises:
        CheckpointError: the run cannot be read, or trains what the published file has no place for; or the file exists.
    """
    whole = read_whole(run, moved=moved, check=False)
    if whole.stage not in ROLES:
        raise CheckpointError(f"{run}: expected a run of {', '.join(ROLES)}, found {whole.stage or 'a weights folder'}")
    role = ROLES[whole.stage]
    target = pathlib.Path(os.path.abspath(out)) / CRAB_FILES[role]
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target}: exists; choose another folder, or --overwrite to replace it")
    _check_places(run, whole, role)
    tensors, unread, missing = _tensors(whole, role)
    size = sum(x.nbytes for x in tensors.values())
    check_space(target.parent, size, what=f"the file {target}")
    if planned is not None:
        planned(size)
    told = {name: _told(x, progress or (lambda _: None)) for name, x in tensors.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as folder:
        partial = pathlib.Path(folder) / target.name  # the name of the file is written into it
        write_torch(partial, told)
        os.replace(partial, target)
    return Written(target, len(tensors), unread, missing)


def _check_places(run: str | os.PathLike, whole: Whole, role: str) -> None:
    """Every trained parameter must find its way back from this file."""
    accidents = ("vocabulary",) if role.endswith("pretrain") else ()  # written, and ignored by every reader
    odd = [p for p in sorted(whole.trained) if not {_group(p), p.split("/", 1)[0]} & {*_OWN[role], *accidents}]
    if odd:
        raise CheckpointError(
            f"{run}: trains {len(odd)} parameters that {CRAB_FILES[role]} has no place for, such as {odd[0]}; make a "
            "weights folder of it instead: crab convert RUN --out DIR"
        )


def _group(path: str) -> str:
    vocabulary = path.startswith(("llama/embed/", "llama/head/"))
    return "vocabulary" if vocabulary else path.split("/", 1)[0]


def _tensors(whole: Whole, role: str) -> tuple[dict[str, Tensor], int, int]:
    """Name → tensor in the order of the modules of the reference, and how many unread ones are there and are not."""
    wrapped = _BARE if role.endswith("pretrain") else _WRAPPED
    found: dict[str, Tensor] = {}
    unread = missing = 0
    for part in ("llama", "vl_projector", "al_projector", "mask_decoder"):
        trained = {p for p in whole.trained if p.startswith(f"{part}/")}
        if not trained:
            continue
        rules = table(part, getattr(whole.config, part))
        chosen = [rule for rule in rules.rules if f"{part}/{rule.path}" in trained]
        if part == "mask_decoder":
            chosen += [Rule(path, name) for path, name in PE_TENSORS.items()]
        mine: dict[str, Tensor] = {}
        for rule in chosen:
            mine |= _split(rule, whole.params[f"{part}/{rule.path}"])
        for key, shape in rules.unused.items():
            kept = whole.kept.get((part, key))
            if kept is not None and kept.shape == shape:
                mine[key], unread = kept, unread + 1
            else:
                missing += 1
        for key in sorted(mine, key=_layer):
            at = wrapped if key == "lm_head.weight" else f"{wrapped}model."
            found[f"{at}{_PART_NAMES.get(part, '')}{key}"] = mine[key]
    last = [name for name in found if name.endswith("lm_head.weight")]
    return {**{n: x for n, x in found.items() if n not in last}, **{n: found[n] for n in last}}, unread, missing


def _layer(key: str) -> tuple[int, int]:
    """The embedding, then layer by layer; the order inside a layer stays."""
    number = re.match(r"layers\.(\d+)\.", key)
    return (1, int(number[1])) if number else (0 if key == VOCABULARY[0] else 2, 0)


def _split(rule: Rule, stacked: Tensor) -> Mapping[str, Tensor]:
    """The PyTorch tensors of one parameter, cut out of it when they are wanted."""
    value = np.asarray(stacked)  # of a run, so it is in memory
    return {key: _laid_out(x) for key, x in export_rule(rule, value)}


def _laid_out(x: np.ndarray) -> Tensor:
    return Tensor(x.shape, x.dtype, lambda: np.ascontiguousarray(x))


def _told(x: Tensor, progress: Callable[[int], Any]) -> Tensor:
    def read() -> np.ndarray:
        value = np.asarray(x)
        progress(x.nbytes)
        return value

    return dataclasses.replace(x, read=read)
