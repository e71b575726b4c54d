# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A picture of a training's history."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from qvggt_ros.files import whole_file
from qvggt_ros.synthetic.training_history import History

LOSSES = (
    *('camera', 'baseline', 'depth', 'gradient'),
    *('matching', 'flow', 'points', 'patch_pose'),
)
MAX_DRAWN = 1500  # places of a curve
DPI = 110


def draw_curves(history: History, path: Path) -> None:
    """Write a PNG of losses, pose accuracy, pose errors and depth over the windows seen.

    The file appears whole or not at all.
    """
    figure, panels = plt.subplots(2, 2, figsize=(12, 8), layout='constrained')
    _draw_losses(panels[0, 0], history)
    figures: tuple[tuple[Axes, str, dict[str, str]], ...] = (
        (panels[0, 1], 'pose AUC, % of pairs', {f'auc{d}': f'{d}°' for d in (30, 15, 10, 5, 3)}),
        (
            panels[1, 0],
            'median pose error, degrees',
            {'trans_median_deg': 'direction of translation', 'rot_median_deg': 'rotation'},
        ),
        (panels[1, 1], 'depth', {'absrel': 'AbsRel', 'delta1': 'share within 1.25'}),
    )
    for axes, title, names in figures:
        _draw_validation(axes, history, title, names)
    panels[1, 0].set_yscale('log')
    _plain_numbers(panels[1, 0].yaxis)
    panels[0, 1].set_ylim(bottom=0)
    panels[1, 1].set_ylim(0, 1)
    figure.suptitle('training on rendered rooms')
    try:
        with whole_file(path) as file:
            figure.savefig(file, format='png', dpi=DPI)
    finally:
        plt.close(figure)


def _draw_losses(axes: Axes, history: History) -> None:
    entries = history.losses
    windows = np.array([entry['windows'] for entry in entries], dtype=np.float64)
    shown = _thinned(windows)
    for index, name in enumerate(LOSSES):
        values = np.array([entry.get(name, np.nan) for entry in entries], dtype=np.float64)
        values[~(values > 0)] = np.nan  # no place on a logarithmic axis
        if np.isfinite(values[shown]).any():
            style = '-' if index < 4 else '--'
            axes.plot(windows[shown], values[shown], style, linewidth=1.3, label=name)
    axes.set_xscale('log')
    axes.set_yscale('log')
    _plain_numbers(axes.yaxis, minor=False)
    axes.set_title('training losses (dashed: only to teach)')
    _finish(axes)
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.18), ncol=4, fontsize=9)


def _thinned(windows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pick places that lie evenly on a logarithmic axis, the first and last among them."""
    if len(windows) <= MAX_DRAWN:
        return np.arange(len(windows))
    wanted = np.geomspace(max(windows[0], 1.0), windows[-1], MAX_DRAWN)
    found = np.unique(np.searchsorted(windows, wanted).clip(0, len(windows) - 1))
    return np.union1d(found, [0, len(windows) - 1]).astype(np.int64)


def _draw_validation(axes: Axes, history: History, title: str, names: dict[str, str]) -> None:
    windows = _windows_of(history)
    for name, label in names.items():
        values = np.array(  # null becomes NaN
            [entry.get(name) for entry in history.validations], dtype=np.float64
        )
        if np.isfinite(values).any():
            axes.plot(windows, values, 'o-', markersize=3.5, linewidth=1.3, label=label)
    axes.set_title(f'validation: {title}')
    _finish(axes)


def _windows_of(history: History) -> NDArray[np.float64]:
    """Return the windows seen at each validation, by its step."""
    steps, windows = (
        np.array([entry[name] for entry in history.losses], dtype=np.float64)
        for name in ('step', 'windows')
    )
    return np.interp([entry['step'] for entry in history.validations], steps, windows)


def _plain_numbers(axis: Axis, minor: bool = True) -> None:
    """Write 20 for 2 x 10^1 on a logarithmic axis."""
    axis.set_major_formatter('{x:g}')
    if minor:
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def _finish(axes: Axes) -> None:
    axes.set_xlabel('windows seen')
    axes.grid(which='both', alpha=0.25)
    if axes.lines:
        axes.legend(loc='best', fontsize=9)
    else:
        axes.text(0.5, 0.5, 'none yet', transform=axes.transAxes, ha='center')
