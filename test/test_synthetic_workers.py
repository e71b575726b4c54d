# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one: mean gradients, other scenes each, an end for all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import TINY, TINY_MODEL, render
from torch import nn

from qvggt_ros.errors import CheckpointError, QvggtError
from qvggt_ros.files import whole_file
from qvggt_ros.synthetic import train_command
from qvggt_ros.synthetic.sequences import SequenceBatch, render_batch
from qvggt_ros.synthetic.training import Trainer
from qvggt_ros.synthetic.workers import Worker, run_workers
from qvggt_ros.vggt import VGGTConfig

PROCESSES = 2
STOPPED_AT = 3


def small_network() -> nn.ModuleList:
    """Return two layers, the second of which only the first process uses."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(5, 4), nn.Linear(4, 1)])


def loss_of(network: nn.ModuleList, rank: int) -> torch.Tensor:
    batch = torch.randn(6, 5, generator=torch.Generator().manual_seed(rank))
    hidden = network[0](batch)
    return (network[1](hidden) if rank == 0 else hidden).square().mean()


def averaged_gradients(worker: Worker) -> list[torch.Tensor]:
    network = small_network()
    loss_of(network, worker.rank).backward()
    parameters = list(network.parameters())
    worker.average_gradients(parameters, ready=True)
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def all_ready(worker: Worker, ready: bool = True) -> bool:
    return worker.average_gradients([nn.Parameter(torch.zeros(1))], ready)


def steps_until_one_stops(worker: Worker) -> int:
    """Count the steps of a loop that the second process wants to leave."""
    step, going = 0, True
    while going:
        step += 1
        going = worker.average_gradients(
            [nn.Parameter(torch.zeros(1))], worker.rank == 0 or step < STOPPED_AT
        )
    return step


def trained_weights(worker: Worker, folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    run = Trainer(TINY_MODEL, TINY, render, folder / 'run.safetensors', worker=worker)
    run.source.refill(TINY.stage(0))
    for _ in range(3):
        run.step_once()
    return dict(run.model.state_dict()), run.progress.windows


def work(worker: Worker, folder: Path) -> None:
    """Do everything that two processes are needed for, and leave it in a file."""
    weights, windows = trained_weights(worker, folder)
    found = {
        'gradients': averaged_gradients(worker),
        'steps': steps_until_one_stops(worker),
        'weights': weights,
        'windows': windows,
        'threads': torch.get_num_threads(),
        'leads': worker.leads,
    }
    torch.save(found, folder / f'{worker.rank}.pt')


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two processes found."""
    folder = tmp_path_factory.mktemp('workers')
    run_workers(PROCESSES, work, folder)
    return [torch.load(folder / f'{rank}.pt') for rank in range(PROCESSES)]


@pytest.mark.slow
def test_gradients_are_those_of_one_process_with_both_batches(found: list[dict[str, Any]]) -> None:
    network = small_network()
    torch.stack([loss_of(network, rank) for rank in range(PROCESSES)]).mean().backward()
    expected = [parameter.grad for parameter in network.parameters()]
    for process in found:
        torch.testing.assert_close(process['gradients'], expected)


@pytest.mark.slow
def test_one_that_does_not_go_on_stops_all(found: list[dict[str, Any]]) -> None:
    assert [process['steps'] for process in found] == [STOPPED_AT] * PROCESSES


@pytest.mark.slow
def test_all_end_with_the_same_weights(found: list[dict[str, Any]], tmp_path: Path) -> None:
    first, second = (process['weights'] for process in found)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    alone, _ = trained_weights(Worker(), tmp_path)
    assert any(not torch.equal(value, alone[name]) for name, value in first.items())


@pytest.mark.slow
def test_windows_of_all_are_counted_by_each(found: list[dict[str, Any]]) -> None:
    assert found[0]['windows'] == found[1]['windows'] > 0
    assert found[0]['windows'] % PROCESSES == 0


@pytest.mark.slow
def test_each_has_one_thread_and_the_first_leads(found: list[dict[str, Any]]) -> None:
    assert [process['threads'] for process in found] == [1, 1]
    assert [process['leads'] for process in found] == [True, False]


def test_one_process_is_this_one_and_its_gradients_stay() -> None:
    seen = []
    run_workers(1, lambda worker, word: seen.append((worker, word)), 'word')
    assert seen == [(Worker(0, 1), 'word')]
    parameter = nn.Parameter(torch.zeros(2))
    assert Worker().average_gradients([parameter], ready=True)
    assert not Worker().average_gradients([parameter], ready=False)
    assert parameter.grad is None


@pytest.mark.parametrize('count', [1, 2, 3])
def test_workers_render_other_rooms_and_leave_none_out(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    seen: list[list[int]] = []

    def spy(seeds: Any, *args: Any, **kwargs: Any) -> SequenceBatch:
        seen[-1].extend(seeds.tolist())
        return render_batch(seeds[:1], 2, 14, 14)

    monkeypatch.setattr(train_command, 'render_batch', spy)
    for rank in range(count):
        seen.append([])
        renderer = train_command._renderer(VGGTConfig.demo(), 'cpu', Worker(rank, count))
        for first, chunk in ((0, 4), (4, 3)):
            renderer(first, chunk, 2, 1.0)
    together = [seed for seeds in seen for seed in seeds]
    assert len(together) == len(set(together)) == 7 * count
    assert sorted(together) == list(range(-7 * count, 0))


def fail(worker: Worker, how: str, folder: Path) -> None:
    """Fail in the second process, one way or the other, while the first waits for it."""
    with whole_file(folder / 'run') as partial:
        partial.write_text('begun')
        all_ready(worker)
        if worker.rank == 0 and how == 'interrupt':
            os.kill(os.getppid(), signal.SIGINT)
        elif worker.rank == 1 and how == 'wrong input':
            raise CheckpointError('run: not a run')
        elif worker.rank == 1 and how == 'mistake':
            raise ZeroDivisionError('a mistake')
        elif worker.rank == 1 and how == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        elif worker.rank == 1 and how == 'ended':
            os.kill(os.getpid(), signal.SIGTERM)
        if worker.rank == 1:
            time.sleep(60)
        all_ready(worker)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'error', 'message'),
    [
        ('wrong input', CheckpointError, r'^run: not a run$'),
        ('mistake', RuntimeError, 'ZeroDivisionError: a mistake'),
        ('killed', QvggtError, '^training process 1 was ended by SIGKILL$'),
        ('ended', QvggtError, '^training process 1 was interrupted$'),
        ('interrupt', KeyboardInterrupt, None),
    ],
)
def test_what_goes_wrong_in_one_ends_all_and_is_told(
    how: str, error: type[BaseException], message: str | None, tmp_path: Path
) -> None:
    before = time.monotonic()
    # A shell that starts the tests in the background lets them ignore interrupts.
    ignoring = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error, match=message):
            run_workers(PROCESSES, fail, how, tmp_path)
    finally:
        signal.signal(signal.SIGINT, ignoring)
    assert time.monotonic() - before < 55
    assert multiprocessing.active_children() == []
    left = 1 if how == 'killed' else 0  # a killed process cannot tidy up
    assert len(list(tmp_path.iterdir())) == left
