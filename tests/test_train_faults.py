"""What goes wrong in a run: each time a message that says what to do, and the last good checkpoint is as it was."""

import contextlib
import errno
import importlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import psutil
import pytest
import shard_files as make
from models import tiny_config
from stream_run import SHORT, SIZE, SIZES
from toy_run import ToyStream, ToySystem, settings, toy_params

from crab_jax.config import ConfigError, build
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig
from crab_jax.tasks import TASKS
from crab_jax.tokens import Tokenizer
from crab_jax.train import log, processes
from crab_jax.train.checkpoint import named, read_trainables
from crab_jax.train.loop import PREEMPTED, Abandoned, train
from data_pipelines.records import open_shards
from data_pipelines.stream.loader import BudgetError, Stream, WorkerError
from data_pipelines.stream.tables import Source
from launch import train as command

ROOT = pathlib.Path(__file__).parents[1]
STEPS, REAL_STEPS = 6, 16  # a dead worker leaves some batches behind that were ready
WORDS = 64


class TextSystem:
    """Learns something from the tokens of a real batch, with next to nothing to compute."""

    axes = {"table": ("whole", "whole")}

    def counts(self, batch):
        return {"tokens": (batch.labels >= 0).sum().astype("float32")}

    def weights(self, counts):
        return {"text": 1 / counts["tokens"].clip(1)}

    def sums(self, params, batch, key):
        x = params["table"][batch.tokens % WORDS].mean(-1)
        return {"text": ((batch.labels >= 0) * (x - batch.labels % 7) ** 2).sum(-1)}


def toy(workdir, stream=None, said=None, **options):
    """A run on made-up batches."""
    say = (said if said is not None else []).append
    return train(settings(workdir, steps=STEPS, **options), ToySystem(), *toy_params(), stream or ToyStream(), say=say)


def real(workdir, stream, said=None, **options):
    """A run on shards."""
    say = (said if said is not None else []).append
    table = {"table": np.zeros((WORDS, 8), np.float32)}
    chosen = settings(workdir, steps=REAL_STEPS, rows=SHORT.rows, every=2, **options)
    return train(chosen, TextSystem(), table, {}, stream, say=say)


def opened(shards, sources=None, **options):
    sources = sources or sources_of(shards)
    return Stream(sources, SHORT, tokenizer=Tokenizer.tiny(), sizes=SIZES, cache=False, **options)


def sources_of(shards):
    return [Source(open_shards(shards, task, "train"), TASKS[task]) for task in ("s4", "ave")]


def parameters(workdir):
    return read_trainables(workdir / "checkpoints" / str(newest(workdir)))


