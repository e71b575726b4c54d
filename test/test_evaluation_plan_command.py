# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt plan`: predictions that are labelled, monotone, and true where something was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, small_bundle

from qvggt_ros.cli import main
from qvggt_ros.engine import read_manifest
from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from qvggt_ros.evaluation import plan_source
from qvggt_ros.evaluation.cpu_rates import measure_cpu
from qvggt_ros.evaluation.devices import DEVICE_NAMES, DEVICES, RTX_3080
from qvggt_ros.evaluation.graph_costs import Graph
from qvggt_ros.evaluation.network_costs import network_work
from qvggt_ros.evaluation.prediction import largest_window, memory_needed, predict
from qvggt_ros.evaluation.work import Work, recast
from qvggt_ros.vggt import VGGTConfig

LARGE = VGGTConfig.vggt_1b(point_head=False, track_head=False)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(['plan', *words, '--json']) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def test_a_bundle_on_a_jetson(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['plan', str(small_bundle()), '--device', 'orin-nx-16gb', '--json']) == 0
    shown, _, last = capsys.readouterr().out.rstrip().rpartition('\n')
    report = json.loads(last)
    assert report['prediction'] is True and 'nobody here has run this' in report['note']
    assert 'PREDICTION' in shown and 'nobody here has run this' in ' '.join(shown.split())
    assert report['frames'] == SMALL_FRAMES
    assert (report['height'], report['width']) == SMALL_SIZE
    stages = report['stages']
    assert set(stages) == {'encoder', 'window', 'depth', 'total'}
    parts = [stages[name]['ms'] for name in ('encoder', 'window', 'depth')]
    assert stages['total']['ms'] == pytest.approx(sum(parts), abs=2e-3)
    memory = report['memory']
    needed = memory['weights_mb'] + memory['activations_mb'] + memory['engine_mb']
    assert memory['needed_mb'] == pytest.approx(needed, abs=2e-3)
    assert memory['fits'] and 0 < report['device']['compute_efficiency'] < 1


@pytest.mark.parametrize('device', [name for name in DEVICE_NAMES if name != 'cpu'])
def test_more_frames_take_longer_and_need_more(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--model', 'vggt-1b', '--device', device, '--frames']
    reports = [planned(capsys, *words, frames) for frames in ('2', '4', '8')]
    times = [report['stages']['total']['ms'] for report in reports]
    needs = [report['memory']['needed_mb'] for report in reports]
    assert times[0] < times[1] < times[2] and needs[0] < needs[1] < needs[2]
    # Attention among all frames grows with their square, everything else with their number.
    assert times[2] > 2 * times[1]
    assert len({report['memory']['weights_mb'] for report in reports}) == 1


def test_what_if_it_had_another_precision(capsys: pytest.CaptureFixture[str]) -> None:
    words = ['--model', 'vggt-1b', '--device', 'orin-agx-64gb', '--precision']
    reports = {name: planned(capsys, *words, name) for name in ('fp32', 'fp16', 'w8a8', 'w4a16')}
    weights = [report['memory']['weights_mb'] for report in reports.values()]
    assert weights == sorted(weights, reverse=True)
    # 4,632 MB of float32 parameters, 1,169 in w8a8 and 675 in w4a16, and the position tables.
    assert 4632 < weights[0] < 1.05 * 4632 and 1169 < weights[2] < 1.06 * 1169
    assert 675 < weights[3] < 1.12 * 675
    times = {name: report['stages']['total']['ms'] for name, report in reports.items()}
    assert times['w8a8'] < times['fp16'] < times['fp32']
    # Weights of 4 bits are multiplied in float16: they save memory, not operations.
    assert times['w4a16'] == pytest.approx(times['fp16'], rel=0.05)


def fits(count: Mapping[str, Work], memory: float) -> bool:
    device = replace(DEVICES['orin-nx-16gb'], memory=memory)
    needed = memory_needed(predict(count, device, 'w8a8'), device)
    return needed + device.reserve <= memory


@pytest.mark.parametrize('gigabytes', [4.9, 8.6, 17.0])
def test_the_largest_window_fits_and_one_frame_more_does_not(gigabytes: float) -> None:
    def count(frames: int) -> dict[str, Work]:
        works = network_work(LARGE, (392, 518), frames)
        return {name: recast(work, 'w8a8') for name, work in works.items()}

    memory = gigabytes * 1e9
    device = replace(DEVICES['orin-nx-16gb'], memory=memory)
    largest = largest_window(count, device, 'w8a8')
    assert largest > 1
    assert fits(count(largest), memory) and not fits(count(largest + 1), memory)
    assert largest_window(count, replace(device, memory=4e9), 'w8a8') == 0


def test_operations_are_those_of_the_published_sizes() -> None:
    for size, frames, tera in (
        ((518, 518), 1, 3.35),
        ((392, 518), 4, 11.0),
        ((392, 518), 8, 25.4),
    ):
        works = network_work(LARGE, size, frames).values()
        operations = sum(sum(work.operations().values()) for work in works)
        assert operations == pytest.approx(tera * 1e12, rel=0.01)


def test_the_published_run_that_the_efficiency_comes_from_is_reproduced() -> None:
    # The efficiency was fitted to this run: it says that both still belong together, no more.
    stages = predict(network_work(LARGE, (518, 518), 1), RTX_3080, 'fp16')
    assert sum(stage.total for stage in stages.values()) == pytest.approx(0.052, rel=0.03)


def test_rates_are_dense_and_of_the_gpu_alone() -> None:
    # Half of the data sheets' sparse int8 TOPS of the GPU: 40, 60 and 170.
    tops = {name: device.rates['int8'] / 1e12 for name, device in DEVICES.items()}
    assert tops['orin-nano-8gb'] == pytest.approx(20, rel=0.03)
    assert tops['orin-nx-16gb'] == pytest.approx(30, rel=0.03)
    assert tops['orin-agx-64gb'] == pytest.approx(85, rel=0.03)
    for device in DEVICES.values():
        assert device.rates['fp16'] == pytest.approx(device.rates['int8'] / 2)


def test_another_image_size_of_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(small_bundle()), '--device', 'rtx-4090']
    own, same, large = (
        planned(capsys, *words, *more) for more in ([], ['--size', '35x28'], ['--size', '70x56'])
    )
    assert same == own and 'another image size' in large['counted']
    patches, more_patches = (
        SMALL.grid(height, width)[0] * SMALL.grid(height, width)[1]
        for height, width in (SMALL_SIZE, (56, 70))
    )
    assert more_patches == 4 * patches
    depth = [report['stages']['depth']['giga_operations'] for report in (own, large)]
    assert depth[1] == pytest.approx(4 * depth[0], rel=0.02)
    window = [report['stages']['window']['giga_operations'] for report in (own, large)]
    assert window[1] > 4 * window[0]  # attention grows with the square


