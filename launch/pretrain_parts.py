"""Eye, ear, projectors and mask decoder for small models, which have no published weights to start from.

    python -m launch.pretrain_parts eye --out eye.safetensors
    python -m launch.pretrain_parts ear --out ear.safetensors
    python -m launch.pretrain_parts vl_projector --encoder eye.safetensors --out vl_projector.safetensors
    python -m launch.pretrain_parts al_projector --encoder ear.safetensors --out al_projector.safetensors
    python -m launch.pretrain_parts decoder --encoder eye.safetensors --out decoder.safetensors

The published system gets both encoders trained and leaves them alone. A small one can get such a start here. The
encoders learn what is where in pictures of the generated world (the class of every cell of every patch, read off each
tap), and what sounds how loudly in its windows of sound. The projectors learn to sum that up: each query one performer
with its box, from left to right, and all of them together whether it is outdoors; or one sound with its loudness, the
loudest first, and all of them together who is heard. The linear maps that read the answers off are thrown away; a stage
takes the part by naming the file in `stage.start`. The mask decoder learns to draw whom a fixed random code names, so
that a language model need only learn to say the code: decoder and language model that both know nothing find no way to
each other, and draw everybody. Scenes are drawn by the rules of the training split, from seeds of their own: no clip of
any task is shown, and no combination that is kept for testing.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from safetensors.numpy import save_file

from configs import mini
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig
from crab_jax.params import flatten, nest, subtree
from crab_jax.starting import handed_on, newest_checkpoint
from launch.part_lessons import al_projector, decoder, ear, eye, vl_projector
from launch.part_optimizer import optimizer_of
from launch.part_scenes import Job, batches, render_pictures, render_windows, rendered

UNSEEN = 240  # scenes at most that say how a part does


@dataclasses.dataclass(frozen=True)
class Part:
    """What there is to know about one of them.

    Attributes:
        name: in the model.
        render: what a scene gives.
        learn: how it starts and its loss; of some, what their encoder makes of an example once and for all.
        encoder: the part that it reads, or "".
    """

    name: str
    render: Callable[[Job], list]
    learn: Callable[..., tuple[Callable, ...]]
    encoder: str = ""


PARTS = {
    "eye": Part("clip", render_pictures, eye),
    "ear": Part("beats", render_windows, ear),
    "vl_projector": Part("vl_projector", render_pictures, vl_projector, "clip"),
    "al_projector": Part("al_projector", render_windows, al_projector, "beats"),
    "decoder": Part("mask_decoder", render_pictures, decoder, "clip"),
}


def train(which: str, config: CrabConfig, args: argparse.Namespace) -> None:
    """Renders, trains, prints what unseen scenes say, writes the part."""
    part, side, out = PARTS[which], config.clip.image_size, args.out
    given = (_read(args.encoder, part.encoder),) if part.encoder else ()
    earlier = _read(args.start, part.name) if args.start else None
    if not args.steps:
        return write(out, {f"{part.name}/{path}": np.asarray(x) for path, x in flatten(earlier).items()})
    start, loss, *once = part.learn(config, *given)
    seen_once = jax.jit(once[0]) if once else None

    def scenes(split: str, count: int) -> list[list[np.ndarray]]:
        jobs = [Job(split, k, args.seed, side, config.mask_decoder.low_res) for k in range(count)]
        groups: dict[tuple[int, ...], list] = {}
        for example in rendered(part.render, jobs, args.jobs):
            groups.setdefault(example[0].shape, []).append(example)
        stacked = [[np.stack(column) for column in zip(*groups.pop(shape))] for shape in sorted(groups)]
        if seen_once is None:
            return stacked
        found = [[seen_once(*some) for some in _pieces(group, min(64, len(group[0])))] for group in stacked]
        return [[np.concatenate(column) for column in zip(*pieces)] for pieces in found]

    optimizer = optimizer_of(args.rate, args.steps)
    params = jax.jit(start)(jax.random.key(args.seed))
    if args.start:
        params["encoder"] = earlier
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, n, *batch):
        key = jax.random.fold_in(jax.random.key(args.seed), n)
        (value, right), grads = jax.value_and_grad(loss, has_aux=True)(params, key, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, {"loss": value, **right}

    unseen = [
        some for group in scenes("val", min(max(args.scenes // 50, 8), UNSEEN)) for some in _pieces(group, args.rows)
    ]
    judge = jax.jit(lambda params, *batch: loss(params, None, *batch))
    seen, started = batches(scenes("train", args.scenes), args.rows, args.seed), time.monotonic()
    recent: list[dict[str, Any]] = []
    for n in range(1, args.steps + 1):
        params, state, told = step(params, state, n, *next(seen))
        recent.append(told)
        if n % args.log_every == 0 or n == args.steps:
            spent, recent = _mean(recent), []
            held = _mean([{"loss": (r := judge(params, *some))[0], **r[1]} for some in unseen])
            print(
                f"step {n}/{args.steps} | {time.monotonic() - started:.0f} s | training {_line(spent)} | "
                f"unseen {_line(held)}",
                flush=True,
            )
    write(out, {f"{part.name}/{path}": x for path, x in flatten(params["encoder"]).items()})
    print(f"{which}: {out}", flush=True)


def _read(path: pathlib.Path, part: str) -> dict[str, Any]:
    """One part of a file or run, as a tree."""
    # What ships is float16, in which nothing can be trained.
    found = nest(jax.tree.map(lambda x: np.asarray(x, np.float32), subtree(handed_on(newest_checkpoint(path)), part)))
    if not found:
        raise CheckpointError(f"{path}: expected {part}/…, found none of it")
    return found


def write(out: pathlib.Path, part: dict[str, Any]) -> None:
    """Path in the model → array, as a safetensors file that is whole once it has its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".part")
    save_file({path: np.ascontiguousarray(x) for path, x in part.items()}, unfinished)
    unfinished.replace(out)


def _pieces(columns: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """All examples, so many at once; what is left over is left out, unless there is nothing else."""
    for at in range(0, max(len(columns[0]) - size, 0) + 1, size):
        yield [column[at : at + size] for column in columns]


def _mean(told: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([np.asarray(t[name]) for t in told])) for name in told[0]}


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.pretrain_parts", description=__doc__.split("\n", 1)[0])
    parser.add_argument("which", choices=tuple(PARTS))
    parser.add_argument("--out", type=pathlib.Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--encoder", type=pathlib.Path, metavar="FILE", help="the eye or ear that projectors and decoder read"
    )
    parser.add_argument("--start", type=pathlib.Path, metavar="FILE", help="an earlier one to go on from")
    parser.add_argument("--scenes", type=int, default=6000, help="scenes to render (default 6000)")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps (default 6000); 0: copies --start")
    parser.add_argument("--rows", type=int, default=24, help="pictures or windows of a step (default 24)")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate (default 1.5e-3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that render (default 1)")
    parser.add_argument("--log-every", type=int, default=100)
    args = parser.parse_args(argv)
    if not args.steps and args.start is None:
        parser.error("--steps 0 copies an earlier part: --start FILE says which")
    if (args.encoder is None) == bool(PARTS[args.which].encoder):
        parser.error("--encoder FILE: projectors and decoder need it, eye and ear do not")
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    try:
        train(args.which, config, args)
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
