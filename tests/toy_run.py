"""A small system and a stream without files, and a command that trains it: for tests of the loop and its processes.

python tests/toy_run.py WORKDIR [--steps N] [--mesh data,fsdp,tensor] [--devices N] [--coordinator … ]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
import time

import numpy as np

ROWS, WIDTH, HIDDEN = 8, 16, 32


@dataclasses.dataclass(frozen=True)
class ToyInfo:
    names: tuple[tuple[str, ...], ...]
    fill: dict[str, float]
    skipped: tuple[str, ...] = ()


class ToyStream:
    """Batch n is a function of n; a process gets rows `first` to `last` of it."""

    def __init__(
        self, first: int = 0, last: int = ROWS, *, bad: tuple[int, int] | None = None, seconds: float = 0.0,
        fails: bool = False,
    ):  # fmt: skip
        self.first, self.last, self.bad, self.seconds, self.fails, self.number = first, last, bad, seconds, fails, 0
        self.drawn: list[int] = []

    def __next__(self):
        n, self.number = self.number, self.number + 1
        self.drawn.append(n)
        time.sleep(self.seconds)
        if self.fails and n == 3:
            raise OSError("the disk with the data has gone")
        rng = np.random.default_rng(n)
        x = rng.standard_normal((ROWS, WIDTH), np.float32)
        count = rng.integers(1, 5, ROWS).astype(np.int32)
        if self.bad and n == self.bad[0]:
            x[self.bad[1]] = np.nan
        rows = slice(self.first, self.last)
        names = tuple((f"toy/train, {n}-{r}",) for r in range(ROWS))[rows]
        return {"x": x[rows], "count": count[rows]}, ToyInfo(names, {"tokens": 0.5})

    def get_state(self):
        return {"batch": self.number}

    def set_state(self, state):
        self.number = state["batch"]


class ToySystem:
    """Two layers behind a frozen one, with noise from the key; every parameter has an axis that a mesh may split."""

    axes = {
        r"base/kernel": ("embed", "mlp"),
        r"net/up/kernel": ("embed", "mlp"),
        r"net/down/kernel": ("mlp", "embed"),
        r"net/.*/bias": ("whole",),
    }

    def __init__(self, *, noise: bool = True):
        self.noise = noise

    def counts(self, batch):
        return {"tokens": batch["count"].sum().astype("float32")}

    def weights(self, counts):
        return {"text": 1 / counts["tokens"]}

    def sums(self, params, batch, key):
        import jax

        x = batch["x"] @ params["base/kernel"]
        if self.noise:
            x = x * jax.random.bernoulli(key, 0.9, x.shape)
        x = jax.nn.tanh(x @ params["net/down/kernel"] + params["net/down/bias"])
        y = x @ params["net/up/kernel"] + params["net/up/bias"]
        return {"text": (batch["count"] * ((y - 1) ** 2).mean(-1)).astype("float32")}


def toy_params():
    rng = np.random.default_rng(0)
    shapes = {
        "base/kernel": (WIDTH, HIDDEN), "net/down/kernel": (HIDDEN, WIDTH), "net/down/bias": (WIDTH,),
        "net/up/kernel": (WIDTH, HIDDEN), "net/up/bias": (HIDDEN,),
    }  # fmt: skip
    flat = {path: 0.3 * rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    return {p: x for p, x in flat.items() if p.startswith("net/")}, {"base/kernel": flat["base/kernel"]}


def settings(workdir, *, mesh=None, steps=6, rows=ROWS, accumulation=1, stop_after=0, every=1, **other):
    """`Training` of the toy; `other` are fields of `SaveConfig`, `OptimConfig` and `LogConfig`."""
    from crab_jax.config import to_dict
    from crab_jax.sharding import make_mesh
    from crab_jax.train.config import LogConfig, OptimConfig, RunConfig, SaveConfig
    from crab_jax.train.loop import Training

    def fields(cls, **defaults):
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**defaults | {k: v for k, v in other.items() if k in names})

    run = RunConfig(steps=steps, rows=rows, accumulation=accumulation, stop_after=stop_after)
    optim = fields(OptimConfig, learning_rate=1e-2)
    return Training(
        run=run,
        optim=optim,
        save=fields(SaveConfig, every_steps=every),
        log=fields(LogConfig, tensorboard=False),
        mesh=mesh or make_mesh(data=1, fsdp=-1),
        workdir=pathlib.Path(workdir),
        about={"run": to_dict(run), "optim": to_dict(optim)},
        total=steps,
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--stop-after", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--mesh", default="1,-1,1")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--fails", type=int, default=-1, help="the data of this process end in an error at batch 3")
    parser.add_argument("--silent", type=int, default=60, help="after so many seconds a process is taken for lost")
    args = parser.parse_args()
    # What carries CPU collectives greets on standard output, from several threads and in pieces: that goes to standard
    # error, and what this command says is all there is on standard output.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", args.devices)
    if args.coordinator:
        jax.distributed.initialize(
            args.coordinator, args.processes, args.process, initialization_timeout=120,
            heartbeat_timeout_seconds=args.silent, shutdown_timeout_seconds=args.silent,
        )  # fmt: skip
    from crab_jax.sharding import make_mesh, rows_here
    from crab_jax.train.loop import PREEMPTED, train

    data, fsdp, tensor = map(int, args.mesh.split(","))
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    stream = ToyStream(*rows_here(mesh, ROWS), seconds=args.seconds, fails=args.process == args.fails)
    outcome = train(
        settings(
            args.workdir, mesh=mesh, steps=args.steps, stop_after=args.stop_after, every=args.every,
            accumulation=args.accumulation,
        ),
        ToySystem(),
        *toy_params(),
        stream,
        say=lambda text: print(text, flush=True),
    )  # fmt: skip
    return 0 if outcome.finished else PREEMPTED


if __name__ == "__main__":
    sys.exit(main())
