# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo, end to end: recordings through the real node over DDS, and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ros_harness  # noqa: F401 (gives this process a DDS domain of its own)
from camera_bags import write_bag
from small_networks import small_bundle

from qvggt_ros import cli
from qvggt_ros.evaluation.demo_command import bundle_is_current
from qvggt_ros.evaluation.playback import PlaybackConfig, play
from qvggt_ros.evaluation.recording import open_recording
from qvggt_ros.node.bag_reader import BagReader

WINDOW, STRIDE = 3, 1


def image_stamps(bag_path: Path) -> list[int]:
    recording = open_recording(bag_path)
    with BagReader(bag_path) as bag:
        return [message.stamp_ns for message in bag.messages([recording.image_topic])]


def test_a_rendered_recording_with_truth(tmp_path: Path) -> None:
    bag, out = tmp_path / 'bag', tmp_path / 'out'
    words = ['synth', 'bag', '--out', str(bag), '--frames', '12', '--size', '64x48', '--depth']
    assert cli.main([*words, '--samples', '1']) == 0
    assert (
        cli.main(['demo', '--bag', str(bag), '--bundle', str(small_bundle()), '--out', str(out)])
        == 0
    )
    figures = json.loads((out / 'latency.json').read_text())
    assert figures['frames'] == figures['poses'] == 12
    assert figures['windows'] == 1 + (12 - WINDOW) // STRIDE
    assert figures['trajectory']['poses'] == 12
    assert float(figures['diagnostics']['window_p50_ms']) > 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        'demo.png',
        'latency.json',
        'map.ply',
        'trajectory.tum',
        'true_trajectory.tum',
    }
    assert len((out / 'trajectory.tum').read_text().splitlines()) == 12
    recording = open_recording(bag)
    cloud = recording.true_cloud()
    assert cloud is not None and len(cloud.xyz) > 100
    assert [frame.shape for frame in recording.sample_frames(2)] == [(48, 64, 3)] * 2


def test_a_bundle_of_another_checkpoint_is_built_anew(tmp_path: Path) -> None:
    checkpoint = tmp_path / 'model.safetensors'
    assert not bundle_is_current(tmp_path, checkpoint)
    assert bundle_is_current(small_bundle(), checkpoint)  # no checkpoint: any bundle will do
    checkpoint.write_bytes(b'other weights')
    assert not bundle_is_current(small_bundle(), checkpoint)


@pytest.mark.parametrize('encoding', ['rgb8', 'png'])
def test_a_recording_without_truth_raw_or_compressed(tmp_path: Path, encoding: str) -> None:
    bag, out = write_bag(tmp_path / 'bag', 7, encoding=encoding), tmp_path / 'out'
    assert (
        cli.main(['demo', '--bag', str(bag), '--bundle', str(small_bundle()), '--out', str(out)])
        == 0
    )
    figures = json.loads((out / 'latency.json').read_text())
    assert figures['poses'] == 7 and 'trajectory' not in figures
    assert (out / 'demo.png').exists()


@pytest.mark.slow
def test_real_frames_keep_their_stamps_and_none_is_dropped(
    tmp_path: Path, shared_dir: Path
) -> None:
    bag = tmp_path / 'bag'
    images = shared_dir / 'data' / 'redkitchen'
    assert cli.main(['convert', '--images', str(images), '--out', str(bag)]) == 0
    config = PlaybackConfig(bag=bag, bundle=small_bundle(), map_path=tmp_path / 'map.ply')
    heard = play(config, lambda _: None)
    assert heard.stamps_ns == image_stamps(bag)
    assert len(heard.stamps_ns) == 200
    assert heard.windows == 1 + (200 - WINDOW) // STRIDE
    assert heard.diagnostics['frames_dropped'] == '0'
    assert np.isfinite(np.stack(heard.map_from_camera)).all()


def truncated_bag(tmp_path: Path) -> Path:
    bag = write_bag(tmp_path / 'cut', 5)
    (file,) = bag.glob('*.mcap')
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    return bag


FAULTS = ['missing', 'truncated', 'foreign', 'no images', 'bad bundle', 'bad folder']


@pytest.mark.parametrize('fault', FAULTS)
def test_bad_input_is_one_line_status_2_and_leaves_nothing(
    tmp_path: Path, shared_dir: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    bundle = small_bundle()
    bag = write_bag(tmp_path / 'good', 5)
    if fault == 'missing':
        bag = tmp_path / 'nowhere'
    elif fault == 'truncated':
        bag = truncated_bag(tmp_path)
    elif fault == 'foreign':
        bag = tmp_path / 'foreign.mcap'
        bag.write_bytes(b'this is no bag' * 100)
    elif fault == 'no images':
        bag = shared_dir / 'data' / 'nav2_turtlebot.mcap'
    elif fault == 'bad bundle':
        bundle = tmp_path
    out = Path('/proc/out') if fault == 'bad folder' else tmp_path / 'out'
    assert cli.main(['demo', '--bag', str(bag), '--bundle', str(bundle), '--out', str(out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    named = {'bad bundle': bundle, 'bad folder': out}.get(fault, bag)
    assert str(named) in said[0]
    assert not out.exists()
