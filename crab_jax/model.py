"""Crab: the only file that knows all the parts.

frames → CLIP → taps → VL projector ┐
log-mel → BEATs → AL projector ─────┼→ placeholders of the prompt → LLaMA with LoRA → text
                                    │                                  │ six states that predict <mask_k>
           first two CLIP taps ─────┴──────────────────────────────────┴→ mask decoder → pixels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from crab_jax.backbones import clip
from crab_jax.backbones.beats import Beats, BeatsConfig, token_mask
from crab_jax.backbones.clip import Clip, ClipConfig
from crab_jax.backbones.llama import Llama, LlamaConfig
from crab_jax.backbones.mask_decoder import MaskDecoder, MaskDecoderConfig
from crab_jax.backbones.qformer import QFormer, QFormerConfig
from crab_jax.batch import Batch, FeatureSizes, TokenIds
from crab_jax.config import ConfigError
from crab_jax.losses import mask_loss, token_nll
from crab_jax.nn.fused_attention import Choice, Segments
from crab_jax.nn.shapes import expect
from crab_jax.params import Flat, flatten
from crab_jax.sharding import constrain

ADDED_TOKENS = 17  # rows of the matrices behind the base vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrabConfig:
    """Every size and constant of one model; a part that is not there is None (weights of a subset of the files)."""

    llama: LlamaConfig | None = None
    clip: ClipConfig | None = None
    beats: BeatsConfig | None = None
    vl_projector: QFormerConfig | None = None
    al_projector: QFormerConfig | None = None
    mask_decoder: MaskDecoderConfig | None = None

    def __post_init__(self):
        emitted = len(TokenIds.after(0).masks)
        if self.mask_decoder is not None and self.mask_decoder.mask_tokens != emitted:
            raise ConfigError(
                f"mask_decoder: levels times tokens_per_level are {self.mask_decoder.mask_tokens} mask tokens, "
                f"the vocabulary has {emitted}"
            )

    @property
    def token_ids(self) -> TokenIds:
        """Ids of the added tokens; they are the last rows of the vocabulary."""
        return TokenIds.after(self.llama.vocab_size - ADDED_TOKENS)

    @property
    def feature_sizes(self) -> FeatureSizes:
        """What builders of sequences have to know; all parts must be there."""
        return FeatureSizes(
            image_size=self.clip.image_size,
            frame_tokens=self.vl_projector.num_queries,
            window_tokens=self.al_projector.num_queries,
            patch=self.beats.input_patch_size,
        )

    def missing(self) -> list[str]:
        """Parts that are not there."""
        return [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is None]


class FrameFeatures(NamedTuple):
    """What one pass of CLIP gives, for both of its uses."""

    tokens: Any  # [n Q D] for the language model
    scales: tuple[Any, Any]  # two [n P C] for the mask decoder


class Forward(NamedTuple):
    """Result of a teacher-forced pass."""

    logits: Any  # float32 [B L V]
    states: Any  # [B L D], after the final norm
    mask_logits: dict[str, Any]  # per head float32 [B·M classes S S]; empty if no head was asked for


class Crab(nn.Module):
    """The whole network as pure functions of parameters: `model.apply(variables, …, method=…)`.

    Attributes:
        config: all sizes.
        dtype: compute dtype of activations; statistics, softmax, routers, logits and losses are float32.
        train: dropout of projectors and LoRA on (needs the rng "dropout").
        unrolled: see `Llama`.
        remat: see `Llama`.
        train_encoders: CLIP and BEATs get gradients. Otherwise the backward pass never enters them.
        attention: see `Llama`.
    """

    config: CrabConfig
    dtype: jnp.dtype = jnp.bfloat16
    train: bool = False
    unrolled: bool = False
    remat: str | None = None
    train_encoders: bool = False
    attention: Choice = "dot"

    def setup(self):
        c = self.config
        if c.llama is not None:
            self.llama = Llama(c.llama, self.dtype, self.train, self.unrolled, self.remat, attention=self.attention)
        if c.clip is not None:
            self.clip = Clip(c.clip, self.dtype)
        if c.beats is not None:
            self.beats = Beats(c.beats, self.dtype)
        if c.vl_projector is not None:
            self.vl_projector = QFormer(c.vl_projector, self.dtype)
        if c.al_projector is not None:
            self.al_projector = QFormer(c.al_projector, self.dtype)
        if c.mask_decoder is not None:
            self.mask_decoder = MaskDecoder(c.mask_decoder, self.dtype)

    def encode_frames(self, frames) -> FrameFeatures:
        """Pictures → tokens and scales; CLIP runs once for both.

        Args:
            frames: uint8 [n S S 3], or float32 already normalised.
        """
        size = self.config.clip.image_size
        expect(frames, "n S S 3", S=size)
        pixels = clip.normalise(frames) if frames.dtype == jnp.uint8 else frames
        taps = self._encoded(self.clip(pixels))
        tokens = self.vl_projector(taps[-1], deterministic=not self.train)
        return FrameFeatures(tokens, tuple(taps[:2]))

    def encode_windows(self, fbank, rows):
        """Audio windows → tokens [n Q D].

        Args:
            fbank: float32 [n F 128], normalised log-mel; F is a capacity.
            rows: int32 [n], how many patch rows are real (rows of 16 frames as published).
        """
        features = self._encoded(self.beats(fbank, rows))
        mask = token_mask(self.config.beats, rows, fbank.shape[1])
        return self.al_projector(features, mask, deterministic=not self.train)

    def _encoded(self, features):
        return features if self.train_encoders else jax.lax.stop_gradient(features)

    def place(self, tokens, visual, audio):
        """Embeds a row: the n-th visual token goes into the row's n-th visual placeholder, audio likewise.

        Args:
            tokens: int32 [B L].
            visual: [B T·Q D] or None.
            audio: [B A·Q D] or None.

        Returns:
            [B L D].
        """
        ids = self.config.token_ids
        x = self.llama.embed(tokens)
        for media, slots in ((visual, ids.visual), (audio, (ids.audio,))):
            if media is None or media.shape[1] == 0:
                continue
            is_slot = jnp.isin(tokens, jnp.asarray(slots))
            nth = jnp.clip(jnp.cumsum(is_slot, axis=1) - 1, 0, media.shape[1] - 1)
            x = jnp.where(is_slot[..., None], jnp.take_along_axis(media, nth[..., None], axis=1).astype(x.dtype), x)
        return x

    def decode_masks(self, states, scales, is_semantic=None, *, heads: Sequence[str] = ("binary", "semantic")):
        """Six states and two feature scales per mask → mask logits.

        Args:
            states: [M K D].
            scales: two [M P C].
            is_semantic: bool [M]; may be None if there is one head.
            heads: which classifiers to run.
        """
        return self.mask_decoder(states, scales, is_semantic, heads=tuple(heads))

    def embed_batch(self, batch: Batch):
        """Encodes all media of a batch and places them → input embeddings [B L D], scales (two [B T P C]) or None."""
        b, t = batch.frames.shape[:2]
        a = batch.fbank.shape[1]
        visual = scales = audio = None
        if t:
            features = self.encode_frames(batch.frames.reshape(b * t, *batch.frames.shape[2:]))
            visual = constrain(features.tokens.reshape(b, -1, features.tokens.shape[-1]), "batch", "length", "width")
            scales = tuple(s.reshape(b, t, *s.shape[1:]) for s in features.scales)
        if a:
            tokens = self.encode_windows(
                batch.fbank.reshape(b * a, *batch.fbank.shape[2:]), batch.patch_rows.reshape(-1)
            )
            audio = constrain(tokens.reshape(b, -1, tokens.shape[-1]), "batch", "length", "width")
        return self.place(batch.tokens, visual, audio), scales

    def __call__(self, batch: Batch, *, heads: Sequence[str] = ()) -> Forward:
        """Teacher-forced pass over packed or padded rows.

        Args:
            batch: see `Batch`.
            heads: mask classifiers to run on the batch's mask targets; empty skips the mask decoder.
        """
        states, scales = self.states(batch)
        logits = self.llama.logits(states)
        return Forward(logits, states, self.masks_of(states, scales, batch, heads=heads) if heads else {})

    def states(self, batch: Batch):
        """Final-norm states [B L D] of a teacher-forced pass, and the scales of `embed_batch`."""
        x, scales = self.embed_batch(batch)
        states, _, _ = self.llama(x, batch.position, Segments(batch.segment))
        return states, scales

    def masks_of(self, states, scales, batch: Batch, *, heads: Sequence[str]):
        """Mask logits per head, float32 [B·M classes S S], of the batch's mask targets."""
        h = mask_states(states, batch, self.config.token_ids)
        at = batch.mask_frame[:, :, None, None]
        chosen = tuple(jnp.take_along_axis(s, at, axis=1).reshape(-1, *s.shape[2:]) for s in scales)
        return self.decode_masks(h.reshape(-1, *h.shape[2:]), chosen, batch.mask_semantic.reshape(-1), heads=heads)

    def encode_only(self, batch: Batch):
        """Touches every parameter once, for initialisation."""
        heads = ("binary", "semantic") if self.config.mask_decoder is not None else ()
        return self(batch, heads=heads)


