"""Makes a mask decoder understand a language model that has learned to speak, but not to point.

    python -m launch.bridge --run runs/mini/finetune --decoder runs/mini/decoder.safetensors \\
        --shards runs/mini/shards --out runs/mini/bridge.safetensors

`launch.pretrain_parts decoder` draws whom a code names. The states of mask tokens of a language model know who is
meant, too, because the text before them says so; but most of what they are is the same for everybody (here 93 %), and
a decoder that starts there draws everybody for hundreds of steps. So the map from states to codes is fitted, by least
squares on examples of the training split, and put in front of the first linear of the decoder's prompt. Nothing is
trained. Tasks whose text never names who is meant (`The object that makes the sound is <mask_0>…`) teach nothing here.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.convert.runs import Whole, read_whole
from crab_jax.groups import CheckpointError
from crab_jax.layout import Layout
from crab_jax.model import Crab, mask_states
from crab_jax.params import nest
from crab_jax.starting import handed_on, newest_checkpoint
from crab_jax.tasks import ALL
from crab_jax.tokens import Tokenizer
from data_pipelines.records import ShardError, open_shards
from data_pipelines.stream.loader import Stream, StreamSettings
from data_pipelines.stream.tables import Source, StreamError
from data_pipelines.world.kinds import KINDS
from launch.pretrain_parts import codes, write

PROMPT = "mask_decoder/prompt/lin1"
LAYOUT = Layout(tokens=400, frames=12, windows=12, patch_rows=12, masks=4)
ROWS = 4
_NAMES = list(KINDS)
_LABELS = np.array([KINDS[name].label for name in _NAMES])
# How the tasks with masks say it: `… is guitar.` in the answer, or `corresponding to the guitar, …` in the question.
_NAMED = re.compile(r" is ([^.\n<]*[a-z][^.\n<]*)[.\n]|corresponding to the ([^,\n]+),")
# Names are looked for from the longest to the shortest, so that no part of another one counts.
_WORDS = sorted(
    {(w.lower(), k) for k, name in enumerate(_NAMES) for w in (name, KINDS[name].noun)}, key=lambda w: -len(w[0])
)


@dataclasses.dataclass(frozen=True)
class Said:
    """States of mask tokens, float32 [n K D], and who is meant by each, bool [n kinds]."""

    states: np.ndarray
    named: np.ndarray


def meant(text: str, mask: np.ndarray, *, semantic: bool) -> np.ndarray:
    """Who is meant by mask tokens.

    Args:
        text: question and answer up to the mask tokens.
        mask: [S S], classes if `semantic`.
        semantic: classes say who it is; otherwise the text does.

    Returns:
        bool [kinds].
    """
    if semantic:
        return np.isin(_LABELS, mask)
    found = np.zeros(len(_NAMES), bool)
    said = _NAMED.findall(text.lower())
    rest = next(filter(None, said[-1])) if said else ""
    for word, kind in _WORDS:
        rest, times = re.subn(rf"\b{re.escape(word)}\b", " ", rest)
        found[kind] |= bool(times)
    return found


def listen(whole: Whole, shards: pathlib.Path, tasks: Sequence[str], batches: int) -> Said:
    """What a model says in teacher-forced examples, those without anybody left out."""
    model, ids = Crab(whole.config, jnp.float32), whole.config.token_ids
    params = nest({p: jnp.asarray(np.asarray(x), jnp.float32) for p, x in whole.params.items()})
    said = jax.jit(lambda batch: mask_states(model.apply({"params": params}, batch, method=Crab.states)[0], batch, ids))
    tokenizer = Tokenizer.tiny()
    settings = StreamSettings(layout=LAYOUT, rows=ROWS, seed=1, max_left_out=0.1)
    sources = [Source(open_shards(shards, task, "train"), ALL[task]) for task in tasks]
    states, named = [], []
    with Stream(sources, settings, tokenizer=tokenizer, sizes=whole.config.feature_sizes) as stream:
        for _, (batch, _) in zip(range(batches), stream):
            of_batch = np.asarray(said(batch))
            for row, place in _masks(batch):
                segment = batch.mask_segment[row, place]
                text = tokenizer.decode(
                    np.asarray(batch.tokens[row])[batch.segment[row] == segment].tolist(), skip_special=True
                )
                who = meant(
                    text[: text.rfind("<mask_0>")],
                    batch.masks[row, place],
                    semantic=bool(batch.mask_semantic[row, place]),
                )
                if who.any():
                    states.append(of_batch[row, place]), named.append(who)
    if not states:
        raise StreamError(f"{', '.join(tasks)}: expected examples with masks of somebody, found none in {shards}")
    return Said(np.stack(states), np.stack(named))


def _masks(batch) -> Iterator[tuple[int, int]]:
    return zip(*np.nonzero(np.asarray(batch.mask_segment) > 0))


def fit(said: Said, wanted: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The affine map from states to codes, as large on average as what is wanted.

    Args:
        said: states [n K D].
        wanted: codes [n D].
        ridge: relative to the mean variance of the states. The less, the more the map makes of small differences, and
            the sooner it is wrong when the language model learns on.

    Returns:
        A matrix [D D] and a vector [D]: code = state @ matrix + vector.
    """
    x = said.states.reshape(-1, said.states.shape[-1]).astype(np.float64)
    y = np.repeat(wanted, said.states.shape[1], axis=0).astype(np.float64)
    middle, shift = x.mean(0), y.mean(0)
    x, y = x - middle, y - shift
    covariance = x.T @ x
    matrix = np.linalg.solve(
        covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance)), x.T @ y
    )
    found = x @ matrix
    matrix /= (found * y).sum() / (y * y).sum()  # least squares make small what they are not sure of
    return matrix, shift - middle @ matrix


