"""The tiny model of the recorded whole-model cases (c07, c09), built from their manifests alone."""

from __future__ import annotations

import functools
import json
import pathlib

import numpy as np
from goldens import Case
from torch_weights import load

from crab_jax.backbones import beats, clip, llama, mask_decoder, qformer
from crab_jax.backbones.llama import LoraConfig
from crab_jax.backbones.mask_decoder import MaskDecoderConfig
from crab_jax.backbones.qformer import QFormerConfig
from crab_jax.batch import Example
from crab_jax.layout import Layout
from crab_jax.model import ADDED_TOKENS, CrabConfig


def config_of(case: Case) -> CrabConfig:
    """All sizes of the recorded model, from the manifest."""
    c, d = case.config, case.config["derived"]
    taps = tuple(c["select_layer_list"])
    clip_config = clip.config_from_original({"model_type": "clip_vision_model"} | c["clip"], taps=taps)
    beats_config = beats.config_from_original(c["beats"])

    def projector(width, queries):
        b = c["bert"]
        return QFormerConfig(
            encoder_width=width, num_queries=queries, hidden_size=b["hidden_size"], num_heads=b["num_attention_heads"],
            intermediate_size=b["intermediate_size"], num_layers=d["qformer_num_hidden_layers"],
            cross_attention_freq=d["qformer_cross_attention_freq"], layer_norm_eps=b["layer_norm_eps"],
            input_norm_eps=1e-5, hidden_act=d["qformer_hidden_act"], dropout=0.0,
            out_features=c["llama"]["hidden_size"], proj_depth=d["projector_mlp_depth"], vocab_size=b["vocab_size"],
            max_positions=b["max_position_embeddings"],
        )  # fmt: skip

    lora = LoraConfig(heads=c["lora"]["lora_nums"], rank=c["lora"]["r"], alpha=c["lora"]["lora_alpha"], dropout=0.0)
    s = c["seg"]
    return CrabConfig(
        llama=llama.config_from_original(c["llama"], vocab_size=c["vocab"] + ADDED_TOKENS, lora=lora),
        clip=clip_config,
        beats=beats_config,
        vl_projector=projector(clip_config.hidden_size, c["visual_query_token_nums"]),
        al_projector=projector(beats_config.encoder_embed_dim, c["audio_query_token_nums"]),
        mask_decoder=MaskDecoderConfig(
            in_features=c["llama"]["hidden_size"], image_features=clip_config.hidden_size,
            grid=d["image_embedding_size"], image_size=clip_config.image_size, low_res=s["low_res_mask_size"],
            prompt_dim=s["prompt_embed_dim"], num_heads=d["seg_two_way_heads"], mlp_dim=d["seg_two_way_mlp_dim"],
            downsample=d["seg_attention_downsample_rate"], depth=s["mask_decoder_transformer_depth"],
            num_queries=s["avs_query_num"], query_layers=s["query_generator_num_layers"],
            query_heads=d["query_generator_heads"], query_mlp_dim=d["query_generator_hidden_dim"],
            levels=s["image_scale_nums"], tokens_per_level=s["token_nums_per_scale"],
            binary_classes=s["num_classes"], semantic_classes=71,
        ),
    )  # fmt: skip


def tables(config: CrabConfig):
    """part → (weight table, prefix of its names once the wrapper's prefixes are gone)."""
    return {
        "vl_projector": (qformer.weight_table(config.vl_projector, kind="visual"), "vl_projector."),
        "al_projector": (qformer.weight_table(config.al_projector, kind="audio"), "al_projector."),
        "mask_decoder": (mask_decoder.weight_table(config.mask_decoder), "seg_module."),
        "llama": (llama.weight_table(config.llama), ""),
    }


def strip(name: str) -> str:
    for prefix in ("module.", "base_model.model.", "model."):
        name = name.removeprefix(prefix)
    return name


def params_of(case: Case, config: CrabConfig):
    """Parameters of the recorded model, flat, from `c09_weights` and the folders beside it."""
    return dict(_params(case.folder, config))


