"""`crab eval` with canned answers in place of the networks: everything else is real, and nothing is compiled.

python tests/eval_run.py SECONDS_PER_BATCH ARGUMENTS …
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZE = 112  # pixels of the tiny model
TEXTS = ("So the answer is <answer> two </answer>.", "So the answer is <answer> cello </answer>.", "Who knows?")


def canned(pause_s: float = 0.0):
    """Stands in for `Engine._batch`: what it says depends on the question alone."""
    from crab_jax.evaluate.engine import Reply
    from crab_jax.tokens import Tokenizer

    tokenizer = Tokenizer.tiny()
    ids = tokenizer.token_ids

    def batch(engine, shape, requests):
        time.sleep(pause_s)
        replies = []
        for r in requests:
            key = zlib.crc32(f"{r.example.name} {len(r.example.target)}".encode())
            rng = np.random.default_rng(key)
            logits = None
            if r.head is None:
                said = tuple(tokenizer.encode_target(TEXTS[key % 3]))
            else:
                said = tuple(r.example.target) or ((*ids.masks, ids.eos) if rng.random() < 0.8 else (ids.eos,))
                if len(said) > 1:
                    logits = rng.normal(size=(71 if r.head == "semantic" else 1, SIZE, SIZE)).astype(np.float32)
            count = sum(i in ids.masks for i in said)
            replies.append(Reply(ids=said, finished=True, mask_count=count, mask_logits=logits, seconds={}))
        return replies

    return batch


def write_inputs(root: pathlib.Path) -> None:
    """Shards of five test sets, and weights."""
    import shard_files as make
    from models import tiny_config, tiny_params

    from crab_jax import checkpoint
    from crab_jax.tokens import Tokenizer

    def to_split(record, split="test"):
        kinds = (["Audio", "Counting"], ["Visual", "Location"], ["Audio-Visual", "Temporal"])
        asks = tuple(
            dataclasses.replace(a, raw={"type": kinds[i % 3]} if record.task == "avqa" else {})
            for i, a in enumerate(record.asks)
        )
        if split == "test_n":
            asks = tuple(dataclasses.replace(a, mask=None) for a in asks)
        return dataclasses.replace(record, split=split, asks=asks)

    shards = root / "shards"
    make.write_shards(shards, [to_split(make.s4(i, size=SIZE)) for i in range(6)], size=SIZE)
    make.write_shards(shards, [to_split(make.avss(i, size=SIZE, moments=2)) for i in range(2)], size=SIZE)
    make.write_shards(shards, [to_split(make.ave(i, size=SIZE)) for i in range(3)], size=SIZE)
    make.write_shards(shards, [to_split(make.avqa(i, size=SIZE, seconds=12)) for i in range(4)], size=SIZE)
    null = [to_split(make.ref_avs(i, size=SIZE, moments=2), "test_n") for i in range(2)]
    make.write_shards(shards, null, size=SIZE)
    head = np.array(tiny_params()["llama/head/kernel"])
    head[:, list(tiny_config().token_ids.masks)] *= 25  # often enough for masks to appear
    (root / "tokenizer.model").write_bytes(Tokenizer.tiny().model)
    checkpoint.save(
        root / "weights", config=tiny_config(), params=tiny_params() | {"llama/head/kernel": head},
        tokenizer=root / "tokenizer.model",
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs `crab eval` that way."""
    from crab_jax import cli
    from crab_jax.evaluate.engine import Engine

    Engine._batch = canned(float(arguments[0]))
    return cli.main(["eval", *arguments[1:]])


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    sys.exit(main(sys.argv[1:]))
