# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt quantization-table`: methods x precisions on one network, measured on the same windows.

Each row is kept as soon as it is measured, so that an interrupted table goes on. Stresses ask
what large networks do to a method: outlier channels, outlier tokens, noise among the calibration
windows.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.errors import DatasetError, UsageError
from qvggt_ros.evaluation.accuracy import synthetic_windows, torch_predictor
from qvggt_ros.evaluation.drift import ReferenceRun, evaluate_with_drift, reference_run
from qvggt_ros.evaluation.sequence_error import (
    CameraSequence,
    sequence_error,
    synthetic_sequence,
)
from qvggt_ros.evaluation.torch_engine import TorchEngine
from qvggt_ros.files import whole_file
from qvggt_ros.quantization.calibrate import QuantiseConfig, quantise
from qvggt_ros.quantization.calibration_sources import WindowPool, open_pool
from qvggt_ros.quantization.learn import LearnConfig
from qvggt_ros.quantization.nfds import CalibrationSet, NfdsConfig, random_set, select
from qvggt_ros.quantization.noise_stress import with_noise
from qvggt_ros.quantization.outlier_stress import with_channel_outliers, with_token_outliers
from qvggt_ros.quantization.recipe import METHODS, PRECISIONS
from qvggt_ros.vggt import VGGT, fit_threads, load_model

STRESSES = ('none', 'channels', 'tokens', 'noise')
NOISE_SHARE = 0.2
TOKEN_STRESS_WINDOWS = 12  # from which the outlier tokens' detector is made
# (key, heading, decimals): of the printed table; the file holds all figures.
COLUMNS = (
    ('auc30', 'AUC@30', 2),
    ('auc5', 'AUC@5', 2),
    ('auc3', 'AUC@3', 2),
    ('absrel', 'AbsRel', 4),
    ('ate_share', 'ATE, % of path', 2),
    ('drift_rot_deg_median', 'rot. drift, deg', 3),
    ('drift_rot_deg_p95', 'p95', 3),
    ('drift_trans_dir_deg_median', 'trans. drift, deg', 2),
    ('drift_trans_dir_deg_p95', 'p95', 2),
    ('drift_fov_deg_median', 'FoV drift, deg', 3),
    ('drift_depth_rel_median', 'depth drift', 4),
    ('seconds', 's', 0),
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row: what is quantised how."""

    stress: str
    precision: str
    method: str
    learned: bool
    calibration: str  # nfds, or random where the stress is noise
    seed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--model', type=Path, default=Path('engines/demo/model.safetensors'))
    parser.add_argument('--precisions', default=','.join(PRECISIONS), help='comma-separated')
    parser.add_argument('--methods', default=','.join(METHODS), help='comma-separated')
    parser.add_argument('--stress', choices=STRESSES, default='none')
    parser.add_argument('--seed', type=int, default=10_000, help='first test room (10000)')
    parser.add_argument('--windows', type=int, default=500, help='of 4 frames (500)')
    parser.add_argument('--frames', type=int, default=4, help='per window (4)')
    parser.add_argument('--drive', type=int, default=200, help='frames of the drive; 0: none')
    parser.add_argument('--seeds', type=int, default=1, help='calibrations with other seeds (1)')
    parser.add_argument('--fast', action='store_true', help='leave the learned stage out')
    parser.add_argument('--out', type=Path, default=Path('runs/quantization.json'))


def run(args: argparse.Namespace) -> int:
    """Measure the rows that are missing, then print the table."""
    cases = list(_cases(args))
    rows = _read_rows(args.out)
    table = _Measuring(args)
    for case in cases:
        name = table.name(case)
        if name not in rows:
            rows[name] = table.measure(case)
            _write_rows(args.out, rows)
    _print(args, [table.float_row(), *(rows[table.name(case)] for case in cases)])
    return 0


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    for precision in _chosen(args.precisions, PRECISIONS, '--precisions'):
        for method in _chosen(args.methods, METHODS, '--methods'):
            learned = METHODS[method].learn and not args.fast
            for seed in range(args.seeds):
                yield Case(args.stress, precision, method, learned, 'nfds', seed)
                if args.stress == 'noise':
                    yield Case(args.stress, precision, method, learned, 'random', seed)


def _chosen(text: str, known: dict[str, Any], option: str) -> list[str]:
    words = [word for word in text.split(',') if word]
    for word in words:
        if word not in known:
            raise UsageError(f'{option} {word}: must be of {", ".join(known)}')
    return words


class _Measuring:
    """Everything that rows share, made when it is first needed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._model = load_model(args.model).float()
        config = self._model.config
        fit_threads(config)
        self._size = (config.pretrain_height, config.pretrain_width)
        self._digest = file_digest(args.model)[:12]
        self._sets: dict[tuple[str, int], CalibrationSet] = {}
        self._stressed: VGGT | None = None
        self._reference: ReferenceRun | None = None
        self._drive: CameraSequence | None = None

    def name(self, case: Case) -> str:
        """Return what a row is kept under: it changes with everything that changes its figures."""
        args = self._args
        data = f'{args.seed}+{args.windows}x{args.frames} drive {args.drive}'
        how = 'learned' if case.learned else 'direct'
        return (
            f'{self._digest} {data}: {case.stress} {case.precision} {case.method} {how} '
            f'{case.calibration} {case.seed}'
        )

    def float_row(self) -> Row:
        """Return the float network's own figures."""
        row: Row = {'precision': 'float', 'method': '', **self.reference().accuracy}
        return row | self._drive_error(self.network())

    def measure(self, case: Case) -> Row:
        """Quantise and evaluate."""
        windows = self.calibration(case).windows
        started = time.monotonic()
        config = QuantiseConfig(seed=case.seed, learn=LearnConfig() if case.learned else None)
        found = quantise(self.network(), windows, case.precision, case.method, config)
        seconds = time.monotonic() - started
        figures = evaluate_with_drift(torch_predictor(found.model), self.reference())
        figures |= self._drive_error(found.model)
        row: Row = {**vars(case), **figures, 'seconds': seconds}
        print(_line(case, row), flush=True)
        return row

    def network(self) -> VGGT:
        """Return the float network, with the stress that was asked for."""
        if self._stressed is None:
            self._stressed = self._model
            if self._args.stress == 'channels':
                self._stressed = with_channel_outliers(self._model, seed=0)
            elif self._args.stress == 'tokens':
                pool = self._pool('synthetic:7', TOKEN_STRESS_WINDOWS, 0)
                windows = random_set(pool, TOKEN_STRESS_WINDOWS, 0).windows
                self._stressed = with_token_outliers(self._model, 0, windows)
        return self._stressed

    def _pool(self, source: str, count: int, seed: int) -> WindowPool:
        patch = self._model.config.patch_size
        return open_pool(source, self._args.frames, self._size, count, seed, patch)

    def reference(self) -> ReferenceRun:
        """Return the test windows with the float network's answers."""
        if self._reference is None:
            args = self._args
            height, width = self._size
            batches = synthetic_windows(args.seed, args.windows, args.frames, width, height)
            self._reference = reference_run(torch_predictor(self.network()), batches)
        return self._reference

    def calibration(self, case: Case) -> CalibrationSet:
        """Return the windows to calibrate on; the same for all methods and precisions."""
        key = (case.calibration, case.seed)
        if key not in self._sets:
            nfds = NfdsConfig(seed=case.seed)
            pool = self._pool('synthetic', nfds.candidates, case.seed)
            if case.stress == 'noise':
                pool = with_noise(pool, NOISE_SHARE, case.seed)
            self._sets[key] = (
                random_set(pool, nfds.samples, case.seed)
                if case.calibration == 'random'
                else select(self._model, pool, nfds)
            )
        return self._sets[key]

    def _drive_error(self, model: VGGT) -> Row:
        """Return the error of a drive through the whole reconstruction; NaN where it is lost."""
        args = self._args
        if not args.drive:
            return {}
        if self._drive is None:
            height, width = self._size
            self._drive = synthetic_sequence(args.seed + 93, args.drive, width, height)
        try:
            error = sequence_error(TorchEngine(model, args.frames), self._drive)
        except DatasetError:
            return {'ate_share': math.nan}
        return {'ate_share': 100 * error['ate_share'], 'rpe_rot_deg': error['rpe_rot_deg']}


def _line(case: Case, row: Row) -> str:
    return (
        f'{case.stress} {case.precision} {case.method} {case.calibration} seed {case.seed}: '
        f'AUC@30 {row["auc30"]:.2f}, rotation drift {row["drift_rot_deg_median"]:.3f} degrees, '
        f'{row["seconds"]:.0f} s'
    )


def _read_rows(path: Path) -> dict[str, Row]:
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f'--out {path}: is no table of this command: {error}') from error
    if not isinstance(rows, dict):
        raise UsageError(f'--out {path}: is no table of this command')
    return rows