@pytest.mark.parametrize(
    ('words', 'rule'),
    [
        (['--device', 'rtx-4090'], 'give either a bundle or --model'),
        (['BUNDLE', '--model', 'demo', '--device', 'rtx-4090'], 'give either a bundle'),
        (['BUNDLE', '--device', 'rtx-4090', '--frames', '0'], '--frames 0: must be 1 to'),
        (['BUNDLE', '--device', 'rtx-4090', '--size', '40'], "--size '40': must be WIDTHxHEIGHT"),
        (['BUNDLE', '--device', 'rtx-4090', '--size', '40x40'], 'multiples of the patch size 7'),
        (['BUNDLE', '--device', 'cpu', '--precision', 'fp16'], 'no float16 products'),
        (['nowhere', '--device', 'rtx-4090'], 'nowhere'),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    words: list[str], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(small_bundle()) if word == 'BUNDLE' else word for word in words]
    assert main(['plan', *given]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('qvggt plan: ') and rule in lines[0]


def test_graphs_that_do_not_match_their_sizes_have_one_image_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deeper = replace(SMALL, encoder_depth=3)
    monkeypatch.setattr(
        plan_source, 'network_work', lambda _, *given: network_work(deeper, *given)
    )
    words = ['plan', str(small_bundle()), '--device', 'rtx-4090']
    assert main([*words, '--size', '70x56']) == 2
    assert 'another image size cannot be predicted' in capsys.readouterr().err
    assert main(words) == 0


def test_this_machine_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = planned(capsys, str(small_bundle()), '--device', 'cpu')
    assert report['prediction'] is True and 'qvggt bench' in report['note']
    assert report['stages']['total']['ms'] > 0
    assert report['device']['peak_tera_operations']['fp32'] > 1e-4


@pytest.mark.slow
def test_the_committed_bundle_takes_about_what_is_predicted_here(project_dir: Path) -> None:
    folder, frames = project_dir / 'engines' / 'demo', 4
    manifest = read_manifest(folder)
    height, width = manifest.image_height, manifest.image_width
    config = VGGTConfig.from_dict(manifest.model_config)
    tokens = np.prod(config.grid(height, width)) + config.special_tokens
    device = measure_cpu(frames * int(tokens), config.width)
    works = {
        name: Graph(folder / f'{name}.onnx').work(frames)
        for name in ('encoder', 'window', 'depth')
    }
    predicted = sum(stage.total for stage in predict(works, device, manifest.precision).values())
    engine = OnnxRuntimeEngine(folder, manifest)
    images = np.random.default_rng(0).random((frames, 3, height, width), np.float32)
    measured = min(_window_seconds(engine, images) for _ in range(10))
    # Other programs share the cores with either of the two.
    assert measured / 4 < predicted < 4 * measured


def _window_seconds(engine: OnnxRuntimeEngine, images: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    window = engine.window(engine.encode(images))
    engine.depth(window, range(len(images)))
    return time.perf_counter() - began
