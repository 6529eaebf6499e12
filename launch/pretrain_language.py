"""A language model for small models, which have no published one: it can speak, look somebody up, and tell the time.

    python -m launch.pretrain_language --parts runs/mini --out runs/mini/language.safetensors

The published system starts from a LLaMA that can read. This one learns on questions about pictures, videos and sounds
of the generated world (`launch.language_questions`): who is where (as a box), who is seen and heard when, who is
louder, first, left of somebody, and who of all these makes the sound; and on the nine tasks themselves
(`launch.task_questions`), about other scenes than their clips; of concerts also without their media, with what was
noticed in the answer, so that only to conclude is left. Eye, ear and projectors are as `launch.pretrain_parts`
has left them, so what they say of a picture or of a second of sound is worked out once; and a step costs no more than
the language model itself. Scenes are drawn by the rules of the training split, from seeds of their own.

Asked to mark somebody, it learns to say the code that the mask decoder draws (`launch.part_lessons.codes`): the
states that predict the mask tokens come to be this code. The words that an answer turns on count more than the others
(`launch.language_rows`), and linear maps that are thrown away afterwards read off the inner states who is where and
when (`launch.language_losses`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import mini
from crab_jax.backbones.llama import Llama
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.model import Crab, CrabConfig
from crab_jax.nn.fused_attention import Segments
from crab_jax.params import flatten, nest
from crab_jax.starting import handed_on, newest_checkpoint
from crab_jax.tokens import Tokenizer
from launch.language_losses import Told, blank_heads, losses, read, sizes
from launch.language_media import (
    Pool,
    Pools,
    Rendered,
    render_concert,
    render_music,
    render_sound,
    render_still,
    render_video,
)
from launch.language_rows import FACTS, LAYOUT, STORIES, Rows, lessons
from launch.part_optimizer import optimizer_of
from launch.part_scenes import Job, rendered
from launch.pretrain_parts import write


def pools_of(config: CrabConfig, args: argparse.Namespace, split: str, share: float) -> Pools:
    """Renders a share of all scenes and works out what the projectors say of them."""
    params = {}
    for name in ("eye", "ear", "vl_projector", "al_projector"):
        part = handed_on(newest_checkpoint(args.parts / f"{name}.safetensors"))
        params |= {path: jnp.asarray(np.asarray(x), jnp.float32) for path, x in part.items()}
    model = Crab(dataclasses.replace(config, llama=None, mask_decoder=None), jnp.float32)
    variables = {"params": nest(params)}
    look = jax.jit(lambda x: model.apply(variables, x, method=lambda m, x: m.encode_frames(x).tokens))

    @jax.jit
    def listen(windows):
        rows = windows.shape[1] // config.beats.input_patch_size  # whole rows of patches, and all of them are real
        whole = windows[:, : rows * config.beats.input_patch_size].astype(jnp.float32)
        return model.apply(variables, whole, jnp.full(len(whole), rows, jnp.int32), method="encode_windows")

    def rendered_some(render: Callable, count: int) -> list:
        jobs = [Job(split, k, args.seed, config.clip.image_size, 0) for k in range(max(round(count * share), 8))]
        return rendered(render, jobs, args.jobs)

    def pool(found: list[Rendered], encode: Callable) -> Pool:
        pieces, each = [], len(found[0].media)
        flat = np.concatenate([r.media for r in found])
        for at in range(0, len(flat), 64):
            some = flat[at : at + 64]
            whole = np.concatenate([some, np.repeat(some[-1:], 64 - len(some), axis=0)])
            pieces.append(np.asarray(encode(whole))[: len(some)].astype(np.float16))
        tokens = np.concatenate(pieces)
        return Pool.made(tokens.reshape(len(found), each, *tokens.shape[1:]), found)

    played = rendered_some(render_concert, args.concerts)
    played = [(played[k], played[k + 1]) for k in range(0, len(played), 2)]
    played = [(look_at, listen_to) for look_at, listen_to in played if look_at.who and listen_to.who]
    return Pools(
        stills=pool(rendered_some(render_still, args.stills), look),
        videos=pool(rendered_some(render_video, args.videos), look),
        sounds=pool(rendered_some(render_sound, args.sounds), listen),
        music=pool(rendered_some(render_music, args.music), listen),
        looks=pool([one for one, _ in played], look),
        tones=pool([other for _, other in played], listen),
    )


def earlier(path: pathlib.Path, wanted: dict[str, jax.Array]) -> dict:
    """The language model of an earlier file, without LoRA."""
    found = {
        p: x for p, x in handed_on(newest_checkpoint(path)).items() if p.startswith("llama/") and "/lora_" not in p
    }
    if {p: x.shape for p, x in found.items()} != {p: x.shape for p, x in wanted.items()}:
        raise CheckpointError(f"{path}: expected the {len(wanted)} arrays of a language model of configs/mini.py")
    return nest({p: jnp.asarray(np.asarray(x), jnp.float32) for p, x in found.items()})


def train(config: CrabConfig, args: argparse.Namespace) -> None:
    """Renders, trains, prints what unseen scenes say, writes the language model."""
    tokenizer, ids = Tokenizer.tiny(), config.token_ids
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora=None))
    llama, zeros = Llama(config.llama, jnp.float32), jnp.zeros((1, 8), jnp.int32)
    model = {"llama": llama.init(
        jax.random.key(args.seed), zeros, method=lambda m, t: m.logits(m(m.embed(t), t, Segments(t))[0])
    )["params"]}  # fmt: skip
    if args.start:
        model = earlier(args.start, flatten(model))
    params = {"model": model, "heads": blank_heads(config.llama.hidden_size)}

    queries, width = config.vl_projector.num_queries, config.vl_projector.out_features

    def drawn(split: str, share: float, number: int) -> Iterator:
        pools = pools_of(config, args, split, share) if args.words < 1 else None
        rng = np.random.default_rng((args.seed, number))
        shares = dict(of_tasks=args.tasks, of_words=args.words, among=args.among, comparing=args.comparing)
        some = lessons(rng, pools, **shares)
        return iter(Rows(some, tokenizer=tokenizer, rows=args.rows, queries=queries, width=width))

    others, rows = drawn("val", 0.04, 2), drawn("train", 1.0, 1)
    unseen = [next(others) for _ in range(max(32 // args.rows, 1))]
    optimizer = optimizer_of(args.rate, args.steps)
    state = optimizer.init(params)

    def tell(params, batch, given):
        return losses(read(config, params["model"], batch, given), params["heads"], batch, given, ids)

    def loss(params, row, per):
        told = tell(params, *row)
        looked_up = told.clock / per.items + told.missed / per.places + 0.1 * told.unsure / per.count
        return told.weighted / per.weights + args.marking * told.off / per.masks + args.clock * looked_up, told

    cores = math.gcd(args.rows, jax.device_count())
    mesh = Mesh(jax.devices()[:cores], ("row",))

    def dealt(rows: Any) -> Any:
        """[B …] → [B/cores cores …]: at every turn one row for every core."""
        return jax.device_put(
            jax.tree.map(lambda x: x.reshape(-1, cores, *x.shape[1:]), rows), NamedSharding(mesh, P(None, "row"))
        )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch, given):
        """One row of each device at a time: what four leave for the way back does not fit into the cache of a core."""
        per = sizes(batch, given)

        def add(total, row):
            (_, told), grads = jax.value_and_grad(loss, has_aux=True)(params, row, per)
            return jax.tree.map(jnp.add, total, (grads, told)), None

        nothing = (jax.tree.map(jnp.zeros_like, params), Told(*[jnp.float32(0)] * len(Told._fields)))
        (grads, told), _ = jax.lax.scan(add, nothing, (batch, given))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, told

    params, state = jax.device_put((params, state), NamedSharding(mesh, P()))
    judge = jax.jit(tell)

    def line(sums: np.ndarray) -> str:
        t = Told(*sums)
        items = max(t.items, 1)
        return (
            f"text {t.nll / t.count:.4f} weighted {t.weighted / t.weights:.4f} "
            f"answers right {t.decided / max(t.decides, 1):.3f} "
            f"code {t.off / max(t.masks, 1):.4f} marked right {t.right / max(t.alone, 1):.3f} "
            f"clock {t.clock / items:.3f} moments right {t.knows / items:.3f} "
            f"numbers {t.missed / max(t.places, 1):.3f} steps off {t.misses / max(t.places, 1):.2f} "
            f"cast {t.sure / t.count:.3f} in their place {t.found / max(t.stand, 1):.3f} "
            f"facts {t.aware / items / FACTS:.3f} stories {t.known / items / STORIES:.3f}"
        )

    started, recent = time.monotonic(), 0.0
    for n in range(1, args.steps + 1):
        params, state, told = step(params, state, *dealt(next(rows)))
        recent = recent + np.asarray(told)
        if n % args.log_every == 0 or n == args.steps:
            held = sum(np.asarray(judge(params, *batch)) for batch in unseen)
            spent = time.monotonic() - started
            print(f"step {n}/{args.steps} | {spent:.0f} s | training {line(recent)} | unseen {line(held)}", flush=True)
            recent = 0.0
        if n % args.save_every == 0 or n == args.steps:
            write(args.out, flatten(params["model"]))
    print(f"language: {args.out}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.pretrain_language", description=__doc__.split("\n", 1)[0])
    add, path = parser.add_argument, pathlib.Path
    add("--parts", type=path, metavar="DIR", help="with eye, ear and both projectors, as safetensors")
    add("--out", type=path, required=True, help="safetensors file to write")
    add("--start", type=path, metavar="FILE", help="an earlier one to go on from")
    add("--tasks", type=float, default=0.7, help="share of the lessons that are of the nine tasks (default 0.7)")
    add(
        "--words",
        type=float,
        default=0.25,
        help="share of the lessons that have no pictures and sounds, only what follows from them (default 0.25); "
        "with 1, nothing is rendered and --parts is not needed",
    )
    add("--among", type=float, default=0.1, help="share of their concerts for looking names up (default 0.1)")
    add("--comparing", type=float, default=0.4, help="share for comparing lists, places or times (default 0.4)")
    add("--stills", type=int, default=3000, help="scenes with two pictures each (default 3000)")
    add("--videos", type=int, default=1200, help="of ten pictures (default 1200)")
    add("--sounds", type=int, default=3000, help="of sixteen seconds (default 3000)")
    add("--music", type=int, default=1000, help="of thirty-two seconds (default 1000)")
    add("--concerts", type=int, default=800, help="of a minute (default 800)")
    add("--steps", type=int, default=4500, help="optimizer steps (default 4500)")
    add("--rows", type=int, default=4, help=f"of a step, of {LAYOUT.tokens} tokens (default 4)")
    add("--rate", type=float, default=1.5e-3, help="peak learning rate (default 1.5e-3)")
    add("--marking", type=float, default=0.5, help="weight of codes beside words (default 0.5)")
    add(
        "--clock",
        type=float,
        default=0.3,
        help="weight of what is read off inner states beside words (default 0.3)",
    )
    add("--seed", type=int, default=3, help="of scenes, questions and first weights (default 3)")
    add("--jobs", type=int, default=1, help="processes that render (default 1)")
    add("--log-every", type=int, default=100)
    add("--save-every", type=int, default=500)
    args = parser.parse_args(argv)
    if min(args.among, args.comparing) < 0 or args.among + args.comparing > 1:
        parser.error(f"--among {args.among} --comparing {args.comparing}: expected shares, at most 1 together")
    if args.parts is None and args.words < 1:
        parser.error("--parts DIR: expected the eye, the ear and both projectors, unless --words 1 has only words")
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    try:
        train(config, args)
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
