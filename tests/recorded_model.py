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
from crab_jax.backbones.mask_decoder import PE_TENSORS, MaskDecoderConfig
from crab_jax.backbones.qformer import QFormerConfig
from crab_jax.batch import Example
from crab_jax.convert.crab import strip
from crab_jax.convert.sources import open_source
from crab_jax.layout import Layout
from crab_jax.model import ADDED_TOKENS, CrabConfig
from data_pipelines.examples import assemble

INPUT_NORM_EPS = 1e-5  # PyTorch's default, which no config of the reference writes down


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
            input_norm_eps=d.get("projector_layernorm_eps", INPUT_NORM_EPS), dropout=0.0,
            hidden_act=d["qformer_hidden_act"].split()[0],
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
            binary_classes=s["num_classes"], semantic_classes=_rows(case, "avss_classifier.weight"),
        ),
    )  # fmt: skip


def _rows(case: Case, ending: str) -> int:
    """First size of a weight that no config gives."""
    (shape,) = [t["shape"] for name, t in case.weights().tensors.items() if name.endswith(ending)]
    return shape[0]


def tables(config: CrabConfig):
    """part → (weight table, prefix of its names once the wrapper's prefixes are gone)."""
    return {
        "vl_projector": (qformer.weight_table(config.vl_projector, kind="visual"), "vl_projector."),
        "al_projector": (qformer.weight_table(config.al_projector, kind="audio"), "al_projector."),
        "mask_decoder": (mask_decoder.weight_table(config.mask_decoder), "seg_module."),
        "llama": (llama.weight_table(config.llama), ""),
    }


def params_of(case: Case, config: CrabConfig):
    """Parameters of the recorded model, flat, from the weights of the case and the folders beside it."""
    return dict(_params(case.weights().path, config))


def beats_file(folder: pathlib.Path) -> pathlib.Path:
    """The audio encoder beside the cases of a folder, whatever it is called."""
    (file,) = (p for p in (folder / "hf" / "beats").iterdir() if p.suffix in (".pt", ".pth", ".bin"))
    return file


@functools.lru_cache(maxsize=2)
def _params(manifest: pathlib.Path, config: CrabConfig):
    hf = manifest.parent / "hf"
    vision, audio = open_source(hf / "clip"), open_source(beats_file(manifest.parent))
    weights = {strip(k): v for k, v in Case(manifest).arrays.items()}
    flat = {f"mask_decoder/{path}": weights.pop(f"seg_module.{name}") for path, name in PE_TENSORS.items()}
    prefixes = tuple(prefix for _, prefix in tables(config).values() if prefix)
    for part, (table, prefix) in tables(config).items():
        chosen = {k: v for k, v in weights.items() if (k.startswith(prefix) if prefix else not k.startswith(prefixes))}
        flat |= {f"{part}/{path}": leaf for path, leaf in load(table, chosen, prefix).items()}
    for part, source in (("clip", vision), ("beats", audio)):
        tensors = {name: source.read(name) for name in source.names()}
        table = {"clip": clip, "beats": beats}[part].weight_table(getattr(config, part))
        flat |= {f"{part}/{path}": x for path, x in load(table, tensors).items()}
    return flat


def published_name(prefix: str, key: str) -> str:
    """The name of a tensor in the wrapped model of the reference."""
    return f"{'base_model.model.' if key.startswith('lm_head') else 'base_model.model.model.'}{prefix}{key}"


def to_torch(part: str, config: CrabConfig, flat) -> dict[str, np.ndarray]:
    """Parameters (or gradients) of one part under their published names, prefix `base_model.model.model.`."""
    table, prefix = tables(config)[part]
    return {
        published_name(prefix, key): rule.op.save(np.asarray(flat[f"{part}/{rule.path}"])[index])
        for rule in table.rules
        for index, key in rule.keys()
    }


def trainable_paths(case: Case, config: CrabConfig) -> list[str]:
    """Parameters that the recorded step trains: those whose published names the manifest lists."""
    listed = set(case.manifest["trainable"])
    return [
        f"{part}/{rule.path}"
        for part, (table, prefix) in tables(config).items()
        for rule in table.rules
        if any(published_name(prefix, key) in listed for _, key in rule.keys())
    ]


def example(
    case: Case, prefix: str, config: CrabConfig, *, semantic: bool = False, with_target: bool = True
) -> Example:
    """`batch/0` and the like: recorded ids and media → `Example`, placeholders expanded.

    Every occurrence of a tag stands for the same tensor. A picture without a tag in the text is segmented all the same;
    other media without a tag are not looked at.
    """
    ids = config.token_ids
    tokens, labels = case[f"{prefix}/input_ids"], case[f"{prefix}/labels"]

    def media(tag, ndim):
        if f"{prefix}/{tag}" not in case:
            return None
        x = case[f"{prefix}/{tag}"].astype(np.float32)
        return x if x.ndim == ndim else x[None]

    image, video, audio = media("<image>", 4), media("<video>", 4), media("<audio>", 3)
    image, video = (x if x is None else x.transpose(0, 2, 3, 1) for x in (image, video))
    return assemble(
        name=f"{case.name}/{prefix}",
        prompt=tokens[: len(tokens) - int((labels >= 0).sum())].tolist(),
        target=tokens[labels >= 0].tolist() if with_target else [],
        video=video,
        image=image,
        fbank=audio,
        mask=case[f"{prefix}/<mask>"][0] if f"{prefix}/<mask>" in case else None,
        mask_semantic=semantic,
        ids=ids,
        sizes=config.feature_sizes,
    )


def layout_of(examples, *, patch: int, tokens: int | None = None) -> Layout:
    """The smallest layout that holds the examples."""
    return Layout(
        tokens=tokens or max(len(e.prompt) + len(e.target) for e in examples),
        frames=max(0 if e.frames is None else len(e.frames) for e in examples),
        windows=max(0 if e.fbank is None else len(e.fbank) for e in examples),
        patch_rows=max(0 if e.fbank is None else e.fbank.shape[1] // patch for e in examples),
        masks=1 if any(e.mask is not None for e in examples) else 0,
    )


def task_names(case: Case, group: str) -> list[str]:
    """The task of every sample of a group (`batch`, `prompts`)."""
    return list(case.config["batches"][group]["batch_task_names"])


def group_of(case: Case) -> str:
    """The only group of samples of a case."""
    (group,) = case.config["batches"]
    return group


def start_and_fill(case: Case) -> tuple[int, int]:
    """The id that the reference puts before what it generates, and the id behind the end of finished rows."""
    settings = json.loads((case.folder / "hf" / "llama" / "generation_config.json").read_text())
    return settings["bos_token_id"], settings["pad_token_id"]
