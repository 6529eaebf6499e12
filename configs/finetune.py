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
        layout=dict(tokens=2304, frames=30, windows=52, patch_rows=12, masks=12),
        single=dict(tokens=1024, frames=10, windows=10, patch_rows=12, masks=1),
        examples=256,
        rows=64,
        epochs=5.0,
    )
