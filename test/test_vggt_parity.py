# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The full-size network computes what the published code computes, on deterministic weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qvggt_ros.vggt import VGGT, VGGTConfig, WindowTrace

CASES = ('parity_a', 'parity_b')
TAPPED_PAIRS = (4, 11, 17, 23)
LIMIT = 1e-4  # of each array's largest magnitude

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope='module')
def computed(shared_dir: Path) -> dict[str, tuple[Arrays, Arrays]]:
    """Return (expected, computed) arrays of every case; the 5 GB network is freed after."""
    folder = shared_dir / 'parity'
    spec = importlib.util.spec_from_file_location('seeded_state', folder / 'seeded_state.py')
    assert spec is not None and spec.loader is not None
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    with torch.device('meta'):
        model = VGGT(VGGTConfig.vggt_1b()).eval()
    state = {
        key: torch.from_numpy(seeded.seeded_tensor(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    results = {}
    for case in CASES:
        with np.load(folder / f'{case}.npz', allow_pickle=False) as file:
            expected = {name: file[name] for name in file.files}
        shape = tuple(int(n) for n in expected.pop('shape'))
        images = seeded.seeded_images(int(expected.pop('images_seed')), shape)
        results[case] = (expected, run_network(model, torch.from_numpy(images)))
    return results


@torch.inference_mode()
def run_network(model: VGGT, images: torch.Tensor) -> Arrays:
    """Return every array that a parity file holds."""
    trace = WindowTrace()
    out = dict(model(images[None], trace=trace))
    out['dino_patchtokens'] = model.encode(images)[..., :16]
    for pair in TAPPED_PAIRS:
        in_frame, all_frames = trace.block_tokens[2 * pair : 2 * pair + 2]
        out[f'aggregated_{pair}_first16_last16'] = torch.cat(
            [in_frame[..., :16], all_frames[..., -16:]], dim=-1
        )
    return {name: value.numpy() for name, value in out.items()}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_every_array_equals_the_published_network(
    computed: dict[str, tuple[Arrays, Arrays]], case: str
) -> None:
    expected, found = computed[case]
    errors = {}
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        errors[name] = float(np.abs(found[name] - wanted).max() / np.abs(wanted).max())
        print(f'{case} {name}: {errors[name]:.2e}')
    assert set(expected) == set(found)
    assert max(errors.values()) < LIMIT, errors
