# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The `qvggt` command: one sub-command per task, each imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from qvggt_ros import __version__
from qvggt_ros.errors import QvggtError

DESCRIPTION = 'Windowed multi-frame 3D reconstruction with VGGT engines, without and with ROS 2.'
# name -> (module with `add_arguments(parser)` and `run(args) -> int`, one line of help)
COMMANDS = {
    'build': ('qvggt_ros.export.build_command', 'make a bundle from a checkpoint'),
    'build-engine': (
        'qvggt_ros.export.engine_command',
        'compile a bundle for a GPU, with TensorRT or TensorRT-RTX',
    ),
    'eval': (
        'qvggt_ros.evaluation.eval_command',
        'pose and depth accuracy of a bundle or checkpoint',
    ),
    'drive-error': (
        'qvggt_ros.evaluation.drive_command',
        'error of trajectories through rendered rooms',
    ),
    'bench': (
        'qvggt_ros.evaluation.bench_command',
        'latency of bundles and PyTorch, in turn in one run',
    ),
    'plan': (
        'qvggt_ros.evaluation.plan_command',
        'predicted latency and memory on a named device',
    ),
    'block-speed': (
        'qvggt_ros.evaluation.block_speed',
        "float and int8 blocks of VGGT-1B's width",
    ),
    'quantization-table': (
        'qvggt_ros.evaluation.quantization_table',
        'compare methods and precisions on one network',
    ),
    'convert': ('qvggt_ros.evaluation.convert_command', 'an image folder with poses into a bag'),
    'synth': (
        'qvggt_ros.synthetic.synth_command',
        'render procedural rooms; train the demo model',
    ),
    'demo': ('qvggt_ros.evaluation.demo_command', 'play a recording through the node and report'),
}
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; return its exit status (2 and one line on bad input)."""
    # Ended politely, a command ends its children and leaves nothing half-written either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Before PyTorch is imported: OpenMP's threads that wait by spinning take the processor from
    # whatever else runs, and a busy machine becomes many times slower.
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
    arguments = list(sys.argv[1:] if argv is None else argv)
    called = _called(arguments)
    try:
        args = _parser(called).parse_args(arguments)
        return int(args.execute(args))
    except QvggtError as error:
        print(f'qvggt {called}: {error}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        print(
            f'qvggt {called}: needs the Python module {_package_of(error)}, which is not '
            'installed: `make env` in the checkout installs everything',
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f'qvggt {called}: interrupted', file=sys.stderr)
        return 130


def _called(arguments: Sequence[str]) -> str:
    """Return the name of the command, '' if none is named."""
    return next((word for word in arguments if not word.startswith('-')), '')


def _package_of(error: ModuleNotFoundError) -> str:
    """Return the package that somebody has to install; the project's own modules must be there."""
    package = (error.name or '').partition('.')[0]
    if package in ('', 'qvggt_ros'):
        raise error
    return package


def _parser(called: str) -> argparse.ArgumentParser:
    """Build the parser; only the called command's module is imported."""
    parser = argparse.ArgumentParser(prog='qvggt', description=DESCRIPTION)
    parser.add_argument('--version', action='version', version=f'qvggt {__version__}')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (module_name, help_line) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_line, description=help_line)
        if name == called:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            subparser.set_defaults(execute=module.run)
    return parser


if __name__ == '__main__':
    sys.exit(main())
