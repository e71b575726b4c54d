# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What Noise-Filtered Diverse Sampling measures of each window, and the file that keeps it."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt_ros.errors import CalibrationError, UsageError
from qvggt_ros.files import whole_file
from qvggt_ros.quantization.calibration_sources import WindowPool
from qvggt_ros.quantization.window_faults import UInt8Array, picture_fault, signature
from qvggt_ros.vggt.checkpoint import weights_digest
from qvggt_ros.vggt.model import VGGT

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Raise it when a statistic or a test of pixels changes: older caches are then left alone.
STATISTICS_VERSION = 1
SAVE_EVERY = 20
STORED = ('mean', 'variance', 'cosine', 'signature', 'fault')  # of WindowStatistics


@dataclass(frozen=True)
class NfdsConfig:
    """How windows are chosen; the first two and `clusters` are the paper's numbers.

    Attributes:
        candidates: windows of the pool that are looked at, evenly over it.
        samples: windows wanted.
        keep_share: of the windows that pass the tests of pixels, at least this share passes the
            noise score too, whatever the scores.
        clusters: K of k-means.
        seed: of clustering and drawing.
        layers: pairs of frame and global block (counted from 0) that are measured; the last third
            if None.
        score_limit: most a noise score may lie above the median one, in robust sigmas.
        least_agreement: least correlation of consecutive frames after the optical flow between
            them is undone, -1 .. 1; frames of different places reach 0.2. -1 accepts all, for
            recordings that are no video.

    """

    candidates: int = 400
    samples: int = 40
    keep_share: float = 0.7
    clusters: int = 8
    seed: int = 0
    layers: tuple[int, ...] | None = None
    score_limit: float = 6.0
    least_agreement: float = 0.25

    def __post_init__(self) -> None:
        if min(self.candidates, self.samples, self.clusters) < 1 or self.seed < 0:
            raise UsageError(
                f'calibration: {self.candidates} candidates, {self.samples} samples, '
                f'{self.clusters} clusters, seed {self.seed}: all must be positive, the seed >= 0'
            )
        if not 0.0 < self.keep_share <= 1.0 or not self.score_limit > 0.0:
            raise UsageError(
                f'calibration: keep_share {self.keep_share} must lie in 0 .. 1, score_limit '
                f'{self.score_limit} must be positive'
            )


@dataclass(frozen=True)
class WindowStatistics:
    """What is kept of a candidate; NaN in the first three where the pixels were refused.

    Attributes:
        mean, variance: [L] of each measured layer's output (eq. 9), frame block before global.
        cosine: [S - 1], of the patch tokens of frame 0 and frame t after the last layer (eq. 12).
        signature: uint8 [S, 12, 16], the frames in small and grey.
        fault: what is wrong with the pixels, '' if nothing.

    """

    mean: FloatArray
    variance: FloatArray
    cosine: FloatArray
    signature: UInt8Array
    fault: str


