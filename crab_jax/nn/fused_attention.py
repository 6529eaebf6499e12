"""Causal attention inside segments by a kernel that never writes its scores down.

The plain way writes scores and weights [B N L L] to memory, several times forwards and backwards; on a TPU that is most
of what a training step moves. Here a block of scores lives on the chip only as long as it is needed, and blocks above
the diagonal are not computed at all.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from crab_jax.sharding import MESH_AXES, platform, spec

Choice = Literal["auto", "dot", "fused"]
_LANES = 128  # a block is a multiple of the width of a TPU register, and so is a head
_BLOCKS = (512, 256, 128)  # queries and keys that a kernel holds at once: the larger, the less is read again


class Segments(NamedTuple):
    """Who may look at whom, before anybody has made a mask of it.

    Attributes:
        ids: int32 [B L]; tokens attend to earlier tokens of the same number, padding (0) to padding.
    """

    ids: Any


def is_fused(choice: Choice, *, length: int, kv_heads: int, size: int) -> bool:
    """Whether attention of these shapes is to run in the kernel.

    Args:
        choice: "dot" never, "auto" on the mesh of TPUs if the shapes allow it, "fused" always (on other machines than
            TPUs interpreted, which is for tests).
        length: tokens of a row.
        kv_heads: of the keys.
        size: width of a head.

    Raises:
        ValueError: "fused", but the shapes do not allow it or there is no mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if choice == "dot":
        return False
    on_mesh = not mesh.empty and set(mesh.axis_names) == set(MESH_AXES)
    fits = length % _LANES == 0 and size % _LANES == 0 and on_mesh and kv_heads % mesh.shape["tensor"] == 0
    if choice == "fused" and not fits:
        raise ValueError(
            f"compute.attention is 'fused': expected rows and heads of a multiple of {_LANES}, and a mesh whose tensor "
            f"axis divides the heads of the keys; found rows of {length} tokens, {kv_heads} such heads of {size}, mesh "
            f"{dict(mesh.shape)}; choose 'auto' or 'dot'"
        )
    return fits and (choice == "fused" or platform() == "tpu")


def fused_attention(q, k, v, segments: Segments):
    """softmax(q kᵀ) v, causal and inside segments; softmax in float32. Inside jit, under the mesh of the run.

    Every device runs the kernel on its own rows and heads: the partitioner cannot cut a kernel apart.

    Args:
        q: [B L N E], scaled already.
        k: [B L K E], with N a multiple of K (grouped queries).
        v: [B L K E].
        segments: of [B L].

    Returns:
        [B L N E] in the dtype of q.

    Source: `jax.experimental.pallas.ops.tpu.splash_attention`.
    """
    block = next(b for b in _BLOCKS if q.shape[1] % b == 0)
    interpret = platform() != "tpu"

    def here(q, k, v, ids):
        heads, length = q.shape[2], q.shape[1]
        # Made anew in every trace: what it precomputes are arrays of that trace.
        kernel = splash.make_splash_mha(
            mask=masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
            block_sizes=splash.BlockSizes(
                block_q=block,
                block_kv=block,
                block_q_dkv=block,
                block_kv_dkv=block,
                block_q_dq=block,
                block_kv_dq=block,
            ),
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        heads_first = (x.swapaxes(1, 2) for x in (q, k, v))
        return jax.vmap(kernel)(*heads_first, splash.SegmentIds(q=ids, kv=ids)).swapaxes(1, 2)

    rows, heads = PartitionSpec(*spec(["batch", "length"])), spec(["batch", "length", "heads", "width"])
    # What is on which device is not followed into the kernel, hence no check of it.
    run = jax.shard_map(here, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)
    return run(q, k, v, segments.ids)
