# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is measured of a window, and that it is measured once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_networks import SMALL, lively
from small_pools import CONFIG, FRAMES, Pool, drift, network, same

from qvggt_ros.errors import CalibrationError, UsageError
from qvggt_ros.quantization import nfds_statistics
from qvggt_ros.quantization.nfds import NfdsConfig, select
from qvggt_ros.vggt import WindowTrace


@pytest.fixture
def passes() -> Iterator[list[int]]:
    """Count forward passes of the shared network."""
    counted: list[int] = []
    hook = network().aggregator.register_forward_hook(lambda *_: counted.append(1))
    yield counted
    hook.remove()


def test_statistics_are_those_of_the_blocks_outputs() -> None:
    window = drift(5)
    config = NfdsConfig(layers=(1, 3))
    with nfds_statistics.Probe(network(), config).attached() as probe:
        mean, variance, cosine = probe.measure(window, 'window')
    trace = WindowTrace()
    images = torch.from_numpy(window).permute(0, 3, 1, 2)[None] / 255
    with torch.inference_mode():
        network()(images, trace=trace)
    blocks = [trace.block_tokens[i].double().numpy() for i in (2, 3, 6, 7)]
    assert np.allclose(mean, [b.mean() for b in blocks], rtol=1e-9)
    assert np.allclose(variance, [b.var() for b in blocks], rtol=1e-9)
    frames = blocks[-1][0][:, SMALL.special_tokens :].reshape(FRAMES, -1)
    norms = np.linalg.norm(frames, axis=1)
    assert np.allclose(cosine, (frames[1:] @ frames[0]) / (norms[1:] * norms[0]), atol=1e-9)


def test_the_last_third_of_the_pairs_is_measured() -> None:
    assert nfds_statistics.measured_layers(network(), CONFIG) == (2, 3)
    with pytest.raises(UsageError, match=r'layers \(4,\): must lie in 0 \.\. 3'):
        select(network(), Pool(5), NfdsConfig(layers=(4,)))


def test_the_network_stays_as_it_was() -> None:
    model = lively(SMALL).train()
    select(model, Pool(5), CONFIG)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_interrupted_run_goes_on(tmp_path: Path, passes: list[int]) -> None:
    whole = select(network(), Pool(30), CONFIG)
    assert len(passes) == 30
    passes.clear()

    def stop(done: int, total: int) -> None:
        assert total == 30
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(network(), Pool(30), CONFIG, progress=stop, cache=tmp_path / 'cache')
    assert len(passes) == 12
    passes.clear()
    resumed = select(network(), Pool(30), CONFIG, cache=tmp_path / 'cache')
    assert len(passes) == 18
    assert same(resumed, whole)
    passes.clear()
    assert same(select(network(), Pool(30), CONFIG, cache=tmp_path / 'cache'), whole)
    assert passes == []


def test_the_pool_is_read_by_the_calling_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording's database belongs to one thread; only the network works in another."""
    readers: set[threading.Thread] = set()
    watchers: set[threading.Thread] = set()
    window, measure = Pool.window, nfds_statistics.Probe.measure

    def read(pool: Pool, index: int) -> NDArray[np.uint8]:
        readers.add(threading.current_thread())
        return window(pool, index)

    def watch(*args: Any) -> Any:
        watchers.add(threading.current_thread())
        return measure(*args)

    monkeypatch.setattr(Pool, 'window', read)
    monkeypatch.setattr(nfds_statistics.Probe, 'measure', watch)
    select(network(), Pool(6), CONFIG)
    assert readers == {threading.current_thread()}
    assert len(watchers) == 1
    assert not watchers & readers


def test_the_cache_knows_network_layers_and_pixels(tmp_path: Path, passes: list[int]) -> None:
    pool = Pool(6)
    select(network(), pool, CONFIG, cache=tmp_path)
    select(network(), pool, NfdsConfig(layers=(1,)), cache=tmp_path)
    select(lively(SMALL, seed=2), pool, CONFIG, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    passes.clear()
    pool.replaced = {2: drift(50)}
    select(network(), pool, CONFIG, cache=tmp_path)
    assert len(passes) == 1


@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty', 'other', 'pickle'])
def test_a_damaged_cache_is_as_good_as_none(
    tmp_path: Path, passes: list[int], damage: str
) -> None:
    whole = select(network(), Pool(6), CONFIG, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == 'other':
        np.savez(file, mean=np.zeros(3))
    elif damage == 'pickle':
        objects = {name: np.array([{}]) for name in (*nfds_statistics.STORED, 'digest')}
        np.savez(file, allow_pickle=True, **objects)
    else:
        damaged = {'truncated': content[: len(content) // 2], 'text': b'none', 'empty': b''}
        file.write_bytes(damaged[damage])
    passes.clear()
    assert same(select(network(), Pool(6), CONFIG, cache=tmp_path), whole)
    assert len(passes) == 6
    assert [item.name for item in tmp_path.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(CalibrationError, match='cannot be written') as caught:
        select(network(), Pool(3), CONFIG, cache=tmp_path / 'file' / 'cache')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('layer', ['encoder', 'frame_blocks.0', 'global_blocks.1'])
def test_activations_that_are_not_finite_name_layer_and_window(layer: str) -> None:
    model = lively(SMALL)
    module = 'patch_embed' if layer == 'encoder' else layer
    with torch.no_grad():
        next(model.get_submodule(f'aggregator.{module}').parameters()).fill_(float('inf'))
    with pytest.raises(CalibrationError, match=rf'drift: window 0: .* {layer} are not finite'):
        select(model, Pool(3), CONFIG)


@pytest.mark.parametrize(
    'values',
    [
        {'samples': 0},
        {'clusters': 0},
        {'candidates': 0},
        {'seed': -1},
        {'keep_share': 0.0},
        {'keep_share': 1.5},
        {'score_limit': 0.0},
        {'score_limit': float('nan')},
    ],
)
def test_the_config_is_checked(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match='calibration: '):
        NfdsConfig(**values)  # type: ignore[arg-type]