def pixel_digest(array: UInt8Array) -> str:
    """Return the SHA-256 of pixels and their shape."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def measured_layers(model: VGGT, config: NfdsConfig) -> tuple[int, ...]:
    """Return the pairs of blocks that are measured: the config's, or the last third."""
    depth = model.config.aggregator_depth
    if config.layers is None:
        return tuple(range(depth - -(-depth // 3), depth))
    if not config.layers or min(config.layers) < 0 or max(config.layers) >= depth:
        raise UsageError(f'calibration: layers {config.layers}: must lie in 0 .. {depth - 1}')
    return tuple(sorted(set(config.layers)))


class Probe:
    """Watches one forward pass at a time; keeps numbers per layer, and no activations."""

    def __init__(self, model: VGGT, config: NfdsConfig) -> None:
        self._model = model
        aggregator = model.aggregator
        self.layers = measured_layers(model, config)
        self._names: list[tuple[str, nn.Module]] = [('encoder', aggregator.patch_embed)]
        for pair in range(model.config.aggregator_depth):
            for kind in ('frame_blocks', 'global_blocks'):
                self._names.append((f'{kind}.{pair}', getattr(aggregator, kind)[pair]))
        self._deep = {f'{k}.{p}' for k in ('frame_blocks', 'global_blocks') for p in self.layers}
        self._window = ''
        self._moments: list[tuple[float, float]] = []
        self._last: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[Probe]:
        """Hang on to the network, which stays as it was found."""
        hooks = [
            module.register_forward_hook(partial(self._see, name)) for name, module in self._names
        ]
        training = self._model.training
        self._model.eval()
        try:
            yield self
        finally:
            self._model.train(training)
            for hook in hooks:
                hook.remove()

    def _see(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not torch.isfinite(output).all():
            raise CalibrationError(f'{self._window}: activations after {name} are not finite')
        if name in self._deep:
            variance, mean = torch.var_mean(output.double(), correction=0)
            self._moments.append((float(mean), float(variance)))
        if name == self._names[-1][0]:
            self._last = output

    @torch.inference_mode()
    def measure(self, window: UInt8Array, name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return mean [L], variance [L] and cosine [S - 1] of a window; see `WindowStatistics`."""
        self._window, self._moments = name, []
        weight = self._model.aggregator.camera_token
        images = torch.from_numpy(window).to(weight.device).permute(0, 3, 1, 2).to(weight) / 255
        grid = self._model.config.grid(*window.shape[1:3])
        self._model.aggregator(self._model.encode(images)[None], grid)
        assert self._last is not None
        tokens = self._last.reshape(len(window), -1, self._last.shape[-1]).double()
        frames = tokens[:, self._model.config.special_tokens :].flatten(1)
        cosine = torch.cosine_similarity(frames[1:], frames[:1], dim=1).cpu().numpy()
        self._last = None
        mean, variance = np.array(self._moments, dtype=np.float64).T
        return mean, variance, cosine


def measure_all(
    model: VGGT,
    pool: WindowPool,
    candidates: NDArray[np.int64],
    config: NfdsConfig,
    progress: Progress | None,
    cache: Path | None,
) -> list[WindowStatistics]:
    """Return the statistics of each candidate, taking what the cache has of the same pixels."""
    store = StatisticsStore(model, pool, config, cache)
    measured: list[WindowStatistics] = []

    def settle(digest: str, pending: Future[WindowStatistics] | None) -> None:
        if pending:
            store.add(digest, pending.result())
        measured.append(store.found[digest])
        if progress:
            progress(len(measured), len(candidates))

    with Probe(model, config).attached() as probe, store.kept(), _worker() as worker:
        waiting: list[tuple[str, Future[WindowStatistics] | None]] = []
        for index in candidates.tolist():
            # The network looks at one window while the next is rendered or read.
            window = pool.window(index)
            digest = pixel_digest(window)
            while waiting:
                settle(*waiting.pop())
            name = f'{pool.name}: window {index}'
            known = digest in store.found
            pending = None if known else worker.submit(_measure, probe, window, name, config)
            waiting.append((digest, pending))
        while waiting:
            settle(*waiting.pop())
    return measured


def _worker() -> ThreadPoolExecutor:
    """Return a thread that computes with as many threads of PyTorch's as this one."""
    return ThreadPoolExecutor(
        1, 'nfds', initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    )


def _measure(probe: Probe, window: UInt8Array, name: str, config: NfdsConfig) -> WindowStatistics:
    fault = picture_fault(window, config.least_agreement)
    if fault:
        unknown = np.full(2 * len(probe.layers), np.nan)
        cosine = np.full(len(window) - 1, np.nan)
        return WindowStatistics(unknown, unknown, cosine, signature(window), fault)
    return WindowStatistics(*probe.measure(window, name), signature(window), '')


class StatisticsStore:
    """Statistics on disk, by the digest of a window's pixels, for one network and pool.

    The file is written anew, whole, every few windows and when the work breaks off. One that
    cannot be read is as good as none.
    """

    def __init__(
        self, model: VGGT, pool: WindowPool, config: NfdsConfig, folder: Path | None
    ) -> None:
        self.found: dict[str, WindowStatistics] = {}
        self._path: Path | None = None
        self._unsaved = 0
        if folder is not None:
            layers = measured_layers(model, config)
            key = f'{STATISTICS_VERSION} {pool.name} {layers} {config.least_agreement}'
            digest = hashlib.sha256(f'{key} {weights_digest(model)}'.encode()).hexdigest()
            self._path = folder / f'nfds-{digest[:24]}.npz'
            self.found = _read_store(self._path, 2 * len(layers))

    def add(self, digest: str, statistics: WindowStatistics) -> None:
        """Take a window's statistics, under the digest of its pixels."""
        self.found[digest] = statistics
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self._save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Save what there is when the work ends, however it ends."""
        try:
            yield
        finally:
            self._save()

    def _save(self) -> None:
        if self._path is None or not self._unsaved:
            return
        columns: dict[str, NDArray[Any]] = {
            name: np.array([getattr(row, name) for row in self.found.values()]) for name in STORED
        }
        columns['digest'] = np.array(list(self.found))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as partial_path, partial_path.open('wb') as file:
                np.savez(file, allow_pickle=False, **columns)
        except OSError as error:
            raise CalibrationError(
                f'{self._path}: the statistics cannot be written: {error.strerror}; give another '
                'folder or none'
            ) from error
        self._unsaved = 0


def _read_store(path: Path, layers: int) -> dict[str, WindowStatistics]:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = [file[name] for name in STORED]
            digests = file['digest'].tolist()
        rows = [
            WindowStatistics(mean, variance, cosine, small, str(fault))
            for mean, variance, cosine, small, fault in zip(*columns, strict=True)
        ]
        whole = all(
            row.mean.shape == row.variance.shape == (layers,)
            and row.signature.dtype == np.uint8
            and row.cosine.shape == (len(row.signature) - 1,)
            for row in rows
        )
        return dict(zip(digests, rows, strict=True)) if whole else {}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return {}
