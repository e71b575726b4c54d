# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which frames enter the reconstruction.

The first version thins by count alone: of a camera faster than the engine, every n-th frame is
taken. A frame that is not taken gets no pose.
"""

from __future__ import annotations


class FrameGate:
    """Lets one frame through, then skips `frame_skip`."""

    def __init__(self, frame_skip: int = 0) -> None:
        self.frame_skip = frame_skip
        self._until_next = 0

    def takes_next(self) -> bool:
        """Return whether the next frame is to be used; each call counts one frame."""
        if self._until_next == 0:
            self._until_next = self.frame_skip
            return True
        self._until_next -= 1
        return False

    def reset(self) -> None:
        """Let the next frame through."""
        self._until_next = 0