def assert_same(found, expected):
    assert set(found) == set(expected)
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def newest(workdir):
    return max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def toy_whole(tmp_path_factory):
    """The parameters of a run that nobody disturbed."""
    return {p: np.asarray(x) for p, x in named(toy(tmp_path_factory.mktemp("toy")).state.params).items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    make.write_shards(out, [make.s4(i, size=SIZE) for i in range(13)], size=SIZE)
    make.write_shards(out, [make.ave(i, size=SIZE) for i in range(3)], size=SIZE)
    return out


@pytest.fixture(scope="module")
def real_whole(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    with opened(shards) as stream:
        real(folder, stream)
    return parameters(folder)


@pytest.fixture
def copy(shards, tmp_path):
    return pathlib.Path(shutil.copytree(shards, tmp_path / "shards"))


def interrupted(stream, number, what):
    """The stream, which does something before it gives batch `number`."""

    class Interrupted:
        def __next__(self):
            if stream.get_state()["batch"] == number:
                what()
            return next(stream)

        def __getattr__(self, name):
            return getattr(stream, name)

    return Interrupted()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_half_written_checkpoint_is_skipped_for_the_one_before(tmp_path, toy_whole):
    toy(tmp_path, stop_after=4)
    for path in (tmp_path / "checkpoints" / "4" / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = []
    assert toy(tmp_path, said=said).finished
    assert said[0].startswith("continued after step 3")
    assert_same(parameters(tmp_path), toy_whole)
    assert (tmp_path / "checkpoints" / "damaged-4").is_dir()


def test_what_could_not_be_read_is_not_set_aside(tmp_path, toy_whole, monkeypatch):
    """Nothing is lost by too many open files, and no run begins anew because of it."""
    toy(tmp_path, stop_after=4)

    def no_more_files(place):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(place))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_text", lambda self, **_: no_more_files(self))
        with pytest.raises(CheckpointError, match=r"checkpoints/4: could not be read .*Too many open files.*ulimit -n"):
            toy(tmp_path)
    said = []
    assert toy(tmp_path, said=said).finished
    assert said[0].startswith("continued after step 4")
    assert_same(parameters(tmp_path), toy_whole)


def test_a_full_disk(tmp_path, toy_whole):
    """No file may grow beyond a few bytes any more, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(ToyStream):
        def __next__(self):
            if self.number == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            return super().__next__()

    try:
        with pytest.raises(CheckpointError, match="make room and start the same command again") as error:
            toy(tmp_path, Full())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = newest(tmp_path)
    assert f"checkpoint {last} is the last good one" in str(error.value)
    assert 1 <= last < STEPS
    said = []
    assert toy(tmp_path, said=said).finished
    assert said[0].startswith(f"continued after step {last}")
    assert_same(parameters(tmp_path), toy_whole)


def test_a_log_that_cannot_be_written(tmp_path, toy_whole, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    real_init = log.RunLog.__init__

    def broken(self, *args, **kwargs):
        real_init(self, *args, **kwargs)
        self._lines.close()
        self._lines = Full()

    toy(tmp_path, stop_after=2)
    with monkeypatch.context() as patch:
        patch.setattr(log.RunLog, "__init__", broken)
        with pytest.raises(OSError, match=r"metrics.jsonl.*No space left.*make room and start the same command again"):
            toy(tmp_path)
    assert newest(tmp_path) == 2
    assert toy(tmp_path).finished
    assert_same(parameters(tmp_path), toy_whole)


def within(seconds, what):
    """Runs it in a thread, which may hang → what it raised."""
    raised = []

    def guarded():
        try:
            what()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised


def test_a_full_disk_ends_the_events_of_tensorboard(tmp_path):
    """The file may not grow any more, as on a full disk; nobody waits, and what is raised says what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def steps():
        with contextlib.ExitStack() as stack:
            notes = log.RunLog(tmp_path, print, first=0, total=999, every=999, tensorboard=True)
            stack.callback(notes.close)
            for step in range(1, 20):  # much more for the events than for the lines
                notes.scalars(step, {f"a{i}": 1.0 for i in range(99)}, kind="router")

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
        (error,) = within(120, steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, OSError)
    assert re.search(r"tensorboard/events.*make room and start the same command again", str(error))
    assert error.__context__ is error.__cause__, "closing has not failed as well"


def test_a_process_that_does_not_answer_is_named(monkeypatch):
    class Coordinator:
        said = {}

        def key_value_set(self, key, value):
            self.said[key] = value

        def blocking_key_value_get(self, key, milliseconds):
            assert 0 < milliseconds <= 2000
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")

    assert processes.gather("the weather", {"rain": True}) == [{"rain": True}]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.distributed.global_state, "client", Coordinator())
    with pytest.raises(processes.Silent, match=r"process 1 of 2 did not come to 'the weather' within 2 s .*DEADLINE"):
        processes.gather("the weather", "sun", timeout_s=2)
    assert list(Coordinator.said.values()) == ['"sun"']
    monkeypatch.setattr(processes.distributed.global_state, "client", None)
    with pytest.raises(processes.NotConnected, match=r"2 processes that are not connected.*--coordinator HOST:PORT"):
        processes.gather("the weather", "sun")


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_corrupt_shard_is_counted_and_fatal_above_the_budget(tmp_path, copy):
    broken = sorted((copy / "s4").rglob("*.array_record-*"))[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    with opened(copy) as stream:
        assert real(tmp_path / "run", stream).finished
        skipped = len(stream.skipped)
    assert skipped >= 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("skipped", 0) for line in lines) >= skipped
    with opened(copy, max_skipped=skipped - 1) as stream, pytest.raises(BudgetError) as error:
        real(tmp_path / "strict", stream)
    assert f"max_skipped allows {skipped - 1}" in str(error.value)
    assert broken.name in str(error.value)
    with opened(copy) as stream:  # what it had saved is a beginning like any other
        assert real(tmp_path / "strict", stream).finished
    assert_same(parameters(tmp_path / "strict"), parameters(tmp_path / "run"))


def test_data_that_vanish_during_a_run(tmp_path, copy, real_whole):
    away, sources = copy.with_name("away"), sources_of(copy)

    def vanish():
        copy.rename(away)
        for source in sources:
            source.shards.close()  # the system would keep open files

    message = r"(?s)max_skipped allows 2.*No such file"
    with opened(copy, sources, max_skipped=2, buffer=1) as stream, pytest.raises(BudgetError, match=message):
        real(tmp_path / "run", interrupted(stream, 3, vanish))
    last = newest(tmp_path / "run")
    assert 2 <= last < REAL_STEPS
    away.rename(copy)
    said = []
    with opened(copy) as stream:
        assert real(tmp_path / "run", stream, said).finished
    assert said[0].startswith(f"continued after step {last}")
    assert_same(parameters(tmp_path / "run"), real_whole)


def test_a_killed_worker(tmp_path, shards, real_whole):
    def kill():
        for child in psutil.Process().children(recursive=True):
            if "resource_tracker" not in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    with opened(shards, workers=1, buffer=1) as stream, pytest.raises(WorkerError, match="fewer workers than 1"):
        real(tmp_path, interrupted(stream, 3, kill))
    last = newest(tmp_path)
    said = []
    with opened(shards) as stream:
        assert real(tmp_path, stream, said).finished
    assert said[0].startswith(f"continued after step {last}")
    assert_same(parameters(tmp_path), real_whole)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config.data.shards=nowhere"], 1, r"nowhere"),
        (["--config.data.shards="], 1, "data.shards is not given: name a folder"),
        (["--config.mesh.data=3"], 1, "does not fit 1 devices; choose sizes whose product is 1"),
        (["--config.run.stepz=3"], 2, """the config has no value 'stepz'; Did you mean "steps" """),
        (["--config=configs/nothing.py"], 2, "configs/nothing.py: no such config"),
        (["--config=configs/finetune.py:preset=paper"], 2, "launch.train: config argument preset=paper: expected one"),
        (["--workdir=gs://bucket/run"], 2, "--workdir is gs://bucket/run, expected a path"),
        (["--config.stage.base=gs://bucket/base"], 2, "stage.base is gs://bucket/base, expected a path"),
        (["--config.optim.schedule=sine"], 2, "schedule"),
        (["--config.model.llama.vocab_size=4096"], 1, "a vocabulary of 4096 tokens, but without"),
        (["--coordinator=here:1"], 2, "launch.train: --coordinator with --processes 0 --process -1: expected"),
    ],
    ids=["folder", "no folder", "mesh", "name", "file", "argument", "bucket", "base in a bucket", "value", "vocabulary",
         "processes"],
)  # fmt: skip
def test_what_stops_the_command_before_it_starts(tmp_path, arguments, code, message):
    command = [
        sys.executable, "-m", "launch.train", "--config", "configs/finetune.py:model=tiny",
        "--workdir", str(tmp_path / "run"), "--config.data.shards=nothing", "--config.data.workers=0", *arguments,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("here:1", 0, -1), "--coordinator with --processes 0 --process -1: expected --coordinator HOST:PORT"),
        (("here:1", 4, 4), "--processes 4 --process 4: .* I from 0 to N - 1"),
        (("here:1", 4, -1), "--processes 4 --process -1"),
        (("here", 4, 1), "--coordinator is here, expected HOST:PORT"),
        (("here:", 4, 1), "expected HOST:PORT"),
        ((":1", 4, 1), "expected HOST:PORT"),
        (("here:66666", 4, 1), "expected HOST:PORT"),
        (("", 4, 1), "--processes 4 --process 1 without --coordinator"),
        (("", 0, 0), "without --coordinator"),
    ],
)
def test_flags_about_processes_belong_together(flags, message):
    with pytest.raises(ConfigError, match=message):
        command._check_processes(*flags)
    for good in (("", 0, -1), ("here:1", 1, 0), ("[::1]:1234", 4, 3)):
        command._check_processes(*good)


