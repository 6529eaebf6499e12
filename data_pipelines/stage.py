"""Encodes clips into finished shards, in worker processes; may be interrupted, killed and continued at any time.

A shard is encoded by one worker from beginning to end, and is finished once `<name>.done.json` is there, which comes
last and by renaming. What is in a shard follows from the annotations alone. So a build that was stopped ten times gives
the same bytes as one that was not, with any number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from crab_jax.tasks.clips import Clip
from data_pipelines.clip_reader import How, Loss, read_clip
from data_pipelines.records import SCHEMA
from data_pipelines.shard_writer import ShardWriter, write_lines
from data_pipelines.worker import belong_to_parent


class Interrupted(Exception):
    """The build is to stop; raised in workers between two clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to be encoded.

    Attributes:
        folder: where finished shards wait.
        split: of all its clips.
        number: of the shard in its split.
        clips: what goes in, in this order.
        how: to read and encode them.
        deadly: numbers of clips that ended the process which read them.
    """

    folder: pathlib.Path
    split: str
    number: int
    clips: tuple[Clip, ...]
    how: How
    deadly: frozenset[int] = frozenset()

    def path(self, ending: str) -> pathlib.Path:
        """One of the files of this shard."""
        return self.folder / f"{self.split}-{self.number:05d}.{ending}"

    @property
    def key(self) -> str:
        """Changes with everything that a finished shard depends on, except the media themselves."""
        return hashlib.sha256(repr((SCHEMA, self.how, self.clips)).encode()).hexdigest()

    def finished(self) -> Done | None:
        """What an earlier run made of it.

        None if it has to be encoded: for the first time, because annotations or options are others, or because a file
        that was missing or damaged then is another now.
        """
        try:
            value = json.loads(self.path("done.json").read_text(encoding="utf-8"))
            lost = value.pop("lost")
            done = Done(**value, lost=tuple(Loss(**{**v, "media": tuple(map(pathlib.Path, v["media"]))}) for v in lost))
            whole = self.path("array_record").stat().st_size == done.size and self.path("jsonl").is_file()
            return done if done.key == self.key and whole and done.state == _state(done.lost) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """A finished shard.

    Attributes:
        key: of the job.
        split, number: likewise.
        clips: that were in the job.
        asks: likewise.
        records: that are in the shard.
        examples: asks of these records.
        size: bytes of the shard.
        state: sizes and times of the files that `lost` blames.
        lost: what could not be used.
    """

    key: str
    split: str
    number: int
    clips: int
    asks: int
    records: int
    examples: int
    size: int
    state: str
    lost: tuple[Loss, ...]


def _state(lost: tuple[Loss, ...]) -> str:
    found = []
    for path in sorted({path for loss in lost for path in loss.media}):
        try:
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((str(path), None, None))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def encode(job: Job, *, stop: Callable[[], bool], advance: Callable[[], None]) -> Done:
    """Encodes one shard; holds one clip in memory.

    Raises:
        Interrupted: `stop` said so.
        OSError: the disk is full, for example.
    """
    lost: list[Loss] = []
    part = job.path("part")
    with ShardWriter(part) as writer:
        for i, clip in enumerate(job.clips):
            if stop():
                raise Interrupted
            if i in job.deadly:
                reason = "expected media that can be read, found that reading them ended the process"
                media = tuple(p for p in (clip.video, *clip.pictures, clip.audio, *clip.masks) if p is not None)
                lost.append(Loss(clip.id, "crash", reason, job.how.name(clip.source), len(clip.asks), media))
                continue
            job.path("at").write_text(str(i))  # read by `_alone` if this process ends here
            record, samples, losses = read_clip(clip, job.how)
            lost += losses
            if record is not None:
                writer.add(record, samples=samples)
            advance()
    part.rename(job.path("array_record"))
    write_lines(job.path("jsonl"), writer.entries)
    done = Done(
        key=job.key,
        split=job.split,
        number=job.number,
        clips=len(job.clips),
        asks=sum(len(clip.asks) for clip in job.clips),
        records=len(writer.entries),
        examples=sum(len(entry["asks"]) for entry in writer.entries),
        size=job.path("array_record").stat().st_size,
        state=_state(tuple(lost)),
        lost=tuple(lost),
    )
    job.path("part").write_text(json.dumps(dataclasses.asdict(done), default=str), encoding="utf-8")
    job.path("part").rename(job.path("done.json"))
    job.path("at").unlink(missing_ok=True)
    return done


# ----------------------------------------------------------------------------------------------------------- workers

_shared: dict[str, Any] = {}  # in a worker: what the parent gave it


def _start(stop, count) -> None:
    belong_to_parent()
    _shared.update(stop=stop, count=count)


def _work(job: Job) -> Done:
    def advance():
        with _shared["count"].get_lock():
            _shared["count"].value += 1

    return encode(job, stop=_shared["stop"].is_set, advance=advance)


class _Pool(contextlib.AbstractContextManager):
    """Worker processes, and the number of clips they have read."""

    def __init__(self, workers: int):
        context = multiprocessing.get_context("spawn")  # decoders have threads, which a fork would break
        self._stop, self._count = context.Event(), context.Value("q", 0)
        self._executor = futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start, initargs=(self._stop, self._count)
        )
        self._told = 0

    def submit(self, job: Job) -> futures.Future[Done]:
        job.path("at").unlink(missing_ok=True)
        return self._executor.submit(_work, job)

    def news(self) -> int:
        """Clips read since the last call."""
        now = self._count.value
        self._told, before = now, self._told
        return now - before

    def __exit__(self, *exception) -> None:
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


_TICK_S = 0.5  # how often progress is told


def encode_all(jobs: Iterator[Job], *, workers: int, advance: Callable[[int], None]) -> Iterator[Done]:
    """Encodes shards, in any order; what is finished already is not encoded again.

    A worker that is killed, by a defect of a decoder or by the kernel for its memory, costs the clip it was reading and
    nothing else: shards that were under way are encoded once more, each alone, to find out which clip it was.

    Closing the iterator stops the workers after the clips they are reading.

    Args:
        jobs: drawn as needed, so that no more than a few are in memory.
        workers: processes; 0: in this process, where a crash is the end.
        advance: is told how many more clips are done.

    Raises:
        OSError: the disk is full, for example.
    """
    if workers == 0:
        for job in jobs:
            done = job.finished()
            if done is not None:
                advance(done.clips)
            yield done or encode(job, stop=lambda: False, advance=lambda: advance(1))
        return
    todo: list[Job] = []
    while True:
        suspects: list[Job] = []
        with _Pool(workers) as pool:
            running: dict[futures.Future[Done], Job] = {}
            while not suspects:
                while len(running) < 2 * workers and (job := todo.pop() if todo else next(jobs, None)):
                    if (done := job.finished()) is not None:
                        advance(done.clips)
                        yield done
                        continue
                    try:
                        running[pool.submit(job)] = job
                    except BrokenProcessPool:
                        suspects.append(job)
                        break
                if not running:
                    break
                ready, _ = futures.wait(running, timeout=_TICK_S, return_when=futures.FIRST_COMPLETED)
                advance(pool.news())
                for future in ready:
                    job = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        suspects.append(job)
            suspects += running.values()
        if not suspects:
            return
        begun = [job for job in suspects if job.path("at").exists()]
        if not begun:
            raise BrokenProcessPool("the worker processes end before they have read anything")
        todo += [job for job in suspects if job not in begun]
        for job in begun:
            advance(-int(job.path("at").read_text()))
            yield _alone(job, advance)


def _alone(job: Job, advance: Callable[[int], None]) -> Done:
    """Encodes a shard in a process of its own, as often as it takes to leave out every clip that ends it."""
    while True:
        with _Pool(1) as pool:
            future = pool.submit(job)
            while not future.done():
                futures.wait([future], timeout=_TICK_S)
                advance(pool.news())
            try:
                return future.result()
            except BrokenProcessPool:
                if not job.path("at").exists():
                    raise
                at = int(job.path("at").read_text())
                advance(-at)
                job = dataclasses.replace(job, deadly=job.deadly | {at})
