"""`python -m launch.bench infer`: the adapter, encoding and generation against this machine's own limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from configs import bench_mid, published
from crab_jax.backbones.llama import LlamaConfig
from crab_jax.config import build
from crab_jax.model import CrabConfig
from launch.benchmarks import limits
from launch.benchmarks.answer import Clip, Loaded, encode_rows, generate_rows, layer_rows, precision
from launch.benchmarks.lora import LoraSizes, forward_rows, training_rows
from launch.benchmarks.report import Row

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that is measured.

    Attributes:
        matmul: edge of the square matrices whose product is the limit of arithmetic.
        read_bytes: size of the array whose reading is the limit of memory, far larger than any cache.
        lora: the adapter's linears.
        layer: a language model of one layer at full width.
        layer_batches, layer_prompt, layer_steps: batch sizes, tokens of the prompt and new tokens for it.
        model: the model that encodes and generates.
        clip: what it is asked.
        encode_batches: batch sizes of encoding.
    """

    matmul: int
    read_bytes: int
    lora: LoraSizes
    layer: LlamaConfig
    layer_batches: tuple[int, ...]
    layer_prompt: int
    layer_steps: int
    model: CrabConfig
    clip: Clip
    encode_batches: tuple[int, ...]


def full_sizes(*, backend: str) -> Sizes:
    """Linears and the layer as published, the model of `configs/bench_mid.py`.

    Args:
        backend: name of JAX's backend; an accelerator needs larger probes, or it is done before it has started.
    """
    mid = bench_mid.get_config()
    llama = build(CrabConfig, published.get_config().model.to_dict()).llama
    d, f = llama.hidden_size, llama.intermediate_size
    clip = build(Clip, mid.bench.to_dict())
    cpu = backend == "cpu"
    return Sizes(
        matmul=2048 if cpu else 8192,
        read_bytes=2**29 if cpu else 2**32,
        lora=LoraSizes(
            lora=llama.lora,
            linears=((d, d), (d, f), (f, d)),
            tokens=(1, 64, 512),
            trained=(d // 2, d // 2, 256),
            cold_bytes=2**28 if cpu else 2**31,
        ),
        layer=dataclasses.replace(llama, num_layers=1, vocab_size=64),
        layer_batches=(clip.batches[0], clip.batches[-1]),
        layer_prompt=64,
        layer_steps=16,
        model=build(CrabConfig, mid.model.to_dict()),
        clip=clip,
        encode_batches=(1, 4),
    )


def _limits(sizes: Sizes, dtypes: Sequence[Any], rounds: int) -> Iterator[Row]:
    yield from limits.rows(matmul_size=sizes.matmul, read_bytes=sizes.read_bytes, dtypes=dtypes, rounds=rounds)


def _lora(sizes: Sizes, dtypes: Sequence[Any], rounds: int) -> Iterator[Row]:
    for measure in (forward_rows, training_rows):
        for dtype in dtypes:
            with precision(dtype):
                yield from measure(sizes.lora, dtype, rounds=rounds)


def _layer(sizes: Sizes, dtypes: Sequence[Any], rounds: int) -> Iterator[Row]:
    for dtype in dtypes:
        with precision(dtype):
            yield from layer_rows(
                sizes.layer, dtype, batches=sizes.layer_batches, prompt=sizes.layer_prompt, steps=sizes.layer_steps,
                read_bytes=sizes.read_bytes, rounds=rounds,
            )  # fmt: skip


def _encode(sizes: Sizes, dtypes: Sequence[Any], rounds: int) -> Iterator[Row]:
    for dtype in dtypes:
        with precision(dtype):
            yield from encode_rows(
                Loaded.random(sizes.model, dtype), sizes.clip, batches=sizes.encode_batches, matmul_size=sizes.matmul,
                rounds=rounds,
            )  # fmt: skip


def _generate(sizes: Sizes, dtypes: Sequence[Any], rounds: int) -> Iterator[Row]:
    for dtype in dtypes:
        with precision(dtype):
            yield from generate_rows(
                Loaded.random(sizes.model, dtype), sizes.clip, batches=sizes.clip.batches, matmul_size=sizes.matmul,
                read_bytes=sizes.read_bytes, rounds=rounds,
            )  # fmt: skip


SECTIONS: dict[str, Callable[[Sizes, Sequence[Any], int], Iterator[Row]]] = {
    "limits": _limits,
    "lora": _lora,
    "layer": _layer,
    "encode": _encode,
    "generate": _generate,
}


def measure(
    sizes: Sizes, *, dtypes: Iterable[str], rounds: int, only: Iterable[str] = (), progress: Callable[[Row], None]
) -> list[Row]:
    """Runs the sections in their order.

    Args:
        sizes: what to measure.
        dtypes: names of `DTYPES`.
        rounds: timed repetitions of everything.
        only: names of `SECTIONS`; empty for all.
        progress: called with every finished row.
    """
    wanted = set(only) or set(SECTIONS)
    rows = []
    for name, section in SECTIONS.items():
        if name in wanted:
            for row in section(sizes, [DTYPES[d] for d in dtypes], rounds):
                rows.append(row)
                progress(row)
    return rows
