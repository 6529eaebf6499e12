"""Runs one training step of the tiny model on several meshes of eight pretended devices; prints how far off each is.

python tests/sharding_run.py --meshes 2,2,2 1,8,1 [--masks]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]

ROWS, TOKENS, FRAMES, WINDOWS, MASKS = 8, 48, 3, 2, 2
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def batch_of(config):
    """Two segments per row, with media and, for the first of them, a mask of either kind."""
    import numpy as np

    from crab_jax.batch import Batch

    rng = np.random.default_rng(0)
    ids, size = config.token_ids, config.clip.image_size
    tokens = rng.integers(10, 200, (ROWS, TOKENS)).astype(np.int32)
    q, a = config.vl_projector.num_queries, config.al_projector.num_queries
    tokens[:, 1 : 1 + q], tokens[:, 6 : 6 + a], tokens[:, 12:18] = ids.visual[0], ids.audio, ids.masks
    tokens[:, 22 : 22 + q] = ids.visual[1]
    segment = np.repeat([1, 2], [20, TOKENS - 20])[None].repeat(ROWS, 0).astype(np.int32)
    segment[:, -5:] = 0
    labels = np.where(rng.random((ROWS, TOKENS)) < np.linspace(0.2, 0.9, ROWS)[:, None], tokens, -1)
    return Batch(
        tokens=tokens, labels=np.where(segment > 0, labels, -1).astype(np.int32), segment=segment,
        position=np.where(segment == 2, np.arange(TOKENS) - 20, np.arange(TOKENS)).astype(np.int32) % TOKENS,
        frames=rng.integers(0, 256, (ROWS, FRAMES, size, size, 3), np.uint8),
        frame_segment=np.array([[1, 2, 0]] * ROWS, np.int32),
        fbank=rng.standard_normal((ROWS, WINDOWS, 96, 128), np.float32),
        patch_rows=np.array([[6, 0]] * ROWS, np.int32) + np.array([[0, 3]], np.int32),
        window_segment=np.array([[1, 0]] * ROWS, np.int32),
        masks=rng.integers(0, 2, (ROWS, MASKS, size, size), np.uint8),
        mask_segment=np.array([[1, 0]] * ROWS, np.int32), mask_frame=np.zeros((ROWS, MASKS), np.int32),
        mask_semantic=np.arange(ROWS)[:, None].repeat(MASKS, 1) % 3 == 0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--meshes", nargs="+", required=True)
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--accumulation", type=int, default=1)
    args = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_default_matmul_precision", "highest")
    import jax.numpy as jnp
    import numpy as np
    import optax
    from models import tiny_config, tiny_params

    from crab_jax.backbones import mask_decoder, mask_layers
    from crab_jax.params import split
    from crab_jax.sharding import like_params, make_mesh, place_batch, replicated, shardings
    from crab_jax.system import ComputeConfig, CrabSystem, LossConfig
    from crab_jax.train.step import State, init_state, make_step

    def smooth(features, dtype, activation=jax.nn.gelu, *more, **names):
        # One of the mask decoder's many ReLUs is always so near its kink that rounding decides on its gradient:
        # parameters moved by their last bit change gradients of one device by 1e-4 to 1e-3. GELU has no kink.
        return mlp(features, dtype, activation, *more, **names)

    mlp = mask_layers.Mlp
    mask_decoder.Mlp = mask_layers.Mlp = smooth
    config = tiny_config()
    batch = batch_of(config)
    patterns = [r"(vl|al)_projector/.*", r"llama/.*"] + ([r"mask_decoder/(?!pe/).*"] if args.masks else [])
    train, frozen = split(tiny_params(), patterns)
    loss = LossConfig(heads=("binary", "semantic") if args.masks else (), mask_reduction="sum", mask_group=4)
    system = CrabSystem(config, loss, ComputeConfig(dtype="float32", frozen_dtype="float32", logit_chunks=2))
    optimizer = optax.GradientTransformation(
        lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (jax.tree.map(jnp.zeros_like, g), g)
    )

    def run(mesh):
        with jax.set_mesh(mesh):
            places = shardings(train, system.axes, mesh)
            state = jax.eval_shape(lambda: init_state(train, optimizer, 0))
            where = State(replicated(mesh), places, like_params(state.opt, places, mesh), replicated(mesh))
            fixed = {
                p: jax.device_put(x, s)
                for (p, x), s in zip(frozen.items(), shardings(frozen, system.axes, mesh).values())
            }
            start = jax.jit(lambda t: init_state(t, optimizer, 0), out_shardings=where)(train)
            flag = jax.device_put(
                jnp.zeros(mesh.size, jnp.int32), jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names))
            )
            step = make_step(system, optimizer, np.ones(1, np.float32), accumulation=args.accumulation)
            step = jax.jit(step, donate_argnums=0, out_shardings=(where, None), compiler_options=QUICK)
            new, metrics = step(start, fixed, place_batch(batch, mesh), flag)
            for path, grad in new.opt.items():
                assert grad.sharding.is_equivalent_to(places[path], grad.ndim), f"{path}: {grad.sharding}"
            return float(metrics["loss"]), {p: np.asarray(g) for p, g in new.opt.items()}

    one, grads = run(make_mesh(devices=jax.devices()[:1]))
    assert all(np.any(g) for p, g in grads.items() if "cross_attn_in/bias" not in p), "a gradient is zero"
    for text in args.meshes:
        data, fsdp, tensor = map(int, text.split(","))
        other, found = run(make_mesh(data=data, fsdp=fsdp, tensor=tensor))
        worst = max((float(np.abs(found[p] - g).max() / max(np.abs(g).max(), 1e-3)), p) for p, g in grads.items())
        print(
            json.dumps({"mesh": text, "loss": abs(other - one) / abs(one), "gradient": worst[0], "in": worst[1]}),
            flush=True,
        )


if __name__ == "__main__":
    main()
