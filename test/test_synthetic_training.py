# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training: windows are drawn reproducibly, a run can be interrupted, losses fall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qvggt_ros.errors import CheckpointError
from qvggt_ros.synthetic.seeds import training_seeds
from qvggt_ros.synthetic.sequences import render_batch
from qvggt_ros.synthetic.train_checkpoint import load_run
from qvggt_ros.synthetic.train_config import CURRICULUM, TrainConfig
from qvggt_ros.synthetic.training import Trainer, attend_unfused
from qvggt_ros.synthetic.window_source import Rendered, WindowSource
from qvggt_ros.synthetic.windows import training_motion
from qvggt_ros.vggt import VGGTConfig
from qvggt_ros.vggt.layers import attend_sdpa

TINY_MODEL = VGGTConfig(
    pretrain_height=28,
    pretrain_width=42,
    width=32,
    heads=2,
    encoder_depth=1,
    aggregator_depth=4,
    taps=(0, 1, 2, 3),
    dpt_features=8,
    dpt_channels=(8, 8, 8, 8),
    dpt_hidden=8,
    camera_depth=1,
    camera_heads=2,
    point_head=False,
    track_head=False,
)
TINY = TrainConfig(
    frames_per_step=8,
    warmup_steps=2,
    ring_sequences=8,
    sequence_frames=4,
    render_batch=4,
    matching_blocks=(0, 1),
    curriculum=(replace(CURRICULUM[0], until_windows=2**62, frames=(2, 3)),),
)


def render(first: int, count: int, frames: int, most_motion: float) -> Rendered:
    seeds = training_seeds(first, count)
    batch = render_batch(seeds, frames, 42, 28, motion=training_motion(most_motion))
    return batch.images, batch.depth_m, batch.camera_from_world, batch.intrinsics


def trainer(path: Path, config: TrainConfig = TINY) -> Trainer:
    made = Trainer(TINY_MODEL, config, render, path)
    made.source.refill(config.stage(made.progress.windows))
    return made


def steps(run: Trainer, count: int) -> list[float]:
    return [float(run.step_once()[0].total.detach()) for _ in range(count)]


def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    whole = trainer(tmp_path / 'whole.safetensors')
    expected = steps(whole, 8)
    first = trainer(tmp_path / 'parts.safetensors')
    steps(first, 5)
    first.save()
    second = trainer(tmp_path / 'parts.safetensors')
    assert second.progress.step == 5
    torch.testing.assert_close(steps(second, 3), expected[5:], rtol=1e-3, atol=0)
    assert second.progress.windows == whole.progress.windows
    assert second.progress.sequences == whole.progress.sequences


@pytest.mark.slow
def test_losses_fall_on_a_handful_of_windows(tmp_path: Path) -> None:
    config = replace(TINY, learning_rate=3e-3, uses_per_window=1e9, frames_per_step=16)
    losses = steps(trainer(tmp_path / 'run.safetensors', config), 60)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_run_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'run.safetensors'
    trainer(path).save()
    with pytest.raises(CheckpointError, match='another network configuration'):
        Trainer(replace(TINY_MODEL, width=64), TINY, render, path)


def test_a_file_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'run.safetensors'
    path.write_bytes(b'not a checkpoint')
    with pytest.raises(CheckpointError, match=r'run\.safetensors') as caught:
        load_run(path)
    assert '\n' not in str(caught.value)


def test_sequences_are_replaced_as_windows_use_them_up() -> None:
    source = WindowSource(TINY, render)
    stage = TINY.curriculum[0]
    source.refill(stage)
    assert source.sequences_rendered == 8
    source.draw(0, 8, stage)  # 8 windows, 4 uses each: 2 sequences, below one render batch
    assert source.sequences_rendered == 8
    source.draw(1, 16, stage)
    assert source.sequences_rendered == 12


def test_drawn_windows_depend_on_the_step_alone() -> None:
    stage = TINY.curriculum[0]
    one, other = WindowSource(TINY, render), WindowSource(TINY, render)
    for source in (one, other):
        source.refill(stage)
    for step in range(5):
        one.draw(step, 0, stage)
    torch.testing.assert_close(one.draw(7, 0, stage).images, other.draw(7, 0, stage).images)


def test_unfused_attention_is_the_same_attention() -> None:
    query, key, value = (torch.randn(2, 11, 3, 8) for _ in range(3))
    torch.testing.assert_close(attend_unfused(query, key, value), attend_sdpa(query, key, value))


def test_the_averaged_model_carries_plain_keys(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors')
    steps(run, 2)
    model = run.averaged_model()
    with torch.inference_mode():
        out = model(torch.rand(1, 2, 3, 28, 42))
    assert out['pose_enc'].shape == (1, 2, 9) and torch.isfinite(out['depth']).all()


def test_a_new_run_can_begin_with_other_weights(tmp_path: Path) -> None:
    first = trainer(tmp_path / 'first.safetensors')
    steps(first, 2)
    second = trainer(tmp_path / 'second.safetensors')
    second.begin_with(first.averaged_model())
    for name, value in second.averaged_model().state_dict().items():
        torch.testing.assert_close(value, first.average[name])
    assert second.progress.step == 0
