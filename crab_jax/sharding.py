"""Where every array lives: one mesh, one table from logical axes to mesh axes, one rule per parameter.

The mesh has three axes. `data` holds copies of the model, `fsdp` splits every weight (and with it gradients and
optimizer state) and gathers it where it is used, `tensor` splits the products themselves. A batch is split by rows over
`data` and `fsdp` together. One device is the mesh (1, 1, 1); the code is the same on CPU, GPU and TPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

# The one table. A logical axis that is not split is written down all the same: an unknown name is an error.
LOGICAL: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": BATCH,
    "length": None,
    "embed": "fsdp",  # the width of a residual stream
    "heads": "tensor",  # the width of all attention heads together
    "mlp": "tensor",  # the inner width of a feed-forward layer
    "vocab": None,  # 32 017 rows divide by nothing
    "layers": None,  # the scanned axis
    "lora": None,  # LoRA heads
    "rank": None,
    "width": None,  # of an activation: rows are split, not their width
    "whole": None,  # anything too small or too odd to split
}

# Full match of a parameter path → a logical name per dimension.
Axes = Mapping[str, tuple[str, ...]]


class ShardingError(ValueError):
    """A mesh, a rule or a shape that cannot be; the message says what to change."""


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices.

    Args:
        data: copies of the model.
        fsdp: devices that share one copy.
        tensor: devices that share one product.
        devices: which; None: all of all processes.

    One of the sizes may be -1: whatever is left.

    Raises:
        ShardingError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    known = int(np.prod([s for s in sizes if s != -1]))
    text = f"mesh data={data} fsdp={fsdp} tensor={tensor}"
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ShardingError(f"{text}: expected whole numbers above 0, and -1 (what is left) at most once")
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if -1 in sizes or int(np.prod(sizes)) != len(devices):
        raise ShardingError(
            f"{text}: does not fit {len(devices)} devices; choose sizes whose product is {len(devices)}, "
            "or -1 for one of them"
        )
    # Automatic axes: XLA chooses what no constraint fixes. The default became another one in newer versions of JAX.
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec(names: Iterable[str]) -> PartitionSpec:
    """Logical names, one per dimension → partition."""
    return PartitionSpec(*(LOGICAL[name] for name in names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Split along the first dimension, as batches are."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def rule_of(path: str, axes: Axes) -> tuple[str, ...]:
    """The logical names of one parameter.

    Raises:
        ShardingError: no rule or more than one.
    """
    found = [pattern for pattern in axes if re.fullmatch(pattern, path)]
    if len(found) != 1:
        rules = " and ".join(map(repr, found)) or "none"
        raise ShardingError(f"{path}: {rules} of the {len(axes)} axis rules match it, expected exactly one")
    return axes[found[0]]


def shardings(flat: Mapping[str, Any], axes: Axes, mesh: Mesh) -> dict[str, NamedSharding]:
    """Every parameter's place.

    Args:
        flat: path → anything with a shape.
        axes: rules.
        mesh: of the run.

    Raises:
        ShardingError: parameters without exactly one rule, of another rank than their rule, or with a dimension that
            the mesh does not divide; all of them are listed.
    """
    placed, wrong = {}, []
    for path, leaf in flat.items():
        try:
            names = rule_of(path, axes)
            placed[path] = NamedSharding(mesh, _fitting(path, tuple(leaf.shape), names, mesh))
        except ShardingError as error:
            wrong.append(str(error))
    if wrong:
        more = f"\n  … and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ShardingError(
            f"{len(wrong)} parameters cannot be placed on the mesh {dict(mesh.shape)}:\n  "
            + "\n  ".join(wrong[:10])
            + more
        )
    return placed


def _fitting(path: str, shape: tuple[int, ...], names: tuple[str, ...], mesh: Mesh) -> PartitionSpec:
    if unknown := [n for n in names if n not in LOGICAL]:
        raise ShardingError(f"{path}: logical axis {unknown[0]!r} is not in the table; known: {', '.join(LOGICAL)}")
    if len(names) != len(shape):
        raise ShardingError(f"{path}: shape {shape}, but its rule names {len(names)} axes: {', '.join(names)}")
    for size, name in zip(shape, names):
        over = LOGICAL[name]
        parts = int(np.prod([mesh.shape[a] for a in ((over,) if isinstance(over, str) else over or ())]))
        if size % parts:
            raise ShardingError(
                f"{path}: its {name!r} dimension of {size} does not divide by mesh axis {over} = {parts}; choose a "
                f"divisor of {size} for {over} and give the rest to data"
            )
    return spec(names)


def like_params(tree: Any, params: Mapping[str, NamedSharding], mesh: Mesh) -> Any:
    """Places of a tree that holds copies of the parameters, as optimizer state does.

    A leaf whose last dictionary key is a parameter's path lives where that parameter lives; all others everywhere.
    """

    def place(path, leaf):
        keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        own = params.get(keys[-1]) if keys else None
        return own if own is not None and len(own.spec) <= leaf.ndim else replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, tree)


def constrain(x: Any, *names: str) -> Any:
    """Fixes the place of an activation; without a mesh (inference, tests) it does nothing.

    Args:
        x: inside jit.
        names: a logical name per dimension.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or set(mesh.axis_names) != set(MESH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, spec(names))


def platform() -> str:
    """What the mesh of the run is made of ("cpu", "gpu", "tpu"), inside jit too; without one, what JAX uses here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


# --- batches ----------------------------------------------------------------------------------------------------------


def rows_here(mesh: Mesh, rows: int) -> tuple[int, int]:
    """Which rows of a global batch this process feeds: first and behind the last.

    Processes that only share the `tensor` axis feed the same rows.

    Raises:
        ShardingError: the rows do not divide over the devices, or those of this process do not lie together.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise ShardingError(
            f"{rows} rows per micro-batch do not divide over data x fsdp = {parts}; choose a multiple of {parts}"
        )
    spans = {
        (index[0].start or 0, rows if index[0].stop is None else index[0].stop)
        for index in by_rows(mesh).addressable_devices_indices_map((rows,)).values()
    }
    first, last = min(s for s, _ in spans), max(e for _, e in spans)
    if sum(e - s for s, e in spans) != last - first:
        raise ShardingError(
            f"process {jax.process_index()} holds rows that do not lie together on the mesh {dict(mesh.shape)}; make "
            "tensor a divisor of the devices per process"
        )
    return first, last


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process' rows (NumPy) → global arrays, split by rows."""
    sharding = by_rows(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def local_rows(x: jax.Array) -> np.ndarray:
    """This process' rows of a global array that is split by rows."""
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
