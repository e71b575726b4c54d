# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's state as a DiagnosticArray: input, latency, reconstruction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from qvggt_ros.node.engine_setup import EngineIdentity
from qvggt_ros.node.statistics import Snapshot
from qvggt_ros.reconstruction.timing import Percentiles

# A window whose shared points mostly disagree with the map is worth a warning.
LOW_INLIER_SHARE = 0.5

# Always shown, zero included: a missing key must not look like a good one.
COUNTERS = (
    'frames_received',
    'frames_dropped',
    'frames_skipped',
    'frames_paused',
    'frames_refused',
    'frames_out_of_order',
    'frames_lost',
    'messages_lost_by_middleware',
    'windows',
    'poses',
    'restarts',
    'errors',
)


def diagnostic_array(
    node_name: str,
    array_header: Header,
    snapshot: Snapshot,
    identity: EngineIdentity,
    silence: str,
) -> DiagnosticArray:
    """Return the node's diagnostics; `silence`: what is wrong with the input, or empty."""
    statuses = [
        _input(snapshot, silence),
        _latency(snapshot),
        _reconstruction(snapshot, identity),
    ]
    for status in statuses:
        status.name = f'{node_name}: {status.name}'
        status.hardware_id = identity.key
    return DiagnosticArray(header=array_header, status=statuses)


def resident_memory_mb() -> float:
    """Return this process's resident memory in MiB, 0 where the system does not tell."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def _input(snapshot: Snapshot, silence: str) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, 'images come in'
    if snapshot.counts.get('frames_dropped', 0):
        dropped = snapshot.counts['frames_dropped']
        message = f'images come in; {dropped} dropped, the engine is slower than the camera'
    if silence:
        level, message = DiagnosticStatus.WARN, silence
    values = {name: str(snapshot.counts.get(name, 0)) for name in COUNTERS}
    values['input_rate_hz'] = f'{snapshot.input_rate_hz:.2f}'
    values['output_rate_hz'] = f'{snapshot.output_rate_hz:.2f}'
    return _status('input', level, message, values)


def _latency(snapshot: Snapshot) -> DiagnosticStatus:
    values: dict[str, str] = {}
    for stage, percentiles in snapshot.stages.items():
        values |= _percentile_values(stage, percentiles)
    total = snapshot.stages.get('total')
    message = f'a window takes {total.p50:.1f} ms (median)' if total else 'no window yet'
    return _status('latency', DiagnosticStatus.OK, message, values)


def _reconstruction(snapshot: Snapshot, identity: EngineIdentity) -> DiagnosticStatus:
    level, message = DiagnosticStatus.OK, 'no window yet'
    values = {f'engine_{name}': value for name, value in vars(identity).items()}
    values['memory_rss_mb'] = f'{resident_memory_mb():.1f}'
    quality = snapshot.quality
    if quality is not None:
        message = f'{snapshot.counts.get("windows", 0)} windows'
        values['scale'] = f'{quality.scale:.6g}'
        values['residual'] = f'{quality.residual:.6g}'
        values['inlier_share'] = f'{quality.inlier_share:.4f}'
        values['notes'] = '; '.join(quality.notes)
        if quality.notes:
            level, message = DiagnosticStatus.WARN, '; '.join(quality.notes)
        elif quality.inlier_share < LOW_INLIER_SHARE:
            share = f'{100 * quality.inlier_share:.0f} %'
            level, message = DiagnosticStatus.WARN, f'window fits the map badly ({share} inliers)'
    if snapshot.last_error:
        level, message = DiagnosticStatus.ERROR, snapshot.last_error
    return _status('reconstruction', level, message, values)


def _percentile_values(stage: str, percentiles: Percentiles) -> dict[str, str]:
    return {
        f'{stage}_p50_ms': f'{percentiles.p50:.3f}',
        f'{stage}_p95_ms': f'{percentiles.p95:.3f}',
        f'{stage}_p99_ms': f'{percentiles.p99:.3f}',
    }


def _status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
