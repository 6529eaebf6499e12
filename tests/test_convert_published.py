"""Conversion at the published sizes, by names and shapes alone."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

pytest.importorskip("torch")

import published_files as files

from configs import published
from crab_jax.config import build
from crab_jax.convert import infer, model_config
from crab_jax.convert.crab import CRAB_FILES, Inputs, table
from crab_jax.convert.plan import make_plan
from crab_jax.convert.run import find_crab_files
from crab_jax.convert.sources import Tensor, open_source, write_safetensors
from crab_jax.model import CrabConfig


@pytest.fixture(scope="module")
def published_shapes(tmp_path_factory):
    """The published files as sparse files: names and shapes of the real ones, no values and no disk."""
    folder = tmp_path_factory.mktemp("published_shapes")
    config = build(CrabConfig, published.get_config().model.to_dict())
    names: dict[str, dict[str, tuple[int, ...]]] = {}
    for part in ("llama", "clip", "beats", "vl_projector", "al_projector", "mask_decoder"):
        rules, shapes = table(part, getattr(config, part)), infer.shapes(part, getattr(config, part))
        names[part] = dict(rules.unused)
        for rule in rules.rules:
            shape = shapes[rule.path][len(rule.counts) :]
            shape = rule.op.save(np.broadcast_to(np.int8(0), shape)).shape
            names[part] |= {key: shape for _, key in rule.keys()}
    joint = "base_model.model.model."
    rows = {k: names["llama"][k] for k in ("embed_tokens.weight", "lm_head.weight")}
    lora = {f"{joint}{k}": s for k, s in names["llama"].items() if "lora" in k}
    base = {f"model.{k}": s for k, s in names["llama"].items() if "lora" not in k and k not in rows}
    base |= {"model.embed_tokens.weight": (32000, 4096), "lm_head.weight": (32000, 4096)}
    seg = {f"seg_module.{k}": s for k, s in names["mask_decoder"].items()}
    projectors = {p: {f"{p}.{k}": s for k, s in names[p].items()} for p in ("vl_projector", "al_projector")}
    contents = {
        "visual_pretrain": {f"model.{k}": s for k, s in projectors["vl_projector"].items()},
        "audio_pretrain": {f"model.{k}": s for k, s in projectors["al_projector"].items()},
        "finetune": lora | {f"{joint}{k}": s for p in projectors.values() for k, s in p.items()},
        "avs": {f"{joint}{k}": s for k, s in seg.items()}
        | {f"{joint}embed_tokens.weight": (32017, 4096), "base_model.model.lm_head.weight": (32017, 4096)},
    }
    contents["avss"] = contents["avs"]
    (folder / "crab").mkdir()
    for role, shapes in contents.items():
        sparse(folder / "crab" / CRAB_FILES[role], shapes, np.float32)
    for part, shapes, dtype in (("llama", base, np.float16), ("clip", names["clip"], np.float32)):
        (folder / part).mkdir()
        sparse(folder / part / "model.safetensors", shapes, dtype)
    c = config.llama
    (folder / "llama" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "vocab_size": 32000, "hidden_size": c.hidden_size,
                "intermediate_size": c.intermediate_size, "num_hidden_layers": 32, "num_attention_heads": 32,
                "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            }
        )
    )  # fmt: skip
    (folder / "llama" / "tokenizer.model").write_bytes(files.tokenizer_model(32000))
    vision = {"image_size": 224, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
              "num_hidden_layers": 24, "num_attention_heads": 16}  # fmt: skip
    (folder / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    return folder


def sparse(path: pathlib.Path, shapes, dtype) -> None:
    """A safetensors file with a header and a hole."""
    empty = {name: Tensor(tuple(shape), np.dtype(dtype), lambda: np.empty(0, dtype)) for name, shape in shapes.items()}
    write_safetensors(path, empty)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + sum(t.nbytes for t in empty.values()))


def test_the_published_model_by_shapes(published_shapes):
    """Specification 1.2 and 2.3: every file has its number of tensors, and the config is the published one."""
    counts = {"visual_pretrain": 80, "audio_pretrain": 80, "finetune": 160 + 1120, "avs": 237, "avss": 237}
    crab = find_crab_files(published_shapes / "crab")
    for role, count in counts.items():
        assert len(open_source(crab[role]).names()) == count
    inputs = Inputs(llama=published_shapes / "llama", clip=published_shapes / "clip", **crab)
    plan = make_plan(inputs, model_config.load())
    expected = build(CrabConfig, published.get_config().model.to_dict())
    assert plan.config == dataclasses.replace(expected, beats=None, mask_decoder=None)
    assert plan.overlay_configs == {"avs": expected.mask_decoder, "avss": expected.mask_decoder}
    report = plan.report
    assert report.sizes["lora_heads"] == 3
    assert report.sizes["queries"] == dict.fromkeys(("avs/mask_decoder", "avss/mask_decoder"), 300) | dict.fromkeys(
        ("vl_projector", "al_projector"), 32
    )
    assert report.sizes["vocabulary"] == {"base": 32000, "added": 17, "rows": 32017}
    assert len(report.superseded) == 160
    assert report.sources["embed_tokens rows 32000 to 32016"].startswith("T3")
    assert all(about.startswith("T3") for name, about in report.sources.items() if "/pe/" in name)
    assert sum(p.nbytes for path, p in plan.params.items() if "lora" in path) == 4 * 45_162_496
    assert not report.unexpected
