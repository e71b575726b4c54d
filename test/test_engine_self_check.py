# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine that computes other numbers is refused, with the graph, the output and the figure."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_forgery import resign
from numpy.typing import NDArray
from onnx import numpy_helper
from small_networks import small_bundle

from qvggt_ros.engine import Engine, WindowOutput, open_bundle, read_manifest
from qvggt_ros.engine.manifest import GOLDEN_FIGURES
from qvggt_ros.engine.self_check import ORIGINS, golden_errors, read_golden, self_check
from qvggt_ros.errors import EngineError

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'
LABEL = 'Engine 1.2.3'
Array = NDArray[Any]
Change = Callable[[Array], Array]


def same(array: Array) -> Array:
    return array


class Faulty:
    """A sound engine with one fault: in what it is given, or in what it returns."""

    def __init__(
        self,
        images: Change = same,
        order: Sequence[int] | None = None,
        pose_enc: Change = same,
        depth: Change = same,
        depth_conf: Change = same,
    ) -> None:
        self.sound, self.images, self.order = demo_engine(), images, order
        self.changes = {'pose_enc': pose_enc, 'depth': depth, 'depth_conf': depth_conf}
        self.manifest = self.sound.manifest

    def encode(self, images: Array) -> list[Any]:
        changed = np.ascontiguousarray(self.images(images), np.float32)
        tokens = self.sound.encode(changed)
        return tokens if self.order is None else [tokens[frame] for frame in self.order]

    def window(self, tokens: Sequence[Any]) -> WindowOutput:
        window = self.sound.window(tokens)
        return WindowOutput(self.changes['pose_enc'](window.pose_enc.copy()), window.taps)

    def depth(self, window: WindowOutput, frames: Sequence[int]) -> tuple[Array, Array]:
        depth, conf = self.sound.depth(window, frames)
        return self.changes['depth'](depth), self.changes['depth_conf'](conf)


@lru_cache(maxsize=1)
def demo_engine() -> Engine:
    return open_bundle(DEMO, threads=1, self_check=False)


MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def columns(*numbers: int) -> Change:
    return lambda pose_enc: pose_enc[:, numbers]


def scaled(first: int, last: int, factor: float) -> Change:
    def change(pose_enc: Array) -> Array:
        pose_enc[:, first:last] *= factor
        return pose_enc

    return change


def with_number(value: float) -> Change:
    def change(array: Array) -> Array:
        array.flat[5] = value
        return array

    return change


ANY, POSE, DEPTH, CONF = (
    ('pose_enc', 'depth', 'depth_conf'),
    ('pose_enc',),
    ('depth',),
    ('depth_conf',),
)
# What is wrong, the outputs that may be named for it, and the engine that has it.
FAULTS: dict[str, tuple[tuple[str, ...], Callable[[], Faulty]]] = {
    'normalised twice': (ANY, lambda: Faulty(lambda x: (x - MEAN) / DEVIATION)),
    'BGR for RGB': (ANY, lambda: Faulty(lambda x: x[:, ::-1])),
    'pixels from 0 to 255': (ANY, lambda: Faulty(lambda x: x * 255)),
    'mirrored': (ANY, lambda: Faulty(lambda x: x[..., ::-1])),
    'frames swapped': (ANY, lambda: Faulty(order=[0, 2, 1, 3])),
    'another frame first': (ANY, lambda: Faulty(order=[1, 0, 2, 3])),
    'one frame for all': (ANY, lambda: Faulty(order=[0, 0, 0, 0])),
    'quaternion w first': (POSE, lambda: Faulty(pose_enc=columns(0, 1, 2, 6, 3, 4, 5, 7, 8))),
    'rotation inverted': (POSE, lambda: Faulty(pose_enc=scaled(3, 6, -1))),
    'translation inverted': (POSE, lambda: Faulty(pose_enc=scaled(0, 3, -1))),
    'fields of view swapped': (POSE, lambda: Faulty(pose_enc=columns(0, 1, 2, 3, 4, 5, 6, 8, 7))),
    'half the scale': (POSE, lambda: Faulty(pose_enc=scaled(0, 3, 0.5), depth=lambda d: d / 2)),
    'half the depth': (DEPTH, lambda: Faulty(depth=lambda d: d / 2)),
    'depth exp for expm1': (DEPTH, lambda: Faulty(depth=lambda d: d + 1)),
    'depth expm1 for exp': (DEPTH, lambda: Faulty(depth=lambda d: d - 1)),
    'depth not exponentiated': (DEPTH, lambda: Faulty(depth=np.log1p)),
    'depth exponentiated twice': (DEPTH, lambda: Faulty(depth=np.expm1)),
    'depths of two frames swapped': (DEPTH, lambda: Faulty(depth=lambda d: d[[0, 2, 1, 3]])),
    'depth a pixel aside': (DEPTH, lambda: Faulty(depth=lambda d: np.roll(d, 1, -1))),
    'depth 3 % too large': (DEPTH, lambda: Faulty(depth=lambda d: 1.03 * d)),
    'confidence without its 1': (CONF, lambda: Faulty(depth_conf=lambda c: c - 1)),
    'confidence always 1': (CONF, lambda: Faulty(depth_conf=np.ones_like)),
}  # fmt: skip


def refusal(engine: Any, *outputs: str) -> str:
    """Return the line that refuses an engine, which names engine, graph and output."""
    with pytest.raises(EngineError) as caught:
        self_check(engine, DEMO, LABEL)
    message = str(caught.value)
    assert message.isprintable()
    begin = f'{DEMO}: self-check of {LABEL}: '
    assert message.startswith(tuple(f'{begin}{ORIGINS[name]}: {name} ' for name in outputs))
    return message


