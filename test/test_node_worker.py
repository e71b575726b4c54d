# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's thread: in order, bounded, never in the way, and gone when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from qvggt_ros.errors import EngineError
from qvggt_ros.node.pipeline import ReceivedImage
from qvggt_ros.node.worker import EngineWorker

TIMEOUT_S = 5.0


class RecordingPipeline:
    """Writes down what it is asked to do, and in which thread; can be held up."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def process(self, image: ReceivedImage) -> None:
        self.entered.set()
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(TIMEOUT_S)
        self.log.append(image.message)
        if image.message == 'bad':
            raise ValueError('a fault')

    def flush(self) -> None:
        self.log.append('flush')

    def reset(self) -> None:
        self.log.append('reset')


def worker_of(
    pipeline: RecordingPipeline, queue_size: int = 100, drops: list[int] | None = None
) -> EngineWorker:
    counted = drops if drops is not None else []
    return EngineWorker(
        lambda: pipeline, queue_size, lambda: counted.append(1), lambda e: pipeline.log.append(e)
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, 'did not happen'
        time.sleep(0.002)


def image(name: Any) -> ReceivedImage:
    return ReceivedImage(name, 0.0)


def test_images_are_worked_on_in_order_in_one_thread() -> None:
    pipeline = RecordingPipeline()
    worker = worker_of(pipeline)
    worker.start()
    for index in range(50):
        worker.submit(image(index))
    until(lambda: len(pipeline.log) == 50)
    worker.stop()
    assert pipeline.log == list(range(50))
    assert pipeline.threads == {'engine'}


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    pipeline = RecordingPipeline()
    drops: list[int] = []
    worker = worker_of(pipeline, queue_size=3, drops=drops)
    worker.start()
    pipeline.gate.clear()
    worker.submit(image('first'))
    assert pipeline.entered.wait(TIMEOUT_S)
    started = time.monotonic()
    for index in range(10):
        worker.submit(image(index))
    assert time.monotonic() - started < 0.5  # the thread is held up, the caller is not
    pipeline.gate.set()
    until(lambda: len(pipeline.log) == 4)
    worker.stop()
    assert pipeline.log == ['first', 7, 8, 9] and len(drops) == 7


def test_reset_drops_what_waits_and_is_pending_until_done() -> None:
    pipeline = RecordingPipeline()
    worker = worker_of(pipeline)
    worker.start()
    pipeline.gate.clear()
    worker.submit(image('under way'))
    assert pipeline.entered.wait(TIMEOUT_S)
    worker.submit(image('waits'))
    worker.reset()
    assert worker.reset_pending
    pipeline.gate.set()
    until(lambda: not worker.reset_pending)
    worker.submit(image('new'))
    until(lambda: 'new' in pipeline.log)
    worker.stop()
    assert pipeline.log == ['under way', 'reset', 'new']


def test_silence_flushes() -> None:
    pipeline = RecordingPipeline()
    worker = worker_of(pipeline)
    worker.start()
    time.sleep(0.05)
    assert pipeline.log == []  # 0 = never
    worker.set_flush_after(0.02)
    worker.submit(image('a'))
    until(lambda: 'flush' in pipeline.log)
    worker.stop()
    assert pipeline.log[:2] == ['a', 'flush']


def test_a_fault_is_told_and_the_thread_goes_on() -> None:
    pipeline = RecordingPipeline()
    worker = worker_of(pipeline)
    worker.start()
    worker.submit(image('bad'))
    worker.submit(image('good'))
    until(lambda: 'good' in pipeline.log)
    worker.stop()
    assert isinstance(pipeline.log[1], ValueError)
    assert pipeline.log[2:] == ['reset', 'good']


def test_what_making_the_engine_raises_reaches_the_caller() -> None:
    def fail() -> RecordingPipeline:
        raise EngineError('no such engine')

    worker = EngineWorker(fail, 1, lambda: None, lambda error: None)
    with pytest.raises(EngineError, match='no such engine'):
        worker.start()
    worker.stop()
    assert not any(thread.name == 'engine' for thread in threading.enumerate())


def test_stop_ends_the_thread_and_may_be_called_twice() -> None:
    worker = worker_of(RecordingPipeline())
    worker.start()
    worker.stop()
    worker.stop()
    assert not any(thread.name == 'engine' for thread in threading.enumerate())
