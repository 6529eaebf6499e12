"""`python -m launch.bench data`: building shards, reading them as a stream, and how full packed rows are.

Everything runs on clips that the project renders itself, in one process unless the row says otherwise.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from crab_jax import cli
from crab_jax.batch import FeatureSizes, pack
from crab_jax.layout import Layout
from crab_jax.tasks import TASKS, AudioRule, TaskSpec, Wording
from crab_jax.tasks.clips import Clip
from crab_jax.tokens import Tokenizer, build_prompt
from data_pipelines.clip_reader import How, read_clip
from data_pipelines.decode import read_audio, read_image, read_mask, read_semantic_mask, read_video
from data_pipelines.encoding import PictureFormat
from data_pipelines.examples import assemble, chosen_pictures, heard
from data_pipelines.records import open_shards
from data_pipelines.shard_writer import ShardWriter
from data_pipelines.stream.loader import Stream, StreamSettings
from data_pipelines.stream.mixture import Mixture
from data_pipelines.stream.packing import PACKED, Plan, best_fit
from data_pipelines.stream.rows import read_example
from data_pipelines.stream.tables import Source, Table, read_table
from data_pipelines.windows import log_mel_windows
from launch.benchmarks import log_mel, report
from launch.benchmarks.timing import Spread

WORDING = Wording.QUICK_START
SIZES = FeatureSizes(image_size=224, frame_tokens=32, window_tokens=32, patch=16)  # as published
# Training examples of the published data sets: specification 9.2, which does not say it of the last three in this table
# (ref-avs, arig, avcap). Those are assumptions, arig as many as s4; they only weigh the mix.
PUBLISHED = {
    "avqa": 31_927, "ave": 3_339, "avvp": 10_000, "ms3": 1_480, "s4": 3_452, "avss": 4_750, "ref-avs": 14_113,
    "arig": 3_452, "avcap": 25_000,
}  # fmt: skip
# Candidates of rows. The first is what docs/data.md recommends; 2048 shows what a size that does not suit costs.
LAYOUTS = (
    Layout(tokens=2304, frames=30, windows=52, patch_rows=12, masks=12),
    Layout(tokens=2304, frames=30, windows=32, patch_rows=12, masks=6),
    Layout(tokens=1536, frames=20, windows=22, patch_rows=12, masks=6),
    Layout(tokens=2048, frames=26, windows=30, patch_rows=12, masks=8),
    Layout(tokens=3072, frames=40, windows=44, patch_rows=12, masks=8),
    Layout(tokens=4096, frames=52, windows=60, patch_rows=12, masks=12),
)
TEN_AND_TEN = "ave"  # the task whose examples are ten pictures and ten windows of a second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One measurement.

    Attributes:
        section: heading that it stands under.
        what: what was measured.
        unit: of the value.
        value: over the repetitions.
        against: what it is compared with.
        ratio: value over that; None if nothing is compared.
        aim: what the ratio should be, in words; nothing checks it.
    """

    section: str
    what: str
    unit: str
    value: Spread
    against: str = ""
    ratio: float | None = None
    aim: str = ""


@dataclasses.dataclass(frozen=True)
class World:
    """Where the generated data are."""

    root: pathlib.Path
    shards: pathlib.Path

    def source(self, task: str) -> Source:
        """The training split of a task."""
        return Source(open_shards(self.shards, task, "train"), TASKS[task])


@contextlib.contextmanager
def world(folder: pathlib.Path | None, *, clips: int, tasks: Sequence[str] = tuple(TASKS)) -> Iterator[World]:
    """Renders clips and builds shards, or goes on with those that are in `folder`.

    Args:
        folder: where they stay; None: in a temporary folder.
        clips: per task.
        tasks: which.
    """
    with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as place:
        found = World(pathlib.Path(place) / "world", pathlib.Path(place) / "shards")
        for arguments in (
            ["world", "--out", str(found.root), "--clips", str(clips), "--tasks", *tasks],
            ["data", "build", *tasks, "--root", str(found.root), "--out", str(found.shards), "--splits", "train"],
        ):
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
                code = cli.main(arguments)
            if code:
                raise RuntimeError(f"crab {' '.join(arguments)}: ended with {code}")
        yield found


# ------------------------------------------------------------------------------------------------------- sections