def worst(engine: Engine, folder: Path) -> float:
    """Return by how much the worst figure exceeds its tolerance."""
    manifest = read_manifest(folder, verify_files=False)
    errors = golden_errors(engine, read_golden(folder, manifest))
    assert set(errors) == set(GOLDEN_FIGURES)
    return max(errors[figure] / manifest.golden.tolerances[figure] for figure in errors)


def test_the_sound_engine_is_far_from_every_limit() -> None:
    assert worst(demo_engine(), DEMO) < 0.9
    errors = self_check(Faulty(), DEMO, LABEL)
    assert all(errors[figure] > 0 for figure in GOLDEN_FIGURES)


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_refused_with_graph_output_and_figure(fault: str) -> None:
    outputs, make = FAULTS[fault]
    message = refusal(make(), *outputs)
    found = re.search(r'differs from the reference by (\S+) of .* allowed is (\S+);', message)
    assert found and float(found[1]) > 1.1 * float(found[2])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('output', ['pose_enc', 'depth', 'depth_conf'])
def test_one_number_that_is_none_is_refused(output: str, value: float) -> None:
    changes: dict[str, Any] = {output: with_number(value)}
    assert f'{output} of golden window 0 is not finite' in refusal(Faulty(**changes), output)


@pytest.mark.parametrize('output', ['pose_enc', 'depth', 'depth_conf'])
def test_one_number_that_is_huge_is_refused(output: str) -> None:
    changes: dict[str, Any] = {output: with_number(3e38)}
    refusal(Faulty(**changes), output)


@pytest.mark.parametrize('output', ['pose_enc', 'depth', 'depth_conf'])
def test_an_output_of_another_shape_is_refused(output: str) -> None:
    changes: dict[str, Any] = {output: lambda array: array[..., :1]}
    assert 'must be [4, ' in refusal(Faulty(**changes), output)


def changed_weights(bundle: Path, tmp_path: Path, graph: str, layer: str, change: Change) -> Path:
    """Return a copy of a bundle with another weight in one layer, its digests put right."""
    folder = Path(shutil.copytree(bundle, tmp_path / 'changed'))
    path = folder / f'{graph}.onnx'
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == layer)
    changed = change(numpy_helper.to_array(tensor).copy()).astype(
        numpy_helper.to_array(tensor).dtype
    )
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), layer))
    onnx.save(model, path)
    resign(folder, path.name)
    return folder


def negative(array: Array) -> Array:
    return np.clip(-array.astype(np.int16), -128, 127)


def backwards(array: Array) -> Array:
    return array[..., ::-1]


def larger(array: Array) -> Array:
    return 1.1 * array


# Of one layer each: signs, order, steps that belong to other channels, steps that are too large.
WEIGHTS: list[tuple[str, str, Change]] = [
    ('encoder', 'encoder.patch_embed.proj.weight_int8', negative),
    ('encoder', 'encoder.blocks.1.attn.qkv.weight_int8', backwards),
    ('window', 'aggregator.frame_blocks.0.attn.proj.weight_int8', backwards),
    ('window', 'aggregator.global_blocks.2.mlp.fc2.weight_int8', backwards),
    ('window', 'aggregator.global_blocks.4.attn.qkv.weight_int8', negative),
    ('window', 'camera_head.trunk.0.attn.qkv.weight_int8', backwards),
    ('depth', 'depth_head.projects.1.weight_int8', negative),
    ('depth', 'depth_head.scratch.refinenet2.out_conv.weight_step', backwards),
    ('depth', 'depth_head.scratch.refinenet1.out_conv.weight_step', larger),
    ('depth', 'depth_head.scratch.output_conv2.0.weight_step', larger),
]


@pytest.mark.parametrize(
    ('graph', 'layer', 'change'), WEIGHTS, ids=[layer for _, layer, _ in WEIGHTS]
)
def test_other_weights_in_one_layer_are_refused(
    tmp_path: Path, graph: str, layer: str, change: Change
) -> None:
    folder = changed_weights(DEMO, tmp_path, graph, layer, change)
    with pytest.raises(EngineError, match=r'graph.*: \w+ differs from the reference') as caught:
        open_bundle(folder, threads=1)
    message = str(caught.value)
    assert message.isprintable() and 'self-check of ONNX Runtime' in message
    assert graph != 'depth' or ORIGINS['depth'] in message


def float_weights(graph: str) -> list[str]:
    """Return names of the larger matrices and kernels of the float bundle."""
    model = onnx.load(small_bundle() / f'{graph}.onnx')
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) > 1
        and np.prod(tensor.dims) > 1000
        and 'lifted' not in tensor.name
    ]


def noisy(array: Array) -> Array:
    return array * (1 + 0.03 * np.random.default_rng(0).standard_normal(array.shape))


def with_one_negated(array: Array) -> Array:
    array.flat[np.abs(array).argmax()] *= -1
    return array


@pytest.mark.parametrize('change', [noisy, with_one_negated])
@pytest.mark.parametrize('graph', ['encoder', 'window', 'depth'])
def test_a_float_engine_shows_weights_that_are_off_by_three_per_cent_and_a_single_wrong_one(
    tmp_path: Path, graph: str, change: Change
) -> None:
    names = float_weights(graph)
    for number, name in enumerate(names[:: len(names) // 3]):
        folder = changed_weights(small_bundle(), tmp_path / str(number), graph, name, change)
        with pytest.raises(EngineError, match='differs from the reference'):
            open_bundle(folder, threads=1)
