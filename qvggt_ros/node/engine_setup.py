# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From a bundle's folder to a reconstructor whose engine is loaded, proven and warm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvggt_ros.engine import Engine, open_bundle
from qvggt_ros.errors import UsageError
from qvggt_ros.node.parameters import NodeSettings
from qvggt_ros.reconstruction.reconstructor import Reconstructor


@dataclass(frozen=True)
class EngineIdentity:
    """What computes, in words."""

    bundle: str
    engine: str
    precision: str
    method: str
    window: str
    image: str
    key: str

    @staticmethod
    def of(engine_name: str, engine: Engine, window_frames: int, stride: int) -> EngineIdentity:
        """Gather it from an engine, its bundle's manifest and how it is used."""
        manifest = engine.manifest
        size = f'{manifest.image_width}x{manifest.image_height}'
        # Built engines have a key, which says for which machine, version and type.
        key = getattr(engine, 'key', None)
        runs = f'{engine_name}/{manifest.precision}/s{window_frames}/{size}'
        return EngineIdentity(
            bundle=manifest.name,
            engine=engine_name,
            precision=manifest.precision,
            method=manifest.method,
            window=f'{window_frames} frames, stride {stride}',
            image=size,
            key=f'{runs if key is None else key.name}/{manifest.checkpoint_sha256[:12]}',
        )


def load_engine(
    settings: NodeSettings, log: Callable[[str], object]
) -> tuple[Reconstructor, EngineIdentity]:
    """Load the engine. Call it in the thread that will use the reconstructor.

    Raises:
        UsageError: no bundle is given, or window and stride do not fit the bundle.
        BundleError, EngineError: the bundle cannot be used here; the message says why.

    """
    if not settings.bundle:
        raise UsageError('parameter bundle is empty: give the folder of a bundle')
    folder = Path(settings.bundle).expanduser()
    log(f'loading {folder} with {settings.engine} ...')
    started_s = time.monotonic()
    engine = open_bundle(folder, settings.engine, settings.threads, settings.self_check)
    reconstructor = Reconstructor(engine, settings.reconstruction_config())
    window_ms = warm_up(engine, reconstructor.window_frames)
    log(
        f'engine loaded in {time.monotonic() - started_s:.1f} s; '
        f'a first window of {reconstructor.window_frames} takes {window_ms:.0f} ms'
    )
    identity = EngineIdentity.of(
        settings.engine, engine, reconstructor.window_frames, reconstructor.stride
    )
    return reconstructor, identity


def warm_up(engine: Engine, window_frames: int) -> float:
    """Run one grey window, so that the first real one is not the slow one; return its ms."""
    manifest = engine.manifest
    image = np.full((1, 3, manifest.image_height, manifest.image_width), 0.5, np.float32)
    started_s = time.perf_counter()
    tokens = [engine.encode(image)[0] for _ in range(window_frames)]
    engine.depth(engine.window(tokens), range(window_frames))
    return (time.perf_counter() - started_s) * 1e3
