"""One test set from shards to answers on disk: read ahead, ask in batches, write what came, score at the end."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from crab_jax.api import Assistant
from crab_jax.evaluate import journal
from crab_jax.evaluate.answers import understand
from crab_jax.evaluate.compile_time import CompileClock
from crab_jax.evaluate.engine import Reply, Request
from crab_jax.evaluate.journal import ITEMS, Line
from crab_jax.evaluate.mask_files import levels_of, write_mask
from crab_jax.evaluate.score import SCORES, Scored, generated, item_ids, kind_of, score
from crab_jax.tasks import MaskTokens
from data_pipelines.stream.evaluation import Item, Swap, evaluation_items
from data_pipelines.stream.tables import Source

MASKS = "masks"
AHEAD = 128  # items that are read together, if that is more than a batch; two such lots are in memory
Mode = Literal["decoded", "teacher-forced"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One pass over one test set.

    Attributes:
        source: the test set.
        mode: "decoded": the model says everything itself. "teacher-forced": the text is given, the mask is the model's.
        swap: whose media are another clip's.
    """

    source: Source
    mode: Mode = "decoded"
    swap: Swap | None = None

    @property
    def name(self) -> str:
        """For people, such as `s4/test, teacher-forced, sound swapped`."""
        return ", ".join([self.source.name, self.mode, *([f"{self.swap} swapped"] if self.swap else [])])

    @property
    def folder(self) -> pathlib.PurePosixPath:
        """Where its files lie, relative to the folder of all results."""
        last = f"{self.mode}-{self.swap}-swapped" if self.swap else self.mode
        return pathlib.PurePosixPath(self.source.shards.task, self.source.shards.split, last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """What a process did in a run.

    Attributes:
        items: that it asked; those done before are not among them.
        failed: of these, how many could not be read or answered.
        seconds: wall time.
        compile_s: of it, compiling.
    """

    items: int = 0
    failed: int = 0
    seconds: float = 0.0
    compile_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, with rates."""
        busy = self.seconds - self.compile_s
        return dataclasses.asdict(self) | {
            "items_per_s": self.items / self.seconds if self.seconds else None,
            "items_per_s_compiled": self.items / busy if busy > 0 else None,
            "compile_share": self.compile_s / self.seconds if self.seconds else None,
        }


def answer_items(
    run: Run,
    assistant: Assistant,
    folder: pathlib.Path,
    *,
    limit: int | None = None,
    process: int = 0,
    processes: int = 1,
    max_new_tokens: int | None = None,
    progress: Callable[[int], Any] = lambda n: None,
    tell: Callable[[str], Any] = lambda text: None,
) -> Tally:
    """Asks whatever of this process' share has no answer in the folder yet.

    Args:
        run: what to ask.
        assistant: the model.
        folder: of this run; must be there.
        limit: only the first so many items of the test set.
        process, processes: which share.
        max_new_tokens: limit of the answers, if not the task's own.
        progress: called with the number of items that have been dealt with, those answered before included.
        tell: called with a line of text for whoever is watching.

    Raises:
        journal.JournalError: another run writes there.
        data_pipelines.records.ShardError: the index of the shards is damaged.
        data_pipelines.stream.tables.StreamError: nothing to swap with.
        OSError: answers cannot be written.
    """
    size = assistant.engine.max_batch
    with journal.open_journal(folder, process=process, processes=processes) as file:
        if file.dropped:
            tell(file.dropped)
        done = _done(folder)
        (folder / MASKS).mkdir(exist_ok=True)
        chosen = set(item_ids(run.source, limit))
        mine = (e for e in run.source.shards.index() if e.index % processes == process)
        progress(sum(ask.id in chosen and ask.id in done for entry in mine for ask in entry.asks))
        items = evaluation_items(
            run.source, wording=assistant.wording, tokenizer=assistant.tokenizer,
            sizes=assistant.config.feature_sizes, process=process, processes=processes,
            with_target=run.mode == "teacher-forced", swap=run.swap,
            wanted=lambda number, ask: ask.id in chosen and ask.id not in done,
        )  # fmt: skip
        asked = failed = 0
        with CompileClock() as clock:
            for chunk in _chunks(items, max(size, AHEAD // size * size)):
                pending: list[Line] = []
                try:
                    for line in _answer(run, assistant, chunk, folder, max_new_tokens):
                        pending.append(line)
                        if len(pending) >= size:
                            pending, full = [], pending
                            file.add(full)
                        asked += 1
                        failed += "error" in line
                        progress(1)
                finally:
                    file.add(pending)
    return Tally(items=asked, failed=failed, seconds=clock.seconds, compile_s=clock.compile_s)


def finish(
    run: Run, folder: pathlib.Path, *, limit: int | None = None, progress: Callable[[], Any] = lambda: None
) -> Scored | str:
    """Scores a run if every item has been dealt with, by this process or another one.

    Whichever process comes last finds everything there, and nobody else at work: another one that appends to its file
    may be answering what has failed here, and would lose its answers with the file.

    Args:
        run: which.
        folder: of this run.
        limit: as in `answer_items`.
        progress: called once per item.

    Returns:
        The scores; or why there are none yet, and nothing is written.

    Raises:
        crab_jax.evaluate.score.ScoreError: the answers in the folder belong to another test set.
        OSError: scores cannot be written.
    """
    with journal.joining(folder) as alone:
        if not alone:
            return "other processes are at work on it; whoever comes last scores it"
        return _finish(run, folder, limit, progress)


def _finish(run: Run, folder: pathlib.Path, limit: int | None, progress: Callable[[], Any]) -> Scored | str:
    read = _read(folder)
    ids = item_ids(run.source, limit)
    if open_items := len(set(ids) - {line["id"] for line in read.lines}):
        return f"{open_items} items of other shares are still open; whoever comes last scores them"
    scored = score(run.source, read.lines, folder=folder, broken=read.broken, limit=limit, progress=progress)
    if not read.broken:  # a file with lines that cannot be read stays as somebody left it
        place = {name: i for i, name in enumerate(item_ids(run.source))}
        best = {line["id"]: _finite(line["scores"]) for line in scored.lines if "scores" in line}
        lines = sorted(read.lines, key=lambda line: place.get(line["id"], len(place)))
        lines = [line | ({"scores": best[line["id"]]} if line["id"] in best else {}) for line in lines]
        journal.publish(folder / ITEMS, b"".join(map(journal.encode, lines)))
        for part in journal.parts(folder):
            if part.name != ITEMS:
                part.unlink(missing_ok=True)
    told = {"task": run.source.shards.task, "split": run.source.shards.split, "mode": run.mode, "swap": run.swap}
    told |= {"limit": limit, "items_in_split": len(item_ids(run.source)), "generated": generated(run.source)}
    told |= scored.to_json()
    journal.publish(folder / SCORES, journal.encode(told, indent=1))
    return scored


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _read(folder: pathlib.Path) -> journal.Read:
    for attempt in itertools.count():
        try:
            return journal.read_lines(journal.parts(folder))
        except journal.JournalError:
            if attempt == 2:
                raise  # twice: another process may have joined the parts meanwhile


def _done(folder: pathlib.Path) -> set[str]:
    """Items with an answer whose files are there; those that failed are tried again."""
    done = set()
    for line in _read(folder).lines:
        path = folder / line["mask"] if "mask" in line else None
        if "error" not in line and (path is None or path.is_file()):
            done.add(line["id"])
    return done


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of items; the next one is read while this one is answered."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        take = lambda: list(itertools.islice(items, size))  # noqa: E731
        ahead = pool.submit(take)
        while chunk := ahead.result():
            ahead = pool.submit(take)
            yield chunk


def _answer(
    run: Run, assistant: Assistant, chunk: list[Item], folder: pathlib.Path, max_new_tokens: int | None
) -> Iterator[Line]:
    """The line of every item, as batches are done."""
    asked: list[tuple[Item, Line]] = []
    requests: list[Request] = []
    for item in chunk:
        line: Line = {"number": item.number, "id": item.ask.id, "clip": item.clip}
        try:
            line |= _about(run, item, assistant)
            if item.example is None:
                raise ValueError(item.reason)
            request, notes = assistant.request(
                run.source.spec, item.example, row=item.number, max_new_tokens=max_new_tokens
            )
            line |= {"notes": list(notes)} if notes else {}
        except ValueError as error:
            yield line | {"error": str(error)}
        else:
            asked.append((item, line))
            requests.append(request)
    for i, reply in assistant.engine.stream(requests):
        item, line = asked[i]
        try:
            if isinstance(reply, Exception):
                raise ValueError(str(reply)) from reply
            yield line | _said(run, item, reply, assistant, folder)
        except ValueError as error:
            yield line | {"error": str(error)}


def _about(run: Run, item: Item, assistant: Assistant) -> Line:
    spec, row = run.source.spec, item.ask.row
    about: Line = {"kind": list(kind_of(item.ask))} if kind_of(item.ask) else {}
    if run.swap and item.media_of:
        about[f"{run.swap}_of"] = item.media_of
    return about | {"prompt": spec.prompt(row, assistant.wording), "truth": spec.answer(row).to_json()}


def _said(run: Run, item: Item, reply: Reply, assistant: Assistant, folder: pathlib.Path) -> Line:
    """What came out; writes the mask.

    Raises:
        ValueError: the mask is not a number.
        OSError: it cannot be written.
    """
    spec = run.source.spec
    text = assistant.tokenizer.decode_plain(reply.ids)
    cut_off = None if reply.finished else len(reply.ids)
    value = understand(spec, text, mask_tokens=reply.mask_count, cut_off_after=cut_off)
    said: Line = {
        "text": text, "value": value.to_json(), "tokens": len(reply.ids), "finished": reply.finished,
        "mask_tokens": reply.mask_count,
    }  # fmt: skip
    if reply.mask_logits is not None and isinstance(value, MaskTokens):
        path = folder / MASKS / f"{item.number:06d}.png"
        write_mask(path, reply.mask_logits, semantic=spec.semantic)
        said["mask"] = f"{MASKS}/{path.name}"
        if not spec.semantic:
            said["levels"] = f"{MASKS}/{levels_of(path).name}"
    return said
