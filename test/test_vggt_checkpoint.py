# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: every format read strictly, every fault named in one line, nothing executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_networks import SMALL, lively

from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.vggt import (
    VGGT,
    VGGTConfig,
    load_checkpoint,
    load_model,
    read_config,
    save_checkpoint,
    weights_digest,
)

State = dict[str, torch.Tensor]


@pytest.fixture(scope='module')
def state() -> State:
    return {key: value.clone() for key, value in lively(SMALL).state_dict().items()}


def write(path: Path, state: State) -> Path:
    if path.suffix == '.safetensors':
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def refusal(path: Path, config: VGGTConfig = SMALL) -> str:
    """Return the one line with which loading a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, VGGT(config))
    message = str(caught.value)
    assert '\n' not in message and str(path) in message
    return message


@pytest.mark.parametrize('name', ['model.safetensors', 'model.pt', 'model.pth'])
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_every_format_loads_every_number(
    tmp_path: Path, state: State, name: str, device: str
) -> None:
    path = write(tmp_path / name, state)
    with torch.device(device):
        model = VGGT(SMALL)
    load_checkpoint(path, model)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_state_dict_under_model_and_the_old_pt_format_load(tmp_path: Path, state: State) -> None:
    path = tmp_path / 'wrapped.pt'
    torch.save({'model': state, 'epoch': 3}, path, _use_new_zipfile_serialization=False)
    load_checkpoint(path, VGGT(SMALL))


def test_half_precision_weights_become_the_networks_type(tmp_path: Path, state: State) -> None:
    path = write(tmp_path / 'half.pt', {key: value.half() for key, value in state.items()})
    model = load_model(path, SMALL)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_save_keeps_weights_and_config(tmp_path: Path) -> None:
    model, path = lively(SMALL), tmp_path / 'new' / 'model.safetensors'
    save_checkpoint(path, model)
    again = load_model(path)
    assert again.config == SMALL and not again.training
    images = torch.rand(1, 2, 3, 28, 35)
    assert torch.equal(model(images)['depth'], again(images)['depth'])
    assert [item.name for item in path.parent.iterdir()] == ['model.safetensors']
    assert path.stat().st_mode & 0o777 == 0o644


def test_weights_can_be_stored_in_half_the_space(tmp_path: Path) -> None:
    model = lively(SMALL)
    save_checkpoint(tmp_path / 'whole.safetensors', model)
    save_checkpoint(tmp_path / 'half.safetensors', model, torch.float16)
    sizes = [(tmp_path / f'{n}.safetensors').stat().st_size for n in ('half', 'whole')]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_model(tmp_path / 'half.safetensors').state_dict()
    for key, value in model.state_dict().items():
        assert loaded[key].dtype == torch.float32
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-4)


def test_saving_under_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='safetensors'):
        save_checkpoint(tmp_path / 'model.pt', VGGT(SMALL))
    assert not list(tmp_path.iterdir())


def test_a_file_without_config_needs_one(tmp_path: Path, state: State) -> None:
    path = write(tmp_path / 'bare.safetensors', state)
    assert read_config(path) is None
    with pytest.raises(CheckpointError, match='say which model'):
        load_model(path)


@pytest.mark.parametrize('text', ['{', '[]', json.dumps({'width': 3})])
def test_a_broken_config_is_refused(tmp_path: Path, state: State, text: str) -> None:
    path = tmp_path / 'odd.safetensors'
    save_file(state, path, metadata={'qvggt_config': text})
    with pytest.raises(CheckpointError, match='config cannot be read'):
        read_config(path)


@pytest.mark.parametrize('name', ['model.safetensors', 'model.pt'])
def test_faulty_keys_are_named(tmp_path: Path, state: State, name: str) -> None:
    key = 'camera_head.trunk.0.mlp.fc1.weight'
    without = {k: v for k, v in state.items() if k != key}
    assert f'{key} is missing' in refusal(write(tmp_path / name, without))
    other = {**state, key: torch.zeros(3, 4)}
    assert f'{key} has shape (3, 4)' in refusal(write(tmp_path / name, other))
    more = {**state, 'depth_head.extra.weight': torch.zeros(1)}
    assert 'depth_head.extra.weight' in refusal(write(tmp_path / name, more))
    whole = {**state, key: torch.zeros(state[key].shape, dtype=torch.int64)}
    assert f'{key} is torch.int64' in refusal(write(tmp_path / name, whole))


def test_heads_that_the_network_lacks_are_passed_over(tmp_path: Path) -> None:
    config = replace(SMALL, point_head=True)
    path = write(tmp_path / 'points.safetensors', lively(config).state_dict())
    load_checkpoint(path, VGGT(SMALL))
    bare = write(tmp_path / 'bare.safetensors', lively(SMALL).state_dict())
    assert 'point_head.norm.weight is missing' in refusal(bare, config)


class Executed:
    """A pickle that would create a file when loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize('write_file', [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_nothing_in_a_file_is_executed(
    tmp_path: Path, write_file: Callable[[object, Path], object]
) -> None:
    marker = tmp_path / 'executed'
    write_file({'a': Executed(marker)}, tmp_path / 'evil.pt')
    refusal(tmp_path / 'evil.pt')
    assert not marker.exists()


@pytest.mark.parametrize('content', [{'a': 1}, [1, 2], torch.zeros(3), {1: torch.zeros(1)}])
def test_a_pt_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / 'other.pt')
    assert 'state dict' in refusal(tmp_path / 'other.pt')


@pytest.mark.parametrize('name', ['model.safetensors', 'model.pt'])
@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.99, 0.9999])
def test_truncated_files_are_refused(
    tmp_path: Path, state: State, name: str, share: float
) -> None:
    path = write(tmp_path / name, state)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(['.safetensors', '.pt']))
def test_foreign_bytes_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f'foreign{suffix}'
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize('name', ['none.safetensors', 'none.pt', '.'])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert 'no such checkpoint' in refusal(tmp_path / name)


def test_a_networks_digest_knows_sizes_keys_numbers_and_their_type() -> None:
    assert weights_digest(lively(SMALL)) == weights_digest(lively(SMALL))
    others = [lively(SMALL, seed=1), lively(SMALL).half(), lively(replace(SMALL, heads=4))]
    assert len({weights_digest(model) for model in (lively(SMALL), *others)}) == 4
