"""Generation: against a full pass, in any batch, within buckets, with sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params

from crab_jax.batch import BatchError, Example, lay_out
from crab_jax.evaluate import engine as engine_module
from crab_jax.evaluate.engine import Engine, Request, compiled_shapes
from crab_jax.evaluate.generate import Sampling, choose
from crab_jax.layout import Buckets, Layout
from crab_jax.model import Crab
from crab_jax.params import nest

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = tiny_config()
IDS = CONFIG.token_ids
Q = CONFIG.vl_projector.num_queries


def talkative():
    """Parameters that emit mask tokens and the end token often enough to be tested."""
    flat = dict(tiny_params())
    head = np.array(flat["llama/head/kernel"])
    head[:, list(IDS.masks)] *= 25
    head[:, IDS.eos] *= 20
    return flat | {"llama/head/kernel": head}


@pytest.fixture(scope="module")
def engine():
    return Engine({"text": (CONFIG, talkative())}, dtype=jnp.float32)


def request(seed, *, frames=1, windows=1, text=9, limit=12, head=None, mel=98, mask_frame=0):
    """A prompt like a task's: some text, pictures, sound, some text."""
    rng = np.random.default_rng(seed)
    words = lambda n: rng.integers(3, CONFIG.llama.vocab_size - 17, n).tolist()  # noqa: E731
    size = CONFIG.clip.image_size
    prompt = words(text) + [IDS.visual[1]] * (Q * frames) + words(3) + [IDS.audio] * (Q * windows) + words(text)
    return Request(
        example=Example(
            name=f"request {seed}",
            prompt=prompt,
            frames=rng.integers(0, 256, (frames, size, size, 3), np.uint8),
            fbank=rng.normal(size=(windows, mel, 128)).astype(np.float32),
            mask_frame=mask_frame,
        ),
        max_new_tokens=limit,
        head=head,
        row=seed,
    )


def test_greedy_follows_the_full_pass(engine):
    """Every chosen token is the best one of a teacher-forced pass, and the mask states are that pass's states.

    That pass has the exact shapes; the engine's are larger: three pictures in five places, two windows in five, five
    rows of patches in six. Some answers begin with a mask token, some hold more than six.
    """
    found_masks = 0
    for seed in range(4):
        asked = request(seed, limit=16, head="binary", frames=3, windows=2, mel=90, mask_frame=seed % 3)
        (reply,) = engine.run([asked])
        with jax.default_matmul_precision("highest"):
            logits, states = teacher_forced(asked.example, reply.ids, most=16)
        n = len(asked.example.prompt)
        np.testing.assert_array_equal(np.argmax(logits[n - 1 : n - 1 + len(reply.ids)], axis=-1), reply.ids)
        at = [n - 1 + i for i, token in enumerate(reply.ids) if token in IDS.masks]
        assert reply.mask_count == len(at)
        assert (reply.mask_logits is not None) == (len(at) >= 6)
        if len(at) >= 6:
            found_masks += 1
            want = masks_from(asked.example, states[at[-6:]])
            np.testing.assert_allclose(reply.mask_logits, want, atol=1e-4)
    assert found_masks, "no prompt led to six mask tokens: the test tests nothing"


@jax.jit
def full_pass(params, batch):
    forward = Crab(CONFIG, jnp.float32).apply({"params": nest(params)}, batch)
    return forward.logits[0], forward.states[0]


@jax.jit
def decoded(params, picture, states):
    model, variables = Crab(CONFIG, jnp.float32), {"params": nest(params)}
    scales = model.apply(variables, picture, method="encode_frames").scales
    return model.apply(variables, states, scales, heads=("binary",), method="decode_masks")["binary"][0]


