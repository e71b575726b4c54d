# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open mutants of a bundle's files, one after another, in a process that a runtime may bring down.

`python file_mutants.py BUNDLE FIRST COUNT` writes a line for each mutant: its number, what became
of it, and the refusal.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from bundle_forgery import resign
from onnxruntime import InferenceSession

from qvggt_ros.engine import onnxruntime_engine, open_bundle
from qvggt_ros.engine.manifest import file_digest, read_manifest
from qvggt_ros.errors import QvggtError

MEMORY_BYTES = 4 << 30
WEIGHTS_BYTES = 64  # a tensor of more is weights, of less part of the structure
Random = np.random.Generator


def mutated(content: bytes, places: np.ndarray, random: Random) -> bytes:
    """Return content with one small damage at one of the places."""
    at = int(random.choice(places))
    size = int(random.integers(1, 9))
    noise = random.bytes(size)
    damages = (
        content[:at] + bytes([content[at] ^ (1 << int(random.integers(8)))]) + content[at + 1 :],
        content[:at] + noise[:1] + content[at + 1 :],
        content[:at] + noise + content[at + size :],
        content[:at] + noise + content[at:],
        content[:at] + content[at + size :],
        content[:at] + content[max(0, at - size) : at] + content[at:],
        content[:at] + bytes(size) + content[at + size :],
        content[:at] + b'\xff' * size + content[at + size :],
        content[:at],
    )
    # A truncation is soon understood: it is drawn seldom.
    weights = np.array([4, 4, 2, 2, 2, 2, 2, 2, 0.3])
    return damages[int(random.choice(len(damages), p=weights / weights.sum()))]


@lru_cache(maxsize=8)
def structure(path: Path) -> np.ndarray:
    """Return the places of a graph file that are no weights; of another file all places."""
    content = path.read_bytes()
    is_structure = np.ones(len(content), bool)
    if path.suffix == '.onnx':
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            begin = content.find(tensor.raw_data) if len(tensor.raw_data) > WEIGHTS_BYTES else -1
            if begin >= 0:
                is_structure[begin : begin + len(tensor.raw_data)] = False
    return np.flatnonzero(is_structure)


def mutate_file(sound: Path, folder: Path, seed: int) -> str:
    """Damage one file of a copy of a bundle; return the file's name."""
    random = np.random.default_rng(seed)
    manifest = read_manifest(sound, verify_files=False)
    names = [*manifest.graph_files, manifest.golden.file]
    name = names[seed % len(names)]
    content = (sound / name).read_bytes()
    anywhere = random.random() < 0.3
    places = np.arange(len(content)) if anywhere else structure(sound / name)
    (folder / name).write_bytes(mutated(content, places, random))
    return name


def keep_sessions() -> None:
    """Let graphs that were opened before be opened no more: only the mutant is new."""
    opened: dict[str, InferenceSession] = {}
    sound_open = onnxruntime_engine.open_graph

    def open_graph(path: Path, threads: int = 0) -> InferenceSession:
        digest = file_digest(path)
        if digest not in opened:
            session = sound_open(path, threads)
            if len(opened) >= 8:
                return session
            opened[digest] = session
        return opened[digest]

    onnxruntime_engine.open_graph = open_graph


def outcome(folder: Path) -> str:
    """Return what opening a bundle comes to, in one line."""
    try:
        open_bundle(folder, threads=1)
    except QvggtError as error:
        message = str(error)
        fair = message.isprintable() and str(folder) in message and len(message) < 1000
        return f'refused {message}' if fair else f'FAULT {message!r}'
    except BaseException as error:
        return f'FAULT {error!r:.300}'
    return 'loaded'


def main() -> None:
    sound, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    keep_sessions()
    open_bundle(sound, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(sound, Path(scratch) / 'mutant'))
        for seed in range(first, first + count):
            print(f'{seed} ', end='', flush=True)
            name = mutate_file(sound, folder, seed)
            resign(folder, name)
            print(f'{name} {outcome(folder)}', flush=True)
            for changed in (name, 'manifest.json'):
                shutil.copy(sound / changed, folder / changed)


if __name__ == '__main__':
    main()
