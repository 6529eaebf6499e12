"""An eye and an ear for small models, which have no published CLIP or BEATs to start from.

    python -m launch.pretrain_encoders eye --out runs/mini/eye.safetensors
    python -m launch.pretrain_encoders ear --out runs/mini/ear.safetensors

The published system gets both encoders trained and leaves them alone. A small one can get the same start here: they
learn what is where in pictures of the generated world (the class of every cell of every patch, read off each tap), and
what sounds how loudly in its windows of sound. The linear maps that read the answers off are thrown away; a stage takes
the encoder by naming the file in `stage.start`. Scenes are drawn by the rules of the training split, from seeds of
their own: no clip of any task is shown, and no combination that is kept for testing.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from safetensors.numpy import save_file

from configs import mini
from crab_jax.backbones.beats import Beats
from crab_jax.backbones.clip import Clip, normalise
from crab_jax.config import build
from crab_jax.model import CrabConfig
from crab_jax.params import flatten
from data_pipelines.fbank import STD, normalised_fbank
from data_pipelines.world.casting import Casting, names_in, timed
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import RATE_HZ, Order, Studio
from data_pipelines.world.pretraining import draw_scene

CELLS = 4  # a patch is read as 4 x 4 cells
SHOTS = 2  # pictures of one scene
SECONDS = 10  # of one sound
BACKGROUND = 0.25  # weight of a cell without a performer: most have none
_NAMES = list(KINDS)
_studio = Studio()


@dataclasses.dataclass(frozen=True)
class Job:
    """What a rendering process needs to know about one scene."""

    split: str
    index: int
    seed: int
    image_size: int
    grid: int

    def order(self, task: str, size: tuple[int, int]) -> Order:
        return Order(pathlib.Path(), task, self.split, self.index, self.seed, size, 1)


def render_pictures(job: Job) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of one scene, uint8 [S S 3], each with the class of every cell, uint8 [G G]; 0 is nobody."""
    order = job.order("eye", (160, 120))
    rng = order.rng()
    scene = draw_scene(Casting.of(rng, job.split), order, 5, (1, 2, 3, 4, 5))
    stage, out = _studio.stage(scene), []
    for moment in rng.uniform(0, 5, SHOTS):
        shot = stage.shot(float(moment))
        classes = np.zeros(shot.masks.shape[1:], np.uint8)
        for performer, mask in zip(scene.performers, shot.masks):
            classes[mask] = 1 + _NAMES.index(performer.kind)
        packed = io.BytesIO()
        Image.fromarray(shot.frame).save(packed, "JPEG", quality=int(rng.integers(50, 96)))
        picture = np.asarray(Image.open(packed).resize((job.image_size,) * 2, Image.Resampling.BICUBIC))
        cells = Image.fromarray(classes).resize((job.grid, job.grid), Image.Resampling.NEAREST)
        out.append((picture, np.asarray(cells)))
    return out


