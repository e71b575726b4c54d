# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The quantised half of `qvggt build`: from a float network to the network that is exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from qvggt_ros.engine.manifest import CalibrationInfo, LayerInfo
from qvggt_ros.errors import UsageError
from qvggt_ros.export.bundle import BundleSource, QuantisedSource
from qvggt_ros.export.engine_layers import with_engine_layers
from qvggt_ros.export.golden import Windows
from qvggt_ros.quantization.calibrate import (
    QuantiseConfig,
    Quantised,
    quantise,
)
from qvggt_ros.quantization.calibration_sources import WindowPool, open_pool
from qvggt_ros.quantization.fold import added_macs_share
from qvggt_ros.quantization.learn import LearnConfig
from qvggt_ros.quantization.nfds import CalibrationSet, NfdsConfig, select
from qvggt_ros.quantization.recipe import ONLINE, get_method, get_precision
from qvggt_ros.quantization.smoothing import fold_smoothing
from qvggt_ros.vggt import VGGT

GOLDEN_WINDOWS = 2
# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class QuantisedBuild:
    """What `qvggt build` was asked for.

    Attributes:
        precision, method: see `quantization.recipe`.
        source: of the calibration windows, see `calibration_sources.open_pool`.
        frames: per window.
        size: height and width in pixels.
        nfds: how windows are chosen.
        learned: whether the learned stage runs.
        work: folder for finished steps, so that an interrupted build goes on.

    """

    precision: str
    method: str
    source: str
    frames: int
    size: tuple[int, int]
    nfds: NfdsConfig = field(default_factory=NfdsConfig)
    learned: bool = True
    work: Path | None = None


def check_exportable(precision: str, method: str) -> None:
    """Refuse names that are not known, and what no engine runs yet."""
    get_method(method)
    if get_precision(precision).simulated:
        raise UsageError(
            f'--precision {precision}: is simulated only, no engine runs it; evaluate it with '
            'qvggt quantization-table'
        )


def calibration_windows(
    model: VGGT, build: QuantisedBuild, progress: Progress
) -> tuple[CalibrationSet, Windows]:
    """Return the windows to calibrate on, and golden windows that are none of them."""
    patch = model.config.patch_size
    nfds, size = build.nfds, build.size
    pool = open_pool(build.source, build.frames, size, nfds.candidates, nfds.seed, patch)
    chosen = select(
        model,
        pool,
        nfds,
        lambda done, total: progress('calibration windows', done, total),
        build.work,
    )
    return chosen, _golden(pool, chosen)


def _golden(pool: WindowPool, chosen: CalibrationSet) -> Windows:
    """Take windows that passed the filter and were not drawn; drawn ones where there are none."""
    drawn = chosen.indices.tolist()
    kept = drawn if chosen.report is None else chosen.report.kept
    left = sorted(set(kept) - set(drawn)) or drawn
    places = np.linspace(0, len(left) - 1, min(GOLDEN_WINDOWS, len(left))).astype(int)
    return np.stack([pool.window(left[place]) for place in places])


def quantised_network(
    model: VGGT,
    source: BundleSource,
    build: QuantisedBuild,
    chosen: CalibrationSet,
    progress: Progress,
) -> tuple[VGGT, QuantisedSource, Quantised]:
    """Quantise a network, which is used up: two of VGGT-1B would not fit beside each other.

    Returns:
        the network as engines run it, how it was quantised, and its simulation.

    """
    config = QuantiseConfig(
        seed=build.nfds.seed, learn=LearnConfig() if build.learned else None, consume=True
    )
    state = None
    if build.work is not None:
        state = build.work / _key(source, build, chosen, config)
    found = quantise(model, chosen.windows, build.precision, build.method, config, progress, state)
    fold_smoothing(found.model)
    rotated = get_method(build.method).rotate
    rows, columns = model.config.grid(*build.size)
    calibration = CalibrationInfo(
        source=build.source,
        windows=len(chosen.windows),
        seed=build.nfds.seed,
        sha256=chosen.digest,
        added_macs_share=added_macs_share(model, rows * columns) if rotated else 0.0,
    )
    quantised = QuantisedSource(
        precision=build.precision,
        method=build.method,
        layers=layer_infos(found),
        calibration=calibration,
    )
    return with_engine_layers(found.model), quantised, found


def layer_infos(found: Quantised) -> tuple[LayerInfo, ...]:
    """Return the manifest's line for each quantised layer."""
    return tuple(
        LayerInfo(
            name=name,
            weight_bits=report.plan.weight_bits,
            weight_block=report.plan.weight_block,
            activation=report.plan.activation,
            activation_bits=report.plan.activation_bits,
            online='scale' if report.plan.smoothing == ONLINE else 'none',
            relative_error=report.relative_error,
        )
        for name, report in found.layers.items()
    )


def _key(
    source: BundleSource, build: QuantisedBuild, chosen: CalibrationSet, config: QuantiseConfig
) -> str:
    """Return a name that is another one whenever a finished step would be another one."""
    content = {
        'weights': source.checkpoint_sha256,
        'windows': chosen.digest,
        'precision': build.precision,
        'method': asdict(get_method(build.method)),
        'config': asdict(config),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
