"""The stream with worker processes, and after it was killed."""

import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from multiprocessing import util

import numpy as np
import psutil
import pytest
import shard_files as make
from stream_run import SHORT, SIZE, digest, open_stream

from data_pipelines.stream.loader import BudgetError, WorkerError

RUN = pathlib.Path(__file__).parent / "stream_run.py"
BATCHES = 100


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make.write_small_mix(tmp_path_factory.mktemp("shards"), size=SIZE)


@pytest.fixture(scope="module")
def reference(shards):
    """The undisturbed run."""
    return digests(open_stream(shards, settings=SHORT), 15 + BATCHES)


def digests(stream, n):
    with stream:
        return [digest(next(stream)[0]) for _ in range(n)]


def killed_run(shards, *, workers, after):
    """Kills a run without warning once it has printed that many batches → its last state, and digests up to there."""
    run = subprocess.Popen([sys.executable, str(RUN), str(shards), str(workers)], stdout=subprocess.PIPE, text=True)
    children = []
    try:
        lines = [json.loads(run.stdout.readline()) for _ in range(after)]
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.send_signal(signal.SIGKILL)
        run.stdout.close()
        assert run.wait(30) == -signal.SIGKILL
        _, left = psutil.wait_procs(children, timeout=30)
        for child in left:
            child.kill()
    assert not left, "workers outlive a killed run"
    state = lines[-1][0]
    return state, [line[1] for line in lines[:-1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_after_sigkill_the_next_hundred_batches_are_the_same(shards, reference, workers):
    """The state is that of a killed run with or without workers; who goes on has other workers and processes."""
    after = random.Random(workers).randrange(5, 15)
    state, past = killed_run(shards, workers=workers, after=after)
    assert state["batch"] == after - 1
    assert past == reference[: after - 1]
    expected = reference[after - 1 :][:BATCHES]
    same = open_stream(shards, settings=SHORT, workers=2 - workers)
    same.set_state(state)
    assert digests(same, BATCHES) == expected
    halves = [open_stream(shards, settings=SHORT, process=p, processes=2) for p in range(2)]
    for half in halves:
        half.set_state(state)
    with halves[0], halves[1]:
        for n in range(BATCHES):
            (a, _), (b, _) = (next(half) for half in halves)
            assert digest(type(a)(*(np.concatenate(xs) for xs in zip(a, b)))) == expected[n]


def children():
    return [p for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]


def test_workers_end_with_the_stream(shards):
    stream = open_stream(shards, workers=2)
    first, _ = next(stream)
    state = stream.get_state()
    assert len(children()) == 2
    before = first.frames.copy()
    stream.close()
    assert not children()
    np.testing.assert_array_equal(first.frames, before)
    again, info = next(stream)  # starts them anew, where the stream was
    assert info.number == state["batch"] == 1
    assert digest(again) == digests(open_stream(shards), 2)[1]
    stream.close()
    assert not children()


def send_to_workers():
    """What a terminal sends on Ctrl-C, and a scheduler that wants the run to end → to how many it was sent."""
    found = children()
    for child in found:
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
    return len(found)


def test_a_signal_to_the_whole_group_is_left_to_the_run(shards):
    with open_stream(shards, workers=2, buffer=1) as stream:
        found = [digest(next(stream)[0])]
        assert send_to_workers() == 2
        found += [digest(next(stream)[0]) for _ in range(9)]
    assert found == digests(open_stream(shards), 10)
    assert not children()


def test_a_signal_to_workers_that_are_only_starting(shards, monkeypatch):
    """They import for seconds before they can say what they do with signals."""
    spawn, sent = util.spawnv_passfds, []

    def spawned(path, args, passed):
        pid = spawn(path, args, passed)
        if any("spawn_main" in str(word) for word in args):
            sent.append(pid)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        return pid

    monkeypatch.setattr(util, "spawnv_passfds", spawned)
    with open_stream(shards, workers=2, buffer=1) as stream:
        found = [digest(next(stream)[0]) for _ in range(4)]
    assert len(sent) == 2
    assert found == digests(open_stream(shards), 4)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # the run itself gets them as before


def test_a_killed_worker_is_an_error_and_not_a_hang(shards):
    with open_stream(shards, workers=2, buffer=1) as stream:
        next(stream)
        os.kill(children()[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"a worker process of the data stream died.*exit code -9"):
            list(itertools.islice(stream, 50))
        state = stream.get_state()
    assert not children()
    again = open_stream(shards)
    again.set_state(state)
    with again:
        assert next(again)[1].number == state["batch"]


def test_workers_report_what_they_skip(tmp_path):
    make.write_shards(tmp_path, [make.s4(i, size=SIZE) for i in range(8)], size=SIZE)
    for file in (tmp_path / "s4").rglob("*.array_record-*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BudgetError, match=r"(?s)max_skipped allows 3.*expected a shard of"):
        list(open_stream(tmp_path, ("s4",), workers=1, max_skipped=3))
    assert not children()
