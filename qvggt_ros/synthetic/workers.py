# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one network: each on its own windows, with averaged gradients.

Small tensors do not keep two CPU threads busy: one process per core, one thread each, does more
than twice the work of one process with two threads.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType
from typing import Any

import torch
from torch import nn

from qvggt_ros.errors import QvggtError

# A process that is asked to end has so many seconds for it.
GRACE_S = 10.0


@dataclass(frozen=True)
class Worker:
    """One of `count` training processes; the first one reports and writes files."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter], ready: bool) -> bool:
        """Replace gradients by their mean over all processes.

        Args:
            parameters: in the same order everywhere; those without gradient count as zero.
            ready: whether this process wants to go on.

        Returns:
            whether all processes want to go on.

        """
        if self.count == 1:
            return ready
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flag = gradients[0].new_tensor([1.0 if ready else 0.0])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), flag])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for parameter, part in zip(
            parameters, flat[:-1].split([g.numel() for g in gradients]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        return bool(flat[-1] > 1 - 0.5 / self.count)


def run_workers(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(Worker, *arguments)` in `count` processes of one thread each, and wait.

    All of them have ended when this returns or raises, also where it is interrupted.

    Args:
        count: one process is this one.
        work: a function of a module, so that a new process finds it.
        arguments: what can be pickled.

    Raises:
        QvggtError: the first one that a process raised, or a process was ended from outside.
        RuntimeError: another error in a process; its text is the traceback.

    """
    if count == 1:
        work(Worker(), *arguments)
        return
    # The children read this when they load their thread pools.
    os.environ['OMP_NUM_THREADS'] = '1'
    failures = multiprocessing.get_context('spawn').SimpleQueue()
    processes = _start(count, (count, _free_port(), failures, work, arguments))
    try:
        _wait(processes, failures)
    finally:
        _end(processes)


def _start(count: int, arguments: tuple[Any, ...]) -> list[BaseProcess]:
    """Start the processes; they end with this one, however it ends."""
    # Ctrl+C reaches children too. Until they are ready for it, it would be a traceback of theirs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        context = torch.multiprocessing.spawn(
            _enter, arguments, nprocs=count, join=False, daemon=True
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return list(context.processes)


def _wait(processes: Sequence[BaseProcess], failures: SimpleQueue[QvggtError | str]) -> None:
    """Return when all processes have done their work; raise what went wrong first."""
    pending = list(processes)
    while pending:
        multiprocessing.connection.wait([process.sentinel for process in pending])
        pending = [process for process in pending if process.is_alive()]
        if any(process.exitcode for process in processes):
            raise _cause(processes, failures)


def _cause(processes: Sequence[BaseProcess], failures: SimpleQueue[QvggtError | str]) -> Exception:
    """Return why the first process failed; the others fail for want of it."""
    for rank, process in enumerate(processes):
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            return QvggtError(f'training process {rank} was ended by {name}')
    if failures.empty():
        return QvggtError('a training process ended without a word')
    cause = failures.get()
    return cause if isinstance(cause, QvggtError) else RuntimeError(f'in a process:\n{cause}')


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, which takes them a moment; end them if they do not."""
    try:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(GRACE_S)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def _enter(
    rank: int,
    count: int,
    port: int,
    failures: SimpleQueue[QvggtError | str],
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Work in a new process; what goes wrong is told before the other processes notice."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=count
        )
        work(Worker(rank, count), *arguments)
    except QvggtError as error:
        failures.put(error)
        sys.exit(1)
    except KeyboardInterrupt:
        failures.put(QvggtError(f'training process {rank} was interrupted'))
        sys.exit(1)
    except Exception:
        failures.put(traceback.format_exc())
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once: a second signal must not disturb the tidying up."""
    for ignored in (signal.SIGTERM, signal.SIGINT):
        # Not SIG_IGN: Python complains about a signal that has arrived by then.
        signal.signal(ignored, lambda *_: None)
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])
