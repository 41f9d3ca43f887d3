"""Daemon threads of our own: `concurrent.futures` joins a hung one at exit, these are left behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Threads:
    """Runs jobs, each in a thread of its own while it lasts. Threads that became free are used again.

    A job must not raise: whoever submits it turns every outcome into a value.
    """

    def __init__(self, name: str = "action") -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Start `job` now, however many others are at work or hang."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                fresh = False
            else:
                self._started += 1
                fresh = True
        self._jobs.put(job)
        if fresh:
            threading.Thread(target=self._work, daemon=True, name=f"{self._name}-{self._started}").start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._idle += 1
