"""The loop: what it writes, how it stops, and that nothing is lost by stopping."""

import contextlib
import json
import os
import signal
import struct
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from toy_run import ROWS, ToyStream, ToySystem, settings, toy_params

from crab_jax.train import loop
from crab_jax.train.checkpoint import Checkpoints, Mismatch, named
from crab_jax.train.fingerprint import fingerprint
from crab_jax.train.log import keep_steps, peak_flops
from crab_jax.train.loop import Abandoned, NonFinite, Recompiled, train


def run(workdir, stream=None, *, system=None, params=None, say=lambda _: None, **options):
    stream = stream or ToyStream()
    return train(settings(workdir, **options), system or ToySystem(), *(params or toy_params()), stream, say=say)


def assert_same(a, b):
    for (name, x), y in zip(named(a.state).items(), named(b.state).values(), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    return run(tmp_path_factory.mktemp("whole"), steps=6)


def test_a_run(tmp_path):
    said = []
    stream = ToyStream()
    outcome = run(tmp_path, stream, steps=6, every=4, every_steps=2, tensorboard=True, say=said.append)
    assert (outcome.step, outcome.finished) == (6, True)
    assert stream.drawn == list(range(6))  # not one batch more
    steps = lines_of(tmp_path)
    assert [s["step"] for s in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"loss/text", "grad_norm", "rate", "seconds", "data_wait_s", "fill/tokens", "tokens_per_s"} <= set(steps[0])
    assert said[0].startswith("started: 6 steps of 8 rows")
    assert "step 4/6 | loss" in "\n".join(said)
    assert "ETA" in said[1]
    assert said[-1].startswith("finished: checkpoint 6")
    assert any((tmp_path / "tensorboard").iterdir())


def test_stopped_and_continued_is_not_stopped(tmp_path, whole):
    for stop in (2, 3):
        outcome = run(tmp_path, steps=6, stop_after=stop)
        assert (outcome.step, outcome.finished) == (stop, False)
    outcome = run(tmp_path, steps=6)
    assert outcome.finished
    assert_same(outcome, whole)
    assert [s["step"] for s in lines_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    again = run(tmp_path, steps=6)  # a finished run is read, not trained further
    assert_same(again, whole)


def test_sigterm_saves_and_stops(tmp_path, whole):
    class Interrupted(ToyStream):
        def __next__(self):
            if self.number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    before = signal.getsignal(signal.SIGTERM)
    outcome = run(tmp_path, Interrupted(), steps=6, every=100)
    assert not outcome.finished
    assert 2 <= outcome.step <= 5
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(run(tmp_path, steps=6), whole)


def stopped(signals):
    """A stream that sends the first of the signals, and what sends the others while the checkpoint is saved."""

    class Stopped(ToyStream):
        def __next__(self):
            if self.number == 2:
                os.kill(os.getpid(), signals[0])
            return super().__next__()

    left = list(signals[1:])

    def wait(self, real=Checkpoints.wait):
        while left:
            os.kill(os.getpid(), left.pop(0))
        real(self)

    return Stopped(), wait


@pytest.fixture
def interruptible():
    """A signal that the loop lets through fails the test instead of ending the tests."""

    def missed(number, _):
        raise AssertionError(f"signal {number} ends the run in the middle of saving")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, missed) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_twice_it_saves_all_the_same(tmp_path, whole, interruptible, monkeypatch, number):
    stream, wait = stopped([number, number, signal.SIGTERM])
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "wait", wait)
        outcome = run(tmp_path, stream, steps=6, every=100)
    assert not outcome.finished
    with Checkpoints(tmp_path / "checkpoints") as saves:
        assert saves.steps() == [outcome.step]
    assert_same(run(tmp_path, steps=6), whole)


