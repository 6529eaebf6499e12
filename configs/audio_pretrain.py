"""Audio pretraining: the audio projector learns to caption sounds. Specification 1.3, 1.6.

Argument `head=trained`: see `configs/visual_pretrain.py`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """See `configs.common.Argument`."""
    a = common.Argument(arg, head="frozen")
    a.one_of("head", "frozen", "trained")
    return common.recipe(
        a,
        name="audio_pretrain",
        train=("al_projector/.*", *(("llama/head/.*",) if a.head == "trained" else ())),
        tasks=("pretrain-audio",),
        layout=dict(tokens=2304, frames=0, windows=60, patch_rows=6, masks=0),
        single=dict(tokens=1024, frames=0, windows=16, patch_rows=6, masks=0),
        examples=32,
        rows=8,
        epochs=1.0,
    )
