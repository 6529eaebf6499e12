"""What the processes of a run tell each other beside their arrays: through the coordinator, never without a limit.

A collective on the devices has no time limit: if one process has failed, all others wait for it. These functions say
who is missing instead.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import jax
from jax._src import clusters, distributed  # the only places where JAX keeps what it finds, and its client

HEARTBEAT_S = 100  # a process that is silent for so long is gone, and the others stop
TIMEOUT_S = 300  # reading a checkpoint may take one process longer than another
_numbers = itertools.count()


class Silent(RuntimeError):
    """A process that did not answer in time."""


class NotConnected(RuntimeError):
    """Several processes that do not know each other."""


def start(coordinator: str = "", count: int = 0, number: int = -1) -> None:
    """Makes this process one of several, before anything asks JAX for devices. Alone, it does nothing.

    Args:
        coordinator: HOST:PORT of process 0; empty: whatever cluster JAX finds around it (TPU pod, GKE, Slurm, MPI).
        count: with `coordinator`: how many processes there are.
        number: with `coordinator`: which one this is.
    """
    # A process that ends with an error waits so long for the others to end; then the coordinator ends them.
    limits = {"heartbeat_timeout_seconds": HEARTBEAT_S, "shutdown_timeout_seconds": HEARTBEAT_S}
    if coordinator:
        jax.distributed.initialize(coordinator, count, number, **limits)
    elif found() > 1:
        jax.distributed.initialize(**limits)


def found() -> int:
    """Processes of the cluster around this one, as `jax.distributed.initialize` would find it; 1 without one.

    On a TPU VM no variable tells: JAX asks the metadata server. Kubernetes alone does not count: a single pod is no
    cluster, and the pods of a TPU slice are known by their variables.
    """
    for kind in clusters.ClusterEnv._cluster_types:
        if kind is not clusters.K8sCluster and not kind.opt_in_only_method and kind.is_env_present():
            return kind.get_process_count()
    return 1


def gather(what: str, mine: Any, *, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """Every process' value, in their order. All of them have to call this, in the same order.

    Args:
        what: for the message.
        mine: of JSON types.
        timeout_s: how long to wait for all others together, seconds.

    Raises:
        Silent: naming the process that has not answered.
        NotConnected: there are several processes, and `start` has not found them.
    """
    if jax.process_count() == 1:
        return [mine]
    client, me = distributed.global_state.client, jax.process_index()
    if client is None:
        raise NotConnected(
            f"JAX sees {jax.process_count()} processes that are not connected: no cluster was found when this one "
            "started. Give each of them --coordinator HOST:PORT --processes N --process I of launch.train"
        )
    key = f"crab_jax/{next(_numbers)}/{what}"
    client.key_value_set(f"{key}/{me}", json.dumps(mine))
    values, end = [], time.monotonic() + timeout_s
    for other in range(jax.process_count()):
        if other == me:
            values.append(mine)
            continue
        left = max(int(1000 * (end - time.monotonic())), 1)
        try:
            values.append(json.loads(client.blocking_key_value_get(f"{key}/{other}", left)))
        except jax.errors.JaxRuntimeError as error:
            raise Silent(
                f"process {other} of {jax.process_count()} did not come to {what!r} within {timeout_s:.0f} s "
                f"({' '.join(str(error).split())[:120]}); what it wrote last says why. Start all processes again"
            ) from error
    return values
