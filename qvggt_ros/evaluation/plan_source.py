# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `qvggt plan` predicts: a bundle's graphs, or a network known by its sizes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qvggt_ros.engine import read_manifest
from qvggt_ros.engine.manifest import GRAPHS, Manifest
from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.graph_costs import Graph
from qvggt_ros.evaluation.network_costs import network_work
from qvggt_ros.evaluation.prediction import MOST_FRAMES, Counter
from qvggt_ros.evaluation.work import PRECISIONS, Work, recast
from qvggt_ros.export.build_command import presets
from qvggt_ros.image_size import parse_image_size
from qvggt_ros.vggt.config import VGGTConfig

MODEL_FRAMES, MODEL_PRECISION = 4, 'w8a8'
# Between a bundle's graphs and the sizes in its manifest: the turns of rotated tokens, which a
# quantised bundle adds, are 3 % of the small demo's encoder and 0.1 % of VGGT-1B.
ALLOWED_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Source:
    """What is predicted.

    Attributes:
        name: for people.
        counted: where the numbers come from, in words.
        config: the network's sizes.
        precision: of its products.
        frames: per window.
        size: image height and width in pixels.
        count: frames -> the work of each stage.

    """

    name: str
    counted: str
    config: VGGTConfig
    precision: str
    frames: int
    size: tuple[int, int]
    count: Counter

    @property
    def tokens(self) -> int:
        """Tokens of one frame in the window graph."""
        rows, columns = self.config.grid(*self.size)
        return rows * columns + self.config.special_tokens


def open_source(args: argparse.Namespace) -> Source:
    """Return what the arguments name.

    Raises:
        UsageError: the arguments contradict each other, or cannot be predicted.
        BundleError: the bundle is not whole.

    """
    if (args.bundle is None) == (args.model is None):
        raise UsageError('give either a bundle or --model, not both')
    if args.frames is not None and not 1 <= args.frames <= MOST_FRAMES:
        raise UsageError(f'--frames {args.frames}: must be 1 to {MOST_FRAMES}')
    size = None if args.size is None else parse_image_size(args.size)[::-1]
    if args.bundle is None:
        return _model(args.model, args.precision, args.frames, size)
    return _bundle(args.bundle, args.precision, args.frames, size)


def _model(
    name: str, precision: str | None, frames: int | None, size: tuple[int, int] | None
) -> Source:
    """Return a network that need not have been exported."""
    preset = presets()[name]
    size, precision = size or preset.size, precision or MODEL_PRECISION
    config = preset.config
    count = _by_sizes(config, size, precision, 'fused')
    counted = "counted from the network's sizes"
    return Source(name, counted, config, precision, frames or MODEL_FRAMES, size, count)


def _bundle(
    path: Path, precision: str | None, frames: int | None, size: tuple[int, int] | None
) -> Source:
    manifest = read_manifest(path)
    own_size = manifest.image_height, manifest.image_width
    config = VGGTConfig.from_dict(manifest.model_config)
    graphs = {name: Graph(path / manifest.graphs[name].file) for name in GRAPHS}
    wanted = precision or manifest.precision

    def by_graphs(count: int) -> Mapping[str, Work]:
        works = {name: graph.work(count) for name, graph in graphs.items()}
        same = wanted == manifest.precision
        return works if same else {name: recast(work, wanted) for name, work in works.items()}

    count: Counter = by_graphs
    counted = "counted in the bundle's graphs"
    if size is not None and size != own_size:
        _check_formula(path, manifest, config, by_graphs(manifest.window_frames))
        count = _by_sizes(config, size, wanted, manifest.attention)
        counted = "counted from the network's sizes, since the graphs are for another image size"
    frames = frames or manifest.window_frames
    return Source(manifest.name, counted, config, wanted, frames, size or own_size, count)


def _by_sizes(
    config: VGGTConfig, size: tuple[int, int], precision: str, attention: str
) -> Counter:
    config.grid(*size)
    if precision not in PRECISIONS:
        raise UsageError(f'precision {precision}: must be one of {", ".join(PRECISIONS)}')

    def count(frames: int) -> Mapping[str, Work]:
        works = network_work(config, size, frames, attention)
        return {name: recast(work, precision) for name, work in works.items()}

    return count


def _check_formula(
    path: Path, manifest: Manifest, config: VGGTConfig, counted: Mapping[str, Work]
) -> None:
    """Refuse another image size for graphs that do more, or less, than their sizes say."""
    size = manifest.image_height, manifest.image_width
    expected = network_work(config, size, manifest.window_frames, manifest.attention)
    for name, work in counted.items():
        found, known = (sum(each.operations().values()) for each in (work, expected[name]))
        if abs(found - known) > ALLOWED_DIFFERENCE * known:
            raise UsageError(
                f'{path}: --size: the {name} graph does {found:.3g} operations where a network '
                f'of its sizes does {known:.3g}, so another image size cannot be predicted'
            )