def teacher_forced(example, answer, *, most):
    """Logits and states of prompt and answer; answers of up to `most` tokens share one program."""
    full = dataclasses.replace(example, target=answer)
    (frames, _, _, _), (windows, mel, _) = example.frames.shape, example.fbank.shape
    layout = Layout(tokens=len(example.prompt) + most, frames=frames, windows=windows, patch_rows=mel // 16, masks=0)
    batch = lay_out([full], layout=layout, ids=IDS, image_size=112, frame_tokens=Q, window_tokens=Q, patch=16)
    first = most - len(answer)  # rows are padded on the left
    return tuple(np.asarray(x)[first:] for x in full_pass(talkative(), batch))


def masks_from(example, states):
    with jax.default_matmul_precision("highest"):
        return decoded(talkative(), example.frames[example.mask_frame][None], states[None])


def test_answers_do_not_depend_on_the_batch(engine):
    """Prompts of different lengths and media, alone, in pairs, and all at once, greedy and sampled."""
    asked = [request(i, text=4 + 3 * i, frames=1 + i % 2, limit=10 + i) for i in range(5)]
    for sampling in (Sampling(), Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=3)):
        engine.sampling = sampling
        alone = [engine.run([r])[0].ids for r in asked]
        together = [r.ids for r in engine.run(asked)]
        pairs = [r.ids for i in range(0, 5, 2) for r in engine.run(asked[i : i + 2])]
        assert alone == together == pairs
    engine.sampling = Sampling()


def test_nothing_compiles_within_a_bucket(engine):
    """A new prompt length, batch size, frame count or limit in a warm bucket uses what is there."""
    buckets = engine.buckets
    engine.run([request(i, text=20, frames=5, windows=5) for i in range(4)])
    before = compiled_shapes()
    for count in (3, 4):
        engine.run([request(i, text=20 - i, frames=3 + i % 2, windows=3 + i % 3, limit=9 + i) for i in range(count)])
    assert compiled_shapes() == before
    longest = request(0, text=20, frames=5, windows=5)
    assert buckets.fit("tokens", len(longest.example.prompt)) == 128  # the bucket that was warm
    engine.run([request(0, text=60, frames=5, windows=5)])
    assert compiled_shapes() != before, "a new bucket has to compile: the counter counts nothing"


def test_limits_and_ends(engine):
    replies = engine.run([request(i, limit=limit) for i, limit in enumerate((1, 2, 16, 16, 16, 16))])
    for reply, limit in zip(replies, (1, 2, 16, 16, 16, 16), strict=True):
        assert 1 <= len(reply.ids) <= limit
        assert IDS.eos not in reply.ids[:-1]
        assert reply.finished == (reply.ids[-1] == IDS.eos)
        assert reply.finished or len(reply.ids) == limit
    assert any(r.finished for r in replies)


def test_one_bad_request_stops_nothing(engine):
    good = request(1)
    changed = lambda **new: dataclasses.replace(good, example=dataclasses.replace(good.example, **new))  # noqa: E731
    wrong = changed(prompt=[*good.example.prompt[:-4], IDS.audio])
    unknown = dataclasses.replace(good, variant="avs")
    long = changed(prompt=[5] * 3000, frames=None, fbank=None)
    replies = engine.run([wrong, good, unknown, long])
    assert replies[1].ids == engine.run([good])[0].ids
    for i, message in ((0, "placeholder"), (2, "needs the weights 'avs'"), (3, "3000 tokens")):
        assert isinstance(replies[i], BatchError)
        assert message in str(replies[i])


def test_bfloat16_runs():
    engine = Engine({"text": (CONFIG, talkative())})
    assert engine.dtype == jnp.bfloat16
    (reply,) = engine.run([request(0, head="semantic", limit=16)])
    assert reply.mask_logits is None or reply.mask_logits.shape == (71, 112, 112)


def test_the_bound_of_a_batch_holds_for_its_bucket_too(engine, monkeypatch):
    """Three at once must not take the memory of four; nor does a bound above the ladder break anything."""
    rows = []
    monkeypatch.setattr(engine_module, "lay_out", lambda examples, **how: rows.append(len(examples)) or 1 / 0)
    monkeypatch.setattr(engine, "max_batch", 3)
    with pytest.raises(ZeroDivisionError):
        engine.run([request(i) for i in range(3)])
    assert rows == [3]
    params = {path: leaf for path, leaf in talkative().items() if path.startswith("llama/norm")}
    assert Engine({"text": (CONFIG, params)}, max_batch=10**6).max_batch == max(Buckets().batch)
    with pytest.raises(ValueError, match="max_batch"):
        Engine({}, max_batch=0)


def test_a_batch_that_the_device_cannot_run_stops_no_other(engine, monkeypatch):
    real = engine._batch

    def batch(shape, requests):
        if len(requests) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBacktrace")
        return real(shape, requests)

    monkeypatch.setattr(engine, "_batch", batch)
    first, alone, second = engine.run([request(0), request(1, text=60, frames=5, windows=5), request(2)])
    for failed in (first, second):
        assert isinstance(failed, BatchError)
        assert str(failed).endswith("Out of memory allocating 9 bytes.; fewer samples at once need less memory")
    assert alone.ids