@functools.lru_cache(maxsize=2)
def _params(folder: pathlib.Path, config: CrabConfig):
    import torch
    from safetensors.numpy import load_file

    weights = {strip(k): v for k, v in Case(folder / "c09_weights.json").arrays.items()}
    flat = {}
    prefixes = tuple(prefix for _, prefix in tables(config).values() if prefix)
    absent = {
        "seg_module.pe_layer.positional_encoding_gaussian_matrix": 0,
        "seg_module.mask_decoder.pe1.positional_encoding_gaussian_matrix": 1,
    }
    for part, (table, prefix) in tables(config).items():
        chosen = {k: v for k, v in weights.items() if (k.startswith(prefix) if prefix else not k.startswith(prefixes))}
        chosen = {k: v for k, v in chosen.items() if k not in absent}
        flat |= {f"{part}/{path}": leaf for path, leaf in load(table, chosen, prefix).items()}
    pe = sorted(f"mask_decoder/{path}" for path in mask_decoder.weight_table(config.mask_decoder).absent)
    for name, level in absent.items():
        flat[pe[level]] = weights[name]
    vision = load_file(folder / "hf" / "clip" / "model.safetensors")
    flat |= {f"clip/{p}": x for p, x in load(clip.weight_table(config.clip), vision).items()}
    (file,) = (folder / "hf" / "beats").glob("*.pt")
    audio = {k: v.numpy() for k, v in torch.load(file, weights_only=True)["model"].items()}
    flat |= {f"beats/{p}": x for p, x in load(beats.weight_table(config.beats), audio).items()}
    return flat


def to_torch(part: str, config: CrabConfig, flat) -> dict[str, np.ndarray]:
    """Parameters (or gradients) of one part under their published names, prefix `base_model.model.model.`."""
    table, prefix = tables(config)[part]
    out = {}
    for rule in table.rules:
        for index, key in rule.keys():
            wrapper = "base_model.model." if key.startswith("lm_head") else "base_model.model.model."
            out[f"{wrapper}{prefix}{key}"] = rule.op.save(np.asarray(flat[f"{part}/{rule.path}"])[index])
    return out


def example(
    case: Case, prefix: str, config: CrabConfig, *, semantic: bool = False, with_target: bool = True
) -> Example:
    """`batch/0` and the like: recorded ids and media → `Example`, placeholders expanded."""
    ids = config.token_ids
    tokens, labels = case[f"{prefix}/input_ids"], case[f"{prefix}/labels"]

    def media(tag, ndim):
        if f"{prefix}/{tag}" not in case:
            return None
        x = case[f"{prefix}/{tag}"].astype(np.float32)
        return x if x.ndim == ndim else x[None]

    image, video, audio = media("<image>", 4), media("<video>", 4), media("<audio>", 3)
    visual = {ids.visual[0]: image, ids.visual[1]: video}
    frames, expanded, image_at = [], [], 0
    for token in tokens.tolist():
        if token in visual:
            if token == ids.visual[0]:
                image_at = sum(map(len, frames))
            frames.append(visual[token])
            expanded += [token] * (len(visual[token]) * config.vl_projector.num_queries)
        elif token == ids.audio:
            expanded += [token] * (len(audio) * config.al_projector.num_queries)
        else:
            expanded.append(token)
    target = tokens[labels >= 0].tolist() if with_target else []
    prompt = expanded[: len(expanded) - int((labels >= 0).sum())]
    mask = case[f"{prefix}/<mask>"][0] if f"{prefix}/<mask>" in case else None
    return Example(
        name=f"{case.name}/{prefix}",
        prompt=prompt,
        target=target,
        frames=np.concatenate(frames).transpose(0, 2, 3, 1) if frames else None,
        fbank=audio,
        mask=mask,
        mask_frame=image_at,
        mask_semantic=semantic,
    )


def layout_of(examples, *, tokens: int | None = None) -> Layout:
    """The smallest layout that holds the examples."""
    return Layout(
        tokens=tokens or max(len(e.prompt) + len(e.target) for e in examples),
        frames=max(0 if e.frames is None else len(e.frames) for e in examples),
        windows=max(0 if e.fbank is None else len(e.fbank) for e in examples),
        patch_rows=max(0 if e.fbank is None else e.fbank.shape[1] // 16 for e in examples),
        masks=1 if any(e.mask is not None for e in examples) else 0,
    )


def task_names(case: Case, group: str) -> list[str]:
    return json.loads(json.dumps(case.config["batches"][group]["batch_task_names"]))
