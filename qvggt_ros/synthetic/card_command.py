# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth card`: what a trained model is, how it came about and how good it is."""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.errors import CheckpointError, DatasetError, UsageError
from qvggt_ros.files import whole_file
from qvggt_ros.processor import processor_name
from qvggt_ros.synthetic.seeds import TEST_SEEDS_FROM
from qvggt_ros.synthetic.train_checkpoint import Progress, load_run
from qvggt_ros.synthetic.training_history import History, read_history
from qvggt_ros.vggt import VGGT, load_model
from qvggt_ros.vggt.checkpoint import read_averaged_from

CARD = 'MODEL_CARD.md'
CURVES = 'training.png'
VGGT_1B_PARAMETERS = 1.26e9
# name of a figure -> what it says, unit
FIGURES = {
    **{
        f'auc{degrees}': (f'pose AUC at {degrees} degrees', '% of pairs')
        for degrees in (30, 15, 10, 5, 3)
    },
    'rot_median_deg': ('median rotation error of pairs', 'degrees'),
    'trans_median_deg': ('median error of the direction of translation of pairs', 'degrees'),
    'absrel': ('depth AbsRel, after alignment of the median', ''),
    'delta1': ('share of depth pixels within a factor of 1.25', ''),
    'windows': ('windows measured', ''),
}


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        path: the model's file.
        model: its network.
        of_run: whether its weights are the run's moving average as the run file has it.
        averaged_from: digests of the models whose mean it is; empty if it is none.
        progress: of the run.
        history: losses and validations of the run.
        figures: accuracy by name, None if it was not measured; a value is None where it is
            undefined.

    """

    path: Path
    model: VGGT
    of_run: bool
    averaged_from: list[str]
    progress: Progress
    history: History
    figures: dict[str, float | None] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--run', type=Path, required=True, help='run file of the training')
    parser.add_argument(
        '--model', type=Path, required=True, help=f'its model; {CARD} appears beside it'
    )
    parser.add_argument(
        '--figures', type=Path, metavar='JSON', help='what `qvggt eval ... --json` printed'
    )


def run(args: argparse.Namespace) -> int:
    """Write card and curves, both or neither."""
    from qvggt_ros.synthetic.training_curves import draw_curves  # the other tasks need no plots

    facts = gather(args.run, args.model, args.figures)
    card, curves = (args.model.with_name(name) for name in (CARD, CURVES))
    try:
        with whole_file(card) as new_card, whole_file(curves) as new_curves:
            new_card.write_text(card_text(facts), encoding='utf-8')
            draw_curves(facts.history, new_curves)
    except OSError as error:
        raise UsageError(f'{card}: cannot be written: {error.strerror}') from error
    print(f'{card}, {curves}')
    return 0


def gather(run_path: Path, model_path: Path, figures_path: Path | None) -> CardFacts:
    """Read all that a card says.

    Args:
        run_path: the training's run file; its history lies beside it.
        model_path: the model that it wrote.
        figures_path: output of `qvggt eval --json`, or None.

    Raises:
        CheckpointError: run file or model is missing, damaged, or of another network.
        DatasetError: history or figures are missing or damaged.

    """
    groups, progress, run_config = load_run(run_path)
    model = load_model(model_path)
    if json.loads(json.dumps(model.config.to_dict())) != run_config:
        raise CheckpointError(f'{model_path}: a network of other sizes than that of {run_path}')
    return CardFacts(
        path=model_path,
        model=model,
        of_run=_same_weights(model.state_dict(), groups.get('average', {})),
        averaged_from=read_averaged_from(model_path),
        progress=progress,
        history=read_history(run_path.with_suffix('.jsonl')),
        figures=None if figures_path is None else read_figures(figures_path),
    )


def _same_weights(stored: dict[str, Tensor], average: dict[str, Tensor]) -> bool:
    """Tell whether weights are these ones after storing them in 16 bits."""
    return all(
        name in average and torch.equal(value.half(), average[name].half())
        for name, value in stored.items()
    )


def read_figures(path: Path) -> dict[str, float | None]:
    """Read the JSON object in the last line of what `qvggt eval --json` printed.

    Raises:
        DatasetError: the file is missing, or its last line is something else.

    """
    try:
        lines = path.read_text(encoding='utf-8').strip().splitlines()
        values = json.loads(lines[-1])
    except OSError as error:
        raise DatasetError(f'{path}: cannot be read: {error.strerror}') from error
    except (ValueError, IndexError):
        values = None
    if not isinstance(values, dict) or not set(values) & set(FIGURES):
        raise DatasetError(f'{path}: its last line is not what `qvggt eval --json` prints')
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DatasetError(f'{path}: {name} is {value!r}, not a number')
    return values


# ---------------------------------------------------------------------------- the text


def card_text(facts: CardFacts) -> str:
    """Return the card in Markdown."""
    sections = [
        _purpose(facts),
        _accuracy(facts),
        _training(facts),
        f'![Losses and validation figures over the training]({CURVES})',
        _network(facts),
        _file(facts),
    ]
    return '\n\n'.join(sections) + '\n'


def _purpose(facts: CardFacts) -> str:
    parameters = _parameters(facts.model)
    return (
        f'# Model card: {facts.path.parent.name or facts.path.stem}\n\n'
        'A small VGGT that stands in for the published model where that cannot be shipped: in '
        'tests, in the demo, and while a robot is set up. It was trained from scratch on rendered '
        f'rooms only, and has {parameters / 1e6:.2f} million parameters, one '
        f'{VGGT_1B_PARAMETERS / parameters:.0f}th of VGGT-1B. **Its figures are its own: they say '
        'nothing about the accuracy of VGGT-1B**, nor about real pictures, which it has never '
        'seen.'
    )


def _accuracy(facts: CardFacts) -> str:
    if facts.figures is None:
        measured = 'Not measured on test rooms yet.'
    else:
        measured = 'As `qvggt eval --json` printed them:\n\n' + _figure_table(facts.figures)
    validation = facts.history.last_validation()
    if validation:
        measured += (
            '\n\nThe last validation of the training, on rooms that were not trained on '
            f'either:\n\n{_figure_table(validation)}'
        )
    return f'## Accuracy\n\n{measured}'


def _figure_table(figures: dict[str, float] | dict[str, float | None]) -> str:
    rows = []
    for name, (meaning, unit) in FIGURES.items():
        if name in figures:
            value = figures[name]
            known = value is not None and math.isfinite(value)
            rows.append((meaning, f'{value:.4g} {unit}'.strip() if known else 'undefined'))
    return _table(('figure', 'value'), rows)


def _training(facts: CardFacts) -> str:
    progress = facts.progress
    rows = [
        ('steps', f'{progress.step:,}'),
        ('windows seen', f'{progress.windows:,}'),
        ('time', f'{progress.seconds / 3600:.2f} hours'),
        ('rooms', f'{progress.sequences:,} by each training process'),
        ('processor', f'{processor_name()}, {os.cpu_count()} cores'),
        ('PyTorch', str(torch.__version__)),
    ]
    weights = _origin(facts)
    if progress.windows_before:
        weights += (
            f' The run began with a model that had seen {progress.windows_before:,} windows; '
            'they and the rooms that so many take are counted above, its steps and time are not.'
        )
    return (
        f'## Training\n\n{_table(("what", "value"), rows)}\n\n{weights} Processor and PyTorch are '
        'those of the machine that this card was written on. Rooms to train on have negative '
        f'seeds, from -1 down. Rooms to test with have seeds from {TEST_SEEDS_FROM} up; none of '
        'them was ever trained on. Seeds between are for validation and examples.'
    )


def _origin(facts: CardFacts) -> str:
    """Say what of the run the weights are."""
    if facts.averaged_from:
        digests = ', '.join(f'`{digest[:12]}`' for digest in facts.averaged_from)
        return (
            'The weights are the mean of models that the training passed through (SHA-256 '
            f'{digests}).'
        )
    if facts.of_run:
        return "The weights are the run's moving average at that point."
    return 'The weights were written at another point of the run than the one counted here.'


def _network(facts: CardFacts) -> str:
    config: dict[str, Any] = facts.model.config.to_dict()
    rows = [(f'`{name}`', _plain(value)) for name, value in config.items()]
    return f'## Network\n\n{_table(("size", "value"), rows)}'


def _plain(value: object) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _file(facts: CardFacts) -> str:
    rows = [
        ('name', f'`{facts.path.name}`'),
        ('size', f'{facts.path.stat().st_size:,} bytes'),
        ('parameters', f'{_parameters(facts.model):,}'),
        ('SHA-256', f'`{file_digest(facts.path)}`'),
    ]
    return f'## File\n\n{_table(("what", "value"), rows)}'


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ('---', '---'), *rows]
    return '\n'.join(f'| {left} | {right} |' for left, right in lines)


def _parameters(model: VGGT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