def test_ctrl_c_once_more_gives_up(tmp_path, interruptible, monkeypatch):
    stream, wait = stopped([signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
    monkeypatch.setattr(Checkpoints, "wait", wait)
    monkeypatch.setattr(loop, "PATIENCE_S", -1.0)
    with pytest.raises(Abandoned, match="before it had saved: the last good checkpoint is as it was"):
        run(tmp_path, stream, steps=6, every=100)


def test_a_loss_that_is_no_number_names_step_and_examples(tmp_path):
    with pytest.raises(NonFinite, match=r"step 4: not finite .*hold: toy/train, 3-5\. Nothing") as error:
        run(tmp_path, ToyStream(bad=(3, 5)), steps=6)
    assert "3-4" not in str(error.value)
    with Checkpoints(tmp_path / "checkpoints") as saves:
        assert saves.steps()[0] == 3  # the last good one


def test_a_batch_of_another_shape_is_refused(tmp_path):
    class Growing(ToyStream):
        def __next__(self):
            batch, info = super().__next__()
            if self.number == 4:
                batch = {name: np.concatenate([x, x]) for name, x in batch.items()}
            return batch, info

    with pytest.raises((TypeError, ValueError)):
        run(tmp_path, Growing(), steps=6)


def test_a_compilation_in_the_middle_is_an_error(tmp_path, monkeypatch):
    real, seen = loop.place_batch, []

    def compiling(batch, mesh):
        seen.append(1)
        if len(seen) == 4:
            jax.jit(lambda x: x + len(seen))(jnp.zeros(7))
        return real(batch, mesh)

    monkeypatch.setattr(loop, "place_batch", compiling)
    with pytest.raises(Recompiled, match="step 4: something was compiled"):
        run(tmp_path, steps=6)


def test_data_that_end_too_early(tmp_path):
    class Short(ToyStream):
        def __next__(self):
            if self.number == 3:
                raise StopIteration
            return super().__next__()

    with pytest.raises(ValueError, match="the data ended after 3 of 6 steps"):
        run(tmp_path, Short(), steps=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, r"another config: optim.learning_rate was 0.01, is 0.5"),
        ({"steps": 7}, r"run.steps was 2, is 7"),
        ({"params": "frozen"}, r"frozen weights are others .*base differ.*drawn at random.*XLA_FLAGS"),
        ({"params": "shape"}, r"another model .*net/up/bias: float32 \[32\] there, float32 \[16\] here"),
        ({"params": "trains"}, r"frozen weights are others"),
    ],
    ids=["rate", "steps", "frozen", "shape", "trains"],
)
def test_a_workdir_of_another_run_is_left_alone(tmp_path, change, message):
    run(tmp_path, steps=2)
    trainable, frozen = toy_params()
    kind = change.pop("params", None)
    if kind == "frozen":
        frozen["base/kernel"][3, 4] += 1e-3
    elif kind == "shape":
        trainable["net/up/bias"] = trainable["net/up/bias"][:16]
    elif kind == "trains":
        trainable, frozen = trainable | frozen, {}

    def there():
        files = {str(p.relative_to(tmp_path)): p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
        assert json.loads(files["config.json"])["optim"]["learning_rate"] == 0.01
        return files

    before = there()
    with pytest.raises(Mismatch, match=message):
        run(tmp_path, params=(trainable, frozen), **{"steps": 2} | change)
    assert there() == before


def test_what_may_change_may_change(tmp_path):
    run(tmp_path, steps=4, stop_after=2)
    assert run(tmp_path, steps=4, every=3, keep_last=1).finished


def test_rows_of_a_run_must_divide(tmp_path):
    stream = ToyStream(0, 6)
    with pytest.raises(ValueError, match="do not divide into 4 micro-batches"):
        run(tmp_path, stream, rows=6, accumulation=4)


def test_no_signals_outside_the_main_thread(tmp_path):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run(tmp_path, steps=2)))
    thread.start()
    thread.join()
    assert outcomes[0].finished


def test_fingerprint_sees_every_bit_and_every_place():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    flat = {"a/x": jnp.array(x), "b/y": jnp.ones(3, jnp.bfloat16)}
    first = fingerprint(flat)
    assert set(first) == {"a", "b"}
    flipped = x.copy()
    flipped[2, 3] = np.nextafter(flipped[2, 3], 100)
    swapped = x[:, ::-1]
    for other in (flipped, swapped, x.reshape(6, 4)):
        assert fingerprint(flat | {"a/x": jnp.array(other)})["a"] != first["a"]
    assert fingerprint(flat | {"b/y": jnp.ones(3, jnp.float32)})["b"] != first["b"]
    assert fingerprint(dict(reversed(flat.items()))) == first


def test_lines_of_a_run_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2, "kind": "router"}\n{"st')
    keep_steps(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2, "kind": "router"}\n'


def events_of(path):
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_has_every_step_once(tmp_path):
    """A run that was cut off behind its last checkpoint: what it wrote from there on is purged, and nothing else."""
    folder = tmp_path / "tensorboard"
    run(tmp_path, steps=5, every=2, stop_after=3, tensorboard=True)
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "lost")
    (early,) = folder.iterdir()
    early.rename(folder / "events.out.tfevents.0000000001.here")  # the second run may start within the same second
    run(tmp_path, steps=5, every=2, tensorboard=True)
    points = []
    for path in sorted(folder.iterdir()):
        for event in events_of(path):
            if event.HasField("session_log"):  # what TensorBoard then does
                points = [p for p in points if p[0] < event.step]
            points += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    lines = lines_of(tmp_path)
    for name in ("loss", "fill/tokens"):
        assert [(s, np.float32(x)) for s, n, x in points if n == name] == [
            (line["step"], np.float32(line[name])) for line in lines
        ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_peaks_are_of_whole_names():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == 459e12
    assert peak_flops("TPU7x") == 2307e12 / 2, "two devices share a chip"
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("cpu") is None
    assert peak_flops("NVIDIA A100-SXM4-80GB") == peak_flops("NVIDIA A100 80GB PCIe") == 312e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("NVIDIA L40S") == 362e12
    for other in ("NVIDIA L40", "NVIDIA GB200", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "TPU v4 lite", "TPU v5 other"):
        assert peak_flops(other) is None, other


def test_processes_share_the_rows_of_the_toy():
    """What tests of several processes rest on: each gets its part of the batch that one process alone gets."""
    whole, parts = next(ToyStream()), [next(ToyStream(first, first + 2)) for first in range(0, ROWS, 2)]
    for name, x in whole[0].items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch, _ in parts]), x)
    assert tuple(row for _, info in parts for row in info.names) == whole[1].names


@pytest.mark.parametrize(
    ("options", "end"),
    [({"profile_steps": 1}, None), ({"profile_steps": 9}, None), ({"profile_steps": 9, "stop_after": 2}, None),
     ({"profile_steps": 9}, NonFinite)],
    ids=["closed", "end", "stopped", "error"],
)  # fmt: skip
def test_a_profiler_window_is_written_however_the_run_ends(tmp_path, monkeypatch, options, end):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    stream = ToyStream(bad=(2, 1) if end else None)
    with pytest.raises(end) if end else contextlib.nullcontext():
        run(tmp_path, stream, steps=3, profile_from=1, **options)
    assert calls == [str(tmp_path / "profile"), "stop"]
