# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Noise-Filtered Diverse Sampling: which windows to calibrate on (QuantVGGT, sec. 3.3, eq. 9-13).

The paper measures mean and variance of the deep layers' outputs for each candidate, z-scores them
over the pool, drops what is far off, clusters the rest by how alike each frame and the first one
look to the network, and draws evenly from the clusters. Three things here are not in the paper:

- Median and MAD in place of mean and standard deviation: noise in the pool widens the latter
  until it hides itself. A limit in units of the spread in place of a fixed percentile: a
  percentile drops that share of a clean pool too, and lets the rest of a bad pool through. The
  percentile stays as a bound (`keep_share`).
- Tests of the pixels come first. They are absolute: what they say of a window does not depend on
  the pool, so that a pool that is mostly noise is seen through too, and windows that fail cost no
  forward pass. A frozen picture, a copy, or frames of different places have activations like any
  other window: no statistic of the activations could tell.
- What is dropped has a reason, and the same pool, weights and seed give the same windows.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from qvggt_ros.errors import CalibrationError, UsageError
from qvggt_ros.files import whole_file
from qvggt_ros.quantization.calibration_sources import (
    UInt8Array,
    WindowPool,
    picture_fault,
    signature,
)
from qvggt_ros.vggt.model import VGGT

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Raise it when a statistic or a test of pixels changes: older caches are then left alone.
STATISTICS_VERSION = 1
SAVE_EVERY = 20
KMEANS_RESTARTS = 10
KMEANS_STEPS = 100
STORED = ('mean', 'variance', 'cosine', 'signature', 'fault')  # of WindowStatistics
MAD_TO_SIGMA = 1.4826  # of a normal distribution

