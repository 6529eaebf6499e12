"""Encoding, time to first token and decoding, beside this machine's matrix products and memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.backbones.llama import Cache, Llama, LlamaConfig
from crab_jax.batch import Batch, Example, lay_out
from crab_jax.evaluate.engine import encode
from crab_jax.evaluate.generate import generate
from crab_jax.layout import Buckets, Layout
from crab_jax.model import Crab, CrabConfig
from crab_jax.params import Flat, nest, subtree
from launch.benchmarks import limits
from launch.benchmarks.flops import matmul_flops
from launch.benchmarks.report import Row
from launch.benchmarks.timing import Spread, race
from launch.benchmarks.weights import random_array, random_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """What is asked about, and how.

    Attributes:
        frames, windows: pictures and audio windows of one clip.
        window_frames: log-mel frames of a window.
        prompt_text_tokens: of the prompt, beside the placeholders.
        answer_tokens: of a training target; not used here.
        new_tokens: length of the answers.
        batches: batch sizes of generation.
    """

    frames: int
    windows: int
    window_frames: int
    prompt_text_tokens: int
    answer_tokens: int
    new_tokens: int
    batches: tuple[int, ...]


def precision(dtype: jnp.dtype):
    """As the engine: float32 means float32 on accelerators too."""
    return jax.default_matmul_precision("highest") if dtype == jnp.float32 else contextlib.nullcontext()


def prompts(config: CrabConfig, clip: Clip, batch: int) -> Batch:
    """Random clips with random questions, laid out as the engine does, in its buckets."""
    rng = np.random.default_rng(0)
    ids = config.token_ids
    media = [ids.visual[1]] * (clip.frames * config.vl_projector.num_queries)
    media += [ids.audio] * (clip.windows * config.al_projector.num_queries)
    size = config.clip.image_size
    examples = []
    for i in range(batch):
        words = rng.integers(3, ids.visual[0], clip.prompt_text_tokens).tolist()
        examples.append(
            Example(
                name=f"clip {i}",
                prompt=[*words[:20], *media, *words[20:]],
                frames=rng.integers(0, 256, (clip.frames, size, size, 3), np.uint8),
                fbank=rng.standard_normal((clip.windows, clip.window_frames, 128), np.float32),
            )
        )
    fit = Buckets().fit
    return lay_out(
        examples,
        layout=Layout(
            tokens=fit("tokens", len(examples[0].prompt)),
            frames=fit("frames", clip.frames),
            windows=fit("windows", clip.windows),
            patch_rows=fit("patch_rows", clip.window_frames // 16),
            masks=0,
        ),
        ids=ids,
        image_size=size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model with random weights in one dtype; the mask decoder is left out, nothing here runs it."""

    model: Crab
    params: Flat

    @classmethod
    def random(cls, config: CrabConfig, dtype: jnp.dtype) -> Loaded:
        config = dataclasses.replace(config, mask_decoder=None)
        return cls(Crab(config, jnp.dtype(dtype), unrolled=True), random_weights(config, dtype))

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": nest(self.params)}

    def encoder(self, batch: Batch) -> partial:
        """`encode` with everything bound but the arrays."""
        first = np.zeros(len(batch.tokens), np.int32)
        arrays = (self.variables, *jax.tree.map(jnp.asarray, (batch.frames, batch.fbank, batch.patch_rows, first)))
        return partial(partial(encode, self.model, with_scales=False), *arrays)

    def generator(self, batch: Batch, media, *, capacity: int):
        """A function of the limit of new tokens; any limit runs the same program."""
        b = len(batch.tokens)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(b))
        knobs = (jnp.float32(0), jnp.int32(0), jnp.float32(1))
        variables = self.variables
        arrays = jax.tree.map(jnp.asarray, (batch.tokens, batch.segment, batch.position))
        program = partial(generate, self.model, capacity=capacity, greedy=True)

        def run(limit: int, program=program):
            return program(variables, *arrays, *media, jnp.full((b,), limit, jnp.int32), keys, knobs)

        return run, program


