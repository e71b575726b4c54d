# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The one thread that makes the engine, uses it and lets it go.

A GPU context belongs to the thread that made it, and a window takes longer than the executor may
be held up. Images wait in a short queue; when the engine falls behind, the oldest are dropped and
counted, because a robot needs to know where it is, not where it was.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from qvggt_ros.node.pipeline import ReceivedImage


class Pipeline(Protocol):
    """What the worker drives; see `FramePipeline`."""

    def process(self, image: ReceivedImage) -> None:
        """Take in one image."""

    def flush(self) -> None:
        """Finish the frames that wait."""

    def reset(self) -> None:
        """Forget the stream."""


class EngineWorker:
    """Runs a pipeline in a thread of its own."""

    def __init__(
        self,
        make_pipeline: Callable[[], Pipeline],
        queue_size: int,
        on_drop: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            make_pipeline: called in the thread; loads the engine.
            queue_size: images that may wait.
            on_drop: called for each image dropped, in the thread that submits.
            on_crash: called in the thread with an exception that the pipeline let through; the
                pipeline is reset and goes on.

        """
        self._make_pipeline = make_pipeline
        self._queue_size = queue_size
        self._on_drop = on_drop
        self._on_crash = on_crash
        self._images: deque[ReceivedImage] = deque()
        self._wake = threading.Condition()
        self._reset_wanted = False
        self._stop_wanted = False
        self._flush_after_s = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread and wait until the pipeline is made; raise what making it raised."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name='engine')
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Drop what waits, let the work at hand end, and let the engine go."""
        if self._thread is None:
            return
        with self._wake:
            self._stop_wanted = True
            self._images.clear()
            self._wake.notify()
        self._thread.join()
        self._thread = None

    def submit(self, image: ReceivedImage) -> None:
        """Queue an image; never blocks for longer than a lock."""
        with self._wake:
            dropped = len(self._images) >= self._queue_size
            if dropped:
                self._images.popleft()
            self._images.append(image)
            self._wake.notify()
        if dropped:
            self._on_drop()

    def reset(self) -> None:
        """Drop what waits; the next image begins a new map."""
        with self._wake:
            self._images.clear()
            self._reset_wanted = True
            self._wake.notify()

    @property
    def reset_pending(self) -> bool:
        """Return whether a reset was asked for and not yet done: work at hand is of the past."""
        with self._wake:
            return self._reset_wanted

    def set_flush_after(self, seconds: float) -> None:
        """Set after which silence waiting frames are finished; 0 = never."""
        with self._wake:
            self._flush_after_s = seconds
            self._wake.notify()

    def _run(self, ready: Future[None]) -> None:
        try:
            pipeline = self._make_pipeline()
        except BaseException as error:  # handed to the thread that waits in start()
            ready.set_exception(error)
            return
        ready.set_result(None)
        while (step := self._next_step(pipeline)) is not None:
            try:
                step()
            except Exception as error:  # a fault must not end the thread without a word
                self._on_crash(error)
                pipeline.reset()

    def _next_step(self, pipeline: Pipeline) -> Callable[[], None] | None:
        """Wait for something to do; return it, None when it is time to stop."""
        deadline_s = time.monotonic() + self._flush_after_s if self._flush_after_s else None
        with self._wake:
            while True:
                if self._stop_wanted:
                    return None
                if self._reset_wanted:
                    self._reset_wanted = False
                    return pipeline.reset
                if self._images:
                    image = self._images.popleft()
                    return lambda: pipeline.process(image)
                if deadline_s is None:
                    self._wake.wait()
                elif not self._wake.wait(max(0.0, deadline_s - time.monotonic())):
                    return pipeline.flush