def build_figures(data: World, rounds: int) -> Iterator[Figure]:
    """Reading, encoding and writing a clip, beside reading it."""
    for task in ("ave", "avqa", "avss"):
        spec = TASKS[task]
        clips = list(itertools.islice((c for c in spec.clips(data.root, "train") if isinstance(c, Clip)), 8))
        how = How.of(spec, root=data.root, size=SIZES.image_size, pictures=PictureFormat.JPEG, quality=95)
        with tempfile.TemporaryDirectory() as folder:

            def build(clip: Clip, how: How = how, folder: str = folder) -> None:
                record, samples, _ = read_clip(clip, how)
                with ShardWriter(pathlib.Path(folder) / "shard") as writer:
                    writer.add(record, samples=samples)

            seconds = _in_turn(
                {"build": build, "decode": lambda clip, spec=spec: _bare(clip, spec)}, clips, rounds=rounds
            )
        ratio = seconds["build"] / seconds["decode"]
        yield Figure(
            section="Building, per clip",
            what=f"{task}: read, encode as JPEG 95 and FLAC, write",
            unit="ms",
            value=Spread.of(1e3 * seconds["build"]),
            against=f"decoding the same media, {1e3 * np.median(seconds['decode']):.1f} ms",
            ratio=float(np.median(ratio)),
            aim="≤ 1.5",
        )


def _bare(clip: Clip, spec: TaskSpec) -> None:
    """Everything of a clip, decoded and dropped."""
    size = SIZES.image_size
    if clip.video is not None:
        read_video(clip.video, frames=clip.frames, size=size)
    for path in clip.pictures:
        read_image(path, size=size)
    for path in clip.masks:
        (read_semantic_mask if spec.semantic else read_mask)(path, size=size)
    read_audio(clip.audio or clip.video)


def rate_figures(data: World, rounds: int) -> Iterator[Figure]:
    """Examples per second and core, and where the time goes."""
    tokenizer = Tokenizer.tiny()
    for task in TASKS:
        source = data.source(task)
        places = _places(source, tokenizer)
        aims = {"against": "50 per second and core, 20 ms", "aim": "≤ 1"} if task == TEN_AND_TEN else {}
        seconds = _in_turn({"all": lambda place, s=source: _layed_out(s, place, tokenizer)}, places, rounds=rounds)
        value = Spread.of(1e3 * seconds["all"])
        media = source.spec.media[WORDING]
        shown = f"{media.frames or 1} pictures" if media.frames > 1 else "1 picture"
        yield Figure(
            section="Stream, one example on one core",
            what=f"{task}: {shown}, {media.windows} windows of {media.window_seconds} s; from the shard into the row",
            unit="ms",
            value=value,
            ratio=value.median / 20 if aims else None,
            **aims,
        )
    source = data.source(TEN_AND_TEN)
    clock: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        spent = collections.Counter()
        places = _places(source, tokenizer)
        for place in places:
            spent.update(_by_stage(source, place, tokenizer))
        for stage, seconds in spent.items():
            clock[stage].append(seconds / len(places))
    whole = np.sum([np.array(s) for s in clock.values()], axis=0)
    for stage, seconds in clock.items():
        yield Figure(
            section=f"Where the time of {TEN_AND_TEN} goes",
            what=stage,
            unit="ms",
            value=Spread.of(1e3 * np.array(seconds)),
            against="all stages",
            ratio=float(np.median(np.array(seconds) / whole)),
        )


def _places(source: Source, tokenizer: Tokenizer, limit: int = 24) -> list[tuple[int, int]]:
    """Records and asks, spread over a source."""
    table = read_table(source, wording=WORDING, tokenizer=tokenizer, sizes=SIZES, cache=None)
    chosen = np.linspace(0, len(table) - 1, min(limit, len(table))).astype(int)
    return [(int(table.record[i]), int(table.ask[i])) for i in chosen]


def _layed_out(source: Source, place: tuple[int, int], tokenizer: Tokenizer) -> None:
    record = source.shards[place[0]]
    example = read_example(
        record, record.asks[place[1]], source.spec, wording=WORDING, tokenizer=tokenizer, sizes=SIZES, with_target=True,
        name="x",
    )  # fmt: skip
    _pack([example], tokenizer)


def _pack(examples: list[Any], tokenizer: Tokenizer) -> None:
    layout = Layout(tokens=1024, frames=12, windows=12, patch_rows=12, masks=2)  # a third of a row or so
    pack([examples], layout=layout, ids=tokenizer.token_ids, **dataclasses.asdict(SIZES))


def _by_stage(source: Source, place: tuple[int, int], tokenizer: Tokenizer) -> dict[str, float]:
    """Seconds of each stage of one example; the stages of `read_example`, one by one."""
    spec, media = source.spec, source.spec.media[WORDING]
    seconds, last = {}, time.process_time()

    def done(stage: str) -> None:
        nonlocal last
        now = time.process_time()
        seconds[stage], last = now - last, now

    record = source.shards[place[0]]
    ask = record.asks[place[1]]
    done("reading the record")
    video = np.stack([record.picture(i) for i in chosen_pictures(media, len(record.frames))])
    done("decoding pictures")
    wave = record.wave(lambda n: heard(media, ask.row, n))
    done("decoding sound")
    fbank = log_mel_windows(wave, rule=media.audio.value, seconds=media.seconds)
    done("log-mel")
    prompt = build_prompt(tokenizer, spec.prompt(ask.row, WORDING))
    target = tokenizer.encode_target(spec.target(ask.row, WORDING), suffix=spec.target_end)
    done("text")
    example = assemble(
        name="x", prompt=prompt, target=target, video=video, fbank=fbank, ids=tokenizer.token_ids, sizes=SIZES
    )
    _pack([example], tokenizer)
    done("laying out")
    return seconds


