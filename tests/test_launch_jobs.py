"""Scripts that run training on machines that are not here: what they would call, and what they do when it ends."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest
import yaml

from crab_jax.plan.hardware import LIBTPU_FLAGS
from launch import job

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = [
    "python",
    "-m",
    "launch.train",
    "--config",
    "configs/finetune.py:heads=5,tasks=avqa+ave",
    "--workdir",
    "/mnt/b/a b",
]
# A gcloud that notes its arguments. Training ends as the lines of `ends` say, one after the other; `describe` likewise.
GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$STATE/calls"
next() { head -1 "$STATE/$1"; sed -i 1d "$STATE/$1"; }
fails() { [ "$(next "$1")" = x ] && { echo "no $1" >&2; exit 1; }; }
case "$*" in
  *" describe "*) state="$(next states)"; [ "$state" = GONE ] && exit 1; echo "$state" ;;
  *launch.train*)
    code="$(next ends)"
    [ "$code" = lost ] && exit 255
    echo "worker ended with code $code"; echo "worker ended with code 143"
    [ "$code" = 0 ] && exit 0; exit 1 ;;
  *" create "*) fails capacity ;;
  *environment.sh*) fails network ;;
esac
exit 0
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")


@pytest.fixture
def pod(tmp_path):
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)

    def run(*options, ends="0", states="READY", capacity="", network=""):
        answers = {"ends": ends, "states": states, "capacity": capacity, "network": network}
        for name, text in answers.items():
            (tmp_path / name).write_text("\n".join(text.split()) + "\n")
        done = subprocess.run(
            ["bash", str(ROOT / "launch" / "tpu_pod.sh"), "--pause", "0", *options, "--", *COMMAND],
            env=os.environ | {"PATH": f"{gcloud.parent}:{os.environ['PATH']}", "STATE": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


NAMED = ("--name", "crab", "--zone", "z")
MADE = (*NAMED, "--create", "v5litepod-256", "--spot")


@needs_bash
def test_a_rehearsal_prints_every_command_and_calls_nothing(pod):
    done, calls = pod(*MADE, "--project", "p", "--dry-run")
    assert (done.returncode, calls) == (0, [])
    lines = [shlex.split(line.removeprefix("+ ")) for line in done.stderr.splitlines()]
    assert [line[4] for line in lines] == ["create", "scp", "ssh", "ssh"]
    assert all(
        line[:4] == ["gcloud", "compute", "tpus", "tpu-vm"] and line[-4:] == ["--zone", "z", "--project", "p"]
        for line in lines
    )
    assert lines[0][5:11] == [
        "crab",
        "--accelerator-type",
        "v5litepod-256",
        "--version",
        "v2-alpha-tpuv5-lite",
        "--spot",
    ]
    assert all("--worker=all" in line for line in lines[1:])
    assert "bring_python && environment '[tpu]'" in lines[2][lines[2].index("--command") + 1]
    # What the workers run comes out of their shell as it went in.
    remote = lines[3][lines[3].index("--command") + 1]
    assert f"export LIBTPU_INIT_ARGS={LIBTPU_FLAGS} " in remote  # as it was planned
    inner = remote[remote.index("python -m") : remote.index("|| rc=")]
    assert shlex.split(inner) == COMMAND


@needs_bash
def test_it_is_started_again_after_a_preemption_and_only_then(pod):
    done, calls = pod(*NAMED, ends="75 75 0", states="READY READY")
    assert done.returncode == 0
    assert sum("launch.train" in call for call in calls) == 3
    assert sum(" scp " in call for call in calls) == 1


@needs_bash
def test_what_was_taken_away_is_made_again(pod):
    done, calls = pod(*MADE, ends="lost 0", states="READY PREEMPTED PREEMPTED")
    assert done.returncode == 0
    verbs = [call.split()[3] for call in calls if " describe " not in call]
    assert verbs == ["scp", "ssh", "ssh", "delete", "create", "scp", "ssh", "ssh"]


@needs_bash
@pytest.mark.parametrize("code", ["1", "134", "137", "139"])
def test_what_the_others_end_with_does_not_matter_when_machines_are_gone(pod, code):
    done, calls = pod(*MADE, ends=f"{code} 0", states="READY PREEMPTED PREEMPTED")
    assert done.returncode == 0, done.stderr
    assert sum("launch.train" in call for call in calls) == 2
    assert any(" create " in call for call in calls)


@needs_bash
def test_a_machine_that_was_lost_and_came_back(pod):
    """The others end with SIGABRT, up to minutes later."""
    done, calls = pod(*NAMED, ends="134 0", states="READY")
    assert done.returncode == 0, done.stderr
    assert sum("launch.train" in call for call in calls) == 2


@needs_bash
@pytest.mark.parametrize(
    ("states", "capacity", "network", "verbs"),
    [
        ("PREEMPTED PREEMPTED GONE", "- x -", "", "delete create create scp ssh"),
        ("PREEMPTED PREEMPTED PREEMPTED", "", "- x", "delete create scp ssh delete create scp ssh"),
    ],
    ids=["no capacity", "taken away again"],
)
def test_making_it_again_is_tried_until_it_succeeds(pod, states, capacity, network, verbs):
    """Each attempt counts as a restart."""
    made = dict(ends="lost 0", states=f"GONE {states}", capacity=capacity, network=network)
    done, calls = pod(*MADE, "--restarts", "2", **made)
    assert done.returncode == 0, done.stderr
    called = " ".join(call.split()[3] for call in calls if " describe " not in call)
    assert called == f"create scp ssh ssh {verbs} ssh"
    assert "(2 of at most 2), crab could not be made or set up" in done.stderr
    done, _ = pod(*MADE, "--restarts", "1", **made)
    assert done.returncode == 2
    assert "gave up after 1 restarts" in done.stderr


@needs_bash
@pytest.mark.parametrize(
    ("capacity", "network", "message"), [("x", "", "could not be made"), ("", "x", "could not be set up")]
)
def test_the_first_time_must_succeed(pod, capacity, network, message):
    done, calls = pod(*MADE, states="GONE", capacity=capacity, network=network)
    assert done.returncode == 2
    assert message in done.stderr
    assert not any("launch.train" in call for call in calls)


@needs_bash
def test_every_start_is_preceded_by_the_setup(pod):
    setup = 'there || { mount "$HOME"; }'
    _, calls = pod(*MADE, "--setup", setup, ends="75 lost 0", states="READY READY PREEMPTED PREEMPTED")
    starts = [call for call in calls if "launch.train" in call]
    assert len(starts) == 3
    for call in starts:
        words = shlex.split(call[call.index("rc=0; ") + 6 : call.index("|| rc=")])
        assert words[: words.index("python")] == ["eval", setup, "&&"]


@needs_bash
@pytest.mark.parametrize(
    ("ends", "states", "code", "message"),
    [
        ("1", "READY", 1, "ended with code 1"),
        ("137", "READY", 1, "lost the workers"),
        ("lost", "READY", 1, "lost the workers"),
        ("lost", "GONE", 2, "--create was not given"),
        ("75 75 75", "READY READY READY", 2, "gave up after 2 restarts"),
    ],
)
def test_it_stops(pod, ends, states, code, message):
    done, _ = pod(*NAMED, "--restarts", "2", ends=ends, states=states)
    assert done.returncode == code
    assert message in done.stderr


@needs_bash
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "crab"), "--zone is missing"),
        ((*NAMED, "--bogus"), "unknown argument --bogus"),
        ((*NAMED, "--create", "abacus-8"), "give --version"),
        ((*NAMED, "--restarts", "many"), "expected a whole number"),
        ((*NAMED, "--pause", "-1"), "expected a whole number of seconds"),
        ((*NAMED, "--folder", "a; rm -rf b"), "expected letters"),
    ],
)
def test_wrong_arguments_call_nothing(pod, options, message):
    done, calls = pod(*options)
    assert (done.returncode, calls) == (2, [])
    assert message in done.stderr


@pytest.mark.parametrize(
    ("topology", "hosts", "label", "shape"),
    [
        ("v5e:16x16", 64, "tpu-v5-lite-podslice", "16x16"),
        ("tpu7x:2x2x2", 2, "tpu7x", "2x2x2"),
        ("v5e:1x1", 1, "tpu-v5-lite-podslice", "1x1"),
    ],
)
def test_gke(capsys, topology, hosts, label, shape):
    assert job.main(["gke", "--name", "crab", "--image", "r/i: t", "--topology", topology, "--", *COMMAND]) == 0
    made = yaml.safe_load(capsys.readouterr().out)
    work = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert work["parallelism"] == work["completions"] == hosts
    pod = work["template"]["spec"]
    assert list(pod["nodeSelector"].values()) == [label, shape]
    (container,) = pod["containers"]
    assert (container["image"], container["command"]) == ("r/i: t", COMMAND)
    assert container["env"] == [{"name": "LIBTPU_INIT_ARGS", "value": LIBTPU_FLAGS}]
    (rule,) = work["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [75, 134, 137, 143]
    # 64 MiB of shared memory are too little for the batches of data workers.
    assert pod["volumes"] == [{"name": "volume-0", "emptyDir": {"medium": "Memory"}}]
    assert container["volumeMounts"] == [{"name": "volume-0", "mountPath": "/dev/shm"}]
    assert container["workingDir"] == ""  # that of the image
    assert work["template"]["metadata"] == {"annotations": {}}
    assert pod["serviceAccountName"] == "default"
    assert rule["onExitCodes"]["operator"] == "NotIn"


def test_data_of_a_gke_job_lie_outside_the_image(capsys, tmp_path, monkeypatch):
    """Handed over as it is printed: nothing is left to be written into it."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$@" > "$TAKEN.call"\ncat > "$TAKEN"\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TAKEN", str(tmp_path / "taken"))
    options = ["--name", "crab", "--image", "i", "--topology", "v5e:4x4", "--tree", "/app", "--submit"]
    options += ["--volume", "shards.v1:/mnt/shards", "--gcs", "my_runs:/mnt/runs", "--service-account", "trainer"]
    assert job.main(["gke", *options, "--", *COMMAND]) == 0
    assert (tmp_path / "taken.call").read_text() == "apply -f -\n"
    made = yaml.safe_load((tmp_path / "taken").read_text())
    template = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    pod = template["spec"]
    assert pod["serviceAccountName"] == "trainer"
    (container,) = pod["containers"]
    assert container["workingDir"] == "/app"
    where = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    _, claim, bucket = pod["volumes"]
    assert (where[claim["name"]], claim["persistentVolumeClaim"]) == ("/mnt/shards", {"claimName": "shards.v1"})
    assert (where[bucket["name"]], bucket["csi"]["driver"]) == ("/mnt/runs", "gcsfuse.csi.storage.gke.io")
    # Without the second one a checkpoint gets no name.
    assert bucket["csi"]["volumeAttributes"] == {
        "bucketName": "my_runs",
        "mountOptions": "implicit-dirs,rename-dir-limit=100000",
    }


