"""Joint finetune: both projectors and the interaction-aware LoRA learn nine tasks at once. Specification 1.3, 1.6."""

from ml_collections import ConfigDict

from configs import common
from crab_jax.tasks import TASKS


def get_config(arg: str = "") -> ConfigDict:
    """See `configs.common.Argument`."""
    return common.recipe(
        common.Argument(arg),
        name="finetune",
        train=(*common.PROJECTORS, *common.LORA),
        tasks=tuple(TASKS),
        layout=dict(tokens=2048, frames=24, windows=24, patch_rows=12, masks=8),
        single=dict(tokens=1024, frames=10, windows=10, patch_rows=12, masks=1),
        examples=256,
        rows=96,
        epochs=5.0,
    )
