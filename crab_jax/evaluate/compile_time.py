"""How much of a stretch of time went into compiling programs."""

from __future__ import annotations

import time

import jax

# Lowering and compiling, loading from the persistent cache included. Tracing is not counted: its events nest.
_EVENTS = frozenset({"/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"})


class CompileClock:
    """A context; afterwards it knows the seconds it took, and how many of them JAX spent on compiling.

    Attributes:
        seconds: wall time.
        compile_s: of it, lowering and compiling.
    """

    def __init__(self):
        self.seconds = self.compile_s = 0.0
        self._started = 0.0

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += time.perf_counter() - self._started
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_s: float, **_) -> None:
        if event in _EVENTS:
            self.compile_s += duration_s
