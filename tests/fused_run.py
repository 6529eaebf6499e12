"""A decoder layer with the fused kernel (interpreted) on four pretended devices, and written out on one; as JSON.

Own process: the number of devices cannot change later.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.backbones.llama import Llama, LlamaConfig, LoraConfig
from crab_jax.nn.fused_attention import Segments
from crab_jax.sharding import make_mesh

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_default_matmul_precision", "highest")

ROWS, LENGTH = 2, 384  # three blocks of 128 in either direction
SPLIT = 150  # where the second example of the first row begins: inside a block
LORA = LoraConfig(heads=2, rank=4, alpha=8.0, dropout=0.0)
CONFIG = LlamaConfig(
    vocab_size=32, hidden_size=512, intermediate_size=64, num_layers=1, num_heads=4, num_kv_heads=2, max_positions=512,
    rms_norm_eps=1e-5, rope_theta=10000.0, lora=LORA,
)  # fmt: skip

rng = np.random.default_rng(0)
segment = np.zeros((ROWS, LENGTH), np.int32)
segment[0, :SPLIT], segment[0, SPLIT:300], segment[1, :260] = 1, 2, 1  # all others are padding
position = np.arange(LENGTH, dtype=np.int32)[None] - SPLIT * (segment == 2)
valid = (segment > 0)[..., None]
x = rng.standard_normal((ROWS, LENGTH, CONFIG.hidden_size), np.float32)
target = rng.standard_normal(x.shape, np.float32) * valid
shapes = jax.eval_shape(lambda: Llama(CONFIG, jnp.float32).init(jax.random.key(0), x, position, Segments(segment)))
params = jax.tree.map(lambda s: 0.05 * rng.standard_normal(s.shape, np.float32), shapes)


def outcome(params, x, attention):
    """States, and the gradients of something that depends on those of real tokens."""
    net = Llama(CONFIG, jnp.float32, remat="nothing_saveable", attention=attention)

    def objective(params, x):
        states, _, _ = net.apply(params, x, position, Segments(jnp.asarray(segment)))
        return (states * target).sum(), states

    (_, states), grads = jax.value_and_grad(objective, (0, 1), has_aux=True)(params, x)
    return states, grads


run = jax.jit(outcome, static_argnums=2)
plain = jax.device_get(run(params, x, "dot"))
other = x.copy()
other[0, :SPLIT] += 1.0
mesh = make_mesh(data=1, fsdp=2, tensor=2)
with jax.set_mesh(mesh):
    fused = jax.device_get(run(params, x, "fused"))
    moved = jax.device_get(run(params, other, "fused"))[0]
leaves = [jax.tree_util.tree_leaves_with_path(found[1]) for found in (plain, fused)]
numbers = {
    "states": float(np.abs((plain[0] - fused[0]) * valid).max()),
    "gradients": {
        jax.tree_util.keystr(path): float(np.abs(a - b).max() / np.abs(a).max())
        for (path, a), (_, b) in zip(*leaves, strict=True)
    },
    "finite": all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(fused)),
    "second example": float(np.abs(moved[0, SPLIT:300] - fused[0][0, SPLIT:300]).max()),
    "first example": float(np.abs(moved[0, :SPLIT] - fused[0][0, :SPLIT]).max()),
}
json.dump(numbers, sys.stdout)
