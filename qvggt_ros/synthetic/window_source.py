# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training windows: rendered sequences in a ring, each used several times before it goes.

Rendering costs about as much as a training step on a CPU; a window cut from the same sequence
with other frames, another order and other colours is nearly as good as a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt_ros.synthetic.train_config import Stage, TrainConfig
from qvggt_ros.synthetic.workers import Worker


@dataclass(frozen=True)
class Windows:
    """b windows of s frames on the training device.

    Attributes:
        images: [b, s, 3, H, W] float in [0, 1].
        depth_m: [b, s, H, W].
        camera_from_world: [b, s, 4, 4].
        intrinsics: [b, s, 3, 3] pixels.

    """

    images: Tensor
    depth_m: Tensor
    camera_from_world: Tensor
    intrinsics: Tensor


# uint8 images [n, f, 3, H, W], depth in metres, camera from world, intrinsics
Rendered = tuple[Tensor, Tensor, Tensor, Tensor]
# (number of the first sequence, count, frames, most motion) -> the sequences
Renderer = Callable[[int, int, int, float], Rendered]


class WindowSource:
    """A ring of rendered sequences and the windows drawn from it.

    Draws depend on (seed, step, worker) alone and the ring on the number of sequences rendered so
    far, so a resumed run goes on with the windows that an uninterrupted one would have seen.
    Sequence k lies in row k modulo the ring's size. Each worker has a ring of its own.
    """

    def __init__(
        self,
        config: TrainConfig,
        render: Renderer,
        sequences_rendered: int = 0,
        worker: Worker | None = None,
    ) -> None:
        self._config = config
        self._worker = worker or Worker()
        self._render = render
        self.sequences_rendered = max(0, sequences_rendered - config.ring_sequences)
        self._ring: list[Tensor] = []
        # A run that goes on with more processes, or more uses, has used up more or less than the
        # sequences rendered so far; what it lacks or has too many is not made up for.
        self._first_draw, self._not_ours = True, 0

    def refill(self, stage: Stage, progress: Callable[[int, int], None] | None = None) -> None:
        """Render the whole ring, in chunks; `progress(done, total)` after each."""
        total, chunk = self._config.ring_sequences, self._config.render_batch
        parts = []
        for start in range(0, total, chunk):
            parts.append(self._rendered(min(chunk, total - start), stage))
            if progress:
                progress(min(start + chunk, total), total)
        shift = self.sequences_rendered % total
        self._ring = [torch.cat(tensors).roll(shift, 0) for tensors in zip(*parts, strict=True)]

    def draw(self, step: int, windows_seen: int, stage: Stage) -> Windows:
        """Draw the windows of a step, after replacing the oldest sequences as far as is due."""
        frames = int(np.random.default_rng((self._config.seed, step)).choice(stage.frames))
        rng = np.random.default_rng((self._config.seed, step, self._worker.rank))
        count = max(1, self._config.frames_per_step // frames)
        self._renew(windows_seen, stage)
        rows = rng.integers(0, self._config.ring_sequences, count)
        chosen = self._frame_choice(rng, count, frames, stage.shuffled_share)
        device = self._ring[0].device
        index = (torch.from_numpy(rows)[:, None].to(device), torch.from_numpy(chosen).to(device))
        images, depth, poses, intrinsics = (tensor[index] for tensor in self._ring)
        return Windows(_recoloured(images, rng), depth, poses, intrinsics)

    def _frame_choice(
        self, rng: np.random.Generator, count: int, frames: int, shuffled_share: float
    ) -> NDArray[np.int64]:
        """Pick frames of each sequence: evenly over a part of it, some windows in random order."""
        length = self._config.sequence_frames
        span = rng.integers(frames - 1, length, count)
        start = np.floor(rng.random(count) * (length - span)).astype(np.int64)
        share = np.arange(frames) / (frames - 1)
        chosen = start[:, None] + np.rint(span[:, None] * share).astype(np.int64)
        backwards = rng.random(count) < 0.5
        chosen[backwards] = chosen[backwards, ::-1]
        shuffled = rng.random(count) < shuffled_share
        chosen[shuffled] = rng.permuted(chosen[shuffled], axis=1)
        return chosen

    def _renew(self, windows_seen: int, stage: Stage) -> None:
        """Replace as many of the oldest sequences as the windows so far have used up."""
        size = self._config.ring_sequences
        used = int(windows_seen / self._worker.count / self._config.uses_per_window)
        due = size + used - self.sequences_rendered - self._not_ours
        if self._first_draw and not 0 <= due < size:
            self._not_ours += due
            due = 0
        self._first_draw = False
        if due < self._config.render_batch:
            return
        due = min(due, size)
        rows = (torch.arange(due) + self.sequences_rendered) % size
        for ring, fresh in zip(self._ring, self._rendered(due, stage), strict=True):
            ring[rows.to(ring.device)] = fresh

    def _rendered(self, count: int, stage: Stage) -> tuple[Tensor, ...]:
        tensors = self._render(
            self.sequences_rendered, count, self._config.sequence_frames, stage.most_motion
        )
        self.sequences_rendered += count
        return tensors


def _recoloured(images: Tensor, rng: np.random.Generator) -> Tensor:
    """uint8 [b, s, 3, H, W] -> float in [0, 1] with per-window channel order and gain."""
    b = images.shape[0]
    order = torch.from_numpy(np.argsort(rng.random((b, 3)), axis=1)).to(images.device)
    images = torch.gather(
        images, 2, order[:, None, :, None, None].expand(-1, images.shape[1], -1, *images.shape[3:])
    )
    gain = torch.from_numpy(0.85 + 0.3 * rng.random((b, 1, 3, 1, 1))).to(images.device)
    return (images.float() * (gain.float() / 255)).clamp_(0, 1)
