# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A contender of `qvggt bench` in a process of its own, so that its memory is its own.

The process loads its engine, then runs one window whenever it is asked to and sleeps in between.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine import Engine, open_bundle
from qvggt_ros.errors import EngineError, QvggtError

RANDOM = Path('random')
# A process that is asked to end has so many seconds for it.
GRACE_S = 10.0


@dataclass(frozen=True)
class Job:
    """What a contender runs.

    Attributes:
        path: a bundle, or with `torch` a checkpoint or `RANDOM`.
        engine: what runs the bundle, or `torch`: a checkpoint in PyTorch float32.
        model_config: of the network with random weights.
        frames, height, width: of the window; its images are noise, the same for everyone.
        threads: CPU threads; 0: all cores.

    """

    path: Path
    engine: str
    model_config: dict[str, Any]
    frames: int
    height: int
    width: int
    threads: int


class Competitor:
    """The other end of a contender's process, until it is closed.

    Attributes:
        weights_mb: of PyTorch's parameters; 0 for a bundle, whose files tell.

    """

    def __init__(self, job: Job) -> None:
        """Start the process and wait until it is ready to run.

        Raises:
            QvggtError: it could not load its engine, for the reason that is given.

        """
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._name = job.path.name
        self._process = context.Process(target=serve, args=(theirs, job), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.weights_mb: float = self._receive()
        except BaseException:
            self.close()
            raise

    def run_window(self) -> dict[str, float]:
        """Run one window; return each stage's seconds."""
        self._connection.send('run')
        seconds: dict[str, float] = self._receive()
        return seconds

    def peak_mb(self) -> float:
        """Return the most memory that the process has had so far."""
        self._connection.send('peak')
        megabytes: float = self._receive()
        return megabytes

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            answer, error = self._connection.recv()
        except EOFError:
            self._process.join(GRACE_S)
            raise EngineError(
                f'{self._name}: its process ended with status {self._process.exitcode}; '
                'was there not enough memory?'
            ) from None
        if error is not None:
            raise error
        return answer


def serve(connection: Connection, job: Job) -> None:
    """Load an engine and run it on request; the process's whole life."""
    try:
        engine, weights_mb = _load(job)
    except QvggtError as error:
        connection.send((None, error))
        return
    shape = (job.frames, 3, job.height, job.width)
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    connection.send((weights_mb, None))
    while True:
        try:
            request = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = timed_window(engine, images) if request == 'run' else peak_memory_mb()
            connection.send((answer, None))
        except QvggtError as error:
            connection.send((None, error))


def timed_window(engine: Engine, images: NDArray[np.float32]) -> dict[str, float]:
    """Run one window, all of whose frames are new; return each stage's seconds."""
    begin = time.perf_counter()
    tokens = engine.encode(images)
    encoded = time.perf_counter()
    window = engine.window(tokens)
    related = time.perf_counter()
    engine.depth(window, range(len(images)))
    end = time.perf_counter()
    return {'encoder': encoded - begin, 'window': related - encoded, 'depth': end - related}


def peak_memory_mb() -> float:
    """Return the most memory that this process has had, MB.

    From /proc where there is one: what `getrusage` tells includes the process that started it.
    """
    try:
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _load(job: Job) -> tuple[Engine, float]:
    if job.engine != 'torch':
        return open_bundle(job.path, job.engine, job.threads), 0.0
    import torch

    from qvggt_ros.evaluation.torch_engine import TorchEngine
    from qvggt_ros.vggt import VGGT, VGGTConfig, load_model

    torch.set_num_threads(job.threads or len(os.sched_getaffinity(0)))
    if job.path == RANDOM:
        model = VGGT(VGGTConfig.from_dict(job.model_config))
    else:
        model = load_model(job.path).float()
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    return TorchEngine(model, job.frames, (job.height, job.width)), size
