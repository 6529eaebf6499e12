"""Plans of a toy on four pretended CPU devices, as JSON. Own process: the number of devices cannot change later."""

import dataclasses
import json
import sys

import jax

from crab_jax.plan.command import mesh_of, read_recipe
from crab_jax.plan.hardware import Slice
from crab_jax.plan.plan import make_plan
from crab_jax.plan.programs import generation, train_step
from crab_jax.plan.report import report

OVERRIDES = [
    "--config.compute.dtype=float32", "--config.compute.frozen_dtype=float32", "--config.run.rows=8",
    "--config.run.accumulation=2", "--config.data.layout.frames=2", "--config.data.layout.windows=2",
]  # fmt: skip

jax.config.update("jax_num_cpu_devices", 4)
recipe = read_recipe("configs/finetune.py:model=tiny", OVERRIDES)
where = Slice.parse("v5e:2x2")
mesh = mesh_of(jax.devices(), {"data": 1, "fsdp": 4, "tensor": 1})
plans = [
    make_plan(train_step(recipe, mesh), recipe, mesh, where),
    make_plan(generation(recipe, mesh, rows=4, prompt=96, new=5), recipe, mesh, where, quick=True),
]
json.dump({"plans": [dataclasses.asdict(p) for p in plans], "texts": [report(p) for p in plans]}, sys.stdout)
