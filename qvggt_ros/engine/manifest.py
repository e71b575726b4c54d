# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's manifest: what a bundle holds, and the digest of every file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qvggt_ros.errors import BundleError
from qvggt_ros.files import whole_file

SCHEMA_VERSION = 2
MANIFEST_FILE = 'manifest.json'
GRAPHS = ('encoder', 'window', 'depth')
GOLDEN_OUTPUTS = ('pose_enc', 'depth', 'depth_conf')
TAPS = 4
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """A graph's input or output.

    Attributes:
        name: its name in the graph.
        dtype: numpy's name of its type.
        shape: sizes; a string is a dimension that varies from call to call.
        unit: what its numbers mean.

    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    unit: str


@dataclass(frozen=True)
class GraphInfo:
    """One ONNX graph; `data_file` holds its weights where one file would be over 2 GB."""

    file: str
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    data_file: str | None
    data_sha256: str | None


@dataclass(frozen=True)
class GoldenInfo:
    """Windows with the float model's outputs on them.

    Attributes:
        file, sha256: an .npz with `images` uint8 [n, S, H, W, 3] RGB and float32 `pose_enc`
            [n, S, 9], `depth` and `depth_conf` [n, S, H, W].
        tolerances: for each output the largest allowed max |difference| / max |reference|.
        errors: the same ratio as measured when the bundle was built.

    """

    file: str
    sha256: str
    tolerances: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class LayerInfo:
    """How one layer was quantised; layers that are not listed are float.

    Attributes:
        name: in the network.
        weight_bits: 8 or 4.
        weight_block: inputs that share a step; None: one step per output channel.
        activation: `static` (one fixed step per tensor) or `none` (float).
        activation_bits: of the input; 16 where it is float.
        online: what is done to the input as it comes, beside quantising it: `none` or `scale`.
        relative_error: mean square error of its output over the output's mean square, by itself.

    """

    name: str
    weight_bits: int
    weight_block: int | None
    activation: str
    activation_bits: int
    online: str
    relative_error: float


@dataclass(frozen=True)
class CalibrationInfo:
    """What a quantised bundle was calibrated on.

    Attributes:
        source: as given to `qvggt build --calibration`.
        windows: how many were drawn.
        seed: of the draw.
        sha256: of the windows' pixels.
        added_macs_share: multiplications that the method leaves to be done online, as a share of
            those of the transformer blocks.

    """

    source: str
    windows: int
    seed: int
    sha256: str
    added_macs_share: float


@dataclass(frozen=True)
class Manifest:
    """Everything a user of the bundle needs to know about it.

    Attributes:
        schema_version: of this layout.
        name: the bundle's name.
        model: the network's name (`demo`, `vggt-1b`).
        model_config: the network's sizes, `VGGTConfig.to_dict()`.
        checkpoint: where the weights came from, as text for people.
        checkpoint_sha256: digest of the checkpoint file, or of the weights if there was none.
        precision, method: numbers of the linear layers, and how they were quantised.
        attention: how the graphs spell attention (`fused`: ONNX Runtime's own operator).
        window_frames: the S that the bundle is meant and checked for; other sizes run too.
        image_width, image_height: pixels.
        patch_size: pixels.
        graphs: by name, exactly `encoder`, `window`, `depth`.
        golden: what the self-check compares with.
        layers: every quantised layer, in running order; empty for a float bundle.
        calibration: None for a float bundle.
        tool_versions: by package.

    """

    schema_version: int
    name: str
    model: str
    model_config: dict[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    precision: str
    method: str
    attention: str
    window_frames: int
    image_width: int
    image_height: int
    patch_size: int
    graphs: dict[str, GraphInfo]
    golden: GoldenInfo
    layers: tuple[LayerInfo, ...]
    calibration: CalibrationInfo | None
    tool_versions: dict[str, str]

    @property
    def graph_files(self) -> list[str]:
        """Names of the files that hold the graphs and their weights."""
        files = [(graph.file, graph.data_file) for graph in self.graphs.values()]
        return [file for pair in files for file in pair if file is not None]

    @property
    def patches(self) -> int:
        """Patch tokens per frame."""
        return (self.image_height // self.patch_size) * (self.image_width // self.patch_size)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, with a digest of its own content, so that an edit is noticed."""
    content = asdict(manifest)
    text = json.dumps({**content, 'manifest_sha256': content_digest(content)}, indent=1)
    with whole_file(folder / MANIFEST_FILE) as file:
        file.write_text(text + '\n', encoding='utf-8')


def read_manifest(folder: Path, verify_files: bool = True) -> Manifest:
    """Read and check a bundle's manifest and, unless told otherwise, every file's digest.

    Raises:
        BundleError: a file is missing, lies outside the folder, or is not what the manifest
            says; or the manifest itself breaks a rule.

    """
    path = Path(folder) / MANIFEST_FILE
    content = _read_json(path)
    reader = _Reader(str(path))
    version = content.get('schema_version')
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f'{path}: schema_version is {version!r:.80}, this version of qvggt_ros reads '
            f'{SCHEMA_VERSION}; build the bundle again'
        )
    digest = content.pop('manifest_sha256', None)
    manifest = reader.manifest(content)
    if digest != content_digest(content):
        raise BundleError(f'{path}: was changed after the bundle was built; build it again')
    if verify_files:
        verify_digests(Path(folder), manifest)
    return manifest


