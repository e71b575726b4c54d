# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth card`: says what the files say, and appears with its picture or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import SMALL, lively

from qvggt_ros.cli import main
from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.errors import DatasetError
from qvggt_ros.synthetic import training_curves
from qvggt_ros.synthetic.card_command import read_figures
from qvggt_ros.synthetic.train_checkpoint import Progress, save_run
from qvggt_ros.synthetic.training_curves import _thinned, _windows_of
from qvggt_ros.synthetic.training_history import read_history
from qvggt_ros.vggt import save_checkpoint

FIGURES = {'auc30': 61.25, 'rot_median_deg': 1.5, 'absrel': None, 'delta1': 0.9, 'windows': 500}


def loss(step: int, windows: int, **values: float) -> dict[str, object]:
    return {'kind': 'loss', 'step': step, 'windows': windows, 'minutes': step / 10, **values}


def validation(step: int, windows: int, **values: float | None) -> dict[str, object]:
    return {'kind': 'validation', 'step': step, 'windows': windows, 'minutes': 1.0, **values}


def write_history(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return path


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """Return a model, with its run and history beside it."""
    model = lively(SMALL)
    path = tmp_path / 'tiny' / 'model.safetensors'
    save_checkpoint(path, model, torch.float16)
    save_run(
        tmp_path / 'run.safetensors',
        {'average': dict(model.state_dict())},
        Progress(step=4321, windows=123_456, sequences=777, seconds=9000.0),
        SMALL.to_dict(),
    )
    write_history(
        tmp_path / 'run.jsonl',
        *(loss(i, 30 * i, camera=1 / i, depth=0.5, draw_ms=3.0) for i in range(1, 40)),
        validation(20, 600, auc30=12.5, rot_median_deg=3.0, absrel=0.3),
        validation(39, 1170, auc30=20.5, rot_median_deg=2.0, absrel=None),
    )
    return path


def card(model_path: Path, *words: str) -> int:
    run = model_path.parent.parent / 'run.safetensors'
    return main(['synth', 'card', '--run', str(run), '--model', str(model_path), *words])


def test_a_card_says_what_the_run_began_with(model_path: Path, tmp_path: Path) -> None:
    average = {'average': dict(lively(SMALL).state_dict())}
    progress = Progress(step=9, windows=2000, sequences=99, seconds=60.0, windows_before=1500)
    save_run(tmp_path / 'run.safetensors', average, progress, SMALL.to_dict())
    assert card(model_path) == 0
    text = (model_path.parent / 'MODEL_CARD.md').read_text()
    assert 'began with a model that had seen 1,500 windows' in text
    assert '| windows seen | 2,000 |' in text


def test_a_card_says_what_a_mean_is_made_of(model_path: Path) -> None:
    save_checkpoint(model_path, lively(SMALL), averaged_from=['ab' * 32, 'cd' * 32])
    assert card(model_path) == 0
    text = (model_path.parent / 'MODEL_CARD.md').read_text()
    assert 'the mean of models that the training passed through' in text
    assert '`abababababab`, `cdcdcdcdcdcd`' in text


def test_a_card_says_what_the_files_say(model_path: Path, tmp_path: Path) -> None:
    figures = tmp_path / 'eval.json'
    figures.write_text(f'a table\n{json.dumps(FIGURES)}\n')
    assert card(model_path, '--figures', str(figures)) == 0
    text = (model_path.parent / 'MODEL_CARD.md').read_text()
    assert text.startswith('# Model card: tiny\n')
    parameters = sum(p.numel() for p in lively(SMALL).parameters())
    for words in (
        'stands in for',
        'Its figures are its own',
        'VGGT-1B',
        'negative seeds',
        'seeds from 10000 up; none of them was ever trained on',
        "The weights are the run's moving average",
        '| pose AUC at 30 degrees | 61.25 % of pairs |',
        '| pose AUC at 30 degrees | 20.5 % of pairs |',
        '| depth AbsRel, after alignment of the median | undefined |',
        '| windows measured | 500 |',
        '| steps | 4,321 |',
        '| windows seen | 123,456 |',
        '| time | 2.50 hours |',
        '| rooms | 777 by each training process |',
        f'| PyTorch | {torch.__version__} |',
        '| `taps` | 0, 1, 2, 3 |',
        '| `width` | 32 |',
        f'| parameters | {parameters:,} |',
        f'| size | {model_path.stat().st_size:,} bytes |',
        f'`{file_digest(model_path)}`',
        '](training.png)',
    ):
        assert words in text, words
    picture = np.asarray(Image.open(model_path.parent / 'training.png').convert('RGB'))
    assert min(picture.shape[:2]) >= 800
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_card_without_figures_says_so(model_path: Path) -> None:
    assert card(model_path) == 0
    assert 'Not measured on test rooms yet' in (model_path.parent / 'MODEL_CARD.md').read_text()


def test_weights_of_another_point_of_the_run_are_called_that(model_path: Path) -> None:
    save_checkpoint(model_path, lively(SMALL, seed=1), torch.float16)
    assert card(model_path) == 0
    text = (model_path.parent / 'MODEL_CARD.md').read_text()
    assert 'written at another point of the run' in text


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('run.safetensors', 'run.safetensors: not a training checkpoint'),
        ('run.jsonl', 'run.jsonl: not a readable training history'),
        ('tiny/model.safetensors', 'model.safetensors: no such checkpoint file'),
    ],
)
def test_a_missing_file_is_one_line_and_nothing_appears(
    missing: str, message: str, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_path.parent.parent / missing).unlink()
    assert card(model_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not {item.name for item in model_path.parent.iterdir()} - {'model.safetensors'}


def test_a_model_of_another_network_is_refused(
    model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = model_path.parent.parent / 'run.safetensors'
    save_run(run, {}, Progress(), {**SMALL.to_dict(), 'width': 64})
    assert card(model_path) == 2
    assert 'of other sizes' in capsys.readouterr().err


def test_card_and_picture_appear_both_or_neither(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    assert card(model_path) == 0
    folder = model_path.parent
    before = {item.name: item.read_bytes() for item in folder.iterdir()}
    monkeypatch.setattr(training_curves, 'draw_curves', fail)
    save_checkpoint(model_path, lively(SMALL, seed=1), torch.float16)
    assert card(model_path) == 130
    after = {item.name: item.read_bytes() for item in folder.iterdir()}
    assert set(after) == set(before)
    assert after['MODEL_CARD.md'] == before['MODEL_CARD.md']


@pytest.mark.parametrize(
    'text', ['', 'no JSON', '[1]', '{}', '{"speed": 3}', '{"auc30": "high"}', '{"auc30": true}']
)
def test_other_figures_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'eval.json'
    path.write_text(text)
    with pytest.raises(DatasetError, match=r'eval\.json: '):
        read_figures(path)


def test_what_an_interrupted_session_repeated_counts_once(tmp_path: Path) -> None:
    path = write_history(
        tmp_path / 'run.jsonl',
        *(loss(step, 10 * step, camera=1.0) for step in (1, 2, 3, 4)),
        validation(4, 40, auc30=1.0),
        *(loss(step, 10 * step, camera=2.0) for step in (3, 4, 5)),
        {'kind': 'other', 'step': 9, 'windows': 9},
    )
    with path.open('a') as file:
        file.write('{"kind": "loss", "step": 6, "win')
    history = read_history(path)
    assert [(e['step'], e['camera']) for e in history.losses] == [
        *((1, 1.0), (2, 1.0)),
        *((3, 2.0), (4, 2.0), (5, 2.0)),
    ]
    assert history.validations == []
    assert history.last_validation() == {}


def test_a_history_without_losses_is_refused(tmp_path: Path) -> None:
    path = write_history(tmp_path / 'run.jsonl', validation(1, 10))
    with pytest.raises(DatasetError, match='holds no losses'):
        read_history(path)


def test_validations_stand_at_the_windows_seen_at_their_step(tmp_path: Path) -> None:
    # Older histories have the number of validation windows in that place.
    history = read_history(
        write_history(
            tmp_path / 'run.jsonl',
            loss(10, 1000),
            validation(15, 96, auc30=1.0),
            loss(20, 3000),
        )
    )
    assert _windows_of(history).tolist() == [2000.0]


def test_long_curves_are_drawn_at_places_even_on_a_logarithmic_axis() -> None:
    windows = np.arange(1.0, 100_001.0)
    shown = _thinned(windows)
    assert len(shown) <= training_curves.MAX_DRAWN
    assert (shown[0], shown[-1]) == (0, len(windows) - 1)
    ratios = np.diff(np.log(windows[shown]))
    assert ratios[len(ratios) // 2 :].max() < 0.02
    assert _thinned(np.array([5.0, 6.0])).tolist() == [0, 1]