def test_xpk(capsys):
    options = ["--name", "crab", "--image", "i", "--topology", "v5p:4x4x4", "--cluster", "c"]
    assert job.main(["xpk", *options, "--", *COMMAND]) == 0
    words = shlex.split(capsys.readouterr().out)
    expected = {"--tpu-type=v5p-128", "--restart-on-exit-codes=75,134,137,143", f"--command={shlex.join(COMMAND)}"}
    assert expected <= set(words)
    assert job.main(["xpk", *options, "--tree", "/a b", "--", *COMMAND]) == 0
    assert f"--command=cd '/a b' && {shlex.join(COMMAND)}" in shlex.split(capsys.readouterr().out)


def test_slurm(capsys, tmp_path):
    """The script is run with stand-ins for Slurm's commands: exit code 75 puts it back into the queue."""
    options = ["--name", "crab", "--nodes", "4", "--gpus", "8", "--tree", str(tmp_path), "--sbatch", "partition=gpu"]
    assert job.main(["slurm", *options, "--", "bash", "-c", "exit 75"]) == 0
    text = capsys.readouterr().out
    for line in ("--nodes=4", "--gpus-per-node=8", "--signal=TERM@300", "--partition=gpu", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    if shutil.which("bash") is None:
        pytest.skip("the rest needs bash")
    for name, body in (
        ("srun", 'shift; echo "$JAX_LOCAL_DEVICE_IDS" > gpus; "$@"'),
        ("scontrol", 'echo "$@" > called'),
    ):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash"], input=text, text=True, env=environment, capture_output=True)
    assert done.returncode == 75
    assert (tmp_path / "called").read_text() == "requeue 7\n"
    assert "#SBATCH --ntasks-per-node=1\n" in text  # one process, which JAX would give one GPU
    assert (tmp_path / "gpus").read_text() == "0,1,2,3,4,5,6,7\n"


def test_wrong_jobs(capsys):
    assert job.main(["gke", "--name", "crab", "--image", "i", "--topology", "v5e:7", "--", "true"]) == 2
    assert "v5e:{1x1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        job.main(["slurm", "--name", "Crab!", "--nodes", "1", "--gpus", "1", "--", "true"])
    assert "lower-case" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("slurm --nodes 0 --gpus 8", "--nodes: '0': expected a whole number from 1 on"),
        ("slurm --nodes 1 --gpus -1", "--gpus: '-1': expected a whole number"),
        ("slurm --nodes 1 --gpus 1 --cpus many", "--cpus: 'many': expected a whole number"),
        ("slurm --nodes 1 --gpus 1 --time abc", "--time: 'abc': expected a time of Slurm"),
        ("slurm --nodes 1 --gpus 1 --grace 0", "--grace: '0': expected a whole number from 1 on"),
        ("gke --image i --topology v5e:3x5", "v5e:3x5: 15 chips, expected 1 or a multiple of 4"),
        ("xpk --cluster c --image i --topology v5e:3x5", "v5e:3x5: 15 chips, expected 1 or a multiple of 4"),
        ("gke --image i --topology v5e:4x4 --gcs gs://b:/mnt", "--gcs: 'gs://b:/mnt': expected NAME:/FOLDER"),
        ("gke --image i --topology v5e:4x4 --volume shards:mnt", "--volume: 'shards:mnt': expected NAME:/FOLDER"),
        ("gke --image i --topology v5e:4x4 --restarts -4", "--restarts: '-4': expected a whole number from 0 on"),
    ],
)
def test_numbers_of_a_job_are_checked(capsys, options, message):
    try:
        code = job.main([*options.split(), "--name", "crab", "--", "true"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("time", ["90", "90:30", "24:00:00", "2-12", "2-12:30", "2-12:30:00"])
def test_times_of_slurm(capsys, time):
    assert job.main(["slurm", "--name", "crab", "--nodes", "1", "--gpus", "1", "--time", time, "--", "true"]) == 0
    assert f"#SBATCH --time={time}\n" in capsys.readouterr().out
