"""What the heads of the LoRA do in the tasks: router weights over some items of a test set, true answers included."""

from __future__ import annotations

import contextlib
import json
import pathlib
from functools import partial

import jax
import numpy as np

from crab_jax.api import Assistant
from crab_jax.batch import lay_out
from crab_jax.evaluate import journal
from crab_jax.evaluate.engine import Engine, Request, encode
from crab_jax.evaluate.report.findings import ROUTER
from crab_jax.evaluate.run import Run
from crab_jax.evaluate.score import item_ids
from crab_jax.layout import Buckets, Layout
from crab_jax.model import Crab
from crab_jax.routing import LINEARS, router_means
from data_pipelines.stream.evaluation import evaluation_items

ITEMS = 8  # of every test set
_DIGITS = 5  # in the file: more would change with the batch
_ROOM = Buckets(tokens=(256, 1024, 4096))  # few, because the layers are compiled for each; padding costs less


@partial(jax.jit, static_argnames=("model",))
def _embed(model: Crab, variables, tokens, visual, audio):
    return model.bind(variables).place(tokens, visual, audio)


@partial(jax.jit, static_argnames=("model",))
def _means(model: Crab, variables, x, segment, position):
    return router_means(model, variables, x, position, segment, examples=1)[:, 0]


def write_router(run: Run, assistant: Assistant, folder: pathlib.Path, *, items: int = ITEMS) -> bool:
    """Writes `router.json` unless it is there: the mean over items spread over the test set, token by token.

    A prompt and its true answer are read in one pass, as in training.

    Args:
        run: which test set.
        assistant: the model.
        folder: of the run.
        items: how many.

    Returns:
        Whether there is such a file now; there is none for a model without LoRA.

    Raises:
        ValueError: no item could be read, or they do not fit the model.
        OSError: it cannot be written.
    """
    path = folder / ROUTER
    if path.is_file():
        return True
    if assistant.config.llama.lora is None:
        return False
    ids = item_ids(run.source)
    count = min(items, len(ids))
    wanted = {ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)}
    requests, used, reason = [], [], "no items"
    for item in evaluation_items(
        run.source, wording=assistant.wording, tokenizer=assistant.tokenizer, sizes=assistant.config.feature_sizes,
        with_target=True, wanted=lambda number, ask: ask.id in wanted,
    ):  # fmt: skip
        if item.example is None:
            reason = item.reason
            continue
        requests.append(assistant.request(run.source.spec, item.example, row=item.number)[0])
        used.append(item.ask.id)
    if not requests:
        raise ValueError(f"{run.name}: the router cannot be looked at: {reason}")
    weights = np.concatenate(
        [
            _weights(assistant.engine, requests[i : i + assistant.engine.max_batch])
            for i in range(0, len(requests), assistant.engine.max_batch)
        ]
    ).mean(axis=0)
    told = {"items": used, "linears": ["/".join(name) for name in LINEARS]}
    told["weights"] = weights.astype(np.float64).round(_DIGITS).tolist()
    journal.publish(path, json.dumps(told).encode() + b"\n")
    return True


def _weights(engine: Engine, requests: list[Request]) -> np.ndarray:
    """float32 [n layers 7 H] of at most a batch of requests of one variant."""
    model, variables = engine.network(requests[0].variant)
    config = model.config
    examples = [r.example for r in requests]
    examples += [examples[-1]] * (engine.max_batch - len(examples))  # as the engine does: then its encoder is compiled

    def most(ladder: str, sizes: list[int]) -> int:
        return (_ROOM if ladder == "tokens" else engine.buckets).fit(ladder, max(sizes))

    media = [(0, 0) if e.fbank is None else e.fbank.shape[:2] for e in examples]
    batch = lay_out(
        examples,
        layout=Layout(
            tokens=most("tokens", [len(e.prompt) + len(e.target) for e in examples]),
            frames=most("frames", [0 if e.frames is None else len(e.frames) for e in examples]),
            windows=most("windows", [windows for windows, _ in media]),
            patch_rows=most("patch_rows", [height // config.beats.input_patch_size for _, height in media]),
            masks=0,
        ),
        ids=config.token_ids,
        image_size=config.clip.image_size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
        patch=config.beats.input_patch_size,
    )
    frame = np.asarray([e.mask_frame for e in examples], np.int32)
    precise = engine.dtype == np.float32
    with jax.default_matmul_precision("highest") if precise else contextlib.nullcontext():
        visual, audio, _ = encode(
            model, variables, batch.frames, batch.fbank, batch.patch_rows, frame,
            with_scales=requests[0].head is not None,
        )  # fmt: skip
        x = _embed(model, variables, batch.tokens, visual, audio)
        found = _means(model, variables, x, batch.segment, batch.position)
    return np.asarray(found, np.float32)[: len(requests)]
