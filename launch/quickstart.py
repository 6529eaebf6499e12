"""Answers the nine tasks on media that the project renders itself, with a tiny random model.

    python -m launch.quickstart [--out runs/quickstart] [--seed 0]

No trained model comes with the project yet, so the answers are nonsense; everything else is real: media are decoded,
tokenised, encoded, answered with a key-value cache, parsed, and drawn, by the code that answers with trained weights.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator


def main(argv: list[str] | None = None) -> int:
    """Renders, writes weights, answers. Returns the exit code of `crab infer`."""
    parser = argparse.ArgumentParser(prog="launch.quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the media and of the random model")
    args = parser.parse_args(argv)
    # Heavy imports after the arguments: `--help` answers at once.
    from crab_jax import cli
    from data_pipelines.world import write_quickstart_media

    spent: dict[str, float] = {}
    with timed("rendering nine samples", spent):
        samples = write_quickstart_media(args.out / "media", seed=args.seed)
    with timed("making a tiny random model", spent):
        write_random_weights(args.out / "weights", seed=args.seed)
    with timed("answering", spent):
        code = cli.main(
            ["infer", str(samples), "--weights", str(args.out / "weights")]
            + ["--out", str(args.out / "answers"), "--max-new-tokens", "48"]
        )
    for name, seconds in spent.items():
        sys.stdout.write(f"{seconds:7.1f} s  {name}\n")
    sys.stdout.write(
        f"\nThe model is tiny and RANDOM: its answers are nonsense, and the pictures show what real ones look like.\n"
        f"  media     {samples}\n"
        f"  answers   {args.out / 'answers' / 'results.jsonl'}\n"
        f"  pictures  {args.out / 'answers'}/*.png\n"
        f"Your own video, with converted weights:\n"
        f'  crab infer --task avqa --video clip.mp4 --question "How many instruments are playing?" --weights DIR\n'
    )
    return code


def write_random_weights(folder: pathlib.Path, *, seed: int) -> None:
    """A weights folder of the toy size, with the tokenizer that comes with the project.

    The rows of the mask tokens in the output matrix are enlarged: a random model would almost never say the six mask
    tokens, and the quickstart is meant to show masks, too.
    """
    import jax
    import numpy as np

    from configs import tiny
    from crab_jax import checkpoint
    from crab_jax.config import build
    from crab_jax.model import CrabConfig, init
    from crab_jax.tokens import Tokenizer

    config = build(CrabConfig, tiny.get_config().model.to_dict())
    params = {path: np.array(leaf) for path, leaf in init(config, jax.random.key(seed)).items()}
    params["llama/head/kernel"][:, list(config.token_ids.masks)] *= 4
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = pathlib.Path(scratch) / "tokenizer.model"
        tokenizer.write_bytes(Tokenizer.tiny().model)
        checkpoint.save(folder, config=config, params=params, tokenizer=tokenizer, overwrite=True)


@contextlib.contextmanager
def timed(name: str, spent: dict[str, float]) -> Iterator[None]:
    """Says what is going on, and remembers how long it took."""
    sys.stderr.write(f"== {name}\n")
    started = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - started


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a toy is faster where it need not be compiled for an accelerator
    sys.exit(main())
