"""Tiny random models as files in the published formats, written by PyTorch."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import torch
from models import tiny_config

from crab_jax.convert import infer
from crab_jax.convert.crab import CRAB_FILES, Inputs, table
from crab_jax.convert.engine import export_rule
from crab_jax.convert.model_config import ModelNumbers
from crab_jax.convert.sources import write_safetensors
from crab_jax.convert.unsaved import PE_TENSORS
from crab_jax.model import ADDED_TOKENS, CrabConfig

BASE = 40  # pieces of the tokenizer
OVERLAY_QUERIES = {"avs": 9, "avss": 11}  # the base has another number, as the published files may


def config() -> CrabConfig:
    """A toy whose parts all differ from each other."""
    c = tiny_config()
    return dataclasses.replace(
        c,
        llama=dataclasses.replace(c.llama, vocab_size=BASE + ADDED_TOKENS),
        vl_projector=dataclasses.replace(c.vl_projector, num_queries=5, proj_depth=3),
        al_projector=dataclasses.replace(c.al_projector, num_layers=3, num_queries=7),
    )


def numbers(c: CrabConfig) -> ModelNumbers:
    """The model config that belongs to `c`."""
    from crab_jax.config import build, to_dict

    values = to_dict(c)

    def pick(part: str, *names: str):
        return {name: values[part][name] for name in names}

    projector = ("num_heads", "layer_norm_eps", "input_norm_eps", "hidden_act", "dropout", "cross_attention_freq")
    return build(
        ModelNumbers,
        {
            "base_vocabulary": c.llama.vocab_size - ADDED_TOKENS,
            "clip_taps": values["clip"]["taps"],
            "lora": {n: values["llama"]["lora"][n] for n in ("alpha", "dropout", "dropout_masks")},
            "vl_projector": pick("vl_projector", *projector),
            "al_projector": pick("al_projector", *projector),
            "mask_decoder": pick(
                "mask_decoder",
                "num_heads",
                "query_heads",
                "low_res",
                "levels",
                "tokens_per_level",
                "grid",
                "image_size",
            ),
        },
    )


def state(part: str, c, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A random state dict of one part, with what the network never reads; names as in the weight table."""
    rules, shapes = table(part, c), infer.shapes(part, c)
    out = {}
    for rule in rules.rules:
        for key, x in export_rule(rule, rng.standard_normal(shapes[rule.path], np.float32)):
            out[key] = np.ascontiguousarray(x)
    return out | {key: rng.standard_normal(shape, np.float32) for key, shape in rules.unused.items()}


def to_torch(x: np.ndarray) -> torch.Tensor:
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def from_torch(x: torch.Tensor) -> np.ndarray:
    import ml_dtypes

    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def save(path: pathlib.Path, tensors: Mapping[str, np.ndarray], *, legacy: bool = False) -> None:
    torch.save({k: to_torch(x) for k, x in tensors.items()}, path, _use_new_zipfile_serialization=not legacy)


def tokenizer_model(pieces: int) -> bytes:
    """The smallest SentencePiece model with that many pieces (a ModelProto by hand)."""

    def field(number: int, value: bytes) -> bytes:
        size, head = len(value), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + head + bytes([size]) + value

    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    names = [*kinds, *(f"p{i}" for i in range(pieces - len(kinds)))]
    model = b""
    for name in names[:pieces]:
        model += field(
            1, field(1, name.encode()) + b"\x15" + np.float32(-1).tobytes() + bytes([0x18, kinds.get(name, 1)])
        )
    return model


@dataclasses.dataclass
class Published:
    """A folder of files.

    Attributes:
        folder: holds llama/, clip/, BEATs.pt and crab/.
        config: of the base model; a segmentation pretrain file has its number of queries.
        tensors: role → name in the file → array, in the order of the file.
    """

    folder: pathlib.Path
    config: CrabConfig
    tensors: dict[str, dict[str, np.ndarray]]

    def path(self, role: str) -> pathlib.Path:
        named = {"llama": "llama", "clip": "clip", "beats": "BEATs.pt"}
        return self.folder / named.get(role, f"crab/{CRAB_FILES.get(role)}")

    def inputs(self, *roles: str) -> Inputs:
        """All files, or those of some roles."""
        return Inputs(**{role: self.path(role) for role in (roles or self.tensors)})

    def rewrite(self, role: str, change) -> None:
        """Changes the tensors of one of Crab's files in place; `change` gets name → array."""
        change(self.tensors[role])
        save(self.path(role), self.tensors[role])

    def overlay_config(self, role: str):
        return dataclasses.replace(self.config.mask_decoder, num_queries=OVERLAY_QUERIES[role])


