"""The stream of several processes: the same global batches for any number of them, also after they were killed."""

import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import shard_files as make
from stream_run import SIZE, digest, open_stream

RUN = pathlib.Path(__file__).parent / "stream_run.py"
AFTER, BATCHES = (5, 7), 8  # batches after which each of two processes is killed; batches compared behind


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make.write_small_mix(tmp_path_factory.mktemp("shards"), size=SIZE)


@pytest.fixture(scope="module")
def alone(shards):
    """The global batches of one process that nobody disturbed."""
    with open_stream(shards) as stream:
        return [digest(next(stream)[0]) for _ in range(max(AFTER) + BATCHES)]


def joined(batches):
    """The rows of all processes, one behind the other."""
    return type(batches[0])(*(np.concatenate(xs) for xs in zip(*batches)))


def killed_together(shards, workers):
    """Two processes with workers, killed at different batches → the states of each, before every batch."""
    runs = [
        subprocess.Popen(
            [sys.executable, str(RUN), str(shards), str(workers), str(process), "2"], stdout=subprocess.PIPE, text=True
        )
        for process in range(2)
    ]
    children = []
    try:
        lines = [[json.loads(run.stdout.readline()) for _ in range(n)] for run, n in zip(runs, AFTER)]
        children = [child for run in runs for child in psutil.Process(run.pid).children(recursive=True)]
        assert len([c for c in children if "resource_tracker" not in " ".join(c.cmdline())]) == 2 * workers
    finally:
        for run in runs:
            run.send_signal(signal.SIGKILL)
            run.stdout.close()
            run.wait(30)
        for child in psutil.wait_procs(children, timeout=30)[1]:
            child.kill()
    return lines


def test_two_processes_with_workers_killed_and_continued_by_four_and_by_one(shards, alone):
    lines = killed_together(shards, workers=1)
    number = min(AFTER) - 1  # the newest step that both have reached, as a checkpoint of both would be
    state = lines[0][number][0]
    assert state == lines[1][number][0], "the place in the data is the same for all processes"
    assert state["batch"] == number
    for processes in (4, 1):
        streams = [open_stream(shards, process=p, processes=processes) for p in range(processes)]
        try:
            for stream in streams:
                stream.set_state(state)
            for n in range(number, number + BATCHES):
                assert digest(joined([next(stream)[0] for stream in streams])) == alone[n], f"{processes}, batch {n}"
        finally:
            for stream in streams:
                stream.close()
