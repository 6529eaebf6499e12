"""Two and four real processes on this machine, several devices each, over the loopback."""

import json
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax._src.clusters import cloud_tpu_cluster
from toy_run import ToyStream, ToySystem, settings, toy_params

from crab_jax.train import processes as between
from crab_jax.train.checkpoint import named, read_trainables
from crab_jax.train.loop import PREEMPTED, train

TOY = pathlib.Path(__file__).with_name("toy_run.py")
STEPS = 6
LIMIT_S = 300  # for a busy machine; nothing here takes long by itself


def start(workdir, processes, devices, mesh, *arguments):
    """The same command once per process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    command = [sys.executable, str(TOY), str(workdir), "--devices", str(devices), "--mesh", mesh, *arguments]
    command += ["--steps", str(STEPS), "--coordinator", address, "--processes", str(processes)]
    return [
        subprocess.Popen([*command, "--process", str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(processes)
    ]


def finish(running, *codes):
    """Waits for all → what each wrote to standard output and to standard error; checks their exit codes."""
    try:
        outputs = [process.communicate(timeout=LIMIT_S) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, code, (out, err) in zip(running, codes * len(running), outputs):
        assert process.returncode == code, f"{out[-2000:]}\n{err[-3000:]}"
    return outputs


def alone(workdir, said=None, **options):
    """This process with its one device."""
    say = (said if said is not None else []).append
    return train(settings(workdir, steps=STEPS, **options), ToySystem(), *toy_params(), ToyStream(), say=say)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One process from beginning to end: losses and parameters."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = alone(folder)
    return losses(folder), {p: np.asarray(x) for p, x in named(outcome.state.params).items()}


def check(workdir, undisturbed):
    expected, params = undisturbed
    # float32 sums in another order; the parameters have moved by about 1e-2.
    np.testing.assert_allclose(losses(workdir), expected, rtol=1e-5)
    found = read_trainables(workdir / "checkpoints" / str(STEPS))
    assert set(found) == set(params)
    for path, x in params.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5, err_msg=path)


def test_one_to_four_to_two_processes(tmp_path, undisturbed):
    """Each goes on from the checkpoint of the one before, on another mesh; the four find the newest one damaged."""
    alone(tmp_path, stop_after=3)
    for path in (tmp_path / "checkpoints" / "3" / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outputs = finish(start(tmp_path, 4, 2, "2,2,2", "--stop-after", "4"), PREEMPTED)
    assert outputs[0][0].startswith("continued after step 2")
    assert all(not said for said, _ in outputs[1:]), "only the first process talks"
    assert (tmp_path / "checkpoints" / "damaged-3").is_dir()
    outputs = finish(start(tmp_path, 2, 1, "1,2,1"), 0)
    assert outputs[0][0].startswith("continued after step 4")
    check(tmp_path, undisturbed)


def test_a_signal_to_one_of_two_stops_both_after_the_same_step(tmp_path, undisturbed):
    running = start(tmp_path, 2, 2, "2,1,2", "--seconds", "0.5", "--every", "100")
    while not (line := running[0].stdout.readline()).startswith("step 1/"):  # from here on both train
        assert line, f"the first process ended before its first step: {running[0].stderr.read()[-3000:]}"
    running[1].send_signal(signal.SIGTERM)
    assert "stopped: checkpoint" in finish(running, PREEMPTED)[0][0]
    said = []
    assert alone(tmp_path, said).finished
    assert said[0].startswith("continued after step")
    check(tmp_path, undisturbed)


def test_one_of_two_fails_and_the_other_does_not_wait_for_ever(tmp_path, undisturbed):
    """The broken one says what is wrong; nobody is left over, and the last good checkpoint is there."""
    running = start(tmp_path, 2, 1, "1,2,1", "--silent", "10", "--fails", "1")
    try:
        _, errors = running[1].communicate(timeout=LIMIT_S)
        assert "OSError: the disk with the data has gone" in errors
        running[0].communicate(timeout=LIMIT_S)
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode not in (0, PREEMPTED) for process in running)
    said = []
    assert alone(tmp_path, said).finished
    assert said[0].startswith("continued after step 2")
    check(tmp_path, undisturbed)


# --- who is there -----------------------------------------------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
METADATA = {"agent-worker-number": "1", "worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2"}


@pytest.mark.parametrize(
    ("on_tpu", "environment", "metadata", "count"),
    [
        (False, {}, {}, 1),
        (False, SLURM | {"SLURM_NTASKS": "4"}, {}, 4),
        (False, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, {}, 1),
        (True, {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, {}, 3),
        (True, {"TPU_PROCESS_ADDRESSES": "a:8471,b:8471", "TPU_WORKER_ID": "0"}, {}, 2),
        (True, {}, METADATA, 2),
        (True, {}, METADATA | {"worker-network-endpoints": "a"}, 1),
        (True, {}, {}, 1),
        (False, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JAX_NUM_PROCESSES": "2"}, {}, 1),
    ],
    ids=["alone", "slurm", "salloc", "gke", "addresses", "tpu vm", "tpu vm alone", "tpu elsewhere", "a pod"],
)
def test_processes_of_a_cluster_are_found(monkeypatch, on_tpu, environment, metadata, count):
    """On a TPU VM only the metadata server knows the other workers."""
    for name in (*SLURM, "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY",
                 "KUBERNETES_SERVICE_HOST", "OMPI_MCA_orte_hnp_uri"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    answer = lambda key: (metadata[key], 200) if key in metadata else ("", 404)  # noqa: E731
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", on_tpu)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", answer)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **limits: calls.append((args, set(limits))))
    limits = {"heartbeat_timeout_seconds", "shutdown_timeout_seconds"}
    assert between.found() == count
    between.start()
    assert calls == [((), limits)] * (count > 1)
    between.start("here:1", 2, 1)
    assert calls[-1] == (("here:1", 2, 1), limits)