def _write_rows(path: Path, rows: dict[str, Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write_text(json.dumps(rows, indent=1) + '\n')


def _print(args: argparse.Namespace, rows: list[Row]) -> None:
    """Print the table as Markdown, for documents, after one for the eye."""
    shown = [column for column in COLUMNS if any(column[0] in row for row in rows)]
    headings = ['precision', 'method', *(heading for _, heading, _ in shown)]
    lines = [
        [
            row['precision'] + _simulated(row['precision']),
            _method(row),
            *(_number(row.get(key), decimals) for key, _, decimals in shown),
        ]
        for row in rows
    ]
    table = Table(title=f'{args.model}, stress: {args.stress}')
    for heading in headings:
        table.add_column(heading)
    for line in lines:
        table.add_row(*line)
    Console(width=None if Console().is_terminal else 190).print(table)
    for line in (headings, ['---'] * len(headings), *lines):
        print('| ' + ' | '.join(line) + ' |')


def _method(row: Row) -> str:
    words = [row['method']]
    if row.get('stress') == 'noise':
        words.append(f'({row["calibration"]}, seed {row["seed"]})')
    return ' '.join(words)


def _simulated(precision: str) -> str:
    return ' (simulated)' if precision in PRECISIONS and PRECISIONS[precision].simulated else ''


def _number(value: float | None, decimals: int) -> str:
    if value is None:
        return ''
    return f'{value:.{decimals}f}' if np.isfinite(value) else 'lost'
