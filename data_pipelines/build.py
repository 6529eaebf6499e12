"""Builds a task's data set: annotations and media below a root become shards. `crab data build` in Python."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from crab_jax.tasks import TaskSpec
from crab_jax.tasks.clips import Clip, Reject
from data_pipelines.clip_reader import How
from data_pipelines.encoding import PictureFormat
from data_pipelines.generated import mark_of
from data_pipelines.lock import alone
from data_pipelines.records import (
    MANIFEST,
    SCHEMA,
    MissingFiles,
    ShardError,
    Shards,
    amount,
    missing_splits,
    read_manifest,
)
from data_pipelines.shard_writer import write_lines, write_manifest
from data_pipelines.stage import Done, Job, encode_all

REJECTS = "rejects.jsonl"
EMPTY = "nothing: the annotations name no example that can be used"

_MOST_SHARDS = 512  # per split: as many files are open while shuffled records are read
_FEWEST_CLIPS = 32  # per shard, unless there are no more
_FEWEST_BYTES = {PictureFormat.JPEG: 0.1, PictureFormat.PNG: 0.2}  # per pixel; real frames take three times as much


class BuildError(ValueError):
    """The data set cannot be built; says why, and what to do. What is encoded already is kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to build.

    Attributes:
        splits: which; all that the task has if empty.
        size: pixels per side of pictures and masks.
        pictures: format of the frames.
        quality: of JPEG.
        max_rejects: share of the examples that may be unusable. Media that are missing do not count.
        jobs: worker processes; 0: in this process.
        overwrite: whether to build again what is there.
    """

    splits: tuple[str, ...] = ()
    size: int = 224
    pictures: PictureFormat = PictureFormat.JPEG
    quality: int = 95
    max_rejects: float = 0.05
    jobs: int = 1
    overwrite: bool = False


@dataclasses.dataclass
class Count:
    """What became of a split. All but `clips`, `records` and `size` count examples.

    Attributes:
        clips: that the annotations name.
        records: clips with usable media.
        examples: that are in the shards.
        annotations: unusable annotations.
        missing: whose media are not there.
        media: whose media are there, but damaged or unfit.
        size: bytes of the shards.
    """

    clips: int = 0
    records: int = 0
    examples: int = 0
    annotations: int = 0
    missing: int = 0
    media: int = 0
    size: int = 0

    def add(self, done: Done) -> None:
        """Counts a finished shard in."""
        self.records += done.records
        self.examples += done.examples
        self.size += done.size
        for loss in done.lost:
            if loss.kind == "missing":
                self.missing += loss.asks
            else:
                self.media += loss.asks


@dataclasses.dataclass(frozen=True)
class Built:
    """A data set that is complete.

    Attributes:
        folder: of the data set.
        counts: of each split.
        empty: splits that were asked for and of which the annotations name nothing usable.
        was_there: whether nothing had to be done.
        because: why a data set that was there had to be built again; empty if there was none, or it was to be replaced.
    """

    folder: pathlib.Path
    counts: dict[str, Count]
    empty: tuple[str, ...]
    was_there: bool
    because: str = ""


class Progress:
    """Told what happens; this one does not care."""

    def start(self, clips: int) -> None:
        """Encoding starts, of so many clips."""

    def advance(self, clips: int) -> None:
        """So many more clips are done."""


def build(
    spec: TaskSpec, *, root: pathlib.Path, out: pathlib.Path, options: Options, progress: Progress | None = None
) -> Built:
    """Builds the data set of one task, or continues where an earlier run stopped.

    One that is there and complete is left; one of which files are missing or cut off is built again and replaced.

    Args:
        spec: the task.
        root: what `spec.layout` is below.
        out: the data set becomes `<out>/<task>/<schema version>`.
        options: how.
        progress: is told what happens.

    Raises:
        crab_jax.tasks.clips.AnnotationError: annotation files that are missing or cannot be read.
        BuildError: another data set is there, too much is unusable, nothing is usable, another build is running.
        OSError: the disk is full, for example. Run it again once there is room.
    """
    root = root.absolute()
    if not root.is_dir():
        raise BuildError(f"{root}: expected the folder that holds the data set {spec.name}, found none\n{spec.layout}")
    if unknown := set(options.splits) - set(spec.splits):
        raise BuildError(f"{spec.name}: expected splits out of {', '.join(spec.splits)}, found {', '.join(unknown)}")
    home = out / spec.name
    how = How.of(spec, root=root, size=options.size, pictures=options.pictures, quality=options.quality)
    described = _describe(spec, options)
    because = ""
    if not options.overwrite:
        try:
            if (built := _already(home, described)) is not None:
                return built
        except MissingFiles as error:
            because = str(error)
    stage = home / f"{SCHEMA}.building"
    with _alone(stage):
        _sweep(home, stage, overwrite=options.overwrite)
        counts = {split: Count() for split in described["asked"]}
        run = _Run(spec, how, stage, options, counts, progress or Progress())
        run.encode()
        _publish(run, home, described, replace=options.overwrite or bool(because))
        shutil.rmtree(stage)
    return Built(home / SCHEMA, counts, tuple(run.empty), was_there=False, because=because)


def _describe(spec: TaskSpec, options: Options) -> dict[str, Any]:
    """What two builds must have in common to be the same."""
    splits = [split for split in spec.splits if not options.splits or split in options.splits]
    quality = {"quality": options.quality} if options.pictures is PictureFormat.JPEG else {}
    return {"task": spec.name, "size": options.size, "pictures": str(options.pictures), **quality, "asked": splits}


def _already(home: pathlib.Path, described: dict[str, Any]) -> Built | None:
    """The complete data set that is there, if it is the one that is wanted.

    Raises:
        BuildError: it is another one, or its description is damaged.
        MissingFiles: it is the one, but some of its files are not there or cut off.
    """
    advice = "choose another --out, or --overwrite to build it again"
    for path in sorted(home.glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("incomplete."):
            continue  # TFDS was killed while it published
        if path.parent.name != SCHEMA:
            found = f"one of schema {path.parent.name}"
            raise BuildError(f"{home}: expected no data set or one of schema {SCHEMA}, found {found}; {advice}")
        try:
            manifest = read_manifest(path.parent)
        except ShardError as error:
            raise BuildError(f"{error}; {advice}") from error
        found = {k: manifest.get(k) for k in described}
        if found != described:
            differ = "; ".join(
                f"{k} {found[k]} instead of {described[k]}" for k in described if found[k] != described[k]
            )
            raise BuildError(f"{path.parent}: a complete data set is there, with {differ}; {advice}")
        counts = {}
        for split, value in manifest["splits"].items():
            try:
                counts[split] = Count(**{k: amount(n) for k, n in value["counts"].items()})
                Shards(path.parent, task=described["task"], split=split, manifest=manifest).check_sizes()
            except MissingFiles:
                raise
            except ShardError as error:
                raise BuildError(f"{error}; {advice}") from error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                found = f"found {type(error).__name__}: {error}"
                raise BuildError(f"{path}, {split}: expected counts of a split, {found}; {advice}") from error
        if not counts:
            raise BuildError(f"{path}: expected a description of splits, found none; {advice}")
        return Built(path.parent, counts, tuple(missing_splits(manifest)), was_there=True)
    return None


@contextlib.contextmanager
def _alone(stage: pathlib.Path) -> Iterator[None]:
    """Holds the folder of finished shards against a second build.

    Raises:
        BuildError: another build is running there.
    """
    stage.mkdir(parents=True, exist_ok=True)
    busy = BuildError(f"{stage}: another build is running here; wait for it or choose another --out")
    with alone(stage / "lock", busy):
        yield


def _sweep(home: pathlib.Path, stage: pathlib.Path, *, overwrite: bool) -> None:
    """Removes what may not be used: what TFDS left when it was killed; everything, if an overwriting build begins."""
    begun = stage / "overwriting"
    if overwrite and not begun.exists():
        for path in stage.glob("*-*"):
            path.unlink()
        begun.touch()
    for path in home.glob(f"incomplete.*_{SCHEMA}"):
        shutil.rmtree(path)


def usable(spec: TaskSpec, root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """What the annotations hold; of clips with the same id the first."""
    seen: set[str] = set()
    for item in spec.clips(root, split):
        if isinstance(item, Clip):
            if item.id in seen:
                reason = f"expected ids that occur once, found {item.id!r} again"
                item = Reject(task=spec.name, split=split, id=item.id, source=item.source, reason=reason)
            else:
                seen.add(item.id)
        yield item


@dataclasses.dataclass
class _Run:
    """One build. The annotations are read twice, to count them and to hand them out, so that nothing holds all clips.

    Attributes:
        spec, how, stage, options, counts, progress: as in `build`.
        records: split → number of a finished shard → its records.
        examples: that the annotations name, usable or not; known after the first reading.
        empty: splits without a usable annotation.
    """

    spec: TaskSpec
    how: How
    stage: pathlib.Path
    options: Options
    counts: dict[str, Count]
    progress: Progress
    records: dict[str, dict[int, int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(dict))
    examples: int = 0
    empty: dict[str, Count] = dataclasses.field(default_factory=dict)

    def encode(self) -> None:
        """Encodes everything that is not encoded yet."""
        self._survey()
        self.progress.start(sum(count.clips for count in self.counts.values()))
        seen = 0
        with contextlib.closing(
            encode_all(self._jobs(), workers=self.options.jobs, advance=self.progress.advance)
        ) as finished:
            try:
                for done in finished:
                    self.records[done.split][done.number] = done.records
                    self.counts[done.split].add(done)
                    seen += done.clips
                    self._check_rejects()
                    self._check_disk(seen)
            except BrokenProcessPool as error:
                raise BuildError(f"{self.spec.name}: {error} (is there enough memory?)") from error
        for split, count in self.counts.items():
            if not count.records:
                raise BuildError(self._nothing(split))

    def files(self, split: str, ending: str) -> list[pathlib.Path]:
        """Of the finished shards of a split, in order."""
        return [self.stage / f"{split}-{number:05d}.{ending}" for number in sorted(self.records[split])]

    def _survey(self) -> None:
        """Counts what the annotations name. A split of which they name nothing is set apart, unless it was chosen."""
        pictures = 0
        for split, count in self.counts.items():
            with (self.stage / f"annotations-{split}.jsonl").open("w", encoding="utf-8") as file:
                for item in usable(self.spec, self.how.root, split):
                    if isinstance(item, Clip):
                        count.clips += 1
                        self.examples += len(item.asks)
                        pictures += item.frames or len(item.pictures)
                    else:
                        count.annotations += 1
                        self.examples += 1
                        line = {"split": split, "id": item.id, "kind": "annotation", "reason": item.reason}
                        file.write(json.dumps(line | {"source": self.how.name(item.source)}, ensure_ascii=False) + "\n")
        empty = [split for split, count in self.counts.items() if not count.clips]
        kept = [split for split in self.counts if split not in empty]
        if empty and (self.options.splits or not kept):
            raise BuildError(self._nothing(empty[0]))
        self.empty = {split: self.counts.pop(split) for split in empty}
        least = pictures * self.how.size**2 * _FEWEST_BYTES[self.how.pictures]
        self._check_room(least, "at least ")
        self._check_rejects()

    def _jobs(self) -> Iterator[Job]:
        for split, count in self.counts.items():
            each = max(_FEWEST_CLIPS, math.ceil(count.clips / _MOST_SHARDS))
            clips = (item for item in usable(self.spec, self.how.root, split) if isinstance(item, Clip))
            for number in itertools.count():
                if not (some := tuple(itertools.islice(clips, each))):
                    break
                yield Job(folder=self.stage, split=split, number=number, clips=some, how=self.how)

    def rejects(self) -> Iterator[dict[str, Any]]:
        """Lines of the rejects file, in the order of the annotations."""
        for split in (*self.counts, *self.empty):
            with (self.stage / f"annotations-{split}.jsonl").open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
            for path in self.files(split, "done.json"):
                for loss in json.loads(path.read_text(encoding="utf-8"))["lost"]:
                    line = {k: loss[k] for k in ("id", "kind", "reason", "source")}
                    yield {"split": split, **line, "examples": loss["asks"]}

    def _check_rejects(self) -> None:
        counts = (*self.counts.values(), *self.empty.values())
        unusable = sum(count.annotations + count.media for count in counts)
        if unusable > math.ceil(self.options.max_rejects * self.examples):
            where = self.stage / REJECTS
            write_lines(where, self.rejects())
            raise BuildError(
                f"{self.spec.name}: expected at most {self.options.max_rejects:.1%} of {self.examples} examples to be "
                f"unusable, found {unusable} so far; {where} lists them. Mend them, or allow more with --max-rejects: "
                "what is encoded is kept"
            )

    def _check_disk(self, seen: int) -> None:
        size, clips = (sum(getattr(count, k) for count in self.counts.values()) for k in ("size", "clips"))
        self._check_room(size / seen * (clips - seen), "about ")

    def _check_room(self, needed: float, how_sure: str) -> None:
        free = shutil.disk_usage(self.stage).free
        if needed > free:
            needed, free = (f"{n / 2**30:.1f} GiB" for n in (needed, free))
            raise BuildError(
                f"{self.spec.name}: expected {how_sure}{needed} more on the disk of {self.stage}, found {free} free; "
                "make room or choose another --out: what is encoded is kept"
            )

    def _nothing(self, split: str) -> str:
        reasons = collections.Counter(line["reason"] for line in self.rejects() if line["split"] == split)
        first = f"; the first: {next(iter(reasons))}" if reasons else ""
        return (
            f"{self.spec.name}/{split}: expected usable examples below {self.how.root}, found none{first}\n"
            f"expected layout:\n{self.spec.layout}\n(--splits builds the other splits alone)"
        )


def _publish(run: _Run, home: pathlib.Path, described: dict[str, Any], *, replace: bool) -> None:
    """Gives the finished shards their names and their place, through TFDS; `replace`: in place of what is there."""
    from data_pipelines.av_uie import AvUie  # TFDS takes a while to import, and most of what can go wrong has by now

    def complete(folder: pathlib.Path, named: dict[str, list[tuple[str, int]]]) -> None:
        splits = {}
        for split, shards in named.items():
            with (folder / f"index-{split}.jsonl").open("wb") as index:
                for path in run.files(split, "jsonl"):
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, index)
            files = [{"file": f, "records": n, "bytes": (folder / f).stat().st_size} for f, n in shards]
            splits[split] = {"counts": dataclasses.asdict(run.counts[split]), "shards": files}
        write_lines(folder / REJECTS, run.rejects())
        write_manifest(folder, options=described | mark_of(run.how.root), splits=splits)

    shards = {}
    for split in run.counts:
        numbered = zip(run.files(split, "array_record"), (n for _, n in sorted(run.records[split].items())))
        shards[split] = [(path, records) for path, records in numbered if records]
    if replace:
        for path in home.glob(f"*/{MANIFEST}"):
            shutil.rmtree(path.parent)
    name, about, size = run.spec.name, run.spec.about, run.how.size
    builder = AvUie(task=name, about=about, size=size, data_dir=home.parent, shards=shards, complete=complete)
    with tempfile.TemporaryDirectory() as nothing:  # nothing is downloaded, but TFDS wants a place for it
        builder.download_and_prepare(download_dir=nothing)
