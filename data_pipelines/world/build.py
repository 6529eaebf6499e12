"""Renders a whole world: all tasks, all splits, in processes; what an interrupt leaves is continued.

The world's own notes lie in `bandstand/` below its root: the settings, and per task and split a ledger with one line of
JSON per finished clip (its annotation rows and all that is true about it). Annotation files are written from the
ledgers at the end, so they are the same for any number of processes and interrupts.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tqdm

from data_pipelines.lock import alone
from data_pipelines.worker import belong_to_parent
from data_pipelines.world.layouts import DATA_SETS, write_text
from data_pipelines.world.orders import Order, Studio

VERSION = 4  # of what a seed means; another version's world is not continued
NOTES = "bandstand"
LEAST_HELD_OUT = 6


class WorldError(ValueError):
    """A folder that cannot take this world; the message says why and what to do."""


def held_out(clips: int, share: float = 0.1, least: int = LEAST_HELD_OUT) -> int:
    """Clips of every split but "train"."""
    return max(round(clips * share), least)


def build(
    out: pathlib.Path,
    *,
    clips: int,
    seed: int,
    tasks: Sequence[str] = tuple(DATA_SETS),
    size: tuple[int, int] = (224, 168),
    fps: int = 4,
    share: float = 0.1,
    least: int = LEAST_HELD_OUT,
    jobs: int = 1,
    quiet: bool = False,
) -> dict[str, dict[str, int]]:
    """Renders what is not there yet, then writes the annotation files of every task asked for.

    Args:
        out: the root of all data sets; is made if it is not there.
        clips: of every task's train split.
        seed: another seed gives another world.
        tasks: keys of `DATA_SETS`.
        size: width and height of all pictures, both even.
        fps: pictures per second of the ten-second videos; minute-long ones have a quarter of it, but at least one.
        share: clips of every other split, as a share of `clips`.
        least: but not fewer than this.
        jobs: processes.
        quiet: shows no progress.

    Returns:
        Clips per task and split.

    Raises:
        WorldError: the folder holds a world of other settings, its notes are damaged, another process renders one of
            these tasks there, or a process was killed.
    """
    settings = {"version": VERSION, "seed": seed, "size": list(size), "fps": fps}
    _check_settings(out, settings)
    counts = {
        t: {s: clips if s == "train" else held_out(clips, share, least) for s in DATA_SETS[t].splits} for t in tasks
    }
    with contextlib.ExitStack() as held:
        for task in tasks:  # other tasks may be rendered into the same world meanwhile
            busy = f"{out}: another `crab world` is rendering {task} here; wait for it or choose another --out"
            held.enter_context(alone(out / NOTES / f"{task}.lock", WorldError(busy)))
        pending = [
            Order(out, task, split, index, seed, size, fps)
            for task, splits in counts.items()
            for split, count in splits.items()
            for index in sorted(set(range(count)) - {entry["index"] for entry in read_ledger(out, task, split)})
        ]
        total = sum(sum(splits.values()) for splits in counts.values())
        with tqdm.tqdm(total=total, initial=total - len(pending), unit="clip", disable=quiet) as bar:
            for order, entry in _made(pending, jobs):
                bar.set_postfix_str(f"{order.task} {order.split}", refresh=False)
                with _ledger(out, order.task, order.split).open("a", encoding="utf-8") as ledger:
                    ledger.write(json.dumps({"index": order.index, **entry}, ensure_ascii=False) + "\n")
                bar.update()
        for task, splits in counts.items():
            entries = {
                split: sorted((e for e in read_ledger(out, task, split) if e["index"] < n), key=lambda e: e["index"])
                for split, n in splits.items()
            }
            DATA_SETS[task].annotate(out, entries)
    return counts


def read_ledger(out: pathlib.Path, task: str, split: str) -> list[dict[str, Any]]:
    """Entries of finished clips; a line that an interrupt cut off is removed from the file.

    Raises:
        WorldError: a line is damaged.
    """
    path = _ledger(out, task, split)
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    entries = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            entry["index"], entry["truth"]
        except (ValueError, KeyError, TypeError) as error:
            advice = "remove the line, and `crab world` makes the clip again"
            raise WorldError(f"{path}:{number}: expected the notes of a clip, found {error!r:.80}; {advice}") from error
        entries.append(entry)
    return entries


def _ledger(out: pathlib.Path, task: str, split: str) -> pathlib.Path:
    return out / NOTES / f"{task}-{split}.jsonl"


def _check_settings(out: pathlib.Path, settings: dict[str, Any]) -> None:
    path = out / NOTES / "world.json"
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise WorldError(f"{out}: holds other files; expected a new folder, or one that `crab world` began")
        write_text(path, json.dumps(settings) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise WorldError(f"{path}: no valid JSON ({error}); expected the settings of a world") from error
    if found != settings:
        keys = [key for key in settings if not isinstance(found, dict) or found.get(key) != settings[key]]
        other = ", ".join(f"{key} {found.get(key) if isinstance(found, dict) else found}" for key in keys)
        asked = ", ".join(f"{key} {settings[key]}" for key in keys)
        raise WorldError(
            f"{out}: holds a world of {other}, asked for is {asked}; take another --out or the same settings"
        )


@functools.cache
def _studio() -> Studio:
    return Studio()


def _make(order: Order) -> dict[str, Any]:
    return DATA_SETS[order.task].make(order, _studio())


def _made(orders: Sequence[Order], jobs: int) -> Iterator[tuple[Order, dict[str, Any]]]:
    """Orders with their entries, in order."""
    if jobs <= 1 or len(orders) <= 1:
        yield from ((order, _make(order)) for order in orders)
        return
    # Processes are spawned: a fork would copy the threads of whatever the caller has imported.
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pool = concurrent.futures.ProcessPoolExecutor(
            min(jobs, len(orders)), mp_context=context, initializer=belong_to_parent
        )
        stack.callback(pool.shutdown, cancel_futures=True)
        try:
            yield from zip(orders, pool.map(_make, orders))
        except BrokenProcessPool as error:
            raise WorldError(
                f"a process that renders was killed, mostly for lack of memory ({error}); what is finished is kept: "
                f"run the same command again, with fewer --jobs than {jobs}"
            ) from error
