"""The loop around the step: data, placement, checkpoints, signals, and what stops a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from crab_jax.groups import CheckpointError
from crab_jax.params import Flat
from crab_jax.sharding import like_params, local_rows, place_batch, replicated, rows_here, shardings
from crab_jax.train.checkpoint import Checkpoints
from crab_jax.train.config import LogConfig, OptimConfig, RunConfig, SaveConfig
from crab_jax.train.fingerprint import fingerprint
from crab_jax.train.log import RunLog, peak_flops
from crab_jax.train.optim import make_optimizer, rates
from crab_jax.train.step import State, System, init_state, jit_step, make_step

PREEMPTED = 75  # exit code (EX_TEMPFAIL) that says: start the same command again
PATIENCE_S = 3.0  # a Ctrl-C that comes sooner is one with the first: shells and launchers pass it on, some twice
WARM_UP = 2  # steps of a process in which anything may be compiled
# A run may be continued with other values of these (dotted config names). Folders may move: what is in them is compared
# by the fingerprint of the frozen weights and by the stream.
FREE = frozenset(
    (
        "mesh", "save", "log", "run.stop_after", "stage.base", "stage.start", "data.shards", "data.workers",
        "data.buffer", "data.max_skipped",
    )
)  # fmt: skip


class NonFinite(RuntimeError):
    """A loss or gradient that is no number; the message names the step and the examples."""


class Recompiled(RuntimeError):
    """Something was compiled in the middle of a run."""


class Abandoned(KeyboardInterrupt):
    """Ctrl-C once more, before what the first one asked for was saved."""


class Info(Protocol):
    """What a stream tells about a batch."""

    names: Sequence[Sequence[str]]  # of the examples of each row of this process
    fill: Mapping[str, float]  # resource → share of the rows that is used
    skipped: Sequence[Any]  # what could not be read


class Stream(Protocol):
    """Batches of this process' rows, as NumPy arrays; see `data_pipelines.stream`."""

    def __next__(self) -> tuple[Any, Info]: ...

    def get_state(self) -> Any: ...  # JSON types: where the next batch comes from

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """All settings of a run.

    Attributes:
        run, optim, save, log: see there.
        mesh: where everything lives.
        workdir: gets checkpoints, metrics, events and `about`.
        about: the resolved config, JSON types. A run is only continued with the same, but for `FREE`.
        total: optimizer steps of the whole run.
    """

    run: RunConfig
    optim: OptimConfig
    save: SaveConfig
    log: LogConfig
    mesh: Mesh
    workdir: pathlib.Path
    about: Mapping[str, Any]
    total: int


class Outcome(NamedTuple):
    """How a run ended: `finished`, or it was asked to stop before."""

    step: int
    finished: bool
    state: State


