"""A language model for small models, which have no published one: it can speak, look somebody up, and tell the time.

    python -m launch.pretrain_language --parts runs/mini --out runs/mini/language.safetensors

The published system starts from a LLaMA that can read. This one learns on questions about pictures, videos and sounds
of the generated world (`launch.language_questions`): who is where (as a box), who is seen and heard when, who is
louder, first, left of somebody, and who of all these makes the sound. Eye, ear and projectors are as
`launch.pretrain_parts` has left them, so what they say of a picture or of a second of sound is worked out once; and a
step costs no more than the language model itself. Scenes are drawn by the rules of the training split, from seeds of
their own. None of the nine tasks is asked; a box is written as ARIG writes it, and some of those to be marked are
called what Ref-AVS calls them.

Asked to mark somebody, it learns to say the code that the mask decoder draws (`launch.pretrain_parts.codes`): the
states that predict the mask tokens come to be this code.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import mini
from crab_jax.batch import Batch, Example, FeatureSizes, pack
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.layout import Layout
from crab_jax.losses import row_nll
from crab_jax.model import Crab, CrabConfig, mask_states
from crab_jax.nn.fused_attention import Segments
from crab_jax.params import flatten, nest
from crab_jax.starting import handed_on, newest_checkpoint
from crab_jax.tokens import IMAGE, VIDEO, Tokenizer, build_prompt
from data_pipelines.examples import assemble
from launch.language_media import Pool, Pools, Rendered, render_concert, render_sound, render_still, render_video
from launch.language_questions import Lesson, questions
from launch.part_scenes import NAMES, Job, rendered
from launch.pretrain_parts import code_of, codes, nobody, optimizer_of, write
from launch.task_questions import tasks

MISFITS = 4
LAYOUT = Layout(tokens=400, frames=22, windows=22, patch_rows=1, masks=5)


def lessons(rng: np.random.Generator, pools: Pools, share: float) -> Iterator[Lesson]:
    """Endless; such a share of them are of the nine tasks."""
    of_tasks, others = tasks(rng, pools), questions(rng, pools)
    while True:
        yield next(of_tasks if rng.random() < share else others)


class Rows:
    """Packs lessons into rows of `LAYOUT`, with what the projectors say instead of pictures and sounds."""

    def __init__(self, pools: Pools, *, tokenizer: Tokenizer, seed: Sequence[int], rows: int, tasks: float):
        self._tokenizer, self._rows = tokenizer, rows
        self._lessons = lessons(np.random.default_rng(seed), pools, tasks)
        self._waiting: list[tuple] = []
        self._queries, self._width = pools.stills.tokens.shape[2:]
        self._sizes = FeatureSizes(image_size=1, frame_tokens=self._queries, window_tokens=self._queries, patch=1)

    def _example(self) -> tuple[Example, np.ndarray, np.ndarray, tuple[str, ...] | None]:
        lesson = next(self._lessons)
        pictures = np.zeros((len(lesson.seen), 1, 1, 3), np.uint8)
        one = IMAGE in lesson.prompt
        example = assemble(
            name=lesson.sort,
            prompt=build_prompt(self._tokenizer, lesson.prompt),
            target=self._tokenizer.encode_target(lesson.target),
            image=pictures if one else None,
            video=pictures if VIDEO in lesson.prompt else None,
            fbank=np.zeros((len(lesson.heard), 1, 128), np.float32) if len(lesson.heard) else None,
            mask=None if lesson.marked is None else np.zeros((1, 1), np.uint8),
            ids=self._tokenizer.token_ids,
            sizes=self._sizes,
        )
        return example, lesson.seen, lesson.heard, lesson.marked

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray, np.ndarray, np.ndarray]]:
        """Batches with visual [B T·Q D] and audio tokens [B A·Q D], and who is marked [B M kinds] (0 or 1); float32."""
        while True:
            packed, seen, heard = [], [], []
            marked = np.zeros((self._rows, LAYOUT.masks, len(NAMES)), np.float32)
            for row in range(self._rows):
                found = list(self._row())
                packed.append([f[0] for f in found])
                seen.append(self._joined([f[1] for f in found], LAYOUT.frames))
                heard.append(self._joined([f[2] for f in found], LAYOUT.windows))
                for place, who in enumerate(f[3] for f in found if f[3] is not None):
                    for kind in who:
                        marked[row, place, NAMES.index(kind)] = 1
            ids, sizes = self._tokenizer.token_ids, dataclasses.asdict(self._sizes)
            yield pack(packed, layout=LAYOUT, ids=ids, **sizes), np.stack(seen), np.stack(heard), marked

    def _row(self) -> Iterator[tuple]:
        """Those that did not fit elsewhere, as far as they fit here, then new ones until `MISFITS` did not."""
        room = np.array([LAYOUT.tokens, LAYOUT.frames, LAYOUT.windows, LAYOUT.masks])
        waiting, self._waiting = self._waiting, []
        while len(self._waiting) < MISFITS:
            found = waiting.pop(0) if waiting else self._example()
            example, seen, heard, who = found
            size = (len(example.prompt) + len(example.target), len(seen), len(heard), int(who is not None))
            if (room < size).any():
                self._waiting.append(found)
                continue
            room = room - size
            yield found
        self._waiting += waiting

    def _joined(self, some: list[np.ndarray], items: int) -> np.ndarray:
        out = np.zeros((items, self._queries, self._width), np.float32)
        joined = np.concatenate(some)
        out[: len(joined)] = joined
        return out.reshape(-1, self._width)


def pools_of(config: CrabConfig, args: argparse.Namespace, split: str, share: float) -> Pools:
    """Renders a share of all scenes and works out what the projectors say of them."""
    params = {}
    for name in ("eye", "ear", "vl_projector", "al_projector"):
        part = handed_on(newest_checkpoint(args.parts / f"{name}.safetensors"))
        params |= {path: jnp.asarray(np.asarray(x)) for path, x in part.items()}
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
        looks=pool([one for one, _ in played], look),
        tones=pool([other for _, other in played], listen),
    )


def losses(model: Crab, ids, params, batch: Batch, seen, heard, marked):
    """What one batch says, as sums.

    Returns:
        Negative log-likelihood of labelled tokens, their number; mean squared distance of states from codes over masks,
        their number; masks of one kind or of nobody whose nearest code is right, their number.
    """

    def states_and_logits(m: Crab, tokens, seen, heard):
        x = m.place(tokens, seen, heard)
        states, _, _ = m.llama(x, batch.position, Segments(batch.segment))
        return states, m.llama.logits(states)

    states, logits = model.apply({"params": params}, batch.tokens, seen, heard, method=states_and_logits)
    nll, count = row_nll(logits, batch.labels)
    said = mask_states(states, batch, ids)  # [B M K D]
    there = (batch.mask_segment > 0).astype(jnp.float32)
    width, many = said.shape[-1], marked.sum(-1)
    wanted = code_of(marked, width)
    off = (jnp.square(said - wanted[:, :, None]).mean((-1, -2)) * there).sum()
    everybody = jnp.concatenate([codes(width), nobody(width)[None]])
    nearest = jnp.square(said.mean(2)[:, :, None] - everybody).sum(-1).argmin(-1)
    alone = there * (many <= 1)
    truth = jnp.where(many > 0, marked.argmax(-1), len(NAMES))
    right = ((nearest == truth) * alone).sum()
    return nll.sum(), count.sum(), off, there.sum(), right, alone.sum()


def _earlier(path: pathlib.Path, wanted: dict[str, jax.Array]) -> dict:
    """The language model of an earlier file, without LoRA."""
    found = {
        p: x for p, x in handed_on(newest_checkpoint(path)).items() if p.startswith("llama/") and "/lora_" not in p
    }
    if {p: x.shape for p, x in found.items()} != {p: x.shape for p, x in wanted.items()}:
        raise CheckpointError(f"{path}: expected the {len(wanted)} arrays of a language model of configs/mini.py")
    return nest({p: jnp.asarray(np.asarray(x)) for p, x in found.items()})


def train(config: CrabConfig, args: argparse.Namespace) -> None:
    """Renders, trains, prints what unseen scenes say, writes the language model."""
    tokenizer, ids = Tokenizer.tiny(), config.token_ids
    only = dataclasses.replace(
        config, llama=dataclasses.replace(config.llama, lora=None), clip=None, beats=None, vl_projector=None,
        al_projector=None, mask_decoder=None,
    )  # fmt: skip
    model = Crab(only, jnp.float32)
    zeros = jnp.zeros((1, 8), jnp.int32)
    params = model.init(
        jax.random.key(args.seed), zeros,
        method=lambda m, t: m.llama.logits(m.llama(m.llama.embed(t), t, Segments(t))[0]),
    )["params"]  # fmt: skip
    if args.start:
        params = _earlier(args.start, flatten(params))

    def drawn(split: str, share: float, number: int) -> Iterator:
        pools = pools_of(config, args, split, share)
        return iter(Rows(pools, tokenizer=tokenizer, seed=(args.seed, number), rows=args.rows, tasks=args.tasks))

    others, rows = drawn("val", 0.04, 2), drawn("train", 1.0, 1)
    unseen = [next(others) for _ in range(max(32 // args.rows, 1))]
    optimizer = optimizer_of(args)
    state = optimizer.init(params)

    def loss(params, *batch):
        nll, count, off, masks, right, alone = losses(model, ids, params, *batch)
        text, code = nll / jnp.maximum(count, 1), off / jnp.maximum(masks, 1)
        return text + args.marking * code, jnp.stack([nll, count, off, masks, right, alone])

    @jax.jit
    def step(params, state, *batch):
        (_, told), grads = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, told

    judge = jax.jit(lambda params, *batch: loss(params, *batch)[1])

    def line(told: np.ndarray) -> str:
        nll, count, off, masks, right, alone = told
        return f"text {nll / count:.4f} code {off / max(masks, 1):.4f} marked right {right / max(alone, 1):.3f}"

    started, recent = time.monotonic(), np.zeros(6)
    for n in range(1, args.steps + 1):
        params, state, told = step(params, state, *next(rows))
        recent = recent + np.asarray(told)
        if n % args.log_every == 0 or n == args.steps:
            held = sum(np.asarray(judge(params, *batch)) for batch in unseen)
            spent = time.monotonic() - started
            print(f"step {n}/{args.steps} | {spent:.0f} s | training {line(recent)} | unseen {line(held)}", flush=True)
            recent = np.zeros(6)
        if n % args.save_every == 0 or n == args.steps:
            write(args.out, flatten(params))
    print(f"language: {args.out}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.pretrain_language", description=__doc__.split("\n", 1)[0])
    add, path = parser.add_argument, pathlib.Path
    add("--parts", type=path, required=True, metavar="DIR", help="with eye, ear and both projectors, as safetensors")
    add("--out", type=path, required=True, help="safetensors file to write")
    add("--start", type=path, metavar="FILE", help="an earlier one to go on from")
    add("--tasks", type=float, default=0.7, help="share of the lessons that are of the nine tasks (default 0.7)")
    add("--stills", type=int, default=3000, help="scenes with two pictures each (default 3000)")
    add("--videos", type=int, default=1200, help="of ten pictures (default 1200)")
    add("--sounds", type=int, default=3000, help="of sixteen seconds (default 3000)")
    add("--concerts", type=int, default=800, help="of a minute (default 800)")
    add("--steps", type=int, default=4500, help="optimizer steps (default 4500)")
    add("--rows", type=int, default=4, help=f"of a step, of {LAYOUT.tokens} tokens (default 4)")
    add("--rate", type=float, default=1.5e-3, help="peak learning rate (default 1.5e-3)")
    add("--marking", type=float, default=0.5, help="weight of codes beside words (default 0.5)")
    add("--seed", type=int, default=3, help="of scenes, questions and first weights (default 3)")
    add("--jobs", type=int, default=1, help="processes that render (default 1)")
    add("--log-every", type=int, default=100)
    add("--save-every", type=int, default=500)
    args = parser.parse_args(argv)
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    try:
        train(config, args)
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
