# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and write checkpoints. Nothing in a file is executed: safetensors, or weights only."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.files import whole_file
from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.model import VGGT

CONFIG_KEY = 'qvggt_config'
AVERAGED_FROM_KEY = 'qvggt_averaged_from'
WRAPPER_KEY = 'model'
OPTIONAL_HEADS = ('point_head', 'track_head')


def load_checkpoint(path: Path | str, model: VGGT) -> None:
    """Fill a network with a checkpoint's weights, strictly; a network on `meta` takes them over.

    The keys of a point or track head that the network was made without are passed over.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` with a state dict, bare or under the key 'model'.
        model: the network to fill; it becomes real (CPU) if it is on the meta device.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or a key is missing, unknown
            or of another shape; names the file and the first key at fault.

    """
    path = Path(path)
    state = _read_state(path)
    absent = tuple(f'{head}.' for head in OPTIONAL_HEADS if getattr(model, head) is None)
    state = {key: value for key, value in state.items() if not key.startswith(absent)}
    expected = model.state_dict()
    _check_state(path, state, expected)
    on_meta = any(value.is_meta for value in expected.values())
    if on_meta:
        state = {key: state[key].to(expected[key].dtype) for key in expected}
    model.load_state_dict(state, strict=True, assign=on_meta)


def load_model(path: Path | str, config: VGGTConfig | None = None) -> VGGT:
    """Make a network in evaluation mode from a checkpoint; its own config unless one is given."""
    path = Path(path)
    if config is None:
        config = read_config(path)
    if config is None:
        raise CheckpointError(f'{path}: holds no model config; say which model it is')
    with torch.device('meta'):
        model = VGGT(config)
    load_checkpoint(path, model)
    return model.eval()


def read_config(path: Path | str) -> VGGTConfig | None:
    """Return the config that `save_checkpoint` stored, or None where a file has none."""
    path = Path(path)
    text = _metadata(path).get(CONFIG_KEY)
    try:
        return None if text is None else VGGTConfig.from_dict(json.loads(text))
    except (ValueError, UsageError) as error:
        raise CheckpointError(f'{path}: model config cannot be read: {_line(error)}') from error


def read_averaged_from(path: Path | str) -> list[str]:
    """Return the digests of the files whose mean a model is; empty where it is none."""
    path = Path(path)
    text = _metadata(path).get(AVERAGED_FROM_KEY, '')
    return text.split()


def _metadata(path: Path) -> dict[str, str]:
    """Return the texts that a file holds beside its weights."""
    if path.suffix != '.safetensors':
        return {}
    try:
        with safe_open(_existing(path), framework='pt') as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: model config cannot be read: {_line(error)}') from error


def save_checkpoint(
    path: Path | str,
    model: VGGT,
    dtype: torch.dtype | None = None,
    averaged_from: Sequence[str] = (),
) -> None:
    """Write a network's weights and config as `.safetensors`, whole or not at all.

    Args:
        path: the file.
        model: the network.
        dtype: of the stored weights, the network's own if None; loading brings float32 back.
        averaged_from: digests of the files whose mean the weights are.

    """
    path = Path(path)
    if path.suffix != '.safetensors':
        raise UsageError(f'{path}: checkpoints are written as .safetensors')
    state = {
        key: value.detach().to('cpu', dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    metadata = {CONFIG_KEY: json.dumps(model.config.to_dict())}
    if averaged_from:
        metadata[AVERAGED_FROM_KEY] = ' '.join(averaged_from)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as partial:
            save_file(state, partial, metadata=metadata)
            partial.chmod(0o644)  # safetensors writes it for its owner alone
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be written: {_line(error)}') from error


def weights_digest(model: VGGT) -> str:
    """Return the SHA-256 of a network's sizes, keys and numbers, for want of a file."""
    digest = hashlib.sha256(repr(model.config).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f'{key} {value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_state(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by key, on the CPU."""
    _existing(path)
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        # Mapping the file halves the peak memory; only the zip format can be mapped.
        loaded = torch.load(
            path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        struct.error,
    ) as error:
        # PyTorch's own advice on this one is to load without protection: not to be passed on.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = 'it holds more than weights, or none' if refused else _line(error)
        raise CheckpointError(
            f'{path}: not a readable checkpoint (truncated or of another kind): {reason}'
        ) from error
    return _unwrapped(path, loaded)


def _unwrapped(path: Path, loaded: object) -> dict[str, Tensor]:
    """Return the state dict in what a .pt file held."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get(WRAPPER_KEY), Mapping):
        loaded = loaded[WRAPPER_KEY]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f'{path}: holds a {type(loaded).__name__}, not a state dict')
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f'{path}: key {key!r} holds no tensor; not a state dict')
    return dict(loaded)


def _check_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state that is not exactly the expected keys and shapes."""
    for key, wanted in expected.items():
        found = state.get(key)
        if found is None:
            raise CheckpointError(f'{path}: key {key} is missing; a checkpoint of another network')
        if found.shape != wanted.shape:
            raise CheckpointError(
                f'{path}: key {key} has shape {tuple(found.shape)}, this network needs '
                f'{tuple(wanted.shape)}'
            )
        if not found.is_floating_point():
            raise CheckpointError(f'{path}: key {key} is {found.dtype}, weights must be floats')
    for key in state:
        if key not in expected:
            raise CheckpointError(f'{path}: key {key} is not part of this network')


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    return path


def _line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
