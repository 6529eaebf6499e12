"""Assembly, losses with gradients, and generation of the whole recorded model (c07b, c07c, c09a, c09c, c09d, c09e)."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_model as recorded
from goldens import part_of

from crab_jax.backbones.llama import unstack
from crab_jax.batch import lay_out
from crab_jax.evaluate.generate import generate
from crab_jax.model import Crab, loss_sums, mask_positions
from crab_jax.params import nest, split


@partial(jax.jit, static_argnames=("model", "method", "heads"))
def apply(model, variables, *args, method, **kwargs):
    """`model.apply`, compiled whole: one operation after the other takes longer to compile."""
    return model.apply(variables, *args, method=method, **kwargs)


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def batch_of(case, config):
    """The recorded training batch: its examples, and all of them laid out."""
    group = recorded.group_of(case)
    examples = [
        recorded.example(case, f"{group}/{i}", config, semantic=task == "avss")
        for i, task in enumerate(recorded.task_names(case, group))
    ]
    return examples, stack(config, examples)


def stack(config, examples, **kwargs):
    return lay_out(
        examples,
        layout=recorded.layout_of(examples, patch=config.beats.input_patch_size, **kwargs),
        ids=config.token_ids,
        image_size=config.clip.image_size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
        patch=config.beats.input_patch_size,
    )


@pytest.mark.case("c07b")
def test_assembly(case):
    check_assembly(case)


@pytest.mark.case("c07c")
def test_assembly_with_masks(case):
    check_assembly(case)


def check_assembly(case):
    config = recorded.config_of(case)
    model = Crab(config, jnp.float32)
    variables = {"params": nest(recorded.params_of(case, config))}
    examples, batch = batch_of(case, config)
    x, scales = apply(model, variables, batch, method="embed_batch")
    real = batch.segment > 0
    # Pads hold the embedding of the pad id in both; ours comes from the pad id in `tokens`.
    labels = np.concatenate([np.full_like(batch.labels[:, :1], -1), batch.labels[:, :-1]], axis=1)
    ours = {
        "inputs_embeds": x,
        "attention_mask": real.astype(np.int32),
        "labels": np.where(labels < 0, -100, labels).astype(np.int64),
        "position_ids": batch.position.astype(np.int64),
    }
    if batch.masks.shape[1]:
        rows = batch.mask_segment[:, 0] > 0
        mask = np.zeros(real.shape, bool)
        at = np.asarray(mask_positions(batch, config.token_ids))[:, 0]
        np.put_along_axis(mask, at, True, axis=1)
        ours |= {"mask_token_mask": mask, "gt_mask": batch.masks[:, :1] * rows[:, None, None, None]}
        for i, scale in enumerate(scales):
            chosen = np.asarray(scale)[np.arange(len(rows)), batch.mask_frame[:, 0]]
            ours[f"multi_scale_image_features[{i}]"] = chosen * rows[:, None, None]
    for name in case.results():
        # A sample without a mask gets arbitrary positions in the reference; ours are never used.
        case.check(name, ours[name], where=rows if name == "mask_token_mask" else ...)
    case.close()
    counts = case.manifest["modal_token_counts"]
    for example, count in zip(examples, counts, strict=True):
        n = sum(count.values())
        assert n == np.isin(example.prompt, [*config.token_ids.visual, config.token_ids.audio]).sum()


def gradients(case, config, batch, heads):
    """Losses, and gradients of what the manifest trains, under the published names."""
    model = Crab(config, jnp.float32, train=True)
    trainable = [re.escape(path) for path in recorded.trainable_paths(case, config)]
    train, frozen = split(recorded.params_of(case, config), trainable)

    def loss(train):
        forward = model.apply({"params": nest(frozen | train)}, batch, heads=heads, rngs={"dropout": jax.random.key(0)})
        sums = loss_sums(forward, batch)
        terms = {name: n / d for name, (n, d) in sums.items()}
        total = sum(terms.values())
        return total, (terms | {"total": total}, forward)

    grads, (terms, forward) = jax.jit(jax.grad(loss, has_aux=True))({k: jnp.asarray(v) for k, v in train.items()})
    named = {}
    full = {k: grads.get(k, np.zeros_like(v)) for k, v in (frozen | train).items()}
    for part in recorded.tables(config):
        named |= recorded.to_torch(part, config, full)
    return terms, forward, named


def check_step(case, prefix, heads):
    """Losses, last logits and all gradients of one recorded training step, on the batch of the case `prefix`."""
    config = recorded.config_of(case)
    _, batch = batch_of(case.mentioned(prefix), config)
    terms, forward, named = gradients(case, config, batch, heads)
    ours = {"loss": terms["total"], "lm_loss": terms["text"]}
    if "mask" in terms:
        ours |= {"mask_loss": terms["mask"], "forward_avs/loss": terms["mask"]}
    trained = [named[n] for n in case.manifest["trainable"] if n in named]
    ours["grad_global_norm"] = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in trained))
    assert case.gradients(), "the case records no gradients"
    ours |= {f"grad/{name}": g for name, g in named.items()}
    for name in case.results():
        if name == "logits_last":
            last = case[name].shape[1]
            case.check(name, forward.logits[:, -last:], where=batch.segment[:, -last:] > 0)
        else:
            case.check(name, ours[name])
    case.close()
    # What the reference never trains has no gradient here either: it is zero, or no parameter at all.
    for name in case.manifest["params_without_grad"]:
        assert name not in named or not np.any(named[name]), name


@pytest.mark.case("c09a")
def test_finetune_step(case):
    check_step(case, "c07b", ())


@pytest.mark.case("c09c")
def test_avs_step(case):
    check_step(case, "c07c", ("binary", "semantic"))


def run(model, variables, batch, *, limit, capacity, fill):
    """Greedy generation for one batch, and the features of its pictures per level."""
    b, t = batch.frames.shape[:2]
    a = batch.fbank.shape[1]
    visual = audio = jnp.zeros((b, 0, model.config.llama.hidden_size))
    scales = None
    if t:
        pictures = batch.frames.reshape(b * t, *batch.frames.shape[2:])
        features = apply(model, variables, pictures, method="encode_frames")
        visual = features.tokens.reshape(b, -1, visual.shape[-1])
        scales = tuple(s.reshape(b, t, *s.shape[1:]) for s in features.scales)
    if a:
        windows, rows = batch.fbank.reshape(b * a, *batch.fbank.shape[2:]), batch.patch_rows.reshape(-1)
        audio = apply(model, variables, windows, rows, method="encode_windows").reshape(b, -1, audio.shape[-1])
    out = generate(
        model, variables, batch.tokens, batch.segment, batch.position, visual, audio,
        jnp.full((b,), limit), jax.random.split(jax.random.key(0), b), (1.0, 0, 1.0),
        capacity=capacity, greedy=True, fill=fill,
    )  # fmt: skip
    return jax.tree.map(np.asarray, out), scales


def model_of(case):
    config = recorded.config_of(case)
    flat = recorded.params_of(case, config)
    flat = unstack(flat, config.llama.num_layers)
    return config, Crab(config, jnp.float32, unrolled=True), {"params": nest(flat)}


def prompts_of(case, config):
    """Tasks and examples, without answers."""
    group = recorded.group_of(case)
    tasks = recorded.task_names(case, group)
    return tasks, [recorded.example(case, f"{group}/{i}", config, with_target=False) for i in range(len(tasks))]


@pytest.mark.case("c09d")
def test_greedy(case):
    """Ids one at a time, and in one padded batch; the batch gives the ids of the singles (the reference's does not)."""
    config, model, variables = model_of(case)
    _, examples = prompts_of(case, config)
    limit = case.config["max_new_tokens"]
    start, fill = recorded.start_and_fill(case)
    assert case.config.get("eos_token_id", config.token_ids.eos) == config.token_ids.eos
    singles = []
    longest = max(len(e.prompt) for e in examples)
    for i, example in enumerate(examples):
        batch = stack(config, [example], tokens=longest + 5)  # padding must not matter
        out, _ = run(model, variables, batch, limit=limit, capacity=limit + 3, fill=fill)
        n = out.length[0]
        singles.append(out.ids[0, :n])
        ours = {"new_ids": out.ids[0, :n], "first_logits": out.first_logits[0], "margin": out.margin[0, :n]}
        for name in case.results(f"single/{i}/"):
            what = name.rsplit("/", 1)[1]
            if cap := re.fullmatch(r"max(\d+)", what):
                cut, _ = run(model, variables, batch, limit=int(cap[1]), capacity=limit + 3, fill=fill)
                ours[what] = np.concatenate([[start], cut.ids[0, : cut.length[0]]])[None].astype(np.int64)
            case.check(name, ours[what])
    batch = stack(config, examples)
    out, _ = run(model, variables, batch, limit=limit, capacity=limit, fill=fill)
    for row, single in enumerate(singles):
        np.testing.assert_array_equal(out.ids[row, : out.length[row]], single)
    if "batch/sequences" in case.tensors:
        # The reference passes no attention mask: pads are attended to and positions start at the pad.
        everything = batch._replace(
            segment=np.ones_like(batch.segment),
            position=np.broadcast_to(np.arange(batch.segment.shape[1], dtype=np.int32), batch.segment.shape),
        )
        out, _ = run(model, variables, everything, limit=limit, capacity=limit, fill=fill)
        n = out.length.max()
        sequences = np.concatenate([np.full((len(examples), 1), start), out.ids[:, :n]], axis=1)
        case.check("batch/sequences", sequences.astype(np.int64))
    case.close()


@pytest.mark.case("c09e")
def test_masks(case):
    """Ids and masks of segmentation prompts: the last six states that predicted a mask token."""
    config, model, variables = model_of(case)
    tasks, examples = prompts_of(case, config)
    limit = case.config["max_new_tokens"]
    start, fill = recorded.start_and_fill(case)
    needed = len(config.token_ids.masks)
    shortened = case.arrays.get("truncated/output_ids")
    cuts = []
    for i, (task, example) in enumerate(zip(tasks, examples, strict=True)):
        batch = stack(config, [example])
        out, scales = run(model, variables, batch, limit=limit, capacity=limit, fill=fill)

        def ids(out):
            return np.concatenate([[start], out.ids[0, : out.length[0]]])[None].astype(np.int64)

        names = case.results(f"{i}/")
        ours = {"output_ids": ids(out), "margin": out.margin[0, : out.length[0]], "pred_embeddings": out.mask_states}
        # Fewer mask tokens than that, and the reference gives ids only.
        assert (out.mask_count[0] >= needed) == any("/pred_" in name for name in names)
        if out.mask_count[0] >= needed:
            head = "semantic" if task == "avss" else "binary"
            chosen = tuple(s[:, example.mask_frame] for s in scales)
            semantic = jnp.array([head == "semantic"])
            masks = apply(model, variables, out.mask_states, chosen, semantic, method="decode_masks", heads=(head,))
            logits = masks[head][0]
            ours |= {"pred_mask": logits, "pred_mask/argmax": np.argmax(logits, axis=0).astype(np.uint8)}
            if f"{i}/pred_mask/strided" in case:
                ours["pred_mask/strided"] = part_of(case.about(f"{i}/pred_mask/strided"), np.asarray(logits))
            if head == "binary" and example.mask is not None:
                ours["iou"], ours["fscore"] = score(np.asarray(logits[0]), example.mask)
        for name in names:
            case.check(name, ours[name.split("/", 1)[1]])
        if shortened is not None:
            cut, _ = run(model, variables, batch, limit=shortened.shape[1] - 1, capacity=limit, fill=fill)
            cuts.append((ids(cut), cut.mask_count[0]))
    if shortened is not None:
        # The manifest does not say which prompt was cut off: it is the one whose answer begins like this.
        same = [(c.shape == shortened.shape) and int((c == shortened).sum()) for c, _ in cuts]
        closest, count = cuts[int(np.argmax(same))]
        case.check("truncated/output_ids", closest)
        assert (count >= needed) == case.manifest["truncated_has_pred_masks"]
    case.close()


def score(logits, mask):
    """IoU at 0.5 and the largest F-measure over 255 thresholds, for one binary mask (specification 10.6)."""
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p, t = logits > 0, mask > 0
    iou = (p & t).sum() / ((p | t).sum() + 1e-7) if t.any() else (~p & ~t).mean()
    thresholds = np.linspace(0, 1 - 1e-10, 255, dtype=np.float32)
    best = 0.0
    for threshold in thresholds:
        y = probability.astype(np.float32) >= threshold
        hit = (y & t).sum()
        precision, recall = hit / (y.sum() + 1e-20), hit / (t.sum() + 1e-20)
        if t.any() and precision + recall > 0:
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    return iou, best