def log_mel_figures(data: World, rounds: int) -> Iterator[Figure]:
    """Log-mel on the host, as it is, beside the same inside jit."""
    record = data.source(TEN_AND_TEN).shards[0]
    wave = record.wave()
    rule, seconds = AudioRule.EACH_SECOND.value, 10
    windows = wave[: len(wave) // 10 * 10].reshape(10, -1)
    on_device = jax.device_put(windows)
    contenders = {
        "host": lambda _: log_mel_windows(wave, rule=rule, seconds=seconds),
        "jit": lambda _: jax.block_until_ready(log_mel.jitted(on_device)),
    }
    found = _in_turn(contenders, [None], rounds=4 * rounds)
    host = log_mel_windows(wave, rule=rule, seconds=seconds)
    worst = float(np.abs(np.asarray(log_mel.jitted(on_device)) - host).max())
    yield Figure(
        section="Log-mel of ten windows of a second",
        what="NumPy, float64, one core",
        unit="ms",
        value=Spread.of(1e3 * found["host"]),
        against=f"jitted, float32, on {jax.devices()[0].device_kind}: {1e3 * np.median(found['jit']):.1f} ms, differs "
        f"by up to {worst:.1g}",
        ratio=float(np.median(found["host"] / found["jit"])),
    )
    yield Figure(
        section="Log-mel of ten windows of a second",
        what="to transfer: float32 log-mel, whole patch rows",
        unit="KiB",
        value=Spread.of(np.array([host.shape[0] * (host.shape[1] // 16 * 16) * 128 * 4 / 1024])),
        against=f"float32 wave, {windows.nbytes / 1024:.0f} KiB",
        ratio=host.shape[0] * (host.shape[1] // 16 * 16) * 128 * 4 / windows.nbytes,
    )


def fill_figures(data: World, rounds: int) -> Iterator[Figure]:
    """How full packed rows are on the nine tasks, mixed as the published data sets are large."""
    tokenizer = Tokenizer.tiny()
    tables = [
        read_table(data.source(task), wording=WORDING, tokenizer=tokenizer, sizes=SIZES, cache=None) for task in TASKS
    ]
    for layout in LAYOUTS:
        rows, tokens = _packed(tables, layout)
        filled = {name: rows[:, i].mean() / getattr(layout, name) for i, name in enumerate(PACKED)}
        others = ", ".join(f"{name} {share:.0%}" for name, share in list(filled.items())[1:])
        shape = f"{layout.frames} frames, {layout.windows} windows, {layout.masks} masks"
        yield Figure(
            section="Fill of rows, nine tasks",
            what=f"packed, {layout.tokens} tokens, {shape}",
            unit="% of the tokens",
            value=Spread.of(100 * rows[:, 0] / layout.tokens),
            against=f"also filled: {others}",
            aim="≥ 90 %",
        )
    for batch in (4, 16):
        groups = tokens[: len(tokens) // batch * batch].reshape(-1, batch)
        used = groups.mean(axis=1) / groups.max(axis=1)
        overall = 100 * groups.sum() / groups.max(axis=1).sum() / batch
        yield Figure(
            section="Fill of rows, nine tasks",
            what=f"padded to the longest of {batch}, the same examples",
            unit="% of the tokens",
            value=dataclasses.replace(Spread.of(100 * used), median=float(overall)),
            against="the first row of this section",
        )


def _packed(tables: Sequence[Table], layout: Layout, blocks: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """What the rows of some blocks hold, int [rows 4], and the tokens of their examples in order."""
    weights = {f"{task}/train": float(n) for task, n in PUBLISHED.items()}
    mixture = Mixture(tables, seed=0, weights=weights, choose="one", epochs=None, block=2048)
    size = np.concatenate([table.size for table in tables])[:, : len(PACKED)]
    capacity = np.array([getattr(layout, name) for name in PACKED])
    rows, tokens = [], []
    for block in range(blocks):
        examples = mixture.block(block)
        rows += [size[examples[row]].sum(axis=0) for row in best_fit(size[examples], capacity)]
        tokens.append(size[np.random.default_rng(block).permutation(examples), 0])
    return np.array(rows), np.concatenate(tokens)


def plan_figures(data: World, rounds: int) -> Iterator[Figure]:
    """Planning, per example: mixing and packing, which every worker does for all examples."""
    tokenizer = Tokenizer.tiny()
    tables = [
        read_table(data.source(task), wording=WORDING, tokenizer=tokenizer, sizes=SIZES, cache=None) for task in TASKS
    ]
    size = np.concatenate([table.size for table in tables])
    weights = {f"{task}/train": float(n) for task, n in PUBLISHED.items()}
    mixture = Mixture(tables, seed=0, weights=weights, choose="one", epochs=None, block=2048)
    plan = Plan(mixture, size, layout=LAYOUTS[0], packed=True, seed=0)
    seconds, row = [], 0
    for block in range(rounds):
        started = time.perf_counter()
        while plan.cursor(row)[0] == block:
            row += 1
        seconds.append((time.perf_counter() - started) / 2048)
    yield Figure(
        section="Planning",
        what="mixing and packing, per example",
        unit="ms",
        value=Spread.of(1e3 * np.array(seconds)),
        against="20 ms, an example",
        ratio=float(np.median(seconds) / 0.02),
    )


def worker_figures(data: World, rounds: int) -> Iterator[Figure]:
    """Memory of a worker process, and what reaches the main process."""
    sources = [data.source(task) for task in TASKS]
    settings = StreamSettings(layout=LAYOUTS[0], rows=2, block=512)
    with Stream(sources, settings, tokenizer=Tokenizer.tiny(), sizes=SIZES, workers=1, buffer=1, cache=False) as stream:
        for _ in range(3 + rounds):
            batch, _ = next(stream)
        (worker,) = multiprocessing.active_children()
        used = _resident_mib(worker.pid)
    size = sum(x.nbytes for x in batch) / 2**20
    if used is not None:
        yield Figure(
            section="Memory",
            what="one worker, resident at most, with the libraries that Grain imports",
            unit="MiB",
            value=Spread.of(np.array([used])),
            against=f"a batch of two rows, {size:.0f} MiB",
            ratio=used / size,
        )


def _resident_mib(pid: int) -> float | None:
    """High-water mark; only Linux tells."""
    status = pathlib.Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _in_turn(
    contenders: dict[str, Callable[[Any], Any]], items: Sequence[Any], *, rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of processor time per item, in turn, round by round; one round that nobody times goes first."""
    seconds = {name: np.zeros(rounds) for name in contenders}
    for i in range(-1, rounds):
        for name, run in contenders.items():
            started = time.process_time()
            for item in items:
                run(item)
            if i >= 0:
                seconds[name][i] = (time.process_time() - started) / len(items)
    return seconds


SECTIONS: dict[str, Callable[[World, int], Iterator[Figure]]] = {
    "build": build_figures,
    "rate": rate_figures,
    "log-mel": log_mel_figures,
    "fill": fill_figures,
    "plan": plan_figures,
    "workers": worker_figures,
}


def measure(
    *, folder: pathlib.Path | None, clips: int, rounds: int, only: Sequence[str], progress: Callable[[Figure], None]
) -> list[Figure]:
    """Runs the sections in their order.

    Args:
        folder: of the generated data, see `world`.
        clips: to render per task.
        rounds: timed repetitions of everything.
        only: names of `SECTIONS`; empty for all.
        progress: called with every finished figure.
    """
    figures = []
    with world(folder, clips=clips) as data:
        for name, section in SECTIONS.items():
            if not only or name in only:
                for figure in section(data, rounds):
                    figures.append(figure)
                    progress(figure)
    return figures


def markdown(figures: Sequence[Figure]) -> str:
    """The table; a row in bold opens each section."""
    lines = ["| measured | median (min to max) | against | ratio | aim |", "|---|---|---|---|---|"]
    section = None
    for figure in figures:
        if figure.section != section:
            section = figure.section
            lines.append(f"| **{section}** | | | | |")
        alone = figure.value.low == figure.value.high
        value = report.number_text(figure.value.median) if alone else report.spread_text(figure.value)
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        lines.append(f"| {figure.what} | {value} {figure.unit} | {figure.against} | {ratio} | {figure.aim} |")
    return "\n".join(lines)


def text(figures: Sequence[Figure], *, command: str, found: dict[str, Any]) -> str:
    """Command, machine and table as Markdown."""
    return f"`{command}`\n\n{report.environment_line(found)}\n\n{markdown(figures)}\n"


def as_json(figures: Sequence[Figure], *, command: str, found: dict[str, Any]) -> dict[str, Any]:
    """Everything in plain types."""
    return {"command": command, "environment": dict(found), "figures": [dataclasses.asdict(f) for f in figures]}