SAME_SIGNATURE = 2  # levels, largest difference of two windows that are copies


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
class CalibrationReport:
    """What became of each candidate; all indices are those of the pool.

    Attributes:
        pool: its name.
        candidates: windows looked at.
        kept: windows that passed, rising.
        dropped: why each of the others did not.
        scores: noise score of each window that passed the tests of pixels (eq. 11, robust).
        plain_scores: the same with the paper's mean and standard deviation, to compare.
        score_limit: the score from which windows were dropped.
        cluster_sizes: windows kept in each cluster.
        drawn: windows drawn from each cluster.
        notes: what the user should know.

    """

    pool: str
    candidates: int
    kept: list[int]
    dropped: dict[int, str]
    scores: dict[int, float]
    plain_scores: dict[int, float]
    score_limit: float
    cluster_sizes: list[int]
    drawn: list[int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        for name in ('dropped', 'scores', 'plain_scores'):
            values[name] = {str(index): value for index, value in values[name].items()}
        return values


@dataclass(frozen=True)
class CalibrationSet:
    """Windows to calibrate on.

    Attributes:
        windows: uint8 [n, S, H, W, 3] RGB.
        indices: [n], rising, of the pool.
        report: how they were chosen; None for a random set.
        digest: SHA-256 of the windows' shape and bytes.

    """

    windows: UInt8Array
    indices: NDArray[np.int64]
    report: CalibrationReport | None
    digest: str


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


def select(
    model: VGGT,
    pool: WindowPool,
    config: NfdsConfig,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> CalibrationSet:
    """Choose windows to calibrate on.

    Args:
        model: the float network.
        pool: candidates; all windows of one shape.
        config: how.
        progress: called with windows done and windows in all.
        cache: folder where the statistics are kept, so that an interrupted run goes on.

    Raises:
        UsageError: a layer that the network does not have.
        CalibrationError: no window is usable, or activations are not finite.

    """
    if not len(pool):
        raise CalibrationError(f'{pool.name}: holds no windows')
    candidates = np.unique(np.linspace(0, len(pool) - 1, config.candidates).astype(np.int64))
    measured = _measure_all(model, pool, candidates, config, progress, cache)
    dropped = _unusable(candidates, measured)
    usable = np.array([i for i, index in enumerate(candidates.tolist()) if index not in dropped])
    if not len(usable):
        raise CalibrationError(
            f'{pool.name}: no usable window to calibrate on: {_commonest(dropped)}'
        )
    table = np.stack([np.concatenate([measured[i].mean, measured[i].variance]) for i in usable])
    scores = noise_scores(table)
    bad, limit = _far_off(scores, config)
    for index, score in zip(candidates[usable[bad]].tolist(), scores[bad], strict=True):
        dropped[index] = f'activations unlike the rest: noise score {score:.1f} > {limit:.1f}'
    kept = usable[~bad]
    labels = cluster(np.stack([measured[i].cosine for i in kept]), config.clusters, config.seed)
    chosen = draw_evenly(labels, config.samples, config.seed)
    report = CalibrationReport(
        pool=pool.name,
        candidates=len(candidates),
        kept=candidates[kept].tolist(),
        dropped=dict(sorted(dropped.items())),
        scores=_by_index(candidates[usable], scores),
        plain_scores=_by_index(candidates[usable], noise_scores(table, robust=False)),
        score_limit=limit,
        cluster_sizes=np.bincount(labels).tolist(),
        drawn=np.bincount(labels[chosen], minlength=labels.max() + 1).tolist(),
        notes=_shortfall(len(chosen), config),
    )
    return _gather(pool, candidates[kept[chosen]], report)


def random_set(pool: WindowPool, count: int, seed: int) -> CalibrationSet:
    """Draw windows at random, all if the pool has no more: what NFDS is to be better than."""
    rng = np.random.default_rng(seed)
    return _gather(pool, np.sort(rng.permutation(len(pool))[:count]), None)


def noise_scores(table: FloatArray, robust: bool = True) -> FloatArray:
    """Return how far each window's statistics lie from the pool's, [n] (eq. 10-11).

    The root of the sum of squared z-scores; with median and MAD, or as in the paper with mean and
    standard deviation.

    Args:
        table: [n, 2L] means and variances of the layers.
        robust: which centre and spread.

    """
    centre = np.median(table, axis=0) if robust else table.mean(axis=0)
    apart = np.abs(table - centre)
    spread = MAD_TO_SIGMA * np.median(apart, axis=0) if robust else table.std(axis=0)
    # A statistic that is the same in most windows must not make rounding errors count.
    floor = 1e-6 * np.abs(centre) + np.finfo(np.float64).tiny
    return np.sqrt(np.square(apart / np.maximum(spread, floor)).sum(axis=1))


def _far_off(scores: FloatArray, config: NfdsConfig) -> tuple[NDArray[np.bool_], float]:
    """Return which scores are above the limit, and the limit; see `NfdsConfig.keep_share`."""
    middle = np.median(scores)
    spread = MAD_TO_SIGMA * np.median(np.abs(scores - middle))
    limit = max(
        float(middle + config.score_limit * spread),
        float(np.quantile(scores, config.keep_share, method='higher')),
    )
    return scores > limit, limit


def cluster(points: FloatArray, clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the k-means cluster of each point [n, d]: k-means++ starts, the best of several.

    Fewer clusters come out where there are fewer distinct points; none is empty.
    """
    distinct = len(np.unique(points, axis=0))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(points), np.int64), np.inf
    if points.shape[1] == 0 or min(clusters, distinct) == 1:
        return best
    for _ in range(KMEANS_RESTARTS):
        start = _spread_out(points, min(clusters, distinct), rng)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of an empty cluster, which does no harm
            centres, labels = kmeans2(points, start, iter=KMEANS_STEPS, minit='matrix')
        inertia = np.square(points - centres[labels]).sum()
        if inertia < least:
            best, least = labels.astype(np.int64), inertia
    return np.unique(best, return_inverse=True)[1].astype(np.int64)


def _spread_out(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw first centres far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    centres = [points[rng.integers(len(points))]]
    while len(centres) < count:
        apart = np.min([np.square(points - c).sum(axis=1) for c in centres], axis=0)
        centres.append(points[rng.choice(len(points), p=apart / apart.sum())])
    return np.stack(centres)


def draw_evenly(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw places at random, as many from each cluster; rising.

    The clusters give one in turn until there are enough, so that what a small cluster lacks comes
    from the others. Which clusters give one more than others is drawn too.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # in which round each place is drawn
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    first = rng.permutation(labels.max() + 1)[labels]
    return np.sort(np.lexsort((first, turn))[:count])


def _unusable(candidates: NDArray[np.int64], measured: list[WindowStatistics]) -> dict[int, str]:
    """Return why windows are refused for their pixels: by themselves, or as copies."""
    dropped: dict[int, str] = {}
    originals: list[int] = []
    for place, index in enumerate(candidates.tolist()):
        found = measured[place].fault
        small = measured[place].signature.astype(np.int16)
        if not found and originals:
            seen = np.stack([measured[i].signature for i in originals])
            same = np.abs(seen - small).reshape(len(seen), -1).max(axis=1) <= SAME_SIGNATURE
            if same.any():
                found = f'copy of window {candidates[originals[int(same.argmax())]]}'
        if found:
            dropped[index] = found
        else:
            originals.append(place)
    return dropped


def _commonest(dropped: dict[int, str]) -> str:
    """Return the three commonest reasons, without their numbers, and how often each."""
    reasons = Counter(re.sub(r'[\d.]+', 'n', why) for why in dropped.values())
    return '; '.join(f'{count} x {why}' for why, count in reasons.most_common(3))


def _shortfall(found: int, config: NfdsConfig) -> list[str]:
    if found >= config.samples:
        return []
    return [f'{found} windows are usable, {config.samples} were asked for']


def _by_index(indices: NDArray[np.int64], scores: FloatArray) -> dict[int, float]:
    return dict(zip(indices.tolist(), scores.tolist(), strict=True))


def _gather(
    pool: WindowPool, indices: NDArray[np.int64], report: CalibrationReport | None
) -> CalibrationSet:
    if not len(indices):
        raise CalibrationError(f'{pool.name}: no windows to calibrate on')
    windows = np.stack([pool.window(int(index)) for index in indices])
    return CalibrationSet(windows, indices, report, _digest(windows))


def _digest(array: UInt8Array) -> str:
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


class _Probe:
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
    def attached(self) -> Iterator[_Probe]:
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


def _measure_all(
    model: VGGT,
    pool: WindowPool,
    candidates: NDArray[np.int64],
    config: NfdsConfig,
    progress: Progress | None,
    cache: Path | None,
) -> list[WindowStatistics]:
    """Return the statistics of each candidate, taking what the cache has of the same pixels."""
    store = _Store(model, pool, config, cache)
    measured = []
    with _Probe(model, config).attached() as probe, store.kept():
        for done, index in enumerate(candidates.tolist(), start=1):
            window = pool.window(index)
            digest = _digest(window)
            found = store.found.get(digest)
            if found is None:
                found = _measure(probe, window, f'{pool.name}: window {index}', config)
                store.add(digest, found)
            measured.append(found)
            if progress:
                progress(done, len(candidates))
    return measured


def _measure(probe: _Probe, window: UInt8Array, name: str, config: NfdsConfig) -> WindowStatistics:
    fault = picture_fault(window, config.least_agreement)
    if fault:
        unknown = np.full(2 * len(probe.layers), np.nan)
        cosine = np.full(len(window) - 1, np.nan)
        return WindowStatistics(unknown, unknown, cosine, signature(window), fault)
    return WindowStatistics(*probe.measure(window, name), signature(window), '')


class _Store:
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
            digest = hashlib.sha256(f'{key} {_weights_digest(model)}'.encode()).hexdigest()
            self._path = folder / f'nfds-{digest[:24]}.npz'
            self.found = _read_store(self._path, 2 * len(layers))

    def add(self, digest: str, statistics: WindowStatistics) -> None:
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


def _weights_digest(model: VGGT) -> str:
    """Return the SHA-256 of the network's sizes, keys and numbers."""
    digest = hashlib.sha256(repr(model.config).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f'{key} {value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
