"""Fills in the job files of this folder, and hands them over.

    python -m launch.job gke --name crab-joint --image IMAGE --topology v5e:16x16 -- python -m launch.train …
    python -m launch.job xpk --name crab-joint --image IMAGE --topology v5e:16x16 --cluster CLUSTER -- python …
    python -m launch.job slurm --name crab-joint --nodes 4 --gpus 8 -- python -m launch.train …

Prints what it would hand over; with --submit, gives it to kubectl, xpk or sbatch.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Sequence

from crab_jax.plan.hardware import LIBTPU_FLAGS, Slice, TopologyError

HERE = pathlib.Path(__file__).parent
CHIPS_PER_HOST = 4  # of every slice that has several hosts
# Kind of chip → the label of GKE's nodes, the name of XPK's types, and what its number counts per chip.
GKE = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice", "tpu7x": "tpu7x"}
XPK = {"v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1), "tpu7x": ("tpu7x", 2)}
# Asked to stop, and saved; what the others end with when a machine is gone (SIGABRT), and what is killed with a machine
# (SIGKILL, SIGTERM).
RESTART_ON = (75, 134, 137, 143)
# A checkpoint is a folder that gets its name when it is complete; gcsfuse renames folders only up to a limit.
GCSFUSE_OPTIONS = "implicit-dirs,rename-dir-limit=100000"
# Unasked, the container of gcsfuse gets 256 MiB of memory and 5 GiB of disk, and checkpoints go through both.
GCSFUSE = {"gke-gcsfuse/volumes": "true"} | {
    f"gke-gcsfuse/{what}-limit": "0" for what in ("cpu", "memory", "ephemeral-storage")
}


def main(argv: Sequence[str] | None = None) -> int:
    """See the module. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launch.job", description=__doc__.split("\n", 1)[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("gke", "xpk", "slurm"):
        sub = kinds.add_parser(kind)
        sub.add_argument("--name", required=True, type=_name, help="of the job")
        sub.add_argument("--submit", action="store_true", help="hand it over instead of printing it")
        sub.add_argument("--grace", type=_positive, default=300, metavar="SECONDS", help="time to save (%(default)s)")
        sub.add_argument("command", nargs="+", metavar="-- COMMAND")
        if kind == "slurm":
            sub.add_argument("--nodes", type=_positive, required=True)
            sub.add_argument("--gpus", type=_positive, required=True, help="of one node")
            sub.add_argument("--cpus", type=_positive, default=32, help="of one node (%(default)s)")
            sub.add_argument("--time", type=_time, default="24:00:00", help="%(default)s")
            sub.add_argument("--tree", default=".", help="the checkout, where all nodes see it (%(default)s)")
            sub.add_argument(
                "--sbatch", action="append", default=[], metavar="OPTION", help="further, such as partition=gpu"
            )
        else:
            sub.add_argument("--image", required=True, help="a container with this project and its extra [tpu]")
            sub.add_argument("--topology", required=True, help="such as v5e:16x16")
            sub.add_argument("--restarts", type=_count, default=100, help="at most (%(default)s)")
            sub.add_argument("--tree", default="", help="the checkout in the image (the image's own working folder)")
        if kind == "xpk":
            sub.add_argument("--cluster", required=True)
        if kind == "gke":
            sub.add_argument(
                "--volume", action="append", type=_mount, default=[], metavar="CLAIM:FOLDER",
                help="a persistentVolumeClaim that all hosts may write to, and where they find it",
            )  # fmt: skip
            sub.add_argument(
                "--gcs", action="append", type=_mount, default=[], metavar="BUCKET:FOLDER",
                help="a bucket, through the Cloud Storage FUSE driver of the cluster, and where the hosts find it",
            )  # fmt: skip
            sub.add_argument(
                "--service-account", type=_name, default="default", metavar="NAME",
                help="of Kubernetes, that may use the buckets (%(default)s)",
            )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        if args.kind == "xpk":
            return _hand_over(xpk(args), None, args.submit)
        text, taker = (
            (slurm(args), ["sbatch"]) if args.kind == "slurm" else (gke(args), ["kubectl", "apply", "-f", "-"])
        )
        return _hand_over(taker, text, args.submit)
    except (TopologyError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def gke(args: argparse.Namespace) -> str:
    """The YAML of a JobSet."""
    where = Slice.parse(args.topology)
    per_host = _chips_per_host(where)
    volumes, mounts = _volumes(args.volume, args.gcs)
    return _filled(
        "gke_job.yaml",
        name=args.name,
        restarts=args.restarts,
        hosts=where.chips // per_host,
        grace=args.grace,
        accelerator=GKE[where.chip.name],
        topology="x".join(map(str, where.dims)),
        image=json.dumps(args.image),
        tree=json.dumps(args.tree),
        command=json.dumps(list(args.command)),  # JSON is YAML
        volumes=json.dumps(volumes),
        mounts=json.dumps(mounts),
        annotations=json.dumps(GCSFUSE if args.gcs else {}),
        service_account=args.service_account,
        restart_on=json.dumps(RESTART_ON),
        chips_per_host=per_host,
        flags=json.dumps(LIBTPU_FLAGS),
    )


def _volumes(claims: Sequence[tuple[str, str]], buckets: Sequence[tuple[str, str]]) -> tuple[list, list]:
    """What a pod has, and where its container finds it."""
    # Data workers hand their batches over in shared memory, of which a container has 64 MiB without this.
    found = [("/dev/shm", {"emptyDir": {"medium": "Memory"}})]
    found += [(folder, {"persistentVolumeClaim": {"claimName": claim}}) for claim, folder in claims]
    for bucket, folder in buckets:
        about = {"bucketName": bucket, "mountOptions": GCSFUSE_OPTIONS}
        found.append((folder, {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": about}}))
    volumes = [{"name": f"volume-{i}"} | kind for i, (_, kind) in enumerate(found)]
    return volumes, [{"name": f"volume-{i}", "mountPath": folder} for i, (folder, _) in enumerate(found)]


def xpk(args: argparse.Namespace) -> list[str]:
    """The command that starts the same with XPK."""
    where = Slice.parse(args.topology)
    _chips_per_host(where)
    kind, per_chip = XPK[where.chip.name]
    there = f"cd {shlex.quote(args.tree)} && " if args.tree else ""
    return [
        "xpk", "workload", "create", f"--workload={args.name}", f"--cluster={args.cluster}",
        f"--tpu-type={kind}-{where.chips * per_chip}", "--num-slices=1", f"--docker-image={args.image}",
        f"--max-restarts={args.restarts}", f"--restart-on-exit-codes={','.join(map(str, RESTART_ON))}",
        f"--termination-grace-period-seconds={args.grace}", f"--env=LIBTPU_INIT_ARGS={LIBTPU_FLAGS}",
        f"--command={there}{shlex.join(args.command)}",
    ]  # fmt: skip


def slurm(args: argparse.Namespace) -> str:
    """The batch script."""
    return _filled(
        "slurm_job.sh",
        name=args.name,
        nodes=args.nodes,
        gpus=args.gpus,
        devices=",".join(map(str, range(args.gpus))),
        cpus=args.cpus,
        time=args.time,
        grace=args.grace,
        tree=shlex.quote(args.tree),
        command=shlex.join(args.command),
        extra="\n".join(f"#SBATCH --{option}" for option in args.sbatch),
    )


def _filled(file: str, **values: object) -> str:
    return string.Template((HERE / file).read_text(encoding="utf-8")).substitute(values)


def _hand_over(taker: list[str], text: str | None, submit: bool) -> int:
    if not submit:
        sys.stdout.write(f"{shlex.join(taker)}\n" if text is None else text)
        return 0
    return subprocess.run(taker, input=text, text=True, check=False).returncode


def _chips_per_host(where: Slice) -> int:
    if where.chips > 1 and where.chips % CHIPS_PER_HOST:
        raise TopologyError(
            f"topology {where.name}: {where.chips} chips, expected 1 or a multiple of {CHIPS_PER_HOST}: those of a host"
        )
    return min(CHIPS_PER_HOST, where.chips)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def _time(text: str) -> str:
    if not re.fullmatch(r"\d+(:\d\d){0,2}|\d+-\d\d?(:\d\d){0,2}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a time of Slurm, such as 90 (minutes), 24:00:00 or 2-12:00:00 (with days)"
        )
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected at most 40 lower-case letters, digits and -, a letter first"
        )
    return text


def _mount(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"([a-z0-9]([a-z0-9._-]*[a-z0-9])?):(/[^:]+)", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME:/FOLDER, such as crab-runs:/mnt/runs, without gs://, and an absolute folder"
        )
    return found[1], found[3]


if __name__ == "__main__":
    sys.exit(main())