def _weights_read(params: Flat) -> int:
    """Bytes of the weights that one decode step reads: all of the language model but its embedding table."""
    return sum(leaf.nbytes for path, leaf in subtree(params, "llama").items() if not path.startswith("embed/"))


def _cache_read(config: LlamaConfig, *, batch: int, tokens: float, dtype: jnp.dtype) -> float:
    """Bytes of keys and values of `tokens` tokens in all rows and layers."""
    width = config.num_kv_heads * config.head_size
    return 2.0 * config.num_layers * batch * tokens * width * jnp.dtype(dtype).itemsize


def encode_rows(loaded: Loaded, clip: Clip, *, batches, matmul_size: int, rounds: int) -> Iterator[Row]:
    """Frames and audio windows of clips to tokens of the language model."""
    dtype = loaded.model.dtype
    product = limits.matmul(matmul_size, dtype)
    for batch in batches:
        run = loaded.encoder(prompts(loaded.model.config, clip, batch))
        work = matmul_flops(run)
        seconds = race({"encode": run, "product": product.run}, rounds=rounds)
        limit = work / product.rate(seconds["product"])
        yield Row(
            section="Encoding",
            what=f"{clip.frames} frames and {clip.windows} windows, batch {batch}, per clip",
            dtype=dtype.name,
            unit="ms",
            measured=Spread.of(1e3 * seconds["encode"] / batch),
            against=f"{work / batch / 1e9:.1f} GFLOP of matrix products",
            reference=float(np.median(1e3 * limit / batch)),
            ratio=Spread.of(seconds["encode"] / limit),
        )


def generate_rows(
    loaded: Loaded, clip: Clip, *, batches, matmul_size: int, read_bytes: int, rounds: int
) -> Iterator[Row]:
    """Prefill, first token, decode step, and the whole answer."""
    config, dtype = loaded.model.config, loaded.model.dtype
    product = limits.matmul(matmul_size, dtype)
    read = limits.fastest_read(read_bytes, rounds=3)
    weights = _weights_read(loaded.params)
    same_size = limits.fastest_read(weights, rounds=3)
    n = clip.new_tokens
    for batch in batches:
        laid_out = prompts(config, clip, batch)
        encoder = loaded.encoder(laid_out)
        run, _ = loaded.generator(laid_out, encoder()[:2], capacity=Buckets().fit("new_tokens", n))
        lengths = np.asarray(run(n).length)
        if (lengths != n).any():
            raise RuntimeError(f"expected answers of {n} tokens, found {lengths}: the random model said its end token")
        encode_work, prefill_work = matmul_flops(encoder), matmul_flops(partial(run, 1))
        seconds = race(
            {
                "encode": encoder,
                "first": partial(run, 1),
                "all": partial(run, n),
                "product": product.run,
                "read": read.run,
                "same size": same_size.run,
            },
            rounds=rounds,
        )
        flops, bandwidth = product.rate(seconds["product"]), read.rate(seconds["read"])
        step = (seconds["all"] - seconds["first"]) / (n - 1)
        prompt = int((laid_out.segment[0] > 0).sum())
        cache = _cache_read(config.llama, batch=batch, tokens=prompt + n / 2, dtype=dtype)
        section = "Generation"
        common = dict(section=section, dtype=dtype.name)

        def against_products(what, time, work, common=common, flops=flops):
            return Row(
                **common,
                what=what,
                unit="ms",
                measured=Spread.of(1e3 * time),
                against=f"{work / 1e9:.1f} GFLOP of matrix products",
                reference=float(np.median(1e3 * work / flops)),
                ratio=Spread.of(time * flops / work),
            )

        yield against_products(
            f"prefill, batch {batch}, {prompt} tokens in {laid_out.tokens.shape[1]}", seconds["first"], prefill_work
        )
        yield against_products(
            f"time to first token, batch {batch}", seconds["encode"] + seconds["first"], encode_work + prefill_work
        )
        must = (weights + cache) / bandwidth
        yield Row(
            **common,
            what=f"decode step, batch {batch}",
            unit="ms",
            measured=Spread.of(1e3 * step),
            against=f"reading {weights / 1e6:.1f} MB of weights",
            reference=float(np.median(1e3 * weights / bandwidth)),
            ratio=Spread.of(step * bandwidth / weights),
            aim=1.5 if batch == 1 else None,
            beside={
                f"and {cache / 1e6:.1f} MB of live cache": Spread.of(step / must),
                "weights at the rate of an array of their size": Spread.of(
                    step * same_size.rate(seconds["same size"]) / weights
                ),
            },
        )
        yield Row(
            **common,
            what=f"decoding, batch {batch}",
            unit="tokens/s",
            measured=Spread.of(batch / step),
            against="reading weights and live cache for each step",
            reference=float(np.median(batch / must)),
            ratio=Spread.of(step / must),
        )
        least = (encode_work + prefill_work) / flops + (n - 1) * must
        whole = seconds["encode"] + seconds["all"]
        yield Row(
            **common,
            what=f"answers of {n} tokens, batch {batch}, media included",
            unit="tokens/s",
            measured=Spread.of(batch * n / whole),
            against="the limits of encoding, prefill and decoding together",
            reference=float(np.median(batch * n / least)),
            ratio=Spread.of(whole / least),
        )


