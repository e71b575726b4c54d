# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A training's history, as `qvggt synth train` writes it beside the run file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt_ros.errors import DatasetError

Entry = dict[str, Any]

COUNTERS = ('kind', 'step', 'windows', 'minutes')


@dataclass(frozen=True)
class History:
    """Entries of a run, each with its counters, by rising step.

    Attributes:
        losses: about one a second.
        validations: one every few minutes; may be empty.

    """

    losses: list[Entry]
    validations: list[Entry]

    def last_validation(self) -> dict[str, float]:
        """Return the newest validation's figures without the counters; empty if there is none."""
        if not self.validations:
            return {}
        return {k: v for k, v in self.validations[-1].items() if k not in COUNTERS}


def read_history(path: Path) -> History:
    """Read a run's history; what an interrupted session repeated counts once.

    Raises:
        DatasetError: the file is missing, or holds no losses.

    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path}: not a readable training history: {error}') from error
    kinds: dict[str, list[Entry]] = {'loss': [], 'validation': []}
    for entry in filter(None, map(_entry, lines)):
        for kind, known in kinds.items():
            # A session that began again from an older checkpoint. Losses and validation of one
            # step stand together.
            oldest = entry['step'] + (kind != entry['kind'])
            while known and known[-1]['step'] >= oldest:
                known.pop()
        kinds[entry['kind']].append(entry)
    if not kinds['loss']:
        raise DatasetError(f'{path}: holds no losses of a training')
    return History(kinds['loss'], kinds['validation'])


def _entry(line: str) -> Entry | None:
    """Return a line's entry; None for one that was cut off or is of another kind."""
    try:
        entry = json.loads(line)
        known = entry['kind'] in ('loss', 'validation')
        int(entry['step'])
        int(entry['windows'])
    except (ValueError, TypeError, KeyError):
        return None
    return dict(entry) if known else None
