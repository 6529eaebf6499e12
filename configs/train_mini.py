"""How crab-mini is trained: parts of it, then the six stages, from random weights, on two CPU cores.

    python -m launch.train --config configs/train_mini.py:visual_pretrain,runs=RUNS --workdir RUNS/visual_pretrain \\
        --config.data.shards=SHARDS

`launch/train_mini.sh` runs all of it. A stage starts from the runs that lie beside its own (`stage.start`). What is not
as in the published recipe, and why:

* nothing here is pretrained. Eye, ear, projectors and mask decoder come from `launch/pretrain_parts.py`, the language
  model from `launch/pretrain_language.py`; eye and ear are frozen from then on, as CLIP and BEATs are. The language
  model is trained as a whole, not by LoRA alone: it has learned much less than a LLaMA;
* the joint stage (and the one before) also has mask losses, through a decoder that stays as it is: it draws whom a
  code names, and the language model goes on learning to say the code; the last two stages train the decoder alone, not
  the vocabulary, so that states of mask tokens go on meaning what they mean.
"""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

_SPEAKS = r"llama/.*"
_SEES, _HEARS, _DRAWS = r"vl_projector/.*", r"al_projector/.*", r"mask_decoder/(?!pe/).*"
_PARTS = tuple(f"{n}.safetensors" for n in ("eye", "ear", "vl_projector", "al_projector", "decoder", "language"))
_BEFORE = (*_PARTS, "visual_pretrain", "audio_pretrain", "seg_pretrain")

# Stage → what it starts from, what it trains, steps, peak learning rate, rows of a step, layout of a row, shares of the
# sources, heads of the mask losses.
STAGES = {
    "visual_pretrain": dict(
        start=_PARTS, train=(_SPEAKS, _SEES), steps=100, rate=3e-4, rows=4, heads=(),
        layout=dict(tokens=256, frames=3, windows=0, patch_rows=6, masks=0), shares={"pretrain-image": 1},
    ),
    "audio_pretrain": dict(
        start=_BEFORE[:-2], train=(_SPEAKS, _HEARS), steps=100, rate=3e-4, rows=4, heads=(),
        layout=dict(tokens=256, frames=0, windows=20, patch_rows=6, masks=0), shares={"pretrain-audio": 1},
    ),
    "seg_pretrain": dict(
        start=_BEFORE[:-1], train=(_SPEAKS, _SEES), steps=100, rate=3e-4, rows=4, heads=("binary",),
        layout=dict(tokens=320, frames=3, windows=0, patch_rows=6, masks=3),
        shares={"pretrain-seg": 2, "pretrain-image": 1},
    ),
    "finetune": dict(
        start=_BEFORE, train=(_SPEAKS, _SEES, _HEARS), steps=700, rate=3e-4, rows=4, heads=("binary", "semantic"),
        layout=dict(tokens=400, frames=12, windows=12, patch_rows=12, masks=2),
        shares={
            "avqa": 12, "ave": 12, "avvp": 12, "avcap": 8, "arig": 12, "s4": 12, "ms3": 10, "avss": 10, "ref-avs": 12,
        },
    ),
    "finetune_avs": dict(
        start=(*_BEFORE, "finetune"), train=(_DRAWS,), steps=300, rate=2e-4, rows=2, heads=("binary",),
        layout=dict(tokens=512, frames=5, windows=14, patch_rows=6, masks=5), shares={"s4": 2, "ms3": 2, "ref-avs": 1},
    ),
    "finetune_avss": dict(
        start=(*_BEFORE, "finetune"), train=(_DRAWS,), steps=300, rate=2e-4, rows=2, heads=("semantic",),
        layout=dict(tokens=512, frames=5, windows=5, patch_rows=6, masks=5), shares={"avss": 1},
    ),
}  # fmt: skip


def get_config(arg: str = "visual_pretrain") -> ConfigDict:
    """The config of one stage: its own file in `configs/`, with the values above.

    Args:
        arg: `STAGE`, and perhaps `,runs=DIR`: where the runs of the earlier stages lie (default `runs/mini`), and
            `,scale=N`: so many times as many steps.

    Raises:
        ValueError: no such stage or argument.
    """
    name, *rest = arg.split(",")
    given = {"runs": "runs/mini", "scale": "1"}
    for item in rest:
        key, _, value = item.partition("=")
        if key not in given or not value:
            raise ValueError(f"config argument {item!r}: expected runs=DIR or scale=N")
        given[key] = value
    if name not in STAGES:
        raise ValueError(f"config argument {name!r}: expected one of {', '.join(STAGES)}")
    stage = STAGES[name]
    config = importlib.import_module(f"configs.{name}").get_config("model=mini").copy_and_resolve_references()
    config.unlock()
    config.stage.start = tuple(f"{given['runs']}/{earlier}" for earlier in stage["start"])
    config.stage.train = stage["train"]
    config.mesh.update(data=-1, fsdp=1)
    config.data.sources = tuple(f"{task}/train" for task in stage["shares"])
    config.data.weights = tuple(float(share) for share in stage["shares"].values())
    config.data.layout.update(stage["layout"])
    config.data.update(seed=1, block=512, workers=0, max_left_out=0.05)
    config.loss.heads = stage["heads"]
    config.compute.update(dtype="float32", frozen_dtype="float32", remat="none", logit_chunks=1)
    config.run.update(seed=1, rows=stage["rows"], steps=max(1, round(stage["steps"] * float(given["scale"]))))
    config.optim.update(learning_rate=stage["rate"], b2=0.98, warmup_ratio=0.05)
    config.save.update(every_steps=200, keep_last=1, keep_best=0)
    config.log.update(every_steps=20, tensorboard=False)
    return config.lock()
