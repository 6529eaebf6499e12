"""Answers many prepared prompts: groups them by shape, pads groups to buckets, runs the jitted functions.

    encode (CLIP, BEATs, projectors) → generate (text, mask states) → decode_masks (pixels)
    forced_masks: the mask of an answer whose text is given, in one pass

Nothing here knows a task, a tokenizer or a file.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.backbones.llama import unstack
from crab_jax.batch import Batch, BatchError, Example, check_counts, lay_out
from crab_jax.evaluate.generate import Sampling, generate, generate_lean
from crab_jax.layout import Buckets, Layout
from crab_jax.model import Crab, CrabConfig
from crab_jax.params import Flat, nest
from crab_jax.sharding import by_rows, make_mesh, replicated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt with its media.

    Attributes:
        example: prompt ids (placeholders expanded) and media. With a target, nothing is generated: it stands for the
            answer, must hold the mask tokens, and only its mask is computed (teacher forcing).
        max_new_tokens: limit for this answer.
        variant: which set of weights answers it.
        head: mask classifier to run if the answer holds the mask tokens, or None.
        row: number of the sample in the run; its random key does not depend on its batch.
    """

    example: Example
    max_new_tokens: int
    variant: str = "text"
    head: Literal["binary", "semantic"] | None = None
    row: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        ids: new token ids, the end token included if it was reached; the target where it was given.
        finished: whether the end token was reached.
        mask_count: how many mask tokens the answer holds.
        mask_logits: float32 [C S S], or None if no head was asked for or fewer mask tokens than needed came.
        seconds: wall time of the batch it was in, by phase, and how many samples shared it.
    """

    ids: tuple[int, ...]
    finished: bool
    mask_count: int
    mask_logits: np.ndarray | None
    seconds: Mapping[str, float]


@partial(jax.jit, static_argnames=("model", "with_scales"))
def encode(model: Crab, variables, frames, fbank, patch_rows, mask_frame, *, with_scales: bool):
    """Media of a batch → tokens for the placeholders, and the two scales of the picture to segment.

    Args:
        frames: uint8 [B T S S 3].
        fbank: float32 [B A F 128].
        patch_rows: int32 [B A].
        mask_frame: int32 [B].

    Returns:
        visual [B T·Q D], audio [B A·Q D], scales (two [B P C]) or None.
    """
    bound = model.bind(variables)
    b, t = frames.shape[:2]
    a = fbank.shape[1]
    width = model.config.llama.hidden_size
    visual, audio, scales = jnp.zeros((b, 0, width), model.dtype), jnp.zeros((b, 0, width), model.dtype), None
    if t:
        features = bound.encode_frames(frames.reshape(b * t, *frames.shape[2:]))
        visual = features.tokens.reshape(b, -1, width)
        if with_scales:
            chosen = jnp.arange(b) * t + mask_frame
            scales = tuple(s[chosen] for s in features.scales)
    if a:
        audio = bound.encode_windows(fbank.reshape(b * a, *fbank.shape[2:]), patch_rows.reshape(-1))
        audio = audio.reshape(b, -1, width)
    return visual, audio, scales


@partial(jax.jit, static_argnames=("model", "head"))
def decode_masks(model: Crab, variables, states, scales, *, head: str):
    """States [B K D] and scales → float32 [B C S S] of one head."""
    return model.apply(variables, states, scales, heads=(head,), method="decode_masks")[head]


@partial(jax.jit, static_argnames=("model", "head"))
def forced_masks(model: Crab, variables, batch: Batch, *, head: str):
    """Mask of each row's given answer: one mask target per row → float32 [B C S S] of one head.

    Source: specification 12.10.
    """
    bound = model.bind(variables)
    states, scales = bound.states(batch)
    return bound.masks_of(states, scales, batch, heads=(head,))[head]


def compiled_shapes() -> dict[str, int]:
    """How many shapes each jitted function was compiled for so far in this process."""
    jitted = {
        "encode": encode, "generate": generate, "generate_lean": generate_lean, "decode_masks": decode_masks,
        "forced_masks": forced_masks,
    }  # fmt: skip
    return {name: f._cache_size() for name, f in jitted.items()}


class Engine:
    """Holds one model's weights on the device and answers requests."""

    def __init__(
        self,
        variants: Mapping[str, tuple[CrabConfig, Flat]],
        *,
        dtype: jnp.dtype = jnp.bfloat16,
        sampling: Sampling | None = None,
        buckets: Buckets | None = None,
        max_batch: int = 8,
        layers: Literal["separate", "stacked"] | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Moves the weights.

        Args:
            variants: name → sizes and flat parameters as loaded. Variants differ in a few parameters (an overlay);
                arrays that they share are kept once. The dicts of parameters are emptied on the way, so that host and
                device never hold the whole model twice (on CPU they are the same memory).
            dtype: bfloat16, or float32 for parity (then products run at the highest precision).
            sampling: greedy if None.
            buckets: ladders of static shapes.
            max_batch: at most this many samples at once; what is above the ladder counts as its last rung.
            layers: how the language model keeps its layers. A decode step reads every weight once: "separate" layers
                are read in place, fastest; a "stacked" layer is sliced out and converted first, which costs time but
                no memory beyond that layer. None: separate, but stacked for bfloat16 on CPU, where XLA would otherwise
                keep a float32 copy of all weights (see `generate_lean`). Small models on CPU are fastest in float32.
            devices: of this process; each holds all weights, and batches are split among them by rows. None: the first.
        """
        self.dtype = jnp.dtype(dtype)
        self.sampling = sampling or Sampling()
        self.buckets = buckets or Buckets()
        if max_batch < 1:
            raise ValueError(f"expected max_batch of at least 1, found {max_batch}")
        self.max_batch = min(max_batch, max(self.buckets.batch))
        self._devices = 1 if devices is None else len(devices)
        self._everywhere = self._by_rows = None
        if self._devices > 1:
            mesh = make_mesh(devices=devices)
            self._everywhere, self._by_rows = replicated(mesh), by_rows(mesh)
        if layers is None:
            lean = jax.default_backend() == "cpu" and self.dtype != jnp.float32
            layers = "stacked" if lean else "separate"
        unrolled = layers == "separate"
        self._generate = generate if unrolled else generate_lean
        placed: dict[str, Flat] = {name: {} for name in variants}
        for path in list(dict.fromkeys(path for _, flat in variants.values() for path in flat)):
            leaves = {name: flat.pop(path) for name, (_, flat) in variants.items() if path in flat}
            copies: list[tuple[Any, Flat]] = []
            for name, leaf in leaves.items():
                mine = next((copy for other, copy in copies if other is leaf), None)
                if mine is None:
                    pieces = unstack({path: leaf}, variants[name][0].llama.num_layers) if unrolled else {path: leaf}
                    # Waited for, because the host's array lives until its copy is done.
                    mine = jax.block_until_ready({p: self._place_weight(x) for p, x in pieces.items()})
                    copies.append((leaf, mine))
                placed[name] |= mine
        self._variants: dict[str, tuple[Crab, Any]] = {
            name: (Crab(variants[name][0], self.dtype, unrolled=unrolled), {"params": nest(flat)})
            for name, flat in placed.items()
        }

    def run(
        self, requests: Sequence[Request], *, progress: Callable[[int], None] = lambda n: None
    ) -> list[Reply | Exception]:
        """Answers all requests, in their order.

        Args:
            requests: any number, any mixture.
            progress: called with the number of samples that became ready.

        Returns:
            One `Reply` or exception per request, as `stream` gives them.
        """
        replies: list[Reply | Exception] = [RuntimeError("not answered")] * len(requests)
        for index, reply in self.stream(requests):
            replies[index] = reply
            progress(1)
        return replies

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Exception]]:
        """Answers all requests and hands each over once its batch is done, so not in their order.

        Yields:
            Index of the request, and its `Reply`. A request that cannot be laid out gives its exception instead, and so
            does every request of a batch that the device cannot run (mostly for lack of memory); neither stops others.
        """
        groups: dict[tuple, list[int]] = collections.defaultdict(list)
        for i, request in enumerate(requests):
            try:
                groups[self._shape(request)].append(i)
            except ValueError as error:
                yield i, error
        for shape, members in groups.items():
            for i in range(0, len(members), self.max_batch):
                chunk = members[i : i + self.max_batch]
                yield from zip(chunk, self._batch_or_errors(shape, [requests[j] for j in chunk]), strict=True)

    def network(self, variant: str) -> tuple[Crab, Any]:
        """One set of weights: the network and its variables."""
        return self._variants[variant]

    def _place_weight(self, x: Any) -> jax.Array:
        x = jnp.asarray(x, self.dtype)
        return x if self._everywhere is None else jax.device_put(x, self._everywhere)

    def _split(self, rows: Any) -> Any:
        """Arrays with a row per sample, divided among the devices."""
        return rows if self._by_rows is None else jax.device_put(rows, self._by_rows)

    def _batch_or_errors(self, shape: tuple, requests: Sequence[Request]) -> Sequence[Reply | Exception]:
        precise = self.dtype == jnp.float32
        try:
            with jax.default_matmul_precision("highest") if precise else contextlib.nullcontext():
                return self._batch(shape, requests)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).strip().split("\n", 1)[0]
            way_out = "; fewer samples at once need less memory" if len(requests) > 1 else ""
            what = f"the device could not run its batch of {len(requests)}: {reason}{way_out}"
            return [BatchError(f"{r.example.name}: {what}") for r in requests]

    def _shape(self, request: Request) -> tuple:
        """The static shape that this request rounds up to; equal shapes share batches."""
        example, fit = request.example, self.buckets.fit
        if request.variant not in self._variants:
            raise BatchError(
                f"{example.name}: needs the weights {request.variant!r}, loaded are {', '.join(self._variants)}"
            )
        config = self._variants[request.variant][0].config
        check_counts(
            example,
            ids=config.token_ids,
            frame_tokens=config.vl_projector.num_queries,
            window_tokens=config.al_projector.num_queries,
        )
        length = len(example.prompt) + len(example.target)
        room = config.llama.max_positions - length
        if room <= 0:
            raise BatchError(
                f"{example.name}: the prompt has {length} tokens, the language model has "
                f"{config.llama.max_positions} positions"
            )
        frames = 0 if example.frames is None else len(example.frames)
        if request.head is not None and not frames:
            raise BatchError(f"{example.name}: a mask is wanted, but there is no picture to segment")
        forced = bool(len(example.target))
        if forced and (request.head is None or not set(config.token_ids.masks) <= set(example.target)):
            raise BatchError(f"{example.name}: an answer is given, but it holds no mask tokens or no mask is wanted")
        windows, height = (0, 0) if example.fbank is None else example.fbank.shape[:2]
        layout = Layout(
            tokens=fit("tokens", length),
            frames=fit("frames", frames),
            windows=fit("windows", windows),
            patch_rows=fit("patch_rows", height // config.beats.input_patch_size),
            masks=int(forced),
        )
        limit = min(request.max_new_tokens, room)
        return request.variant, request.head, layout, 0 if forced else fit("new_tokens", limit)

    def _batch(self, shape: tuple, requests: Sequence[Request]) -> list[Reply]:
        """Runs one batch; every request has the same shape."""
        variant, head, layout, capacity = shape
        model, variables = self._variants[variant]
        config = model.config
        size = min(self.buckets.fit("batch", len(requests)), self.max_batch)  # no rung may exceed the bound
        size += -size % self._devices
        padded = [*requests, *[requests[-1]] * (size - len(requests))]
        examples = [r.example for r in padded]
        if layout.masks:  # a place for the mask; what is in it is not read
            blank = np.zeros((config.clip.image_size,) * 2, np.uint8)
            examples = [dataclasses.replace(e, mask=blank) for e in examples]
        batch: Batch = lay_out(
            examples,
            layout=layout,
            ids=config.token_ids,
            image_size=config.clip.image_size,
            frame_tokens=config.vl_projector.num_queries,
            window_tokens=config.al_projector.num_queries,
            patch=config.beats.input_patch_size,
        )
        batch = self._split(batch)
        if layout.masks:
            return self._forced(model, variables, batch, requests, head)
        room = config.llama.max_positions
        limits = [min(r.max_new_tokens, room - len(r.example.prompt)) for r in requests]
        # Filling rows are finished before they start.
        limit = self._split(np.asarray(limits + [0] * (size - len(requests)), np.int32))
        mask_frame = self._split(np.asarray([r.example.mask_frame for r in padded], np.int32))
        clock = Clock()
        with clock("encode"):
            visual, audio, scales = jax.block_until_ready(
                encode(
                    model, variables, batch.frames, batch.fbank, batch.patch_rows, mask_frame,
                    with_scales=head is not None,
                )
            )  # fmt: skip
        s = self.sampling
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(s.seed)))(np.asarray([r.row for r in padded]))
        keys = self._split(keys)
        with clock("generate"):
            out = jax.block_until_ready(
                self._generate(
                    model, variables, batch.tokens, batch.segment, batch.position, visual, audio, limit, keys,
                    (jnp.float32(s.temperature), jnp.int32(s.top_k), jnp.float32(s.top_p)),
                    capacity=capacity, greedy=s.temperature == 0,
                )
            )  # fmt: skip
        wanted = len(config.token_ids.masks)
        counts = np.asarray(out.mask_count)
        logits = None
        if head is not None and (counts[: len(requests)] >= wanted).any():
            with clock("masks"):
                logits = np.asarray(decode_masks(model, variables, out.mask_states, scales, head=head), np.float32)
        ids, lengths = np.asarray(out.ids), np.asarray(out.length)
        seconds = clock.seconds | {"shared_by": len(requests)}
        replies = []
        for b in range(len(requests)):
            answer = tuple(ids[b, : lengths[b]].tolist())
            replies.append(
                Reply(
                    ids=answer,
                    finished=bool(answer) and answer[-1] == config.token_ids.eos,
                    mask_count=int(counts[b]),
                    mask_logits=logits[b] if logits is not None and counts[b] >= wanted else None,
                    seconds=seconds,
                )
            )
        return replies

    def _forced(self, model: Crab, variables: Any, batch: Batch, requests: Sequence[Request], head: str) -> list[Reply]:
        """Replies whose text was given."""
        clock = Clock()
        with clock("masks"):
            logits = np.asarray(forced_masks(model, variables, batch, head=head), np.float32)
        ids, seconds = model.config.token_ids, clock.seconds | {"shared_by": len(requests)}
        return [
            Reply(
                ids=tuple(r.example.target),
                finished=True,
                mask_count=sum(i in ids.masks for i in r.example.target),
                mask_logits=logits[b],
                seconds=seconds,
            )
            for b, r in enumerate(requests)
        ]


class Clock:
    """Wall time by phase."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - started, 4)
