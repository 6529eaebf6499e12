"""Two and four real processes on this machine, several devices each, over the loopback."""

import json
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from toy_run import ToyStream, ToySystem, settings, toy_params

from crab_jax.train.checkpoint import named, read_trainables
from crab_jax.train.loop import PREEMPTED, train

pytestmark = pytest.mark.slow  # not settled yet: restoring onto other processes, see docs/training.md

TOY = pathlib.Path(__file__).with_name("toy_run.py")
STEPS = 6


def start(workdir, processes, devices, mesh, *arguments):
    """The same command once per process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    command = [sys.executable, str(TOY), str(workdir), "--devices", str(devices), "--mesh", mesh, *arguments]
    if processes > 1:
        command += ["--coordinator", address, "--processes", str(processes)]
    return [
        subprocess.Popen([*command, "--process", str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(processes)
    ]


def finish(running, code=0):
    try:
        outputs = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (out, err) in zip(running, outputs):
        assert process.returncode == code, f"{out[-2000:]}\n{err[-3000:]}"
    # The library that carries CPU collectives greets on standard output.
    return ["".join(x for x in out.splitlines(True) if not x.startswith("[Gloo]")) for out, _ in outputs]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with one device, undisturbed: losses and parameters."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = train(settings(folder, steps=STEPS), ToySystem(), *toy_params(), ToyStream())
    return losses(folder), {p: np.asarray(x) for p, x in named(outcome.state.params).items()}


def check(workdir, alone):
    expected, params = alone
    # float32 sums in another order; the parameters have moved by about 1e-2.
    np.testing.assert_allclose(losses(workdir), expected, rtol=1e-5)
    found = read_trainables(workdir / "checkpoints" / str(STEPS))
    assert set(found) == set(params)
    for path, x in params.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    "legs",
    [
        [(2, 2, "2,2,1", 3), (1, 2, "1,1,2", STEPS)],
        [(1, 1, "1,1,1", 2), (4, 2, "2,2,2", 4), (2, 1, "1,2,1", STEPS)],
    ],
    ids=["two to one", "one to four to two"],
)
def test_processes_come_and_go(tmp_path, alone, legs):
    """Every leg goes on from the checkpoint of the one before, with other processes and another mesh."""
    for processes, devices, mesh, last in legs:
        arguments = ["--steps", str(STEPS)] + (["--stop-after", str(last)] if last < STEPS else [])
        outputs = finish(start(tmp_path, processes, devices, mesh, *arguments), 0 if last == STEPS else PREEMPTED)
        assert all(not text for text in outputs[1:]), "only the first process talks"
    check(tmp_path, alone)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path, alone):
    running = start(tmp_path, 2, 1, "2,1,1", "--steps", str(STEPS), "--seconds", "1.0", "--every", "100")
    while not (line := running[0].stdout.readline()).startswith("step 1/"):  # from here on both train
        assert line, "the first process ended before its first step"
    running[1].send_signal(signal.SIGTERM)
    outputs = finish(running, PREEMPTED)
    assert "stopped: checkpoint" in outputs[0]
    finish(start(tmp_path, 2, 1, "1,2,1", "--steps", str(STEPS)))
    check(tmp_path, alone)
