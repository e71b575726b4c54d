# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A golden file holds four plain arrays of the announced size, or it is refused unread."""

from __future__ import annotations

import io
import os
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_forgery import edit, resign
from small_networks import SMALL_FRAMES, SMALL_SIZE, small_bundle

from qvggt_ros.engine.golden_file import read_golden
from qvggt_ros.engine.manifest import GOLDEN_OUTPUTS, read_manifest
from qvggt_ros.errors import BundleError

Members = dict[str, bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle(), tmp_path / 'bundle'))


def npy(array: np.ndarray, allow_pickle: bool = False, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=allow_pickle)
    return file.getvalue()


def header(shape: object, dtype: str = '<f4') -> bytes:
    """Return the beginning of an array that is not there."""
    text = repr({'descr': dtype, 'fortran_order': False, 'shape': shape}).encode()
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text


def write(folder: Path, change: Callable[[Members], object]) -> None:
    """Write the golden file again with some members changed."""
    path = folder / 'golden.npz'
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    resign(folder, 'golden.npz')


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_golden(folder, read_manifest(folder))
    message = str(caught.value)
    assert message.isprintable() and str(folder / 'golden.npz') in message and len(message) < 500
    return message


def test_members_written_again_are_read_as_they_were(folder: Path) -> None:
    before = read_golden(folder, read_manifest(folder))
    write(folder, lambda members: members.update(extra=b'never read'))
    after = read_golden(folder, read_manifest(folder))
    assert set(after) == {'images', *GOLDEN_OUTPUTS}
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_array_in_columns_is_read_rightly(folder: Path) -> None:
    before = read_golden(folder, read_manifest(folder))['depth']
    write(folder, lambda members: members.update({'depth.npy': npy(np.asfortranarray(before))}))
    assert np.array_equal(read_golden(folder, read_manifest(folder))['depth'], before)


class Trap:
    """An object that leaves a trace where its pickle is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize('name', ['images', 'depth'])
def test_pickles_are_never_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    trap = np.array([Trap(tmp_path / 'trace')], dtype=object)
    write(folder, lambda members: members.update({f'{name}.npy': npy(trap, allow_pickle=True)}))
    refusal(folder)
    assert not (tmp_path / 'trace').exists()
    assert np.load(io.BytesIO(npy(trap, True)), allow_pickle=True) is not None  # the trap is one
    assert (tmp_path / 'trace').exists()


HUGE = (10_000_000, SMALL_FRAMES, *SMALL_SIZE)


@pytest.mark.parametrize(
    'members',
    [
        {'images.npy': header((*HUGE, 3), '|u1')},
        {'images.npy': header((2**62, 2**62), '|u1')},
        {'images.npy': header((-1, SMALL_FRAMES, *SMALL_SIZE, 3), '|u1')},
        {'images.npy': header((), '|u1')},
        {'images.npy': header('x', '|u1')},
        {'images.npy': header((0, SMALL_FRAMES, *SMALL_SIZE, 3), '|u1')},
        {'depth.npy': header(HUGE)},
        {'depth.npy': header((2, SMALL_FRAMES, *SMALL_SIZE))},
        {'depth.npy': header((2, SMALL_FRAMES, *SMALL_SIZE), '>f4')},
        {'depth.npy': header((2, SMALL_FRAMES, *SMALL_SIZE), '|O')},
        {'depth.npy': header((2, SMALL_FRAMES, *SMALL_SIZE), '|V4')},
        {'depth.npy': header(('(' * 5000,))},
        {'depth.npy': b'\x93NUMPY\x01\x00\xff\xff{' + b'(' * 65535},
        {'depth.npy': npy(np.zeros((2, SMALL_FRAMES, *SMALL_SIZE), np.float32)) + bytes(8)},
        {'depth.npy': npy(np.zeros((2, SMALL_FRAMES, *SMALL_SIZE), np.float32), version=(2, 0))},
        {'depth.npy': b''},
        {'depth.npy': b'\x80\x04.'},
    ],
)
def test_arrays_of_another_kind_are_refused(folder: Path, members: Members) -> None:
    write(folder, lambda found: found.update(members))
    refusal(folder)


def test_a_missing_array_is_refused(folder: Path) -> None:
    write(folder, lambda members: members.pop('depth_conf.npy'))
    assert 'depth_conf.npy' in refusal(folder)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_bomb_is_refused_before_it_grows(folder: Path) -> None:
    # Two million windows of nothing: 18 GB that deflate to 18 MB; here only its beginning.
    windows = 2_000_000
    write(
        folder,
        lambda members: members.update(
            {'images.npy': header((windows, SMALL_FRAMES, *SMALL_SIZE, 3), '|u1') + bytes(1000)}
        ),
    )
    before = peak_bytes()
    assert 'more than any bundle needs' in refusal(folder)
    # A member that is longer than its array is not read either.
    shape = (2, SMALL_FRAMES, *SMALL_SIZE)
    write(
        folder,
        lambda members: members.update(
            {
                'images.npy': npy(np.zeros((*shape, 3), np.uint8)),
                'depth.npy': npy(np.zeros(shape, np.float32)) + bytes(100_000_000),
            }
        ),
    )
    middle = peak_bytes()
    assert 'not those of its shape' in refusal(folder)
    assert middle - before < 300e6 and peak_bytes() - middle < 50e6


def test_a_size_that_the_directory_lies_about_is_refused(folder: Path) -> None:
    path = folder / 'golden.npz'
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo('depth.npy').file_size.to_bytes(4, 'little')
    assert size in content
    path.write_bytes(content.replace(size, (8).to_bytes(4, 'little')))
    resign(folder, 'golden.npz')
    refusal(folder)


@pytest.mark.parametrize('flags', [(8, 1), (10, 99), (10, 12), (10, 14)])
def test_encrypted_members_and_other_packings_are_refused(
    folder: Path, flags: tuple[int, int]
) -> None:
    """Set the encryption bit, or another number of packing, in the archive's directory."""
    offset, value = flags
    path = folder / 'golden.npz'
    content = bytearray(path.read_bytes())
    at = content.find(b'PK\x01\x02')
    while at >= 0:
        content[at + offset] = value
        at = content.find(b'PK\x01\x02', at + 4)
    path.write_bytes(content)
    resign(folder, 'golden.npz')
    refusal(folder)


def test_windows_of_another_length_than_the_manifests_are_refused(folder: Path) -> None:
    edit(folder, lambda content: content.update(window_frames=4))
    assert 'images is' in refusal(folder)
