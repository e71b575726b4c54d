# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The package's exceptions: one root, one class per kind of thing that can be wrong.

Every message names the file, topic or value at fault, the rule that it broke and, where that is
not obvious, what to do. The command line prints it as one line and exits with status 2.
"""


class QvggtError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(QvggtError):
    """A command-line argument or a parameter has a value that is not allowed."""


class CheckpointError(QvggtError):
    """A checkpoint is missing, truncated, or of another network."""


class BundleError(QvggtError):
    """A bundle's manifest, graphs or digests are not what they should be."""


class EngineError(QvggtError):
    """An engine cannot be made or run, or its output is wrong."""


class BagError(QvggtError):
    """A bag is missing, truncated, of another format, or lacks what is asked of it."""


class DatasetError(QvggtError):
    """An image folder, sequence or pose file cannot be used."""


class ImageError(QvggtError):
    """An image has an encoding, size or stride that cannot be used."""


class ReconstructionError(QvggtError):
    """A window cannot be reconstructed or aligned."""


class CalibrationError(QvggtError):
    """Calibration images cannot be used, or the network's activations on them cannot."""


def first_line(error: object) -> str:
    """Return what another library says, in one printable line of bearable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ''.join(c if c.isprintable() else '?' for c in lines[0][:300])
