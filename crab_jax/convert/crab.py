"""What each published file holds, and where each of its tensors belongs. Only headers are read here."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from crab_jax.backbones import beats, clip, llama, mask_decoder, qformer
from crab_jax.convert.report import Report
from crab_jax.convert.sources import Source, SourceError, Tensor, open_source
from crab_jax.weights import WeightTable

# Role → published file name, in the order of precedence: a later file replaces tensors of an earlier one.
CRAB_FILES = {
    "visual_pretrain": "visual_pretrain.bin",
    "audio_pretrain": "audio_pretrain.bin",
    "segmentation_pretrain": "segmentation_pretrain.bin",
    "finetune": "finetune_weights.bin",
    "avs": "avs_finetune_weights.bin",
    "avss": "avss_finetune_weights.bin",
}
PUBLIC = ("llama", "clip", "beats")
OVERLAYS = ("avs", "avss")  # each replaces the mask decoder and both vocabulary matrices, for its own tasks
VOCABULARY = ("embed_tokens.weight", "lm_head.weight")
KINDS = {"vl_projector": "visual", "al_projector": "audio"}

_QUERIES = "mask_decoder.avs_query_tokens.weight"
# What a file must hold to be the file it is given as: role → part → a key that is always there.
_SIGNS: Mapping[str, Mapping[str, str]] = {
    "visual_pretrain": {"vl_projector": "visual_query_tokens"},
    "audio_pretrain": {"al_projector": "audio_query_tokens"},
    "segmentation_pretrain": {"mask_decoder": _QUERIES},
    "finetune": {
        "vl_projector": "visual_query_tokens",
        "al_projector": "audio_query_tokens",
        "llama": "layers.0.self_attn.q_proj.lora_route.weight",
    },
    "avs": {"mask_decoder": _QUERIES},
    "avss": {"mask_decoder": _QUERIES},
}
_PART_OF = {"vl_projector": "vl_projector", "al_projector": "al_projector", "seg_module": "mask_decoder"}
_LLAMA = ("layers", "embed_tokens", "norm", "lm_head")
_DISCARDED = "matrices that the pretrain stages trained by accident and the reference discards (Q-31)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files of one model; any subset.

    Attributes:
        strays: files beside Crab's that were found and not understood; they are reported.
    """

    llama: pathlib.Path | None = None
    clip: pathlib.Path | None = None
    beats: pathlib.Path | None = None
    visual_pretrain: pathlib.Path | None = None
    audio_pretrain: pathlib.Path | None = None
    segmentation_pretrain: pathlib.Path | None = None
    finetune: pathlib.Path | None = None
    avs: pathlib.Path | None = None
    avss: pathlib.Path | None = None
    strays: tuple[pathlib.Path, ...] = ()

    def roles(self) -> dict[str, pathlib.Path]:
        """The files that are given, in the order of precedence."""
        return {r: path for r in (*PUBLIC, *CRAB_FILES) if (path := getattr(self, r)) is not None}


@dataclasses.dataclass(frozen=True)
class Found:
    """A tensor, with the file that it was found in."""

    role: str
    name: str
    tensor: Tensor


@dataclasses.dataclass
class Files:
    """All tensors of all files, sorted.

    Attributes:
        sources: role → file.
        base: part → key → the tensor that wins.
        overlays: "avs", "avss" → part → key → tensor.
    """

    sources: dict[str, Source]
    base: dict[str, dict[str, Found]] = dataclasses.field(default_factory=dict)
    overlays: dict[str, dict[str, dict[str, Found]]] = dataclasses.field(default_factory=dict)

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Key → tensor of one part of the base."""
        return {key: found.tensor for key, found in self.base.get(part, {}).items()}


def strip(name: str) -> str:
    """A tensor's name without the prefixes of the objects that it was saved from. Source: specification 13.1."""
    for prefix in ("module.", "base_model.model.", "model."):
        name = name.removeprefix(prefix)
    return name


def locate(role: str, name: str) -> tuple[str, str] | None:
    """Part and key of a tensor, or None if its name begins like nothing known."""
    if role in ("clip", "beats"):
        return role, name
    bare = strip(name)
    first, _, rest = bare.partition(".")
    if first in _LLAMA or role == "llama":
        return "llama", bare
    return (_PART_OF[first], rest) if first in _PART_OF else None


def table(part: str, config: Any) -> WeightTable:
    """The names of one part; `part` is a field of `CrabConfig`."""
    if part in KINDS:
        return qformer.weight_table(config, kind=KINDS[part])
    return {"llama": llama, "clip": clip, "beats": beats, "mask_decoder": mask_decoder}[part].weight_table(config)


def vocabulary_table(rows: int, width: int) -> WeightTable:
    """The two matrices of an overlay, under the rules of the language model."""
    config = llama.LlamaConfig(
        vocab_size=rows, hidden_size=width, intermediate_size=1, num_layers=1, num_heads=1, num_kv_heads=1,
        max_positions=1, rms_norm_eps=1.0, rope_theta=1.0, lora=None,
    )  # fmt: skip
    return WeightTable(tuple(r for r in llama.weight_table(config).rules if r.key in VOCABULARY))


def sort_files(inputs: Inputs, report: Report) -> Files:
    """Opens all files and sorts their tensors.

    Raises:
        ConversionError: a file cannot be opened; all of those are listed, since nothing can be said about the rest.
    """
    roles = inputs.roles()
    if not roles:
        report.problems.append("no files given: name at least one of " + ", ".join((*PUBLIC, *CRAB_FILES)))
    sources = {}
    for role, path in roles.items():
        try:
            sources[role] = open_source(path)
        except SourceError as error:
            report.problems.append(f"{role}: {error}")
    report.raise_if_fatal()
    files = Files(sources, overlays={role: {} for role in OVERLAYS if role in sources})
    for role, source in sources.items():
        held = _sort(files, role, source, report)
        absent = [part for part, key in _SIGNS.get(role, {}).items() if (part, key) not in held]
        if absent:
            report.problems.append(
                f"{role}: {source.path} holds nothing of {', '.join(absent)} (it begins with "
                f"{', '.join(source.names()[:3])}); is it another file?"
            )
    return files


def _sort(files: Files, role: str, source: Source, report: Report) -> dict[tuple[str, str], str]:
    """Puts the tensors of one file into `files`; returns place → name."""
    held: dict[tuple[str, str], str] = {}
    for name, tensor in source.tensors.items():
        place = locate(role, name)
        if place is None or (role in OVERLAYS and place[0] != "mask_decoder" and place[1] not in VOCABULARY):
            report.unexpected.setdefault(role, []).append(name)
            continue
        part, key = place
        found = Found(role, name, tensor)
        if place in held:
            report.problems.append(f"{source.path}: {name} and {held[place]} are the same tensor")
        held[place] = name
        if role in OVERLAYS:
            files.overlays[role].setdefault(part, {})[key] = found
        elif role.endswith("pretrain") and key in VOCABULARY:
            report.ignore(_DISCARDED, f"{role}: {name}")
        else:
            before = files.base.setdefault(part, {}).get(key)
            if before is not None:
                report.superseded.append(f"{before.role}: {before.name} (by {role})")
            files.base[part][key] = found
    return held