def render_windows(job: Job) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of one sound, float16 [F 128], each with how loud every kind is, float32 [K]; 0 is silent."""
    order = job.order("ear", (32, 32))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    cast = casting.stand(names_in("avss"), 0, int(rng.choice((1, 2, 3, 4), p=(0.3, 0.4, 0.2, 0.1))))
    cast = [timed(p, heard=casting.spans(SECONDS), loudness=casting.loudness()) for p in cast]
    scene = casting.scene(cast, duration_s=SECONDS, fps=1, size=order.size)
    wave = _studio.stage(scene).sound(rate_hz=RATE_HZ).mean(1)
    # Two seconds from anywhere, as music questions hear them, in every second sound; single seconds otherwise.
    length = 2 if job.index % 2 else 1
    starts = rng.uniform(0, SECONDS - 2, SECONDS // 2) if length == 2 else np.arange(SECONDS)
    out = []
    for start in starts:
        loud = np.zeros(len(_NAMES), np.float32)
        for performer in cast:
            heard = sum(max(0.0, min(b, start + length) - max(a, start)) for a, b in performer.heard)
            if heard >= 0.5:
                loud[_NAMES.index(performer.kind)] = performer.loudness
        part = wave[round(start * RATE_HZ) : round((start + length) * RATE_HZ)]
        out.append((normalised_fbank(part.astype(np.float32)).astype(np.float16), loud))
    return out


def rendered(render: Callable[[Job], list], jobs: list[Job], processes: int) -> list:
    """All examples of all jobs, in order, whatever the number of processes."""
    started, out = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, some in enumerate(pool.imap(render, jobs, chunksize=8), 1):
            out += some
            if done % 500 == 0 or done == len(jobs):
                print(f"rendered {done}/{len(jobs)} scenes in {time.monotonic() - started:.0f} s", flush=True)
    return out


def batches(groups: list[list[np.ndarray]], rows: int, seed: int) -> Iterator[list[np.ndarray]]:
    """Endless batches, each out of one group (arrays of one length), groups in turn, shuffled anew every time."""

    def of(group: list[np.ndarray], rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
        while True:
            order = rng.permutation(len(group[0]))
            for at in range(0, len(order) - rows + 1, rows):
                chosen = order[at : at + rows]
                yield [array[chosen] for array in group]

    turns = [of(group, np.random.default_rng([seed, k])) for k, group in enumerate(groups)]
    while True:
        for turn in turns:
            yield next(turn)


def eye(config: CrabConfig) -> tuple[Any, Callable, Callable]:
    """The module, how it starts, and its loss with what it gets right."""
    module, grid = Clip(config.clip), config.clip.image_size // config.clip.patch_size
    width, classes = config.clip.hidden_size, 1 + len(_NAMES)

    def start(key: jax.Array) -> dict[str, Any]:
        s = config.clip.image_size
        encoder = module.init(key, jnp.zeros((1, s, s, 3)))["params"]
        # Where something is must be as loud as what it is, or attention finds nothing for a long time.
        encoder["positions"] = encoder["positions"] * 10
        return {"encoder": encoder, "head": jnp.zeros((len(config.clip.taps), width, CELLS**2 * classes))}

    def loss(params: dict[str, Any], pictures, cells):
        taps = module.apply({"params": params["encoder"]}, normalise(pictures))
        truth = jax.nn.one_hot(cells, classes)
        weight = jnp.where(cells == 0, BACKGROUND, 1.0)
        total = 0.0
        for tap, head in zip(taps, params["head"]):
            scores = (tap @ head).reshape(-1, grid, grid, CELLS, CELLS, classes)
            scores = scores.swapaxes(2, 3).reshape(-1, grid * CELLS, grid * CELLS, classes)
            each = optax.softmax_cross_entropy(scores, truth)
            total += (each * weight).sum() / weight.sum() / len(taps)
        right = scores.argmax(-1) == cells
        return total, {"cells": right.mean(), "performers": (right & (cells > 0)).sum() / (cells > 0).sum()}

    return module, start, loss


def ear(config: CrabConfig) -> tuple[Any, Callable, Callable]:
    """The module, how it starts, and its loss with what it gets right."""
    module, width, kinds = Beats(config.beats), config.beats.encoder_embed_dim, len(_NAMES)

    def start(key: jax.Array) -> dict[str, Any]:
        return {
            "encoder": module.init(key, jnp.zeros((1, 98, 128)))["params"],
            "head": jnp.zeros((width, 2 * kinds)),
            "bias": jnp.concatenate([jnp.full(kinds, -2.0), jnp.zeros(kinds)]),
        }

    def loss(params: dict[str, Any], windows, loud):
        states = module.apply({"params": params["encoder"]}, windows.astype(jnp.float32))
        scores = states.mean(1) @ params["head"] + params["bias"]
        there = loud > 0
        heard = optax.sigmoid_binary_cross_entropy(scores[:, :kinds], there).mean()
        level = jnp.where(there, jnp.log(jnp.where(there, loud, 0.1) / 0.1), 0)
        off = (jnp.square(scores[:, kinds:] - level) * there).sum() / jnp.maximum(there.sum(), 1)
        said = scores[:, :kinds] > 0
        hits = (said & there).sum()
        f = 2 * hits / jnp.maximum(said.sum() + there.sum(), 1)
        return heard + 0.02 * off, {"F": f, "all right": (said == there).all(-1).mean(), "level error": jnp.sqrt(off)}

    return module, start, loss


def varied(key: jax.Array, windows: jax.Array, loud: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Windows that nobody rendered: moved in time, softer or louder, and every third one mixed with its neighbour.

    Sounds add up in energy, so two windows can be mixed after the logarithm; phases are taken to be independent.
    """
    shift, gain, mixed = jax.random.split(key, 3)
    scale = 2 * STD  # of the normalisation, see `data_pipelines.fbank`
    windows = jnp.roll(windows.astype(jnp.float32), jax.random.randint(shift, (), 0, windows.shape[1]), axis=1)
    amplitude = jnp.exp(jax.random.uniform(gain, (len(windows),), minval=-0.5, maxval=0.5))
    windows = windows + (2 * jnp.log(amplitude) / scale)[:, None, None]
    loud = loud * amplitude[:, None]
    other, others = jnp.roll(windows, 1, axis=0), jnp.roll(loud, 1, axis=0)
    few = ((loud > 0) | (others > 0)).sum(-1) <= 4
    mix = few & (jax.random.uniform(mixed, (len(windows),)) < 1 / 3)
    both = jnp.logaddexp(windows * scale, other * scale) / scale
    return jnp.where(mix[:, None, None], both, windows), jnp.where(mix[:, None], jnp.hypot(loud, others), loud)


