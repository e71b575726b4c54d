# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth average`: the mean of weights, and what it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import SMALL, lively

from qvggt_ros.cli import main
from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.vggt import load_model
from qvggt_ros.vggt.checkpoint import read_averaged_from, save_checkpoint


def test_weights_are_the_mean_and_the_file_says_of_what(tmp_path: Path) -> None:
    paths = [tmp_path / f'{name}.safetensors' for name in 'ab']
    for seed, path in enumerate(paths):
        save_checkpoint(path, lively(SMALL, seed))
    out = tmp_path / 'mean.safetensors'
    assert main(['synth', 'average', *map(str, paths), '--out', str(out)]) == 0
    first, second, mean = (load_model(path).state_dict() for path in (*paths, out))
    for name, value in mean.items():
        wanted = (first[name].double() + second[name].double()) / 2
        torch.testing.assert_close(value.double(), wanted, rtol=1e-3, atol=1e-6)
    assert read_averaged_from(out) == [file_digest(path) for path in paths]
    assert read_averaged_from(paths[0]) == []


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['a'], 'one model has no mean'),
        (['a', 'wider'], r'wider.safetensors: a network of other sizes than that of'),
        (['a', 'absent'], r'absent.safetensors: '),
    ],
)
def test_what_has_no_mean_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    save_checkpoint(tmp_path / 'a.safetensors', lively(SMALL))
    save_checkpoint(tmp_path / 'wider.safetensors', lively(replace(SMALL, width=2 * SMALL.width)))
    out = tmp_path / 'mean.safetensors'
    paths = [str(tmp_path / f'{name}.safetensors') for name in names]
    assert main(['synth', 'average', *paths, '--out', str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
