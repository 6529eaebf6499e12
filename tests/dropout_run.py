"""What dropout keeps without a mesh and on several meshes of four pretended devices, as JSON.

Own process: the number of devices cannot change later.
"""

import json
import sys

import jax
import numpy as np

from crab_jax.nn.dropout import Dropout, dropout_key
from crab_jax.sharding import make_mesh

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

MESHES = ({"data": 4}, {"data": 1, "fsdp": 2, "tensor": 2}, {"data": 1, "tensor": 4})
x = np.ones((4, 16, 8), np.float32)


@jax.jit
def dropped(seed):
    key = dropout_key(jax.random.key(seed), "rbg")
    return Dropout(0.25).apply({}, x, rngs={"dropout": key})


alone = np.asarray(dropped(5))
same = []
for sizes in MESHES:
    with jax.set_mesh(make_mesh(**sizes)):
        same.append(bool((np.asarray(dropped(5)) == alone).all()))
json.dump({"same": same, "another": bool((np.asarray(dropped(6)) == alone).all())}, sys.stdout)
