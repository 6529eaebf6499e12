"""What a language model concludes about concerts from what was noticed in them, question by question.

    python -m launch.judge_conclusions crab_jax/assets/mini/params/base.safetensors

Asks what `conclusions` of `launch.task_questions` does, which needs neither pictures nor sounds, from a seed that no
training has. An answer is right if each of its words that follow from others would have been said, after the true ones
in front of it. LoRA is left out: a language model of `launch.pretrain_language` has none.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from configs import mini
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig, abstract
from crab_jax.tokens import Tokenizer
from launch.language_losses import read
from launch.language_questions import Lesson
from launch.language_rows import WEIGHTS, Rows, answers_of
from launch.pretrain_language import earlier
from launch.task_questions import conclusions


def judged(config: CrabConfig, params: dict[str, Any], lessons: Iterator[Lesson], count: int) -> dict[str, list[bool]]:
    """Template of a question → whether each answer is right, of at least `count` questions."""
    tokenizer = Tokenizer.tiny()
    queries, width = config.vl_projector.num_queries, config.vl_projector.out_features
    rows = Rows(lessons, tokenizer=tokenizer, rows=4, queries=queries, width=width)
    say = jax.jit(lambda batch, given: read(config, params, batch, given).logits.argmax(-1))
    right = collections.defaultdict(list)
    for batch, given, packed in rows.packed():
        said = np.asarray(say(batch, given))
        fits = (said == batch.labels) | (batch.labels < 0) | (given.weights < WEIGHTS[-1][1])
        for row, here in zip(packed, fits, strict=True):
            for place, lesson in answers_of(row):
                right[lesson.sort.removeprefix("conclusion ")].append(bool(here[place].all()))
        if sum(map(len, right.values())) >= count:
            return dict(right)
    raise AssertionError("questions are endless")


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.judge_conclusions", description=__doc__.split("\n", 1)[0])
    parser.add_argument("weights", type=pathlib.Path, help="a file with a language model of configs/mini.py")
    parser.add_argument("--count", type=int, default=1500, help="questions (default 1500)")
    parser.add_argument("--seed", type=int, default=31337, help="of the questions (default 31337)")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count {args.count}: expected at least 1")
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora=None))
    try:
        params = earlier(args.weights, {p: x for p, x in abstract(config).items() if p.startswith("llama/")})
    except CheckpointError as error:
        parser.error(str(error))
    right = judged(config, params, conclusions(np.random.default_rng(args.seed)), args.count)
    print("| question | asked | right, % |\n|---|---:|---:|")
    for template in sorted(right):
        print(f"| {template} | {len(right[template])} | {100 * np.mean(right[template]):.1f} |")
    everything = [one for some in right.values() for one in some]
    print(f"| all | {len(everything)} | {100 * np.mean(everything):.1f} |")


if __name__ == "__main__":
    main()
