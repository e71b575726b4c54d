# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From JSON, which may hold anything, to a manifest that keeps every rule."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from qvggt_ros.engine.manifest_types import (
    GOLDEN_FIGURES,
    GRAPH_TENSORS,
    GRAPHS,
    SCHEMA_VERSION,
    CalibrationInfo,
    GoldenInfo,
    GraphInfo,
    LayerInfo,
    Manifest,
    TensorInfo,
)
from qvggt_ros.errors import BundleError, first_line

MAX_MANIFEST_BYTES = 16 << 20
MAX_WHOLE_NUMBER = 2**31 - 1
MAX_TEXT = 4096
# No separators, no control characters, nothing that starts with a dot or looks like an option.
FILE_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}')
# ONNX Runtime reads files that end in .ort as another format, which nothing here checks.
GRAPH_SUFFIX, GOLDEN_SUFFIX = '.onnx', '.npz'

_Item = TypeVar('_Item')


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; BundleError in one line otherwise."""
    try:
        with path.open('rb') as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
        if len(text) > MAX_MANIFEST_BYTES:
            raise BundleError(f'{path}: has more than {MAX_MANIFEST_BYTES >> 20} MB')
        content = json.loads(
            text.decode('utf-8'),
            object_pairs_hook=_unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except OSError as error:
        raise BundleError(f'{path}: cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f'{path}: not JSON: {first_line(error)}') from error
    if not isinstance(content, dict):
        raise BundleError(f'{path}: must hold an object, not a {type(content).__name__}')
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'key {twice!r:.80} comes twice in one object')
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f'{text:.80} is not a finite number')
    return number


def manifest_of(content: dict[str, Any], source: str) -> Manifest:
    """Return the manifest that JSON content describes.

    Args:
        content: of the manifest's file, without its own digest.
        source: the file's name, for complaints.

    Raises:
        BundleError: a rule is broken; the message names the key.

    """
    return _ManifestReader(source).manifest(content)


class _ValueReader:
    """Checks single JSON values; each complaint names the key's path."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, where: str, rule: str) -> BundleError:
        return BundleError(f'{self.source}: {where or "the manifest"} {rule}')

    def typed(self, value: object, kind: type, where: str) -> Any:
        if type(value) is not kind:
            raise self.error(where, f'must be a {kind.__name__}, not {value!r:.80}')
        return value

    def keys(self, value: object, names: tuple[str, ...], where: str) -> dict[str, Any]:
        """Return an object that has exactly these keys."""
        content: dict[str, Any] = self.typed(value, dict, where)
        prefix = f'{where}.' if where else ''
        for name in names:
            if name not in content:
                raise self.error(f'{prefix}{name}', 'is missing')
        for name in content:
            if name not in names:
                raise self.error(f'{prefix}{_shown(name)}', 'is not known')
        return content

    def fields(self, value: object, kind: type, where: str) -> dict[str, Any]:
        """Return an object that has exactly the fields of a dataclass as its keys."""
        return self.keys(value, tuple(field.name for field in fields(kind)), where)

    def items(
        self, value: object, where: str, read: Callable[[object, str], _Item]
    ) -> tuple[_Item, ...]:
        """Return what `read` makes of every item of a list."""
        found = self.typed(value, list, where)
        return tuple(read(item, f'{where}[{index}]') for index, item in enumerate(found))

    def text(self, value: object, where: str) -> str:
        """Return text that can be shown in one line of a terminal."""
        text: str = self.typed(value, str, where)
        if len(text) > MAX_TEXT or not text.isprintable():
            raise self.error(where, f'{text!r:.80} must be one line of at most {MAX_TEXT} letters')
        return text

    def positive(self, value: object, where: str) -> int:
        if type(value) is not int or not 1 <= value <= MAX_WHOLE_NUMBER:
            raise self.error(where, f'{value!r:.80} must be a whole number above 0, below 2^31')
        return value

    def ratio(self, value: object, where: str) -> float:
        # A whole number in JSON may be too large for a float.
        if type(value) not in (int, float) or not 0 <= value <= MAX_WHOLE_NUMBER:  # type: ignore[operator]
            raise self.error(where, f'{value!r:.80} must be a number from 0 to 2^31')
        return float(value)  # type: ignore[arg-type]

    def digest(self, value: object, where: str) -> str:
        text: str = self.typed(value, str, where)
        if len(text) != 64 or set(text) - set('0123456789abcdef'):
            raise self.error(where, f'{text!r:.80} is no SHA-256 in hex')
        return text

    def file(self, value: object, where: str, suffix: str = '') -> str:
        """Return a file's bare name: a bundle is flat, and nothing outside it is opened."""
        text: str = self.typed(value, str, where)
        if not FILE_NAME.fullmatch(text) or not text.endswith(suffix):
            rule = f'must be the bare name of a {suffix or "data"} file in the bundle'
            raise self.error(where, f'{text!r:.80} {rule}')
        return text