def mask_positions(batch: Batch, ids: TokenIds):
    """Positions of the states that predict `<mask_0>` … of every mask target: int32 [B M K].

    The state at a position predicts the next token, so these are the positions right before the mask tokens. Targets
    without mask tokens (padding of the mask axis) get position 0, which nothing may use.

    Source: specification 7.6.
    """
    following = jnp.concatenate([batch.tokens[:, 1:], jnp.zeros_like(batch.tokens[:, :1])], axis=1)
    same = jnp.concatenate(
        [batch.segment[:, 1:] == batch.segment[:, :-1], jnp.zeros_like(batch.segment[:, :1], bool)], axis=1
    )
    before = same & (following >= ids.masks[0]) & (following <= ids.masks[-1])  # [B L]
    mine = before[:, None] & (batch.segment[:, None] == batch.mask_segment[:, :, None])  # [B M L]
    nth = jnp.cumsum(mine, axis=-1)[:, :, None] == jnp.arange(1, len(ids.masks) + 1)[:, None]  # [B M K L]
    return jnp.argmax(nth & mine[:, :, None], axis=-1)


def mask_states(states, batch: Batch, ids: TokenIds):
    """The states [B M K D] that predict the mask tokens."""
    at = mask_positions(batch, ids)
    b, m, k = at.shape
    return jnp.take_along_axis(states, at.reshape(b, m * k, 1), axis=1).reshape(b, m, k, -1)