def test_answers_are_handed_over_batch_by_batch(engine, monkeypatch):
    calls = []
    monkeypatch.setattr(engine, "_batch", lambda shape, requests: calls.append(len(requests)) or list(requests))
    monkeypatch.setattr(engine, "max_batch", 2)
    asked = [request(0), request(1, text=60, frames=5), request(2), request(3)]
    stream = engine.stream(asked)
    assert [next(stream)[0], next(stream)[0]] == [0, 2]
    assert calls == [2]
    assert [index for index, _ in stream] == [3, 1]


def test_no_mask_without_a_picture(engine):
    asked = request(0, head="binary")
    prompt = [i for i in asked.example.prompt if i not in IDS.visual]
    asked = dataclasses.replace(asked, example=dataclasses.replace(asked.example, prompt=prompt, frames=None))
    (reply,) = engine.run([asked])
    assert isinstance(reply, BatchError)
    assert "no picture" in str(reply)


def test_variants_share_what_is_equal():
    base = talkative()
    other = base | {"llama/head/kernel": base["llama/head/kernel"][:, ::-1]}
    engine = Engine({"text": (CONFIG, base), "avs": (CONFIG, other)}, dtype=jnp.float32)
    a, b = (engine._variants[name][1]["params"]["llama"] for name in ("text", "avs"))
    assert a["layers_0"]["attn"]["q"]["kernel"] is b["layers_0"]["attn"]["q"]["kernel"]
    first, second = engine.run([request(0), dataclasses.replace(request(0), variant="avs")])
    assert first.ids != second.ids


def test_buckets():
    fit = Buckets().fit
    assert [fit("frames", n) for n in (0, 1, 2, 3, 10, 11)] == [0, 1, 2, 5, 10, 11]
    with pytest.raises(ValueError, match="5000 tokens"):
        fit("tokens", 5000)


def draws(logits, n=4000, **knobs):
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(choose(jnp.broadcast_to(jnp.asarray(logits), (n, len(logits))), keys, **knobs))


def test_sampling_distribution():
    """Frequencies follow softmax(logits / temperature); top_k and top_p cut in that order."""
    logits = np.log([0.5, 0.25, 0.15, 0.1]).astype(np.float32)
    plain = np.bincount(draws(logits, temperature=1.0, top_k=0, top_p=1.0), minlength=4) / 4000
    np.testing.assert_allclose(plain, [0.5, 0.25, 0.15, 0.1], atol=0.03)
    cold = np.bincount(draws(logits, temperature=0.5, top_k=0, top_p=1.0), minlength=4) / 4000
    np.testing.assert_allclose(cold, np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345, atol=0.03)
    assert set(draws(logits, temperature=1.0, top_k=2, top_p=1.0)) == {0, 1}
    # 0.5 alone does not reach 0.6, so the second token belongs to the set; after top_k 1 only the best is left.
    assert set(draws(logits, temperature=1.0, top_k=0, top_p=0.6)) == {0, 1}
    assert set(draws(logits, temperature=1.0, top_k=1, top_p=0.6)) == {0}
    assert set(draws(logits, temperature=1.0, top_k=0, top_p=1e-6)) == {0}


def test_sampling_like_transformers():
    """The same set of tokens survives as with the library's own filters."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    for _ in range(5):
        logits = rng.normal(scale=2, size=30).astype(np.float32)
        scores = torch.tensor(logits)[None] / 0.6
        for warper in (transformers.TopKLogitsWarper(7), transformers.TopPLogitsWarper(0.9)):
            scores = warper(None, scores)
        survivors = set(torch.nonzero(torch.isfinite(scores[0]))[:, 0].tolist())
        assert set(draws(logits, temperature=0.6, top_k=7, top_p=0.9)) <= survivors
        common = {t for t in survivors if float(torch.softmax(scores, -1)[0, t]) > 0.01}
        assert common <= set(draws(logits, temperature=0.6, top_k=7, top_p=0.9))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-40},  # zero in float32
        {"top_p": 0},
        {"top_p": float("nan")},
        {"top_k": -2},
        {"top_k": 2**31},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_bad_sampling(bad):
    with pytest.raises(ValueError, match="expected temperature"):
        Sampling(**bad)