class _ManifestReader(_ValueReader):
    """Turns JSON values into the manifest's classes."""

    def manifest(self, content: dict[str, Any]) -> Manifest:
        """Return the manifest, with the rules that tie its parts together checked."""
        self.fields(content, Manifest, '')
        texts = ('name', 'model', 'checkpoint', 'precision', 'method', 'attention')
        numbers = ('window_frames', 'image_width', 'image_height', 'patch_size')
        values: dict[str, Any] = {key: self.text(content[key], key) for key in texts}
        values |= {key: self.positive(content[key], key) for key in numbers}
        for side in ('image_width', 'image_height'):
            if values[side] % values['patch_size']:
                raise self.error(side, f'must be a multiple of patch_size {values["patch_size"]}')
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model_config=self.model_config(content['model_config']),
            checkpoint_sha256=self.digest(content['checkpoint_sha256'], 'checkpoint_sha256'),
            graphs=self.graphs(content['graphs']),
            golden=self.golden(content['golden']),
            layers=self.items(content['layers'], 'layers', self.layer),
            calibration=self.calibration(content['calibration']),
            tool_versions=self.texts(content['tool_versions'], 'tool_versions'),
            **values,
        )
        self.check_shapes(manifest)
        return manifest

    def model_config(self, value: object) -> dict[str, Any]:
        """Return the network's sizes: plain values and flat lists of them."""
        content: dict[str, Any] = self.typed(value, dict, 'model_config')
        for name, size in content.items():
            for item in size if type(size) is list else [size]:
                if type(item) not in (int, float, bool, str):
                    raise self.error(
                        f'model_config.{_shown(name)}', 'must be plain or a flat list'
                    )
        return content

    def texts(self, value: object, where: str) -> dict[str, str]:
        content = self.typed(value, dict, where)
        return {
            self.text(key, f'a key of {where}'): self.text(text, f'{where}.{_shown(key)}')
            for key, text in content.items()
        }

    def graphs(self, value: object) -> dict[str, GraphInfo]:
        content = self.typed(value, dict, 'graphs')
        if sorted(content) != sorted(GRAPHS):
            raise self.error('graphs', f'must be exactly {", ".join(GRAPHS)}')
        return {name: self.graph(content[name], name) for name in GRAPHS}

    def graph(self, value: object, name: str) -> GraphInfo:
        where = f'graphs.{name}'
        content = self.fields(value, GraphInfo, where)
        data_file, data_sha256 = content['data_file'], content['data_sha256']
        if (data_file is None) != (data_sha256 is None):
            raise self.error(where, 'data_file and data_sha256 go together')
        if data_file is not None:
            self.file(data_file, f'{where}.data_file')
            self.digest(data_sha256, f'{where}.data_sha256')
        inputs, outputs = GRAPH_TENSORS[name]
        return GraphInfo(
            file=self.file(content['file'], f'{where}.file', GRAPH_SUFFIX),
            sha256=self.digest(content['sha256'], f'{where}.sha256'),
            inputs=self.tensors(content['inputs'], inputs, f'{where}.inputs'),
            outputs=self.tensors(content['outputs'], outputs, f'{where}.outputs'),
            data_file=data_file,
            data_sha256=data_sha256,
        )

    def tensors(self, value: object, names: tuple[str, ...], where: str) -> tuple[TensorInfo, ...]:
        """Return a graph's inputs or outputs, which have fixed names."""
        infos = self.items(value, where, self.tensor)
        if tuple(info.name for info in infos) != names:
            raise self.error(where, f'must be exactly {", ".join(names)}')
        return infos

    def tensor(self, value: object, where: str) -> TensorInfo:
        content = self.fields(value, TensorInfo, where)
        if content['dtype'] != 'float32':
            raise self.error(f'{where}.dtype', f'{content["dtype"]!r:.80} must be float32')
        frames, *sizes = self.typed(content['shape'], list, f'{where}.shape') or [None]
        self.text(frames, f'{where}.shape[0]')
        return TensorInfo(
            name=self.text(content['name'], f'{where}.name'),
            dtype=content['dtype'],
            shape=(frames, *(self.positive(size, f'{where}.shape') for size in sizes)),
            unit=self.text(content['unit'], f'{where}.unit'),
        )

    def check_shapes(self, manifest: Manifest) -> None:
        """Hold the graphs against the image size, and each graph against the one before it."""
        size = (manifest.image_height, manifest.image_width)
        encoder, window, depth = (manifest.graphs[name] for name in GRAPHS)
        known: dict[str, tuple[int | str, ...]]
        known = {'images': (3, *size), 'pose_enc': (9,), 'depth': size, 'depth_conf': size}
        known |= {info.name: info.shape[1:] for info in (*encoder.outputs, *window.outputs[1:])}
        for name, graph in manifest.graphs.items():
            for info in (*graph.inputs, *graph.outputs):
                if info.shape[1:] != known[info.name]:
                    rule = f'{info.name} {list(info.shape[1:])} must be {list(known[info.name])}'
                    raise self.error(f'graphs.{name}', rule)
        for info in (*window.inputs, *depth.inputs):
            if len(info.shape) != 3 or info.shape[1] != manifest.patches:
                raise self.error('graphs', f'{info.name} must have {manifest.patches} patches')

    def layer(self, value: object, where: str) -> LayerInfo:
        content = self.fields(value, LayerInfo, where)
        block = content['weight_block']
        return LayerInfo(
            name=self.text(content['name'], f'{where}.name'),
            weight_bits=self.positive(content['weight_bits'], f'{where}.weight_bits'),
            weight_block=None if block is None else self.positive(block, f'{where}.weight_block'),
            activation=self.text(content['activation'], f'{where}.activation'),
            activation_bits=self.positive(content['activation_bits'], f'{where}.activation_bits'),
            online=self.text(content['online'], f'{where}.online'),
            relative_error=self.ratio(content['relative_error'], f'{where}.relative_error'),
        )

    def calibration(self, value: object) -> CalibrationInfo | None:
        if value is None:
            return None
        content = self.fields(value, CalibrationInfo, 'calibration')
        share = content['added_macs_share']
        if type(content['seed']) is not int or not 0 <= content['seed'] < 2**64:
            raise self.error('calibration.seed', 'must be a whole number from 0 to 2^64')
        return CalibrationInfo(
            source=self.text(content['source'], 'calibration.source'),
            windows=self.positive(content['windows'], 'calibration.windows'),
            seed=content['seed'],
            sha256=self.digest(content['sha256'], 'calibration.sha256'),
            added_macs_share=self.ratio(share, 'calibration.added_macs_share'),
        )

    def golden(self, value: object) -> GoldenInfo:
        content = self.fields(value, GoldenInfo, 'golden')
        return GoldenInfo(
            file=self.file(content['file'], 'golden.file', GOLDEN_SUFFIX),
            sha256=self.digest(content['sha256'], 'golden.sha256'),
            tolerances=self.figures(content['tolerances'], 'golden.tolerances'),
            errors=self.figures(content['errors'], 'golden.errors'),
        )

    def figures(self, value: object, where: str) -> dict[str, float]:
        content = self.keys(value, GOLDEN_FIGURES, where)
        return {key: self.ratio(content[key], f'{where}.{key}') for key in GOLDEN_FIGURES}


def _shown(name: str) -> str:
    """Return a key as a complaint can show it."""
    return name if name.isprintable() and len(name) <= 80 else f'{name!r:.80}'
