# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows to calibrate on: rendered rooms, image folders and bags.

Windows are what the node would feed the network: frames in the order of time, about a tenth of a
second apart, preprocessed by the node's own code. A pool makes a window when it is asked for one;
it never holds more than that window's frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import CalibrationError, ImageError, UsageError
from qvggt_ros.evaluation.image_folder import NS_PER_S, open_image_folder, read_rgb
from qvggt_ros.node.bag_reader import BagReader
from qvggt_ros.node.image_conversion import rgb_from_message
from qvggt_ros.quantization.window_faults import UInt8Array
from qvggt_ros.reconstruction.preprocess import PATCH_SIZE, plan_preprocess, resize_for_engine
from qvggt_ros.synthetic.motion import KINDS
from qvggt_ros.synthetic.seeds import TRAINING_SCENES, training_seeds
from qvggt_ros.synthetic.sequences import render_batch
from qvggt_ros.synthetic.windows import WINDOW_MOTION

FRAME_RATE_HZ = 10.0
# A recording pauses where the time between two images is this many times the usual one.
PAUSE = 5.0

# Training scenes that no training run reaches, and so many for each SEED of `synthetic:SEED`.
FIRST_SCENE = 2**40
SCENES_PER_SEED = 2**20
MAX_SYNTHETIC_SEED = (TRAINING_SCENES - FIRST_SCENE) // SCENES_PER_SEED - 1
# A drive through a room: no unordered views.
VIDEO_MOTION = replace(
    WINDOW_MOTION,
    weights=tuple(
        0.0 if kind == 'random' else weight
        for kind, weight in zip(KINDS, WINDOW_MOTION.weights, strict=True)
    ),
    shuffled=0.0,
)


class WindowPool(Protocol):
    """Candidates to calibrate on, each made when it is asked for."""

    @property
    def name(self) -> str:
        """Say where the windows come from, in words that tell two pools apart."""

    def __len__(self) -> int:
        """Return how many windows there are."""

    def window(self, index: int) -> UInt8Array:
        """Return a window's frames, uint8 [S, H, W, 3] RGB."""


def open_pool(
    source: str,
    frames: int,
    size: tuple[int, int],
    count: int,
    seed: int,
    patch_size: int = PATCH_SIZE,
) -> WindowPool:
    """Find windows to calibrate on.

    Args:
        source: `synthetic` or `synthetic:SEED` (rooms that are neither trained on nor tested
            with), an image folder, a bag (MCAP, sqlite3, ROS 1), or `BAG#TOPIC`.
        frames: S, per window.
        size: the network's image height and width in pixels.
        count: windows wanted; a recording that has fewer gives all of them.
        seed: shifts the windows within a recording, and picks the rooms of `synthetic`.
        patch_size: the network's, pixels.

    Raises:
        UsageError: a number or a size that is not allowed.
        CalibrationError: too few images for one window.
        BagError, DatasetError: the recording is missing, damaged, or without images.

    """
    height, width = size
    if min(frames, count) < 1 or seed < 0:
        raise UsageError(
            f'{source}: {count} windows of {frames} frames, seed {seed}: windows and frames must '
            'be positive, the seed not negative'
        )
    if min(size) < 1 or height % patch_size or width % patch_size:
        raise UsageError(
            f'{source}: image size {width}x{height}: must be whole patches of {patch_size}'
        )
    if source == 'synthetic' or source.startswith('synthetic:'):
        return _SyntheticPool(_synthetic_seed(source, seed), frames, size, count)
    return _RecordingPool(_open_recording(source), frames, size, count, seed, patch_size)


class _SyntheticPool:
    """One rendered room per window."""

    def __init__(self, seed: int, frames: int, size: tuple[int, int], count: int) -> None:
        if count > SCENES_PER_SEED:
            raise UsageError(f'synthetic:{seed}: {count} windows; at most {SCENES_PER_SEED}')
        self.name = f'synthetic:{seed}, {count} windows of {frames}x{size[1]}x{size[0]}'
        self._scenes = training_seeds(FIRST_SCENE + seed * SCENES_PER_SEED, count)
        self._frames, self._size = frames, size

    def __len__(self) -> int:
        return len(self._scenes)

    def window(self, index: int) -> UInt8Array:
        """Render a window; see `WindowPool`."""
        height, width = self._size
        scene = self._scenes[index : index + 1]
        rendered = render_batch(scene, self._frames, width, height, motion=VIDEO_MOTION)
        return np.ascontiguousarray(rendered.images[0].permute(0, 2, 3, 1).numpy())


class _Recording(Protocol):
    """Images in the order of time."""

    name: str
    stamps_ns: list[int]

    def images(self, indices: Sequence[int]) -> list[UInt8Array]:
        """Return some images, rising, [h, w, 3] RGB of the camera's size."""


