"""The benchmark command with toy sizes: what its rows are made of, never how fast anything is."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config

from crab_jax.flops import matmul_flops
from crab_jax.nn.lora import LoraConfig, LoraLinear
from launch import bench
from launch.benchmarks import answer, infer, report
from launch.benchmarks.lora import LoraSizes, loop_over_heads, overhead_by_count, random_linear
from launch.benchmarks.timing import Spread, race

LORA = LoraConfig(heads=3, rank=4, alpha=8.0, dropout=0.05)


@pytest.fixture(scope="module")
def sizes():
    config = tiny_config()
    one_layer = dataclasses.replace(config.llama, num_layers=1)
    return infer.Sizes(
        matmul=32,
        read_bytes=2**16,
        lora=LoraSizes(lora=LORA, linears=((32, 48),), tokens=(1, 8), trained=(32, 48, 8), cold_bytes=2**13),
        layer=dataclasses.replace(one_layer, vocab_size=64),
        layer_batches=(2,),
        layer_prompt=8,
        layer_steps=3,
        model=dataclasses.replace(config, llama=one_layer),
        clip=answer.Clip(
            frames=1, windows=1, window_frames=98, prompt_text_tokens=24, answer_tokens=0, new_tokens=4, batches=(2,)
        ),
        encode_batches=(2,),
    )


@pytest.fixture(scope="module")
def rows(sizes):
    seen = []
    rows = infer.measure(sizes, dtypes=["float32"], rounds=2, progress=seen.append)
    assert seen == rows
    return rows


def test_every_section_has_its_rows(rows, sizes):
    found = {}
    for row in rows:
        found.setdefault((row.section, row.dtype), []).append(row)
    cases = len(sizes.lora.linears) * len(sizes.lora.tokens)
    assert {key: len(value) for key, value in found.items()} == {
        ("Limits of this machine", "float32"): 1 + 4 + 1,
        ("LoRA linear, forward", "float32"): cases,
        ("LoRA linear, forward and backward", "float32"): 2,
        ("Decode step at full width", "float32"): len(sizes.layer_batches),
        ("Encoding", "float32"): len(sizes.encode_batches),
        ("Generation", "float32"): 5 * len(sizes.clip.batches),
    }


def test_every_number_is_finite(rows):
    for row in rows:
        for spread in (row.measured, row.ratio, *row.beside.values()):
            assert all(math.isfinite(x) for x in dataclasses.astuple(spread)), row
            assert spread.low <= spread.median <= spread.high, row
        assert math.isfinite(row.reference), row
        # Only a difference of two runs can be negative, when the machine is busy with something else.
        if "decod" not in row.what and row.section != "Decode step at full width":
            assert row.measured.low > 0, row
            assert row.ratio.low > 0, row


def test_json_holds_what_the_table_holds(rows, tmp_path, capsys):
    file, document = tmp_path / "numbers.json", tmp_path / "text.md"
    document.write_text("before\n<!-- bench:infer -->\nold\n<!-- /bench:infer -->\nafter\n")
    bench.write(rows, name="infer", arguments=["infer", "--json", "a b"], json_file=file, document=document)
    shown = capsys.readouterr().out
    whole = json.loads(file.read_text())
    assert set(whole) == {"command", "environment", "rows"}
    assert whole["command"] == "python -m launch.bench infer --json 'a b'"
    assert whole["environment"]["jax"] == jax.__version__
    assert len(whole["rows"]) == len(rows)
    for row in whole["rows"]:
        assert set(row) == {field.name for field in dataclasses.fields(report.Row)}
        assert set(row["ratio"]) == {"median", "low", "high"}
    table = [line for line in shown.splitlines() if line.startswith("|")]
    sections = sum(a.section != b.section for a, b in itertools.pairwise(rows)) + 1
    assert len(table) == 2 + sections + len(rows)
    assert {line.count("|") for line in table} == {9}
    text = document.read_text()
    assert shown.strip() in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text


@pytest.mark.parametrize(
    "text",
    ["", "<!-- bench:infer -->", "<!-- /bench:infer --><!-- bench:infer -->", "<!-- bench:infer -->" * 2],
)
def test_a_document_without_its_place_is_left_alone(text, tmp_path):
    document = tmp_path / "text.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="bench:infer"):
        report.update(document, "bench:infer", "new")
    assert document.read_text() == text


def test_the_command_measures_what_it_was_asked_for(sizes, monkeypatch, capsys):
    monkeypatch.setattr(infer, "full_sizes", lambda backend: sizes)
    assert bench.main(["infer", "--only", "limits", "--dtype", "bfloat16", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "`python -m launch.bench infer --only limits --dtype bfloat16 --rounds 1`" in out
    assert "Limits of this machine" in out
    assert "Generation" not in out
    with pytest.raises(SystemExit):
        bench.main(["infer", "--only", "nothing"])
    with pytest.raises(SystemExit):
        bench.main(["infer", "--rounds", "0"])


def test_the_sizes_of_the_command_are_the_published_ones():
    full = infer.full_sizes(backend="cpu")
    assert full.lora.linears == ((4096, 4096), (4096, 11008), (11008, 4096))
    assert (full.lora.lora.heads, full.lora.lora.rank) == (3, 8)
    assert full.layer.hidden_size == 4096
    assert full.model.llama.hidden_size == 512
    assert (full.clip.frames, full.clip.windows, full.clip.new_tokens) == (10, 10, 64)
    assert full.clip.batches == (1, 4, 8)


def test_the_compared_forms_are_the_same_function():
    params = random_linear(32, 48, LORA, jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 32)), jnp.float32)
    ours, _ = LoraLinear(48, LORA, jnp.float32).apply({"params": params}, x)
    loop = loop_over_heads(params, x, lora=LORA)
    np.testing.assert_allclose(ours, loop, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(ours - x @ params["kernel"]).max()) > 0.1, "the adapter does nothing here"


def test_operations_are_counted():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    product = 2 * 3 * 5 * 7
    assert matmul_flops(lambda a, b: a @ b, a, b) == product
    assert matmul_flops(jax.jit(lambda a, b: jnp.sin(a) @ b + 1), a, b) == product

    def scanned(a, b):
        return jax.lax.scan(lambda carry, _: (carry + (a @ b).sum(), None), 0.0, None, length=11)[0]

    assert matmul_flops(scanned, a, b) == 11 * product

    def looped(a, b):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + (a @ b).sum()), (0, 0.0))

    assert matmul_flops(looped, a, b) == 0
    assert matmul_flops(looped, a, b, while_trips=4) == 4 * product
    image, kernel = jnp.zeros((1, 8, 8, 6)), jnp.zeros((3, 3, 2, 9))
    convolution = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    assert matmul_flops(convolution, image, kernel) == 2 * (8 * 8 * 9) * (3 * 3 * 2)


def test_the_adapter_is_counted():
    params = random_linear(64, 96, LORA, jnp.float32)
    x = jnp.zeros((7, 64))
    with_adapter = matmul_flops(lambda p, x: LoraLinear(96, LORA, jnp.float32).apply({"params": p}, x)[0], params, x)
    assert with_adapter / (2 * 7 * 64 * 96) == pytest.approx(overhead_by_count(64, 96, LORA))


def test_functions_are_timed_in_turn():
    order = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = race(contenders, rounds=3)
    assert "".join(order) == "abc" * 4
    assert {name: values.shape for name, values in seconds.items()} == {"a": (3,), "b": (3,), "c": (3,)}
    assert Spread.of(np.array([3.0, 1.0, 2.0])) == Spread(2.0, 1.0, 3.0)
