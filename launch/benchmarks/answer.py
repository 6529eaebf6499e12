"""Encoding, time to first token and decoding, beside this machine's matrix products and memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.backbones.llama import LlamaConfig
from crab_jax.batch import Batch, Example, lay_out
from crab_jax.evaluate.engine import encode
from crab_jax.evaluate.generate import generate
from crab_jax.flops import matmul_flops
from crab_jax.layout import Buckets, Layout
from crab_jax.model import Crab, CrabConfig
from crab_jax.params import Flat, nest, subtree
from launch.benchmarks import limits
from launch.benchmarks.report import Row
from launch.benchmarks.timing import Spread, race
from launch.benchmarks.weights import random_weights


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
            patch_rows=fit("patch_rows", clip.window_frames // config.beats.input_patch_size),
            masks=0,
        ),
        ids=ids,
        image_size=size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
        patch=config.beats.input_patch_size,
    )


def text_prompts(config: LlamaConfig, batch: int, tokens: int) -> Batch:
    """Random prompts without media."""
    ids = CrabConfig(llama=config).token_ids
    rng = np.random.default_rng(0)
    return lay_out(
        [Example(name=f"prompt {i}", prompt=rng.integers(3, ids.visual[0], tokens).tolist()) for i in range(batch)],
        layout=Layout(tokens=tokens, frames=0, windows=0, patch_rows=0, masks=0),
        ids=ids,
        image_size=1,
        frame_tokens=1,
        window_tokens=1,
        patch=1,
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

    def generator(self, batch: Batch, media, *, capacity: int) -> Callable[[int], Any]:
        """A function of the limit of new tokens; any limit runs the same program."""
        b = len(batch.tokens)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(b))
        knobs = (jnp.float32(0), jnp.int32(0), jnp.float32(1))
        variables = self.variables
        arrays = jax.tree.map(jnp.asarray, (batch.tokens, batch.segment, batch.position))

        def run(limit: int):
            limits = jnp.full((b,), limit, jnp.int32)
            return generate(self.model, variables, *arrays, *media, limits, keys, knobs, capacity=capacity, greedy=True)

        return run


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
        run = loaded.generator(laid_out, encoder()[:2], capacity=Buckets().fit("new_tokens", n))
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
    """Decode steps of a language model of very few layers at full width, with the adapters and without.

    Args:
        config: sizes; few layers and a small vocabulary.
        batches: batch sizes.
        prompt: tokens of the prompt, few, so that the weights are what is read.
        steps: new tokens.
    """
    dtype = jnp.dtype(dtype)
    loaded = {"lora": Loaded.random(CrabConfig(llama=config), dtype)}
    plain = CrabConfig(llama=dataclasses.replace(config, lora=None))
    kept = {path: leaf for path, leaf in loaded["lora"].params.items() if "/lora_" not in path}
    loaded["plain"] = Loaded(Crab(plain, dtype, unrolled=True), kept)
    read = limits.fastest_read(read_bytes, rounds=3)
    for batch in batches:
        laid_out = text_prompts(config, batch, prompt)
        runs = {}
        for name, each in loaded.items():
            nothing = jnp.zeros((batch, 0, config.hidden_size), dtype)
            run = each.generator(laid_out, (nothing, nothing), capacity=steps)
            runs[f"{name} first"], runs[name] = partial(run, 1), partial(run, steps)
        seconds = race(runs | {"read": read.run}, rounds=rounds)
        bandwidth = read.rate(seconds["read"])
        step = {name: (seconds[name] - seconds[f"{name} first"]) / (steps - 1) for name in loaded}
        weights = _weights_read(loaded["lora"].params)
        cache = _cache_read(config, batch=batch, tokens=prompt + steps / 2, dtype=dtype)
        layers = f"{config.num_layers} layer{'s' if config.num_layers > 1 else ''}"
        yield Row(
            section="Decode step at full width",
            what=f"{layers} of width {config.hidden_size}, batch {batch}",
            dtype=dtype.name,
            unit="ms",
            measured=Spread.of(1e3 * step["lora"]),
            against=f"reading {weights / 1e6:.0f} MB of weights",
            reference=float(np.median(1e3 * weights / bandwidth)),
            ratio=Spread.of(step["lora"] * bandwidth / weights),
            aim=1.5 if batch == 1 else None,
            beside={
                f"and {cache / 1e6:.1f} MB of live cache": Spread.of(step["lora"] * bandwidth / (weights + cache)),
                "the same without adapters": Spread.of(step["lora"] / step["plain"]),
            },
        )