def train(
    settings: Training,
    system: System,
    trainable: Flat,
    frozen: Flat,
    stream: Stream,
    *,
    say: Callable[[str], Any] = lambda _: None,
) -> Outcome:
    """Trains until the last step, or until any process is asked to stop (SIGTERM, SIGINT), and saves.

    Starts from the newest checkpoint of the workdir if there is one; then `trainable` gives only shapes.

    Args:
        settings: of the run.
        system: what is trained.
        trainable: path → array, float32; may be given away.
        frozen: path → array, in the dtypes in which they are to be stored.
        stream: of this process; it has to give the rows of `crab_jax.sharding.rows_here`.
        say: takes lines for people.

    Raises:
        NonFinite: with step and examples; the last checkpoint stays.
        crab_jax.train.checkpoint.Mismatch: the workdir holds another run.
        CheckpointError: a checkpoint that cannot be written or read.
        crab_jax.sharding.ShardingError: parameters or rows that do not fit the mesh.
        Recompiled: a compilation after the warm-up.
        Abandoned: a second Ctrl-C; since the last checkpoint nothing is saved.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(settings.mesh))
        precision = settings.run.matmul_precision
        stack.enter_context(jax.default_matmul_precision(None if precision == "default" else precision))
        return _Loop(settings, system, trainable, frozen, stream, say).run(stack)


class _Loop:
    def __init__(self, settings: Training, system: System, trainable: Flat, frozen: Flat, stream: Stream, say: Any):
        self.settings, self.system, self.stream, self.say = settings, system, stream, say
        mesh = settings.mesh
        rows_here(mesh, settings.run.rows // settings.run.accumulation)  # raises if they do not divide
        self.table = rates(settings.optim, settings.total)
        self.optimizer = make_optimizer(settings.optim, self.table)
        self.places = shardings(trainable, system.axes, mesh)
        self.frozen_places = shardings(frozen, system.axes, mesh)
        self.frozen = {path: jax.device_put(x, self.frozen_places[path]) for path, x in frozen.items()}
        start = functools.partial(init_state, optimizer=self.optimizer, seed=settings.run.seed)
        shapes = jax.eval_shape(start, trainable)
        self.state_places = State(
            replicated(mesh), self.places, like_params(shapes.opt, self.places, mesh), replicated(mesh)
        )
        self.like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.state_places
        )
        self.about = {
            "config": dict(settings.about),
            "fingerprint": fingerprint(self.frozen) if frozen else {},
            "total": settings.total,
        }
        placed = {path: jax.device_put(x, self.places[path]) for path, x in trainable.items()}
        self.state = jax.jit(start, out_shardings=self.state_places)(placed)
        self.losses: list[float] = []
        self.profiling = False

    def run(self, stack: contextlib.ExitStack) -> Outcome:
        c = self.settings
        saves = stack.enter_context(
            Checkpoints(
                c.workdir / "checkpoints",
                keep_last=c.save.keep_last,
                keep_best=c.save.keep_best,
                timeout_s=c.save.timeout_s,
            )
        )
        found = saves.restore(self.like, self.about, free=FREE)
        first = 0
        if found is not None:
            self.state, stored = found
            first = int(stored["step"])
            self.stream.set_state(stored["stream"])
        if jax.process_index() == 0:  # not before: a run that is refused leaves the workdir of another as it was
            _write(c.workdir / "config.json", json.dumps(c.about, indent=1) + "\n")
        kind = jax.devices()[0].device_kind
        peak = peak_flops(kind)
        log = RunLog(
            c.workdir, self.say, first=first, total=c.total, every=c.log.every_steps, tensorboard=c.log.tensorboard,
            peak=peak and peak * jax.device_count(), writes=jax.process_index() == 0,
        )  # fmt: skip
        stack.callback(log.close)
        log.say(
            f"{'continued after step ' + str(first) if found else 'started'}: {c.total} steps of {c.run.rows} rows, "
            f"mesh {' x '.join(f'{n} {s}' for n, s in c.mesh.shape.items())} on {jax.device_count()} {kind}"
        )
        if first >= c.total:
            return Outcome(first, True, self.state)
        stop = stack.enter_context(_stopping())
        stack.push(self._end_profile)
        return self._steps(first, saves, log, stop)

    def _steps(self, first: int, saves: Checkpoints, log: RunLog, stop: threading.Event) -> Outcome:
        c, watch = self.settings, _compilations()
        step = self._compile_for
        drawn = self._draw(0)
        compiled, waiting, saved = None, None, first
        began = time.monotonic()
        for number in range(first, c.total):
            before = watch.here()
            batch, flag = place_batch(drawn.batch, c.mesh), self._flag(stop.is_set())
            if compiled is None:
                compiled = step(batch, flag)
                began = time.monotonic()
            self._profile(number - first)
            self.state, metrics = compiled(self.state, self.frozen, batch, flag)
            if number - first >= WARM_UP and watch.here() > before:
                raise Recompiled(
                    f"step {number + 1}: something was compiled after the warm-up; every batch must have the shape of "
                    "the first one"
                )
            now = _Running(number + 1, metrics, drawn)
            # The next batch is drawn while the devices work; its place in the data is noted only with its own step.
            following = self._draw(number + 1) if number + 1 < c.total else None
            asked = False
            if waiting is not None:
                asked, began = self._finish(waiting, log, began)
            waiting, drawn = now, following
            due = c.save.every_steps and (number + 1) % c.save.every_steps == 0
            diagnosed = c.log.diagnose_every and (number + 1) % c.log.diagnose_every == 0
            last = number + 1 == c.total or number + 1 == c.run.stop_after
            if due or last or asked or diagnosed:
                more, began = self._finish(waiting, log, began)
                asked, done = asked or more, waiting
                waiting = None
                if diagnosed:
                    self._diagnose(done.step, batch, done.drawn.info, log)
                if due or last or asked:
                    self._save(saves, done)
                    saved = done.step
                began = time.monotonic()  # neither belongs to the next step
                if last or asked:
                    saves.wait()
                    finished = number + 1 == c.total
                    log.say(f"{'finished' if finished else 'stopped'}: checkpoint {saved} in {saves.directory}")
                    return Outcome(saved, finished, self.state)
        raise AssertionError("the last step ends the run")

    # --- parts of a step ----------------------------------------------------------------------------------------------

    def _draw(self, number: int) -> _Drawn:
        start = time.monotonic()
        try:
            batch, info = next(self.stream)
        except StopIteration:
            raise ValueError(
                f"the data ended after {number} of {self.settings.total} steps; training streams repeat: set their "
                "epochs to None, or run.steps to fewer"
            ) from None
        return _Drawn(batch, info, self.stream.get_state(), time.monotonic() - start)

    def _compile_for(self, batch: Any, flag: Any) -> Any:
        step = make_step(self.system, self.optimizer, self.table, accumulation=self.settings.run.accumulation)
        jitted = jit_step(step, self.state_places, self.settings.mesh)
        return jitted.lower(self.state, self.frozen, batch, flag).compile()

    def _flag(self, stop: bool) -> jax.Array:
        """One number per device: any process can ask all others to stop after the same step, without a barrier."""
        mesh = self.settings.mesh
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        return jax.make_array_from_callback((mesh.size,), place, lambda _: np.array([stop], np.int32))

    def _finish(self, done: _Running, log: RunLog, began: float) -> tuple[bool, float]:
        """Waits for a step, checks and notes it → whether somebody asked to stop, and when it was done."""
        bad = done.metrics["bad"]
        metrics = jax.device_get({name: x for name, x in done.metrics.items() if name != "bad"})
        now = time.monotonic()
        if not metrics["ok"]:
            raise NonFinite(self._blame(done, bad, metrics))
        values = {n: float(x) for n, x in metrics.items() if n not in ("ok", "stop")}
        self.losses.append(values["loss"])
        values |= {"seconds": now - began, "data_wait_s": done.drawn.wait_s}
        if done.drawn.info.skipped:
            values["skipped"] = len(done.drawn.info.skipped)
        counts = {n.removeprefix("count/"): x for n, x in values.items() if n.startswith("count/")}
        flops = getattr(self.system, "flops", None)
        log.step(
            done.step,
            values,
            tokens=counts.get("positions", counts.get("tokens", 0.0)),
            flops=flops(counts) if flops else 0.0,
            fill=done.drawn.info.fill,
        )
        return bool(metrics["stop"]), now

    def _blame(self, done: _Running, bad: Any, metrics: Mapping[str, Any]) -> str:
        names = done.drawn.info.names
        rows = np.flatnonzero(local_rows(bad))
        which = [name for row in rows for name in names[row]]
        parts = ", ".join(f"{n} {float(x):.4g}" for n, x in metrics.items() if n.startswith("loss") or n == "grad_norm")
        if which:
            about = f"rows with such losses hold: {'; '.join(which[:40])}"
        else:
            about = "no row of this process has such a loss of its own; its examples: " + "; ".join(
                name for row in names for name in row[:40]
            )
        return (
            f"step {done.step}: not finite ({parts}); {about}. Nothing was changed by this step; the last checkpoint "
            "is as it was. Look at these examples, or lower optim.learning_rate"
        )

    def _save(self, saves: Checkpoints, done: _Running) -> None:
        loss = float(np.mean(self.losses)) if self.losses else float("nan")
        self.losses.clear()
        saves.save(done.step, self.state, {**self.about, "stream": done.drawn.stream}, loss=loss)

    def _diagnose(self, step: int, batch: Any, info: Info, log: RunLog) -> None:
        """What the system wants to show of itself, on this batch; compiled once, outside the step."""
        if not hasattr(self.system, "diagnose"):
            return
        if not hasattr(self, "diagnosis"):
            self.diagnosis = jax.jit(
                lambda params, frozen, batch: self.system.diagnose(frozen | params, batch),
                out_shardings=jax.sharding.NamedSharding(
                    self.settings.mesh, jax.sharding.PartitionSpec(("data", "fsdp"))
                ),
            )
        rows = jax.tree.map(local_rows, self.diagnosis(self.state.params, self.frozen, batch))
        log.scalars(step, self.system.summary(rows, info.names), kind=self.system.diagnosis_name)

    def _profile(self, since_start: int) -> None:
        c = self.settings.log
        if c.profile_from >= 0 and since_start == c.profile_from:
            jax.profiler.start_trace(str(self.settings.workdir / "profile"))
            self.profiling = True
        if c.profile_from >= 0 and since_start == c.profile_from + c.profile_steps:
            self._end_profile()

    def _end_profile(self, kind: Any = None, *_: Any) -> None:
        """Writes a window that is open, however the loop has ended; the error that ended it counts, not one of here."""
        if not self.profiling:
            return
        self.profiling = False
        with contextlib.suppress(RuntimeError, OSError) if kind else contextlib.nullcontext():
            if kind is None:
                jax.block_until_ready(self.state)
            jax.profiler.stop_trace()


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class _Drawn(NamedTuple):
    """A batch, and where in the data the one after it is."""

    batch: Any
    info: Info
    stream: Any
    wait_s: float


class _Running(NamedTuple):
    """A step that was started and not yet looked at."""

    step: int
    metrics: Mapping[str, Any]
    drawn: _Drawn


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT set the event, however often they come: a save that is under way shall end. Only who presses
    Ctrl-C again after `PATIENCE_S` gets `Abandoned`. Only in the main thread.
    """
    event, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {}

    def ask(number: int, _: Any) -> None:
        nonlocal first
        if not event.is_set():
            first = time.monotonic()
            event.set()
        elif number == signal.SIGINT and time.monotonic() - first > PATIENCE_S:
            raise Abandoned("stopped by Ctrl-C before it had saved: the last good checkpoint is as it was")

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, ask)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Compilations:
    """Counts compilations, by thread."""

    def __init__(self):
        self._count: dict[int, int] = {}
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            me = threading.get_ident()
            self._count[me] = self._count.get(me, 0) + 1

    def here(self) -> int:
        """Compilations of this thread so far."""
        return self._count.get(threading.get_ident(), 0)


@functools.cache
def _compilations() -> _Compilations:
    return _Compilations()  # once per process: listeners add up


__all__ = [
    "FREE", "PREEMPTED", "Abandoned", "CheckpointError", "Info", "NonFinite", "Outcome", "Recompiled", "Stream",
    "Training", "train",
]  # fmt: skip