@pytest.mark.parametrize(
    ("error", "code"), [(Abandoned("nothing saved"), 1), (KeyboardInterrupt(), PREEMPTED)], ids=["abandoned", "early"]
)
def test_the_exit_code_claims_no_checkpoint_that_is_not_there(tmp_path, monkeypatch, capsys, error, code):
    def stopped(*_):
        raise error

    monkeypatch.setattr(command, "_start_jax", lambda: None)
    monkeypatch.setattr(command, "_train", stopped)
    config = importlib.import_module("configs.finetune").get_config("model=tiny")
    assert command.run(config, tmp_path) == code
    assert capsys.readouterr().err.strip() == str(error)


def test_text_is_read_as_the_model_expects():
    """With other ids for <image> and <audio>, a model would train without ever seeing a picture."""
    sizes = tiny_config()
    assert command._tokenizer("", sizes).token_ids == sizes.token_ids
    for name in ("published", "bench_mid"):
        model = importlib.import_module(f"configs.{name}").get_config().model.to_dict()
        with pytest.raises(ConfigError, match=r"--config.stage.base=FOLDER, or choose model=tiny or model=mini"):
            command._tokenizer("", build(CrabConfig, model))
    mini = importlib.import_module("configs.mini").get_config().model.to_dict()
    assert command._tokenizer("", build(CrabConfig, mini))