def write(
    folder: pathlib.Path, *, seed: int = 0, llama_dtype=np.float16, llama_format: str = "safetensors"
) -> Published:
    """Writes a whole set of files.

    Args:
        folder: new folder.
        seed: of the values.
        llama_dtype: of the language model.
        llama_format: "safetensors" (two shards), "bin" (two shards) or "single".
    """
    rng, c = np.random.default_rng(seed), config()
    (folder / "crab").mkdir(parents=True)
    made = Published(folder, c, {})
    _llama(made, rng, llama_dtype, llama_format)
    _clip(made, rng)
    _beats(made, rng)

    lora = {k: x for k, x in state("llama", c.llama, rng).items() if "lora" in k}
    projectors = {
        role: {f"{part}.{k}": x for k, x in state(part, getattr(c, part), rng).items()}
        for role, part in (("visual_pretrain", "vl_projector"), ("audio_pretrain", "al_projector"))
    }
    stray = rng.standard_normal((3, c.llama.hidden_size), np.float32)
    for role, tensors in projectors.items():
        made.tensors[role] = {"model.embed_tokens.weight": stray} | {f"model.{k}": x for k, x in tensors.items()}
    seg = state("mask_decoder", c.mask_decoder, rng)
    made.tensors["segmentation_pretrain"] = {f"model.seg_module.{k}": x for k, x in seg.items()}
    joint = lora | {
        f"{part}.{k}": x
        for part in ("vl_projector", "al_projector")
        for k, x in state(part, getattr(c, part), rng).items()
    }
    made.tensors["finetune"] = {f"base_model.model.model.{k}": x for k, x in joint.items()}
    for role in ("avs", "avss"):
        rows = (c.llama.vocab_size, c.llama.hidden_size)
        seg = state("mask_decoder", made.overlay_config(role), rng)
        made.tensors[role] = {
            "base_model.model.model.embed_tokens.weight": rng.standard_normal(rows, np.float32),
            **{f"base_model.model.model.seg_module.{k}": x for k, x in seg.items()},
            "base_model.model.lm_head.weight": rng.standard_normal(rows, np.float32),
        }
    for role in CRAB_FILES:
        save(made.path(role), made.tensors[role])
    return made


def _llama(made: Published, rng, dtype, kind: str) -> None:
    folder, c = made.folder / "llama", made.config.llama
    folder.mkdir()
    tensors = {k: x.astype(dtype) for k, x in state("llama", c, rng).items() if "lora" not in k}
    for key in ("embed_tokens.weight", "lm_head.weight"):
        tensors[key] = tensors[key][:BASE].copy()
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    tensors = {(k if k.startswith("lm_head") else f"model.{k}"): x for k, x in tensors.items()}
    names = list(tensors)
    halves = [names] if kind == "single" else [names[: len(names) // 2], names[len(names) // 2 :]]
    if kind == "bin":
        files = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
        index = "pytorch_model.bin.index.json"
    else:
        files = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)] if len(halves) > 1 else ["model.safetensors"]
        index = "model.safetensors.index.json"
    for file, half in zip(files, halves, strict=True):
        chosen = {n: tensors[n] for n in half}
        if kind == "bin":
            save(folder / file, chosen)
        else:
            write_safetensors(folder / file, chosen, metadata={"format": "pt"})
    if len(files) > 1:
        places = {n: file for file, half in zip(files, halves, strict=True) for n in half}
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    made.tensors["llama"] = tensors
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "vocab_size": BASE, "hidden_size": c.hidden_size,
                "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_layers,
                "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads,
                "max_position_embeddings": c.max_positions, "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope_theta,
                "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float16",
            }
        )
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(tokenizer_model(BASE))


def _clip(made: Published, rng) -> None:
    folder, c = made.folder / "clip", made.config.clip
    folder.mkdir()
    tensors = state("clip", c, rng)
    tensors["text_model.final_layer_norm.weight"] = rng.standard_normal(3, np.float32)
    tensors["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    tensors["vision_model.post_layernorm.weight"] = rng.standard_normal(c.hidden_size, np.float32)
    tensors[f"vision_model.encoder.layers.{c.num_layers - 1}.mlp.fc1.bias"] = np.ones(c.intermediate_size, np.float32)
    tensors["logit_scale"] = np.asarray(2.5, np.float32)
    made.tensors["clip"] = tensors
    write_safetensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
    vision = {
        "image_size": c.image_size, "patch_size": c.patch_size, "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
        "layer_norm_eps": c.layer_norm_eps, "hidden_act": c.hidden_act,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))


def beats_cfg(c) -> dict:
    cfg = dataclasses.asdict(c) | dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "dropout_input"), 0.0
    )
    return cfg | {"encoder_layerdrop": 0.05, "finetuned_model": True, "predictor_class": 3}


def _beats(made: Published, rng) -> None:
    c = made.config.beats
    tensors = state("beats", c, rng) | {"predictor.weight": rng.standard_normal((3, c.encoder_embed_dim), np.float32)}
    shared = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    torch_tensors = {k: to_torch(x) for k, x in tensors.items()}
    for i in range(1, c.encoder_layers):
        tensors[shared.format(i)] = tensors[shared.format(0)]
        torch_tensors[shared.format(i)] = torch_tensors[shared.format(0)]
    made.tensors["beats"] = tensors
    torch.save({"cfg": beats_cfg(c), "model": torch_tensors}, made.path("beats"))


def frequencies(c: CrabConfig, seed: int = 7) -> dict[str, np.ndarray]:
    """Arrays for `--pe FILE`, under the names of a whole state dict."""
    rng = np.random.default_rng(seed)
    shape = (2, c.mask_decoder.prompt_dim // 2)
    return {
        f"base_model.model.model.seg_module.{n}": rng.standard_normal(shape, np.float32) for n in PE_TENSORS.values()
    }
