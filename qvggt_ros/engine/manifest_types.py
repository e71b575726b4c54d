# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's manifest holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 3
GRAPHS = ('encoder', 'window', 'depth')
TAPS = 4
GOLDEN_OUTPUTS = ('pose_enc', 'depth', 'depth_conf')
MEAN_SUFFIX = '_mean'
# Of each output: max |difference| / max |reference|, which one bad number fails, and
# mean |difference| / mean |reference|, which a small error everywhere fails.
GOLDEN_FIGURES = tuple(
    f'{output}{suffix}' for output in GOLDEN_OUTPUTS for suffix in ('', MEAN_SUFFIX)
)
_TAP_NAMES = tuple(f'tap_{k}' for k in range(TAPS))
# The names of each graph's inputs and outputs, in order.
GRAPH_TENSORS = {
    'encoder': (('images',), ('tokens',)),
    'window': (('tokens',), ('pose_enc', *_TAP_NAMES)),
    'depth': (_TAP_NAMES, ('depth', 'depth_conf')),
}


@dataclass(frozen=True)
class TensorInfo:
    """A graph's input or output.

    Attributes:
        name: its name in the graph.
        dtype: numpy's name of its type.
        shape: sizes; a string is a dimension that varies from call to call.
        unit: what its numbers mean.

    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    unit: str


@dataclass(frozen=True)
class GraphInfo:
    """One ONNX graph; `data_file` holds its weights where one file would be over 2 GB."""

    file: str
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    data_file: str | None
    data_sha256: str | None


@dataclass(frozen=True)
class GoldenInfo:
    """Windows with the float model's outputs on them.

    Attributes:
        file, sha256: an .npz with `images` uint8 [n, S, H, W, 3] RGB and float32 `pose_enc`
            [n, S, 9], `depth` and `depth_conf` [n, S, H, W].
        tolerances: the largest that each of `GOLDEN_FIGURES` may be.
        errors: the same figures as measured when the bundle was built.

    """

    file: str
    sha256: str
    tolerances: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class LayerInfo:
    """How one layer was quantised; layers that are not listed are float.

    Attributes:
        name: in the network.
        weight_bits: 8 or 4.
        weight_block: inputs that share a step; None: one step per output channel.
        activation: `static` (one fixed step per tensor) or `none` (float).
        activation_bits: of the input; 16 where it is float, or `static` in two integers of 8.
        online: what is done to the input as it comes, beside quantising it: `none` or `scale`.
        relative_error: mean square error of its output over the output's mean square, by itself.

    """

    name: str
    weight_bits: int
    weight_block: int | None
    activation: str
    activation_bits: int
    online: str
    relative_error: float


@dataclass(frozen=True)
class CalibrationInfo:
    """What a quantised bundle was calibrated on.

    Attributes:
        source: as given to `qvggt build --calibration`.
        windows: how many were drawn.
        seed: of the draw.
        sha256: of the windows' pixels.
        added_macs_share: multiplications that the method leaves to be done online, as a share of
            those of the transformer blocks.

    """

    source: str
    windows: int
    seed: int
    sha256: str
    added_macs_share: float


@dataclass(frozen=True)
class Manifest:
    """Everything a user of the bundle needs to know about it.

    Attributes:
        schema_version: of this layout.
        name: the bundle's name.
        model: the network's name (`demo`, `vggt-1b`).
        model_config: the network's sizes, `VGGTConfig.to_dict()`.
        checkpoint: where the weights came from, as text for people.
        checkpoint_sha256: digest of the checkpoint file, or of the weights if there was none.
        precision, method: numbers of the linear layers, and how they were quantised.
        attention: how the graphs spell attention (`fused`: ONNX Runtime's own operator).
        window_frames: the S that the bundle is meant and checked for; other sizes run too.
        image_width, image_height: pixels.
        patch_size: pixels.
        graphs: by name, exactly `encoder`, `window`, `depth`.
        golden: what the self-check compares with.
        layers: every quantised layer, in running order; empty for a float bundle.
        calibration: None for a float bundle.
        tool_versions: by package.

    """

    schema_version: int
    name: str
    model: str
    model_config: dict[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    precision: str
    method: str
    attention: str
    window_frames: int
    image_width: int
    image_height: int
    patch_size: int
    graphs: dict[str, GraphInfo]
    golden: GoldenInfo
    layers: tuple[LayerInfo, ...]
    calibration: CalibrationInfo | None
    tool_versions: dict[str, str]

    @property
    def graph_files(self) -> list[str]:
        """Names of the files that hold the graphs and their weights."""
        files = [(graph.file, graph.data_file) for graph in self.graphs.values()]
        return [file for pair in files for file in pair if file is not None]

    @property
    def patches(self) -> int:
        """Patch tokens per frame."""
        return (self.image_height // self.patch_size) * (self.image_width // self.patch_size)