def train(which: str, config: CrabConfig, out: pathlib.Path, args: argparse.Namespace) -> None:
    """Renders, trains, prints what unseen scenes say, writes the encoder."""
    render, part = (render_pictures, "clip") if which == "eye" else (render_windows, "beats")
    grid = config.clip.image_size // config.clip.patch_size * CELLS

    def scenes(split: str, count: int) -> list[list[np.ndarray]]:
        jobs = [Job(split, k, args.seed, config.clip.image_size, grid) for k in range(count)]
        groups: dict[tuple[int, ...], list] = {}
        for example in rendered(render, jobs, args.jobs):
            groups.setdefault(example[0].shape, []).append(example)
        return [[np.stack(column) for column in zip(*group)] for _, group in sorted(groups.items())]

    _, start, loss = (eye if which == "eye" else ear)(config)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.rate, args.steps // 20, args.steps, args.rate / 100)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.02, mask=_matrices)
    )
    params = jax.jit(start)(jax.random.key(args.seed))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, n, *batch):
        if which == "ear":
            batch = varied(jax.random.fold_in(jax.random.key(args.seed), n), *batch)
        (value, right), grads = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, {"loss": value, **right}

    unseen = scenes("val", max(args.scenes // 50, 8))
    judge = jax.jit(loss)
    seen, started = batches(scenes("train", args.scenes), args.rows, args.seed), time.monotonic()
    recent: list[dict[str, Any]] = []
    for n in range(1, args.steps + 1):
        params, state, told = step(params, state, n, *next(seen))
        recent.append(told)
        if n % args.log_every == 0 or n == args.steps:
            spent, recent = _mean(recent), []
            held = _mean([{"loss": (r := judge(params, *group))[0], **r[1]} for group in unseen])
            print(
                f"step {n}/{args.steps} | {time.monotonic() - started:.0f} s | training {_line(spent)} | "
                f"unseen {_line(held)}",
                flush=True,
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{part}/{path}": np.asarray(x) for path, x in flatten(params["encoder"]).items()}, out)
    print(f"{which}: {out}", flush=True)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim >= 2, params)


def _mean(told: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([np.asarray(t[name]) for t in told])) for name in told[0]}


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.pretrain_encoders", description=__doc__.split("\n", 1)[0])
    parser.add_argument("which", choices=("eye", "ear"))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="safetensors file to write")
    parser.add_argument("--scenes", type=int, default=6000, help="scenes to render (default 6000)")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps (default 6000)")
    parser.add_argument("--rows", type=int, default=24, help="pictures or windows of a step (default 24)")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate (default 1.5e-3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that render (default 1)")
    parser.add_argument("--log-every", type=int, default=100)
    args = parser.parse_args(argv)
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    train(args.which, config, args.out, args)


if __name__ == "__main__":
    main()
