"""Visual pretraining: the visual projector learns to caption pictures and videos. Specification 1.3, 1.6.

    python -m launch.train --config configs/visual_pretrain.py --config.stage.base=WEIGHTS --config.data.shards=DATA …

Argument `head=trained` also trains the output matrix, which the reference leaves trainable by omission and throws away
with the next stage (Q-31).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """See `configs.common.Argument`."""
    a = common.Argument(arg, head="frozen")
    a.one_of("head", "frozen", "trained")
    return common.recipe(
        a,
        name="visual_pretrain",
        train=("vl_projector/.*", *(("llama/head/.*",) if a.head == "trained" else ())),
        tasks=("pretrain-image", "pretrain-video"),
        layout=dict(tokens=2304, frames=56, windows=0, patch_rows=6, masks=0),
        single=dict(tokens=1024, frames=8, windows=0, patch_rows=6, masks=0),
        examples=64,
        rows=8,
        epochs=1.0,
    )
