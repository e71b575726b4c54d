# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training: windows are drawn reproducibly, a run can be interrupted, losses fall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import TINY, TINY_MODEL, render

from qvggt_ros.errors import CheckpointError
from qvggt_ros.synthetic.train_checkpoint import load_run
from qvggt_ros.synthetic.train_config import TrainConfig
from qvggt_ros.synthetic.training import Trainer
from qvggt_ros.synthetic.window_source import WindowSource
from qvggt_ros.synthetic.workers import Worker
from qvggt_ros.vggt import VGGT


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
    source.draw(0, 24, stage)  # 24 windows, 8 uses each: 3 sequences, below one render batch
    assert source.sequences_rendered == 8
    source.draw(1, 32, stage)
    assert source.sequences_rendered == 12


def test_each_of_two_workers_replaces_what_it_used_itself() -> None:
    source = WindowSource(TINY, render, worker=Worker(1, 2))
    stage = TINY.curriculum[0]
    source.refill(stage)
    source.draw(0, 48, stage)
    assert source.sequences_rendered == 8
    source.draw(1, 64, stage)
    assert source.sequences_rendered == 12


def test_a_run_resumed_with_other_numbers_neither_catches_up_nor_waits() -> None:
    stage = TINY.curriculum[0]
    for processes, seen in ((1, 8000), (4, 8000)):  # saved by two processes: 508 sequences each
        source = WindowSource(TINY, render, 508, Worker(0, processes))
        source.refill(stage)
        assert source.sequences_rendered == 508
        source.draw(0, seen, stage)
        assert source.sequences_rendered == 508
        source.draw(1, seen + 32 * processes, stage)
        assert source.sequences_rendered == 512


def test_workers_draw_other_windows_of_as_many_frames() -> None:
    stage = TINY.curriculum[0]
    one, other = (WindowSource(TINY, render, worker=Worker(rank, 2)) for rank in (0, 1))
    for source in (one, other):
        source.refill(stage)
    for step in range(4):
        drawn = [source.draw(step, 0, stage).images for source in (one, other)]
        assert drawn[0].shape == drawn[1].shape
        assert not torch.equal(drawn[0], drawn[1])


def test_drawn_windows_depend_on_the_step_alone() -> None:
    stage = TINY.curriculum[0]
    one, other = WindowSource(TINY, render), WindowSource(TINY, render)
    for source in (one, other):
        source.refill(stage)
    for step in range(5):
        one.draw(step, 0, stage)
    torch.testing.assert_close(one.draw(7, 0, stage).images, other.draw(7, 0, stage).images)


def test_the_averaged_model_carries_plain_keys(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors')
    steps(run, 2)
    model = run.averaged_model()
    with torch.inference_mode():
        out = model(torch.rand(1, 2, 3, 28, 42))
    assert out['pose_enc'].shape == (1, 2, 9) and torch.isfinite(out['depth']).all()


def test_weights_of_another_image_size_begin_a_run(tmp_path: Path) -> None:
    smaller = VGGT(replace(TINY_MODEL, pretrain_height=14, pretrain_width=28))
    run = Trainer(TINY_MODEL, TINY, render, tmp_path / 'run.safetensors')
    run.begin_with(smaller, windows_seen=800)
    found = run.model.state_dict()
    for name, value in smaller.state_dict().items():
        if name != 'aggregator.patch_embed.pos_embed':
            assert torch.equal(found[name], value)
    assert run.progress.windows == run.progress.windows_before == 800
    assert run.progress.step == 0
    run.source.refill(TINY.stage(800))
    assert run.source.sequences_rendered == TINY.ring_sequences + 100
    assert all(value > 0 for value in steps(run, 2))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = VGGT(replace(TINY_MODEL, dpt_hidden=4))
    with pytest.raises(CheckpointError, match='another network'):
        Trainer(TINY_MODEL, TINY, render, tmp_path / 'run.safetensors').begin_with(other)


def test_a_new_run_can_begin_with_other_weights(tmp_path: Path) -> None:
    first = trainer(tmp_path / 'first.safetensors')
    steps(first, 2)
    second = trainer(tmp_path / 'second.safetensors')
    second.begin_with(first.averaged_model())
    for name, value in second.averaged_model().state_dict().items():
        torch.testing.assert_close(value, first.average[name])
    assert second.progress.step == 0


def test_muon_trains_the_aggregators_matrices_and_adam_all_else(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors')
    names = dict(run._names)
    groups = [
        [names[id(p)] for group in optimizer.param_groups for p in group['params']]
        for optimizer in run.optimizers
    ]
    assert sorted(groups[0] + groups[1]) == sorted(names.values())
    assert all('aggregator' in n and 'blocks.' in n and n.endswith('weight') for n in groups[0])
    assert 'model.aggregator.global_blocks.3.mlp.fc1.weight' in groups[0]
    assert all(not n.startswith('patch_heads') for n in groups[0])


def test_a_learning_rate_is_everyones(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors', replace(TINY, learning_rate=1e-4))
    rates = [group['initial_lr'] for o in run.optimizers for group in o.param_groups]
    assert rates == [2e-4, 1e-4, 1e-4]


def test_depth_is_decoded_for_so_many_frames_and_others_at_the_next_step(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors', replace(TINY, depth_share=0.4))
    first = run._depth_choice(8)
    assert len(first) == 3 and (first.diff() > 0).all() and first[0] >= 0 and first[-1] < 8
    assert torch.equal(first, run._depth_choice(8))
    assert len(run._depth_choice(2)) == 1
    assert len(run._depth_choice(1)) == 1
    chosen = set()
    for _ in range(4):
        chosen.add(tuple(run._depth_choice(8).tolist()))
        run.step_once()
    assert len(chosen) > 1


def test_every_loss_is_reported_and_finite(tmp_path: Path) -> None:
    terms = trainer(tmp_path / 'run.safetensors').step_once()[0]
    assert set(terms.parts) == {
        *('camera', 'baseline', 'depth', 'gradient', 'matching', 'flow', 'points', 'patch_pose'),
        'flow_patches',
    }
    assert all(torch.isfinite(value) for value in terms.parts.values())
    total = sum(float(v) for name, v in terms.parts.items() if name != 'flow_patches')
    assert float(terms.total.detach()) == pytest.approx(total, rel=1e-5)


def test_a_run_file_holds_the_groups_that_older_runs_have(tmp_path: Path) -> None:
    run = trainer(tmp_path / 'run.safetensors')
    steps(run, 1)
    run.save()
    groups, progress, _ = load_run(run.run_path)
    assert set(groups) == {'model', 'patch_heads', 'average', 'optimizer'}
    assert progress.step == 1


def test_a_run_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    run = trainer(tmp_path / 'run.safetensors')
    run.run_path = tmp_path / 'file' / 'run.safetensors'
    with pytest.raises(CheckpointError, match=r'run\.safetensors: cannot be written'):
        run.save()
