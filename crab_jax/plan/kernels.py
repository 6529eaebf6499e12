"""Products inside the kernels of a compiled program, which its text hides: they are machine code in a string."""

from __future__ import annotations

import re

from crab_jax.plan.hlo import Computation, Instruction

# Products of queries, keys, values and their gradients in each kernel of `splash_attention`; the backward ones compute
# the scores again.
_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
_BLOCK = {"splash_mha_fwd": "block_q", "splash_mha_dkv": "block_q_dkv", "splash_mha_dq": "block_q_dq"}
TARGET = 'custom_call_target="tpu_custom_call"'


def kernel_flops(computation: Computation, one: Instruction) -> float | None:
    """Two operations per multiply-add of one call; None: an unknown kernel.

    Of causal attention only the blocks that touch the diagonal or lie below it are computed: (n + 1) / 2n of n x n.

    Args:
        computation: where it stands.
        one: a custom call for the TPU.
    """
    name = next((name for name in _PRODUCTS if one.name.startswith(name)), None)
    block = re.search(rf'\\"{_BLOCK[name]}\\": (\d+)', one.attributes) if name else None
    shapes = [s for o in one.operands for s in computation.instructions[o].shapes]
    # [heads length size] or, with rows, [rows heads length size]; everything before the queries is about the mask.
    queries = next((s for s in shapes if len(s.dims) >= 3 and s.dtype in ("bf16", "f32")), None)
    if block is None or queries is None:
        return None
    length = queries.dims[-2]
    blocks = length / int(block[1])
    return 2.0 * _PRODUCTS[name] * queries.elements * length * (blocks + 1) / (2 * blocks)
