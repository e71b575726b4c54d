# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt demo`: play a camera recording through the real node and show what came of it."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from evo.core.trajectory import PoseTrajectory3D
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import qvggt_ros
from qvggt_ros.engine import read_manifest
from qvggt_ros.engine.manifest import Manifest, file_digest
from qvggt_ros.errors import BagError, BundleError, QvggtError, UsageError
from qvggt_ros.evaluation.demo_report import DrawnCloud, Picture, draw, moved, read_map
from qvggt_ros.evaluation.playback import Playback, PlaybackConfig, play
from qvggt_ros.evaluation.recording import Recording, open_recording
from qvggt_ros.evaluation.trajectory import (
    TrajectoryError,
    make_trajectory,
    trajectory_error,
    write_tum,
)
from qvggt_ros.files import whole_file

PROJECT = Path(qvggt_ros.__file__).parent.parent
DEFAULT_BUNDLE = PROJECT / 'engines' / 'demo'
TRAINED_MODEL = DEFAULT_BUNDLE / 'model.safetensors'
UNTRAINED_WARNING = (
    'The weights are random: this shows that everything runs, and how fast. Map and trajectory '
    'mean nothing until there is a trained model (qvggt synth train, or BUNDLE=...).'
)
STAGES = ('preprocess', 'encoder', 'window', 'depth', 'decode', 'align', 'points', 'total')


@dataclass(frozen=True)
class Results:
    """What the demo leaves: what was heard, and its error where the truth is known."""

    recording: Recording
    playback: Playback
    estimate: PoseTrajectory3D
    error: TrajectoryError | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--bag', type=Path, help='a recording (MCAP, sqlite3 or ROS 1); default: rendered'
    )
    parser.add_argument('--bundle', type=Path, help='default: engines/demo, built if absent')
    parser.add_argument('--out', type=Path, default=Path('demo_output'), help='output folder')
    parser.add_argument('--rate', type=float, default=1.0, help='playback speed (1)')
    parser.add_argument(
        '--drop', action='store_true', help='play in real time even if the engine falls behind'
    )
    parser.add_argument(
        '--image-topic', default='', help="the bag's image topic, if it has several"
    )
    parser.add_argument(
        '--param', action='append', default=[], metavar='NAME:=VALUE', help='of the node'
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 only if every frame that was played got a pose."""
    console = Console()
    if args.rate <= 0:
        raise UsageError(f'--rate {args.rate}: must be positive')
    parameters = dict(_split_parameter(text) for text in args.param)
    # What the user named is looked at before anything is made.
    if args.bundle is not None:
        read_manifest(args.bundle)
    given = None if args.bag is None else open_recording(args.bag, args.image_topic)
    _make_folder(args.out)
    bundle = _bundle(args.bundle, console)
    recording = given or open_recording(_rendered_recording(args.out, console))
    config = PlaybackConfig(
        bag=recording.path,
        bundle=bundle,
        map_path=(args.out / 'map.ply').resolve(),
        rate=args.rate,
        lockstep=not args.drop,
        image_topic=recording.image_topic,
        compressed=recording.compressed,
        node_parameters=parameters,
    )
    results = _results(recording, _play(config, recording, console))
    manifest = read_manifest(bundle)
    _write(results, args.out, is_untrained(manifest), console)
    console.print(_table(results, manifest))
    if is_untrained(manifest):
        console.print(UNTRAINED_WARNING, style='bold yellow')
    console.print(f'Left in {args.out}/: ' + ', '.join(sorted(p.name for p in args.out.iterdir())))
    missing = recording.image_count - len(results.playback.stamps_ns)
    if missing and not args.drop:
        raise QvggtError(f'{missing} of {recording.image_count} frames got no pose')
    return 0


def is_untrained(manifest: Manifest) -> bool:
    """Return whether a bundle's weights are random, so that its geometry means nothing."""
    return manifest.checkpoint.startswith('random')


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'--out {path}: cannot be made: {error.strerror}') from error


def _split_parameter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(':=')
    if not (name and separator):
        raise UsageError(f'--param {text}: must be NAME:=VALUE')
    return name, value


def _bundle(given: Path | None, console: Console) -> Path:
    """Return the bundle; the default one is built on first use."""
    if given is not None:
        return given
    if not bundle_is_current(DEFAULT_BUNDLE, TRAINED_MODEL):
        console.print('Building the bundle engines/demo (once)')
        trained = ['--checkpoint', str(TRAINED_MODEL), '--precision', 'w8a8']
        source = trained if TRAINED_MODEL.exists() else ['--checkpoint', 'random']
        try:
            _run_command(
                'qvggt_ros.export.build_command',
                [*source, '--out', str(DEFAULT_BUNDLE)],
            )
        except ModuleNotFoundError as error:
            raise UsageError(
                f'{DEFAULT_BUNDLE}: no bundle of the demo model there, and building one needs '
                f'{error.name}: `make env` installs it (or name another with BUNDLE=, --bundle)'
            ) from error
    return DEFAULT_BUNDLE