def verify_digests(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the bundle is there, inside the folder, and unchanged."""
    listed: list[tuple[str | None, str | None]] = [
        (graph.file, graph.sha256) for graph in manifest.graphs.values()
    ]
    listed += [(graph.data_file, graph.data_sha256) for graph in manifest.graphs.values()]
    listed.append((manifest.golden.file, manifest.golden.sha256))
    for file, expected in listed:
        if file is not None and file_digest(bundle_path(folder, file)) != expected:
            raise BundleError(
                f'{folder / file}: its SHA-256 is not the one in {MANIFEST_FILE}; '
                'the file is damaged or from another bundle'
            )


def bundle_path(folder: Path, file: str) -> Path:
    """Return the path of a bundle's file; BundleError if it is missing or lies outside."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f'{folder / MANIFEST_FILE}: file {file!r} lies outside the bundle')
    if not path.is_file():
        raise BundleError(f'{path}: missing, though {MANIFEST_FILE} lists it')
    return path


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f'{path}: cannot be read: {error.strerror}') from error
    return digest.hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON content, whatever its layout on disk."""
    canonical = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; BundleError in one line otherwise."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise BundleError(f'{path}: no such file; {path.parent} is not a bundle') from error
    except OSError as error:
        raise BundleError(f'{path}: cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f'{path}: not JSON: {str(error).splitlines()[0]}') from error
    if not isinstance(content, dict):
        raise BundleError(f'{path}: must hold an object, not a {type(content).__name__}')
    return content


class _Reader:
    """Turns JSON values into the manifest's classes; each complaint names the key's path."""

    def __init__(self, source: str) -> None:
        self.source = source

    def manifest(self, content: dict[str, Any]) -> Manifest:
        """Return the manifest, with the rules that tie its parts together checked."""
        self.keys(content, Manifest, '')
        graphs = self.typed(content['graphs'], dict, 'graphs')
        if sorted(graphs) != sorted(GRAPHS):
            raise self.error('graphs', f'must be exactly {", ".join(GRAPHS)}')
        texts = ('name', 'model', 'checkpoint', 'precision', 'method', 'attention')
        numbers = ('window_frames', 'image_width', 'image_height', 'patch_size')
        values: dict[str, Any] = {key: self.typed(content[key], str, key) for key in texts}
        values |= {key: self.positive(content[key], key) for key in numbers}
        for side in ('image_width', 'image_height'):
            if values[side] % values['patch_size']:
                raise self.error(side, f'must be a multiple of patch_size {values["patch_size"]}')
        versions = self.typed(content['tool_versions'], dict, 'tool_versions')
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model_config=self.typed(content['model_config'], dict, 'model_config'),
            checkpoint_sha256=self.digest(content['checkpoint_sha256'], 'checkpoint_sha256'),
            graphs={name: self.graph(graphs[name], f'graphs.{name}') for name in GRAPHS},
            golden=self.golden(content['golden']),
            layers=self.layers(content['layers']),
            calibration=self.calibration(content['calibration']),
            tool_versions={
                key: self.typed(value, str, f'tool_versions.{key}')
                for key, value in versions.items()
            },
            **values,
        )

    def graph(self, value: object, where: str) -> GraphInfo:
        content = self.keys(value, GraphInfo, where)
        data_file, data_sha256 = content['data_file'], content['data_sha256']
        if (data_file is None) != (data_sha256 is None):
            raise self.error(where, 'data_file and data_sha256 go together')
        return GraphInfo(
            file=self.file(content['file'], f'{where}.file'),
            sha256=self.digest(content['sha256'], f'{where}.sha256'),
            inputs=self.tensors(content['inputs'], f'{where}.inputs'),
            outputs=self.tensors(content['outputs'], f'{where}.outputs'),
            data_file=None if data_file is None else self.file(data_file, f'{where}.data_file'),
            data_sha256=None
            if data_sha256 is None
            else self.digest(data_sha256, f'{where}.data_sha256'),
        )

    def tensors(self, value: object, where: str) -> tuple[TensorInfo, ...]:
        infos = []
        for index, item in enumerate(self.typed(value, list, where)):
            content = self.keys(item, TensorInfo, f'{where}[{index}]')
            shape = self.typed(content['shape'], list, f'{where}[{index}].shape')
            for size in shape:
                if not isinstance(size, str):
                    self.positive(size, f'{where}[{index}].shape')
            name, dtype, unit = (
                self.typed(content[key], str, f'{where}[{index}].{key}')
                for key in ('name', 'dtype', 'unit')
            )
            infos.append(TensorInfo(name, dtype, tuple(shape), unit))
        return tuple(infos)

    def layers(self, value: object) -> tuple[LayerInfo, ...]:
        infos = []
        for index, item in enumerate(self.typed(value, list, 'layers')):
            where = f'layers[{index}]'
            content = self.keys(item, LayerInfo, where)
            block = content['weight_block']
            bits = {
                key: self.positive(content[key], f'{where}.{key}')
                for key in ('weight_bits', 'activation_bits')
            }
            texts = {
                key: self.typed(content[key], str, f'{where}.{key}')
                for key in ('name', 'activation', 'online')
            }
            error = self.ratio(content['relative_error'], f'{where}.relative_error')
            if block is not None:
                block = self.positive(block, f'{where}.weight_block')
            infos.append(LayerInfo(**texts, **bits, weight_block=block, relative_error=error))  # type: ignore[arg-type]
        return tuple(infos)

    def calibration(self, value: object) -> CalibrationInfo | None:
        if value is None:
            return None
        content = self.keys(value, CalibrationInfo, 'calibration')
        if type(content['seed']) is not int or content['seed'] < 0:
            raise self.error('calibration.seed', 'must be a whole number >= 0')
        return CalibrationInfo(
            source=self.typed(content['source'], str, 'calibration.source'),
            windows=self.positive(content['windows'], 'calibration.windows'),
            seed=content['seed'],
            sha256=self.digest(content['sha256'], 'calibration.sha256'),
            added_macs_share=self.ratio(
                content['added_macs_share'], 'calibration.added_macs_share'
            ),
        )

    def golden(self, value: object) -> GoldenInfo:
        content = self.keys(value, GoldenInfo, 'golden')
        return GoldenInfo(
            file=self.file(content['file'], 'golden.file'),
            sha256=self.digest(content['sha256'], 'golden.sha256'),
            tolerances=self.ratios(content['tolerances'], 'golden.tolerances'),
            errors=self.ratios(content['errors'], 'golden.errors'),
        )

    def ratios(self, value: object, where: str) -> dict[str, float]:
        """Return one finite number >= 0 for each golden output."""
        content = self.typed(value, dict, where)
        if sorted(content) != sorted(GOLDEN_OUTPUTS):
            raise self.error(where, f'must have exactly the keys {", ".join(GOLDEN_OUTPUTS)}')
        return {key: self.ratio(content[key], f'{where}.{key}') for key in GOLDEN_OUTPUTS}

    def ratio(self, value: object, where: str) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float('inf'):  # type: ignore[operator]
            raise self.error(where, f'{value!r:.80} must be a finite number >= 0')
        return float(value)  # type: ignore[arg-type]

    def keys(self, value: object, kind: type, where: str) -> dict[str, Any]:
        """Return an object that has exactly the fields of a dataclass as its keys."""
        content: dict[str, Any] = self.typed(value, dict, where)
        names = [field.name for field in fields(kind)]
        prefix = f'{where}.' if where else ''
        for name in names:
            if name not in content:
                raise self.error(f'{prefix}{name}', 'is missing')
        for name in content:
            if name not in names:
                raise self.error(f'{prefix}{name}', 'is not known')
        return content

    def typed(self, value: object, kind: type, where: str) -> Any:
        if type(value) is not kind:
            raise self.error(where, f'must be a {kind.__name__}, not {value!r:.80}')
        return value

    def positive(self, value: object, where: str) -> int:
        if type(value) is not int or value < 1:
            raise self.error(where, f'{value!r:.80} must be a whole number above 0')
        return value

    def digest(self, value: object, where: str) -> str:
        text: str = self.typed(value, str, where)
        if len(text) != 64 or set(text) - set('0123456789abcdef'):
            raise self.error(where, f'{text!r:.80} is no SHA-256 in hex')
        return text

    def file(self, value: object, where: str) -> str:
        """Return a file's bare name: a bundle is flat, and nothing outside it is opened."""
        text: str = self.typed(value, str, where)
        if text in ('', '.', '..') or set(text) & set('/\\\0'):
            raise self.error(where, f'{text!r:.80} must be the bare name of a file in the bundle')
        return text

    def error(self, where: str, rule: str) -> BundleError:
        return BundleError(f'{self.source}: {where or "the manifest"} {rule}')
