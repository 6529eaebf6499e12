"""Assembly, losses with gradients, and generation of the whole recorded model (c07b, c07c, c09a, c09c, c09d, c09e)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_model as recorded

from crab_jax.backbones.llama import unstack
from crab_jax.batch import lay_out
from crab_jax.evaluate.generate import generate
from crab_jax.model import Crab, loss_sums, mask_positions
from crab_jax.params import nest, split

SEGMENTATION = {"s4", "ms3", "ref-avs", "avss"}


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def batch_of(case, config, group="batch", **kwargs):
    tasks = recorded.task_names(case, group)
    examples = [
        recorded.example(case, f"{group}/{i}", config, semantic=task == "avss", **kwargs)
        for i, task in enumerate(tasks)
    ]
    return examples, stack(config, examples)


def stack(config, examples, **kwargs):
    return lay_out(
        examples,
        layout=recorded.layout_of(examples, **kwargs),
        ids=config.token_ids,
        image_size=config.clip.image_size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
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
    x, scales = model.apply(variables, batch, method="embed_batch")
    real = batch.segment > 0
    # Pads hold the embedding of the pad id in both; ours comes from the pad id in `tokens`.
    labels = np.concatenate([np.full_like(batch.labels[:, :1], -1), batch.labels[:, :-1]], axis=1)
    ours = {
        "inputs_embeds": x,
        "attention_mask": real.astype(np.int32),
        "labels": np.where(labels < 0, -100, labels).astype(np.int64),
        "position_ids": batch.position.astype(np.int64),
    }
    if "gt_mask" in case:
        rows = batch.mask_segment[:, 0] > 0
        mask = np.zeros(real.shape, bool)
        at = np.asarray(mask_positions(batch, config.token_ids))[:, 0]
        np.put_along_axis(mask, at, True, axis=1)
        chosen = [np.asarray(s)[np.arange(len(rows)), batch.mask_frame[:, 0]] for s in scales]
        # A sample without a mask gets arbitrary positions in the reference; ours are never used.
        case.check("mask_token_mask", mask, where=rows)
        case.check("gt_mask", batch.masks[:, :1] * rows[:, None, None, None])
        for i, scale in enumerate(chosen):
            case.check(f"multi_scale_image_features[{i}]", scale * rows[:, None, None])
    for name, value in ours.items():
        case.check(name, value)
    derived = {"mask_token_mask", "gt_mask"} | {f"multi_scale_image_features[{i}]" for i in range(2)}
    assert set(case.names("output")) <= set(ours) | derived
    counts = case.manifest["modal_token_counts"]
    for example, count in zip(examples, counts, strict=True):
        n = sum(count.values())
        assert n == np.isin(example.prompt, [*config.token_ids.visual, config.token_ids.audio]).sum()


def gradients(case, config, trainable, batch, heads):
    """Losses and gradients of the trainable parameters, under their published names."""
    model = Crab(config, jnp.float32, train=True)
    train, frozen = split(recorded.params_of(case, config), trainable)

    def loss(train, part):
        forward = model.apply({"params": nest(frozen | train)}, batch, heads=heads, rngs={"dropout": jax.random.key(0)})
        sums = loss_sums(forward, batch)
        terms = {name: n / d for name, (n, d) in sums.items()}
        terms["total"] = sum(terms.values())
        return terms[part], (terms, forward)

    grads, (terms, forward) = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(
        {k: jnp.asarray(v) for k, v in train.items()}, "total"
    )
    named = {}
    full = {k: grads.get(k, np.zeros_like(v)) for k, v in (frozen | train).items()}
    for part in recorded.tables(config):
        named |= recorded.to_torch(part, config, full)
    return terms, forward, named


def check_gradients(case, named):
    names = case.names("grad")
    assert names, "the case records no gradients"
    for name in names:
        case.check(name, named[name.removeprefix("grad/")])
    # What the reference never trains has no gradient here either: it is zero, or no parameter at all.
    for name in case.manifest["params_without_grad"]:
        assert name not in named or not np.any(named[name]), name


@pytest.mark.case("c09a")
def test_finetune_step(case):
    config = recorded.config_of(case)
    _, batch = batch_of(case.sibling("c07b_prepare_finetune"), config)
    trainable = ["vl_projector/.*", "al_projector/.*", "llama/.*/lora_.*"]
    terms, forward, named = gradients(case, config, trainable, batch, ())
    case.check("loss", terms["text"])
    last = case["logits_last"].shape[1]
    case.check("logits_last", forward.logits[:, -last:], where=batch.segment[:, -last:] > 0)
    check_gradients(case, named)
    trained = [named[n] for n in case.manifest["trainable"] if n in named]
    case.check("grad_global_norm", np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in trained)))


@pytest.mark.case("c09c")
def test_avs_step(case):
    config = recorded.config_of(case)
    _, batch = batch_of(case.sibling("c07c_prepare_avs"), config)
    trainable = ["mask_decoder/.*", "llama/embed/.*", "llama/head/.*"]
    terms, _, named = gradients(case, config, trainable, batch, ("binary", "semantic"))
    case.check("loss", terms["total"])
    case.check("lm_loss", terms["text"])
    case.check("mask_loss", terms["mask"])
    case.check("forward_avs/loss", terms["mask"])
    check_gradients(case, named)


def run(model, variables, batch, *, limit, capacity):
    b, t = batch.frames.shape[:2]
    a = batch.fbank.shape[1]
    frames = model.apply(variables, batch.frames.reshape(b * t, *batch.frames.shape[2:]), method="encode_frames")
    windows = model.apply(
        variables,
        batch.fbank.reshape(b * a, *batch.fbank.shape[2:]),
        batch.patch_rows.reshape(-1),
        method="encode_windows",
    )
    width = frames.tokens.shape[-1]
    out = generate(
        model, variables, batch.tokens, batch.segment, batch.position,
        frames.tokens.reshape(b, -1, width), windows.reshape(b, -1, width),
        jnp.full((b,), limit), jax.random.split(jax.random.key(0), b), (1.0, 0, 1.0), capacity=capacity, greedy=True,
    )  # fmt: skip
    scales = tuple(s.reshape(b, t, *s.shape[1:]) for s in frames.scales)
    return jax.tree.map(np.asarray, out), scales


def model_of(case):
    config = recorded.config_of(case)
    flat = recorded.params_of(case, config)
    flat = unstack(flat, config.llama.num_layers)
    return config, Crab(config, jnp.float32, unrolled=True), {"params": nest(flat)}


def inference(case, config):
    tasks = recorded.task_names(case, "prompts")
    return tasks, [recorded.example(case, f"prompts/{i}", config, with_target=False) for i in range(len(tasks))]


@pytest.mark.case("c09d")
def test_greedy(case):
    """Ids one at a time, and in one padded batch; the batch gives the ids of the singles (the reference's does not)."""
    config, model, variables = model_of(case)
    _, examples = inference(case, config)
    limit = case.config["max_new_tokens"]
    bos = 1
    checked = set()
    singles = []
    longest = max(len(e.prompt) for e in examples)
    for i, example in enumerate(examples):
        batch = stack(config, [example], tokens=longest + 5)  # padding must not matter
        out, _ = run(model, variables, batch, limit=limit, capacity=limit + 3)
        n = out.length[0]
        singles.append(out.ids[0, :n])
        ours = {"new_ids": out.ids[0, :n], "first_logits": out.first_logits[0], "margin": out.margin[0, :n]}
        short = [n for n in case.names("output", f"single/{i}/max")]
        for name in short:
            cap = int(name.rsplit("max", 1)[1])
            cut, _ = run(model, variables, batch, limit=cap, capacity=limit + 3)
            ids = np.concatenate([[bos], cut.ids[0, : cut.length[0]]])
            ours[name.rsplit("/", 1)[1]] = ids[None].astype(np.int64)
        for name in case.names("output", f"single/{i}/"):
            case.check(name, ours[name.rsplit("/", 1)[1]])
            checked.add(name)
    batch = stack(config, examples)
    out, _ = run(model, variables, batch, limit=limit, capacity=limit)
    for row, single in enumerate(singles):
        np.testing.assert_array_equal(out.ids[row, : out.length[row]], single)
    # The reference passes no attention mask: pads are attended to and positions start at the pad.
    everything = batch._replace(
        segment=np.ones_like(batch.segment),
        position=np.broadcast_to(np.arange(batch.segment.shape[1], dtype=np.int32), batch.segment.shape),
    )
    out, _ = run(model, variables, everything, limit=limit, capacity=limit)
    n = out.length.max()
    sequences = np.concatenate([np.full((len(examples), 1), bos), out.ids[:, :n]], axis=1)
    case.check("batch/sequences", sequences.astype(np.int64))
    checked.add("batch/sequences")
    assert checked == set(case.names("output"))


@pytest.mark.case("c09e")
def test_masks(case):
    """Ids and masks of segmentation prompts: the last six states that predicted a mask token."""
    config, model, variables = model_of(case)
    tasks, examples = inference(case, config)
    limit = case.config["max_new_tokens"]
    bos = 1
    checked = set()
    shortened = case["truncated/output_ids"]
    for i, (task, example) in enumerate(zip(tasks, examples, strict=True)):
        batch = stack(config, [example])
        out, scales = run(model, variables, batch, limit=limit, capacity=limit)
        ids = np.concatenate([[bos], out.ids[0, : out.length[0]]])[None].astype(np.int64)
        head = "semantic" if task == "avss" else "binary"
        chosen = tuple(s[:, batch.mask_frame[0, 0] if example.mask is not None else 0] for s in scales)
        logits = model.apply(
            variables, out.mask_states, chosen, jnp.array([head == "semantic"]), heads=(head,), method="decode_masks"
        )[head][0]
        ours = {
            "output_ids": ids,
            "margin": out.margin[0, : out.length[0]],
            "pred_embeddings": out.mask_states,
            "pred_mask": logits,
            "pred_mask/argmax": np.argmax(logits, axis=0).astype(np.uint8),
        }
        for name in case.names("output", f"{i}/") + case.names("intermediate", f"{i}/"):
            short = name.split("/", 1)[1]
            if short == "pred_mask/strided":
                start, step = strides(case.tensors[name]["about"])
                ours[short] = logits[:, start::step, start::step]
            if short in ("iou", "fscore"):
                ours[short] = score(np.asarray(logits[0]), example.mask)[short == "fscore"]
            case.check(name, ours[short])
            checked.add(name)
        cut, _ = run(model, variables, batch, limit=shortened.shape[1] - 1, capacity=limit)
        ids = np.concatenate([[bos], cut.ids[0, : cut.length[0]]])[None]
        if ids.shape == shortened.shape and np.array_equal(ids, shortened):
            case.check("truncated/output_ids", ids.astype(np.int64))
            enough = cut.mask_count[0] >= len(config.token_ids.masks)
            assert enough == case.manifest["truncated_has_pred_masks"]
            checked.add("truncated/output_ids")
    assert checked == set(case.names("output") + case.names("intermediate"))


def strides(about):
    """`…; [:,1::3,1::3]` → (1, 3): the manifest says in words which part of a large array it keeps."""
    import re

    start, step = re.search(r"\[:,\s*(\d*)::(\d+)", about).groups()
    return int(start or 0), int(step)


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
