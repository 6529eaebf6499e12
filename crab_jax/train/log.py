"""What a person, a script and TensorBoard see of a run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crab_jax.plan.hardware import CHIPS

# Name of a device, whole, as a pattern → dense bfloat16 products per second, as the makers state them. Cards of one
# family differ (SXM, PCIe, NVL), and a slice of a card (MIG) has the card's name in front. Source: their data sheets.
PEAK_FLOPS: Mapping[str, float] = {
    r"NVIDIA A100(-SXM4?-\d+GB|-PCIE-\d+GB| \d+GB PCIe)": 312e12,
    r"NVIDIA H100 \d+GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA H200": 989e12, "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12, "NVIDIA L4": 121e12, "NVIDIA L40S": 362e12, "TPU v4": 275e12,
    **{chip.kind: chip.flops / chip.devices for chip in CHIPS.values()},
    **{f"TPU {name}": CHIPS[name].flops for name in ("v5e", "v5p", "v6e")},
}  # fmt: skip


def peak_flops(kind: str) -> float | None:
    """The peak of a device by its name (`jax.Device.device_kind`), or None if it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if re.fullmatch(name, kind, re.IGNORECASE)), None)


class RunLog:
    """metrics.jsonl with a line per step, event files for TensorBoard, and a line for people now and then.

    Only one process writes; in the others all methods do nothing.

    Args:
        workdir: of the run.
        say: takes a line for people.
        first: the step that comes next. What the files hold from there on was of a run that was cut off: the lines are
            removed, the events purged.
        total: steps of the whole run.
        every: steps between two lines for people.
        tensorboard: whether to write event files.
        peak: products per second of all devices together, for the MFU; None: not known.
        writes: whether this process does anything.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        say: Callable[[str], Any],
        *,
        first: int,
        total: int,
        every: int,
        tensorboard: bool,
        peak: float | None = None,
        writes: bool = True,
    ):
        self._say, self._total, self._every, self._peak, self._writes = say, total, every, peak, writes
        self._first, self._since, self._window = first, time.monotonic(), []
        self._events = self._lines = None
        if not writes:
            return
        self._path = workdir / "metrics.jsonl"
        keep_steps(self._path, first)
        self._lines = self._path.open("a", encoding="utf-8")
        if tensorboard:
            self._events = _Events(workdir / "tensorboard", first=first)

    def close(self) -> None:
        """Closes the files; every step is in them already."""
        for file in (self._lines, self._events):
            if file is not None:
                with contextlib.suppress(OSError):  # a full disk; what was lost, the error of the last step has told
                    file.close()

    def say(self, text: str) -> None:
        """A line for people."""
        if self._writes:
            self._say(text)

    def step(self, step: int, values: Mapping[str, float], *, tokens: float, flops: float, fill: Mapping[str, float]):
        """Notes one finished step.

        Args:
            step: its number, from 1.
            values: the metrics, and `seconds` and `data_wait_s` of this step.
            tokens: real ones in it, over all processes.
            flops: products in it that count for the MFU.
            fill: resource → share of the rows of this process that is used.

        Raises:
            OSError: the disk is full, for example.
        """
        if not self._writes:
            return
        line = {"step": step, **values, **{f"fill/{k}": v for k, v in fill.items()}}
        line["tokens_per_s"] = tokens / values["seconds"]
        if self._peak:
            line["mfu"] = flops / values["seconds"] / self._peak
        self._write(line)
        self._scalars(step, line)
        self._window.append(line)
        if step % self._every == 0 or step == self._total or step == self._first + 1:
            self._say(self._progress(step))
            self._window.clear()

    def scalars(self, step: int, values: Mapping[str, float], *, kind: str) -> None:
        """Further values, under their own kind: a line of their own in metrics.jsonl."""
        if self._writes:
            self._write({"step": step, "kind": kind, **values})
            self._scalars(step, {f"{kind}/{name}": x for name, x in values.items()})

    def _write(self, line: Mapping[str, Any]) -> None:
        with _writing(self._path):
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._events is not None:
            self._events.scalars(step, {name: x for name, x in values.items() if name != "step"})

    def _progress(self, step: int) -> str:
        def mean(name: str) -> float:
            return _mean(line[name] for line in self._window if name in line)

        def rate(name: str) -> float:  # of the window, in which steps may differ much
            return _mean(line[name] * line["seconds"] for line in self._window) / seconds

        seconds = mean("seconds")
        losses = [n for n in self._window[-1] if n.startswith("loss/")]
        parts = " ".join(f"{n.removeprefix('loss/')} {mean(n):.4f}" for n in losses)
        texts = [
            f"step {step}/{self._total}",
            f"loss {mean('loss'):.4f}" + (f" ({parts})" if len(losses) > 1 else ""),
            f"grad {mean('grad_norm'):.3g}",
            f"lr {self._window[-1]['rate']:.3g}",
            f"{seconds:.3g} s/step",
            f"{rate('tokens_per_s'):,.0f} tokens/s",
        ]
        if self._peak:
            texts.append(f"MFU {rate('mfu'):.1%}")
        texts.append(f"data wait {mean('data_wait_s') / seconds:.0%}")
        filled = [f"{n.removeprefix('fill/')} {mean(n):.0%}" for n in self._window[-1] if n.startswith("fill/")]
        if filled:
            texts.append("fill " + " ".join(filled))
        texts.append(f"ETA {_duration((self._total - step) * seconds)}")
        return " | ".join(texts)


class _Events:
    """An event file for TensorBoard. Every step is written before the next one.

    The writer of tensorboardX has a thread of its own: with a full disk that thread ends unseen, and whoever hands it
    the next steps waits for ever.

    Args:
        folder: gets the file; made if it is not there.
        first: TensorBoard shall forget what earlier files of the folder hold of the steps after this one.

    Raises:
        OSError: the disk is full, for example.
    """

    def __init__(self, folder: pathlib.Path, *, first: int):
        # Imported here: it is slow, and not everybody wants it.
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        # TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        with _writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        self._write(file_version="brain.Event:2")
        self._write(step=first + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step.

        Raises:
            OSError: the disk is full, for example.
        """
        value = [self._summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        self._write(step=step, summary=self._summary(value=value))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        """One record: length and event, each with its checksum."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        with _writing(self._path):
            for part in (length, event):
                self._file.write(part + struct.pack("<I", self._checksum(part)))
            self._file.flush()


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Says what to do if a file cannot be written."""
    try:
        yield
    except OSError as error:
        where = f"{path}: {error.strerror}; make room and start the same command again"
        raise OSError(error.errno, where) from error


def keep_steps(path: pathlib.Path, last: int) -> None:
    """Drops the lines of metrics.jsonl behind step `last`, and one that was cut off in the middle."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(text)["step"] <= last:
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _mean(values: Iterable[float]) -> float:
    """The mean; NaN if there are none."""
    found = list(values)
    return sum(found) / len(found) if found else float("nan")


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