class _FolderRecording:
    """An image folder; poses are not needed."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        folder = open_image_folder(path, rate_hz=FRAME_RATE_HZ)
        if folder.layout != 'plain':  # those know their times
            folder = open_image_folder(path)
        self._folder = folder
        self.stamps_ns = [frame.stamp_ns for frame in folder.frames]

    def images(self, indices: Sequence[int]) -> list[UInt8Array]:
        return [read_rgb(self._folder.frames[index]) for index in indices]


class _BagRecording:
    """A bag, read from front to back; only a request further back begins anew."""

    def __init__(self, path: Path, topic: str) -> None:
        with BagReader(path) as bag:
            self._topic = bag.image_topic(topic).name
            self.stamps_ns = [message.stamp_ns for message in bag.messages([self._topic])]
        self._path = path
        self.name = f'{path}#{self._topic}'
        self._begin()

    def _begin(self) -> None:
        self._cursor = self._decoders()
        self._next = self._oldest = 0
        # What lies between a window's first image and the cursor: the next window may want it.
        self._recent: dict[int, Callable[[], Any]] = {}

    def _decoders(self) -> Iterator[Callable[[], Any]]:
        with BagReader(self._path) as bag:
            for message in bag.messages([self._topic]):
                yield partial(bag.decode, message)

    def images(self, indices: Sequence[int]) -> list[UInt8Array]:
        if indices[0] < self._oldest:
            self._begin()
        self._oldest = indices[0]
        self._recent = {i: item for i, item in self._recent.items() if i >= indices[0]}
        while self._next <= indices[-1]:
            decoder = next(self._cursor, None)
            if decoder is None:
                raise CalibrationError(f'{self.name}: has lost images since it was opened')
            if self._next >= indices[0]:
                self._recent[self._next] = decoder
            self._next += 1
        return [rgb_from_message(self._recent[index]()) for index in indices]


class _RecordingPool:
    """Windows spread evenly over a recording."""

    def __init__(
        self,
        recording: _Recording,
        frames: int,
        size: tuple[int, int],
        count: int,
        seed: int,
        patch_size: int,
    ) -> None:
        self._recording, self._size, self._patch_size = recording, size, patch_size
        starts, self._step = window_starts(recording.stamps_ns, frames)
        if not len(starts):
            raise CalibrationError(
                f'{recording.name}: {len(recording.stamps_ns)} images are too few for a window of '
                f'{frames} without a pause, at every {self._step}. image; give a longer '
                'recording or fewer frames'
            )
        self._starts = starts[_evenly(len(starts), count, seed)]
        self._frames = frames
        self.name = (
            f'{recording.name}, {len(self._starts)} windows of {frames}x{size[1]}x{size[0]}, '
            f'every {self._step}. image, seed {seed}'
        )

    def __len__(self) -> int:
        return len(self._starts)

    def window(self, index: int) -> UInt8Array:
        """Read a window; see `WindowPool`."""
        start = int(self._starts[index])
        wanted = range(start, start + (self._frames - 1) * self._step + 1, self._step)
        try:
            return np.stack([self._for_network(i) for i in self._recording.images(wanted)])
        except ImageError as error:
            raise CalibrationError(
                f'{self._recording.name}: images {wanted[0]} to {wanted[-1]}: {error}'
            ) from error

    def _for_network(self, image: UInt8Array) -> UInt8Array:
        height, width = self._size
        plan = plan_preprocess(
            image.shape[1], image.shape[0], width, height, patch_size=self._patch_size
        )
        return resize_for_engine(image, plan)


def window_starts(stamps_ns: Sequence[int], frames: int) -> tuple[NDArray[np.int64], int]:
    """Return where windows can begin, and their step: every step-th image is taken.

    The step brings the frames as close to `FRAME_RATE_HZ` as whole steps can; no window spans a
    pause or a jump back in time.
    """
    gaps = np.diff(np.asarray(stamps_ns, dtype=np.float64))
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    step = max(1, round(NS_PER_S / FRAME_RATE_HZ / usual)) if usual > 0.0 else 1
    span = (frames - 1) * step
    starts = np.arange(max(0, len(stamps_ns) - span), dtype=np.int64)
    if usual > 0.0:
        breaks = np.concatenate([[0], np.cumsum((gaps < 0) | (gaps > PAUSE * usual))])
        starts = starts[breaks[starts + span] == breaks[starts]]
    return starts, step


def _evenly(available: int, count: int, seed: int) -> NDArray[np.int64]:
    """Pick rising indices below `available`, one at random in each of equal parts."""
    edges = np.arange(min(count, available) + 1) * available // min(count, available)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def _synthetic_seed(source: str, seed: int) -> int:
    _, _, text = source.partition(':')
    if source != 'synthetic':
        if not re.fullmatch(r'\d{1,18}', text):
            raise UsageError(f'{source}: must be synthetic or synthetic:SEED, e.g. synthetic:0')
        seed = int(text)
    if seed > MAX_SYNTHETIC_SEED:
        raise UsageError(f'synthetic:{seed}: the seed must lie in 0 .. {MAX_SYNTHETIC_SEED}')
    return seed


def _open_recording(source: str) -> _Recording:
    path, topic = Path(source), ''
    if not path.exists() and '#' in source:
        name, _, topic = source.rpartition('#')
        path = Path(name)
    if not path.exists():
        raise CalibrationError(
            f'{source}: no such folder or bag; give synthetic, synthetic:SEED, an image folder, '
            'a bag, or BAG#TOPIC'
        )
    if path.is_file() or (path / 'metadata.yaml').exists():
        return _BagRecording(path, topic)
    if topic:
        raise UsageError(f'{source}: {path} is an image folder, which has no topics')
    return _FolderRecording(path)
