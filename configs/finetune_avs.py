"""AVS finetune: mask decoder and vocabulary learn binary masks, on top of the joint finetune.

Specification 1.3, 1.6, 8.

The reference never switches the mask losses on (Q-10); we do. The published weights saw all frames of a clip (1.3).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """See `configs.common.Argument`."""
    return common.recipe(
        common.Argument(arg),
        name="finetune_avs",
        train=(*common.MASKS, *common.VOCABULARY),
        tasks=("ms3", "s4", "ref-avs"),
        layout=dict(tokens=2304, frames=10, windows=52, patch_rows=6, masks=10),
        single=dict(tokens=768, frames=10, windows=10, patch_rows=6, masks=1),
        examples=256,
        rows=48,
        epochs=30.0,
        loss=dict(heads=("binary",)),
        frames="all",
    )