def bridge(args: argparse.Namespace) -> str:
    """Reads, fits, writes. Returns a line for people."""
    decoder = handed_on(newest_checkpoint(args.decoder))
    if f"{PROMPT}/kernel" not in decoder:
        raise CheckpointError(f"{args.decoder}: expected {PROMPT}/kernel, found none")
    said = listen(read_whole(args.run, check=False), args.shards, args.tasks, args.batches)
    known = np.asarray(codes(said.states.shape[-1]), np.float64)
    wanted = said.named @ known / np.sqrt(said.named.sum(1, keepdims=True))
    last = np.arange(len(wanted)) >= len(wanted) * 4 // 5  # judged by what it was not fitted to, then fitted to all
    matrix, vector = fit(Said(said.states[~last], said.named[~last]), wanted[~last], args.ridge)
    heard = said.states[last].mean(1) @ matrix + vector
    one = said.named[last].sum(1) == 1
    nearest = np.square(heard[:, None] - known).sum(-1).argmin(1)
    right = (nearest == said.named[last].argmax(1))[one]
    matrix, vector = fit(said, wanted, args.ridge)
    kernel, bias = (decoder[f"{PROMPT}/{name}"].astype(np.float64) for name in ("kernel", "bias"))
    decoder[f"{PROMPT}/kernel"] = (matrix @ kernel).astype(np.float32)
    decoder[f"{PROMPT}/bias"] = (vector @ kernel + bias).astype(np.float32)
    write(args.out, decoder)
    return (
        f"bridge: {args.out}; {len(wanted)} masks, understood {right.mean():.1%} of {one.sum()} it was not fitted to; "
        f"makes of a difference at most {np.linalg.norm(matrix, 2):.0f} times as much"
    )


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.bridge", description=__doc__.split("\n", 1)[0])
    path = pathlib.Path
    parser.add_argument("--run", type=path, required=True, help="workdir of the run that has learned to speak")
    parser.add_argument("--decoder", type=path, required=True, help="safetensors file of launch.pretrain_parts")
    parser.add_argument("--shards", type=path, required=True)
    parser.add_argument("--out", type=path, required=True, help="safetensors file to write")
    parser.add_argument("--tasks", default="pretrain-seg", help="whose texts name who is meant (default pretrain-seg)")
    parser.add_argument("--batches", type=int, default=300, help="of four rows each (default 300)")
    parser.add_argument("--ridge", type=float, default=1e-4, help="see `fit` (default 0.0001)")
    args = parser.parse_args(argv)
    args.tasks = args.tasks.split(",")
    try:
        print(bridge(args))
    except (CheckpointError, ShardError, StreamError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