def layer_rows(
    config: LlamaConfig, dtype: jnp.dtype, *, batches, prompt: int, steps: int, read_bytes: int, rounds: int
) -> Iterator[Row]:
    """Decode steps of one layer of the published size, with the adapters and without, in a loop as generation runs it.

    Args:
        config: sizes; one layer, a small vocabulary.
        batches: batch sizes.
        prompt: tokens in the cache before the first step.
        steps: decode steps per run.
    """
    dtype = jnp.dtype(dtype)
    params = subtree(random_weights(CrabConfig(llama=config), dtype), "llama")
    with_adapter = {p: x for p, x in params.items() if p.startswith(("layers", "norm"))}
    variants = {
        "lora": (config, with_adapter),
        "plain": (
            dataclasses.replace(config, lora=None),
            {p: x for p, x in with_adapter.items() if "/lora_" not in p},
        ),
    }
    weights = {name: sum(x.nbytes for x in flat.values()) for name, (_, flat) in variants.items()}
    read = limits.fastest_read(read_bytes, rounds=3)
    slots = prompt + steps
    for batch in batches:
        x = random_array(np.random.default_rng(1), (batch, 1, config.hidden_size), dtype)

        def decode(name, params, x, batch=batch):
            c = variants[name][0]
            model = Llama(c, dtype, unrolled=True)

            def step(i, carry):
                x, cache = carry
                at = prompt + i
                visible = jnp.broadcast_to(jnp.arange(slots) <= at, (batch, 1, 1, slots))
                position = jnp.full((batch, 1), at, jnp.int32)
                x, cache, _ = model.apply({"params": params}, x, position, visible, cache, at)
                return x, cache

            cache = Cache.zeros(c, batch=batch, slots=slots, dtype=dtype)
            return jax.lax.fori_loop(0, steps, step, (x, cache))[0]

        timed = {name: partial(jax.jit(partial(decode, name)), nest(flat), x) for name, (_, flat) in variants.items()}
        seconds = race(timed | {"read": read.run}, rounds=rounds)
        bandwidth = read.rate(seconds["read"])
        per_step = {name: seconds[name] / steps for name in variants}
        cache = _cache_read(config, batch=batch, tokens=prompt + steps / 2, dtype=dtype)
        yield Row(
            section="Decode step of one layer at 7B sizes",
            what=f"width {config.hidden_size}, batch {batch}, {prompt} tokens in the cache",
            dtype=dtype.name,
            unit="ms",
            measured=Spread.of(1e3 * per_step["lora"]),
            against=f"reading {weights['lora'] / 1e6:.0f} MB of weights",
            reference=float(np.median(1e3 * weights["lora"] / bandwidth)),
            ratio=Spread.of(per_step["lora"] * bandwidth / weights["lora"]),
            aim=1.5 if batch == 1 else None,
            beside={
                f"and {cache / 1e6:.1f} MB of live cache": Spread.of(
                    per_step["lora"] * bandwidth / (weights["lora"] + cache)
                ),
                "the layer without adapters": Spread.of(per_step["lora"] / per_step["plain"]),
            },
        )
