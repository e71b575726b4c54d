# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one network: each on its own windows, with averaged gradients.

Small tensors do not keep two CPU threads busy: one process per core, one thread each, does more
than twice the work of one process with two threads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
        flag = torch.tensor([1.0 if ready else 0.0])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), flag])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for parameter, part in zip(
            parameters, flat[:-1].split([g.numel() for g in gradients]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        return bool(flat[-1] > 1 - 0.5 / self.count)

    def same_everywhere(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's tensors, in place."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)


def run_workers(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(Worker, *arguments)` in `count` processes of one thread each, and wait."""
    if count == 1:
        work(Worker(), *arguments)
        return
    # The children read this when they load their thread pools.
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.multiprocessing.spawn(_enter, (count, _free_port(), work, arguments), nprocs=count)


def _enter(
    rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=count
    )
    try:
        work(Worker(rank, count), *arguments)
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])
