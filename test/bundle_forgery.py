# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Damage a bundle as a careful forger would: with every digest put right again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qvggt_ros.engine.manifest import content_digest, file_digest

Content = dict[str, Any]


def edit(folder: Path, change: Callable[[Content], object]) -> None:
    """Change the manifest and sign it again."""
    path = folder / 'manifest.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(signed(content))


def signed(content: Content) -> str:
    """Return the text of a manifest with the right digest of its content."""
    content = {key: value for key, value in content.items() if key != 'manifest_sha256'}
    return json.dumps({**content, 'manifest_sha256': content_digest(content)})


def resign(folder: Path, file: str) -> None:
    """Give the manifest the digest of a changed file."""
    digest = file_digest(folder / file)

    def change(content: Content) -> None:
        for entry in (content['golden'], *content['graphs'].values()):
            if entry['file'] == file:
                entry['sha256'] = digest
            elif entry.get('data_file') == file:
                entry['data_sha256'] = digest

    edit(folder, change)


def move_weights_out(folder: Path, location: str = 'encoder.onnx.data') -> Path:
    """Keep the encoder's weights in a file beside it, as graphs over 2 GB do."""
    path = folder / 'encoder.onnx'
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location='encoder.onnx.data',
        size_threshold=1024,
    )  # fmt: skip
    data = folder / 'encoder.onnx.data'
    if location != data.name:
        set_external(path, 'location', location)
        shutil.move(data, folder / location)
    digest = file_digest(folder / location)
    edit(
        folder,
        lambda content: content['graphs']['encoder'].update(
            data_file=data.name, data_sha256=digest
        ),
    )
    resign(folder, 'encoder.onnx')
    return data


def set_external(path: Path, key: str, text: str) -> None:
    """Give every tensor of a graph that has one another entry of external data."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = text if entry.key == key else entry.value
    path.write_bytes(proto.SerializeToString())


def golden_with(folder: Path, **changes: np.ndarray) -> None:
    """Write the golden file again with some arrays changed."""
    with np.load(folder / 'golden.npz') as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / 'golden.npz', allow_pickle=False, **{**arrays, **changes})
    resign(folder, 'golden.npz')