def bundle_is_current(bundle: Path, checkpoint: Path) -> bool:
    """Return whether a bundle is there and was made of this checkpoint (of none, if absent)."""
    if not (bundle / 'manifest.json').exists():
        return False
    try:
        made_of = read_manifest(bundle, verify_files=False).checkpoint_sha256
    except BundleError:
        return False
    return not checkpoint.exists() or made_of == file_digest(checkpoint)


def _rendered_recording(out: Path, console: Console) -> Path:
    """Return the demo's own recording, rendered on first use."""
    path = out / 'recording'
    if not (path / 'metadata.yaml').exists():
        console.print("Rendering a robot's drive through a room (once)")
        _run_command(
            'qvggt_ros.synthetic.synth_command',
            ['bag', '--out', str(path), '--depth'],
        )
    return path


def _run_command(module_name: str, words: list[str]) -> None:
    """Run another sub-command in this process; its module is loaded only if it is needed."""
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args(words))


def _play(config: PlaybackConfig, recording: Recording, console: Console) -> Playback:
    console.print(f'Playing {config.bag} over DDS into the node ({config.bundle})')
    columns = (TextColumn('poses'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task('poses', total=recording.image_count)
        return play(config, lambda count: bar.update(task, completed=count))


def _results(recording: Recording, playback: Playback) -> Results:
    if not playback.stamps_ns:
        raise BagError(f'{recording.path}: no frame got a pose; is it shorter than one window?')
    estimate = make_trajectory(playback.stamps_ns, np.stack(playback.map_from_camera))
    truth = recording.truth
    error = trajectory_error(truth, estimate) if truth is not None else None
    return Results(recording, playback, estimate, error)


def _write(results: Results, out: Path, untrained: bool, console: Console) -> None:
    """Write trajectory, figures and picture; the map is there already."""
    write_tum(out / 'trajectory.tum', results.estimate)
    if results.recording.truth is not None:
        write_tum(out / 'true_trajectory.tum', results.recording.truth)
    with whole_file(out / 'latency.json') as file:
        file.write_text(json.dumps(_figures(results), indent=2) + '\n')
    console.print('Drawing the picture')
    picture = _picture(results, read_map(out / 'map.ply'), untrained)
    draw(picture, out / 'demo.png')


def _figures(results: Results) -> dict[str, object]:
    """Return what `latency.json` holds."""
    playback, error = results.playback, results.error
    figures: dict[str, object] = {
        'frames': results.recording.image_count,
        'poses': len(playback.stamps_ns),
        'windows': playback.windows,
        'points': playback.points,
        'first_pose_s': round(playback.first_pose_s, 3),
        'wall_s': round(playback.wall_s, 3),
        'diagnostics': playback.diagnostics,
    }
    if error is not None:
        figures['trajectory'] = {
            name: value for name, value in asdict(error).items() if name != 'truth_from_map'
        }
    return figures


def _picture(results: Results, found: DrawnCloud, untrained: bool) -> Picture:
    recording, error = results.recording, results.error
    similarity = np.eye(4) if error is None else error.truth_from_map
    path = np.asarray(results.estimate.positions_xyz)
    truth = recording.truth
    return Picture(
        frames=recording.sample_frames(4),
        map=moved(found, similarity),
        path=path @ similarity[:3, :3].T + similarity[:3, 3],
        true_map=recording.true_cloud(),
        true_path=None if truth is None else np.asarray(truth.positions_xyz),
        title=_title(results) + (' - UNTRAINED WEIGHTS' if untrained else ''),
    )


def _title(results: Results) -> str:
    words = [f'{len(results.playback.stamps_ns)} frames, {results.playback.windows} windows']
    if results.error is not None:
        words.append(
            f'trajectory error {results.error.ate_rmse_m:.3f} m RMSE over '
            f'{results.error.path_length_m:.1f} m (similarity-aligned)'
        )
    return ': '.join(words)


def _table(results: Results, manifest: Manifest) -> Table:
    """Return the short table for the screen."""
    playback, error, recording = results.playback, results.error, results.recording
    table = Table(title=f'{manifest.name}: {manifest.precision}', show_header=False)
    table.add_row(
        'frames played, poses received', f'{recording.image_count}, {len(playback.stamps_ns)}'
    )
    table.add_row('frames dropped', playback.diagnostics.get('frames_dropped', 'not reported'))
    table.add_row('windows, points', f'{playback.windows}, {playback.points}')
    for stage in STAGES:
        p50, p95 = (playback.diagnostics.get(f'{stage}_{p}_ms') for p in ('p50', 'p95'))
        if p50 is not None:
            table.add_row(f'{stage}: p50, p95', f'{p50} ms, {p95} ms')
    if error is not None:
        table.add_row('trajectory error (ATE RMSE, Sim(3)-aligned)', f'{error.ate_rmse_m:.3f} m')
        table.add_row('length of the true trajectory', f'{error.path_length_m:.2f} m')
    return table
