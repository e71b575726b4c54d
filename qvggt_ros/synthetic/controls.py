# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each kind of motion does to a camera from frame to frame, before it has a place.

Lengths are shares of the distance that the camera sees, turns are shares of its field of view, so
that the overlap of frames depends on the amount of motion and not on the room or the lens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qvggt_ros.synthetic.seeds import Draws, FloatArray, IntArray

KINDS = ('forward', 'turn', 'sideways', 'stop', 'shake', 'orbit', 'random', 'arc')
FORWARD, TURN, SIDEWAYS, STOP, SHAKE, ORBIT, RANDOM, ARC = range(len(KINDS))


@dataclass(frozen=True)
class Controls:
    """Motion of B windows of S frames; all arrays [B, S] unless they say otherwise."""

    kind: IntArray  # [B]
    ahead: FloatArray  # shares of the distance seen
    right: FloatArray
    above: FloatArray
    turn: FloatArray  # half tangents, to the left
    circle: FloatArray  # half tangents of an orbit around what is seen
    nod: FloatArray  # slope
    roll: FloatArray  # half tangents
    tremor: FloatArray  # [B, S, 5], -1 .. 1: two directions and three places


def uniforms_needed(frames: int) -> int:
    """Return an upper bound of what `draw_controls` and an order take from a scene's block."""
    return 16 + 14 * frames


def draw_controls(
    draws: Draws, kind: IntArray, amount: FloatArray, tangent: FloatArray, frames: int
) -> Controls:
    """Draw the motion of windows.

    Args:
        draws: the scenes' random numbers.
        kind: index into KINDS, [B].
        amount: of motion, 0 .. 1, [B].
        tangent: of half the horizontal field of view, [B].
        frames: S.

    """
    uneven = draws.uniform(-0.2, 0.2, frames)
    uneven[:, 0] = 0.0
    progress = (np.arange(frames)[None, :] + uneven) / max(frames - 1, 1)
    sign = np.where(draws.chance(0.5), 1.0, -1.0)[:, None]
    bend = draws.uniform(-1.0, 1.0, 1)
    jump = draws.uniform(-1.0, 1.0, frames, 6)  # shaking hands and unordered views
    tremor = draws.uniform(-1.0, 1.0, frames, 5) * draws.unit(1, 1)
    still = (draws.chance(0.5) & (kind == STOP))[:, None, None]
    held = draws.uniform(-0.08, 0.08, 1)
    mounted = draws.uniform(-0.02, 0.02, 1)
    amount = amount[:, None]
    wide = amount * tangent[:, None]  # of the view
    along = amount * progress
    sweep = wide * progress

    # How far an arc turns: from as little as a drive straight on to as much as a turn in place.
    curving = 0.05 + 0.215 * (1.0 + jump[:, :1, 3])

    def of_kind(**values: FloatArray) -> FloatArray:
        """Return the value of each window's kind, 0 where none is given."""
        result = np.zeros_like(progress)
        for name, value in values.items():
            result = np.where((kind == KINDS.index(name))[:, None], value, result)
        return result

    is_held = np.isin(kind, (SHAKE, ORBIT, RANDOM))[:, None]
    lean = of_kind(shake=0.025 * amount * jump[..., 5], random=0.06 * amount * jump[..., 5])
    return Controls(
        kind=kind,
        ahead=of_kind(
            forward=0.6 * along,
            arc=0.45 * along,
            shake=0.25 * along + 0.04 * amount * jump[..., 0],
            random=0.6 * amount * jump[..., 0],
        ),
        right=of_kind(
            sideways=1.4 * sweep * sign,
            arc=0.2 * along * bend,
            shake=0.2 * along * bend + 0.04 * amount * jump[..., 1],
            random=0.8 * amount * jump[..., 1],
        ),
        above=of_kind(shake=0.03 * amount * jump[..., 2], random=0.2 * amount * jump[..., 2]),
        turn=of_kind(
            forward=0.15 * sweep * bend,
            turn=0.48 * sweep * sign,
            arc=curving * sweep * sign,
            sideways=0.05 * sweep * bend,
            shake=0.2 * sweep * bend + 0.03 * wide * jump[..., 3],
            random=0.13 * wide * jump[..., 3],
        ),
        circle=of_kind(orbit=0.42 * along * sign),
        nod=of_kind(shake=0.12 * wide * jump[..., 4], random=0.15 * wide * jump[..., 4]),
        roll=np.where(is_held, held, mounted) + lean,
        tremor=np.where(still, 0.0, tremor),
    )
