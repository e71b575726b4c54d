# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of predictions that are right, and of real networks and bundles."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import SMALL, lively

from qvggt_ros import cli
from qvggt_ros.errors import DatasetError, UsageError
from qvggt_ros.evaluation.accuracy import (
    evaluate,
    folder_windows,
    synthetic_windows,
    torch_predictor,
)
from qvggt_ros.evaluation.eval_command import add_arguments, open_data
from qvggt_ros.synthetic.sequences import render_batch
from qvggt_ros.synthetic.targets import window_targets
from qvggt_ros.synthetic.windows import WINDOW_MOTION
from qvggt_ros.vggt import save_checkpoint

SEED = 10_000


def test_the_truth_itself_scores_full_marks() -> None:
    batch = next(synthetic_windows(SEED, 3, 3, 56, 42))
    rendered = render_batch(range(SEED, SEED + 3), 3, 56, 42, motion=WINDOW_MOTION)
    targets = window_targets(rendered.depth_m, rendered.camera_from_world, rendered.intrinsics)
    figures = evaluate(lambda _: (targets.pose_enc.numpy(), targets.depth.numpy()), [batch])
    assert figures['auc3'] > 99 and figures['absrel'] < 1e-3 and figures['delta1'] == 1
    assert figures['windows'] == 3


def test_windows_do_not_depend_on_how_many_are_asked_for() -> None:
    few = next(synthetic_windows(SEED, 2, 2, 56, 42))
    many = next(synthetic_windows(SEED, 5, 2, 56, 42))
    assert np.array_equal(few.images, many.images[:2])


@pytest.mark.parametrize(
    ('data', 'rule'),
    [
        ('synthetic:9999', 'test rooms have seeds from 10000'),
        ('synthetic:abc', 'whole number'),
    ],
)
def test_bad_seeds_are_refused(data: str, rule: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match=rule):
        list(open_data(parser.parse_args(['model', '--data', data]), 56, 42))


def test_windows_of_a_folder_have_its_poses_and_depths(tmp_path: Path) -> None:
    rendered = render_batch([SEED], 6, 112, 84, motion=WINDOW_MOTION)
    for k in range(6):
        stem = tmp_path / f'frame-{3 * k:06d}'
        image = rendered.images[0, k].permute(1, 2, 0).numpy()
        Image.fromarray(image).save(f'{stem}.color.png')
        depth_mm = (1000 * rendered.depth_m[0, k]).round().numpy().astype(np.uint16)
        Image.fromarray(depth_mm).save(f'{stem}.depth.png')
        world_from_camera = np.linalg.inv(rendered.camera_from_world[0, k].double().numpy())
        np.savetxt(f'{stem}.pose.txt', world_from_camera)
    batches = list(folder_windows(tmp_path, 10, 3, 2, 112, 84))
    assert len(batches) == 2
    assert np.array_equal(batches[1].images[0], rendered.images[0, 1::2].numpy())
    poses = rendered.camera_from_world[0, 1::2].numpy()
    np.testing.assert_allclose(batches[1].camera_from_world[0], poses, atol=1e-5)
    depths = rendered.depth_m[0, 1::2].numpy()
    assert batches[1].depth is not None
    np.testing.assert_allclose(batches[1].depth[0], depths, atol=6e-4)
    with pytest.raises(DatasetError, match='too few'):
        list(folder_windows(tmp_path, 10, 4, 2, 112, 84))


def test_the_command_prints_the_published_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / 'model.safetensors'
    save_checkpoint(checkpoint, lively(SMALL))
    words = ['eval', str(checkpoint), '--data', f'synthetic:{SEED}', '--windows', '2', '--json']
    assert cli.main(words) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {
        *('auc30', 'auc15', 'auc10', 'auc5', 'auc3'),
        *('rot_median_deg', 'trans_median_deg', 'absrel', 'delta1', 'windows'),
    }
    model = lively(SMALL)
    batches = synthetic_windows(SEED, 2, 4, SMALL.pretrain_width, SMALL.pretrain_height)
    expected = evaluate(torch_predictor(model), batches)
    assert figures == pytest.approx(expected)


def test_a_model_that_is_not_there_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(['eval', '/nowhere/model.safetensors', '--data', f'synthetic:{SEED}']) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and '/nowhere/model.safetensors' in said[0]