def loss_sums(forward: Forward, batch: Batch, *, mask_reduction: str = "sum"):
    """Numerators and denominators of the losses of one batch.

    The reference adds the token mean to the mask loss as it is (summed over samples, Q-11); so the mask loss comes with
    a denominator of one.

    Returns:
        {"text": (sum, count), "mask": (loss, 1)}; "mask" only if mask logits were computed.

    Source: specification 7.5, 8.8.
    """
    sums = {"text": token_nll(forward.logits, batch.labels)}
    if forward.mask_logits:
        s = batch.masks.shape[-1]
        loss, _ = mask_loss(
            forward.mask_logits,
            batch.masks.reshape(-1, s, s),
            batch.mask_semantic.reshape(-1),
            batch.mask_segment.reshape(-1) > 0,
            reduction=mask_reduction,
        )
        sums["mask"] = (loss, jnp.float32(1))
    return sums


def empty_batch(config: CrabConfig, *, tokens: int = 8) -> Batch:
    """A batch of zeros that reaches every parameter: for initialisation and for shapes."""
    s = config.clip.image_size if config.clip else 1
    t = 1 if config.clip else 0
    a = 1 if config.beats else 0
    patch = config.beats.input_patch_size if config.beats else 1
    zeros = lambda shape, dtype=jnp.int32: jnp.zeros(shape, dtype)  # noqa: E731
    return Batch(
        tokens=zeros((1, tokens)), labels=zeros((1, tokens)), segment=zeros((1, tokens)), position=zeros((1, tokens)),
        frames=zeros((1, t, s, s, 3), jnp.uint8), frame_segment=zeros((1, t)),
        fbank=zeros((1, a, patch, 128), jnp.float32), patch_rows=zeros((1, a)) + 1, window_segment=zeros((1, a)),
        masks=zeros((1, 1, s, s), jnp.uint8), mask_segment=zeros((1, 1)), mask_frame=zeros((1, 1)),
        mask_semantic=zeros((1, 1), bool),
    )  # fmt: skip


def init(config: CrabConfig, key, *, dtype: jnp.dtype = jnp.float32) -> Flat:
    """Random parameters, flat: the distributions that the originals start from. A part that is None has none.

    Args:
        config: all sizes; the language model is needed.
        key: a `jax.random.key`.
        dtype: of the parameters.
    """
    model = Crab(config, jnp.float32)
    tree = jax.jit(lambda k: model.init(k, empty_batch(config), method="encode_only"))(key)["params"]
    return {path: leaf.astype(dtype) for path, leaf in flatten(tree).items()}


def abstract(config: CrabConfig) -> Flat:
    """Shapes and dtypes of all parameters, without memory: flat dict of `jax.ShapeDtypeStruct`."""
    model = Crab(config, jnp.float32)
    tree = jax.eval_shape(lambda k: model.init(k, empty_batch(config), method="encode_only"), jax.random.key(0))
    return flatten(tree["params"])
