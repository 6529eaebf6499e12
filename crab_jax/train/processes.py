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
from jax._src import distributed  # the only place where JAX keeps its client

TIMEOUT_S = 300  # reading a checkpoint may take one process longer than another
_numbers = itertools.count()


class Silent(RuntimeError):
    """A process that did not answer in time."""


def gather(what: str, mine: Any, *, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """Every process' value, in their order. All of them have to call this, in the same order.

    Args:
        what: for the message.
        mine: of JSON types.
        timeout_s: how long to wait for all others together, seconds.

    Raises:
        Silent: naming the process that has not answered.
    """
    if jax.process_count() == 1:
        return [mine]
    client, me = distributed.global_state.client, jax.process_index()
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
