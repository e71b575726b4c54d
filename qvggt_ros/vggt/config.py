# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that decides the shape of a VGGT network, in one frozen place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from qvggt_ros.errors import UsageError


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of a VGGT network; the defaults are those of the published 1.26 B parameter model.

    Attributes:
        pretrain_height, pretrain_width: image size in pixels whose patch grid the encoder's
            position embedding is stored for; other sizes use a bicubic resize of it.
        patch_size: side of a square patch in pixels.
        width: channels of a token. Taps and camera head work on twice this.
        heads: attention heads of encoder and aggregator.
        mlp_ratio: hidden channels of every block's MLP, as a multiple of its width.
        encoder_depth: blocks of the per-frame encoder.
        encoder_registers: the encoder's own register tokens, dropped after it.
        aggregator_depth: pairs of one frame block and one global block.
        aggregator_registers: register tokens per frame in the aggregator.
        taps: the four pairs (counted from 0, rising) whose outputs the dense heads read.
        dpt_features: channels of a dense head's fusion stages.
        dpt_channels: channels of the four taps inside a dense head, before fusion.
        dpt_hidden: channels of a dense head's last hidden layer.
        camera_depth, camera_heads, camera_iterations: the camera head's trunk and refinements.
        rope_base: base of the rotary embedding's frequencies.
        layer_scale_init: initial value of every LayerScale.
        point_head, track_head: whether these optional heads exist.

    """

    pretrain_height: int = 518
    pretrain_width: int = 518
    patch_size: int = 14
    width: int = 1024
    heads: int = 16
    mlp_ratio: int = 4
    encoder_depth: int = 24
    encoder_registers: int = 4
    aggregator_depth: int = 24
    aggregator_registers: int = 4
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_hidden: int = 32
    camera_depth: int = 4
    camera_heads: int = 16
    camera_iterations: int = 4
    rope_base: float = 100.0
    layer_scale_init: float = 0.01
    point_head: bool = True
    track_head: bool = True

    def __post_init__(self) -> None:
        _check_types(self)
        _check_values(self)

    @classmethod
    def vggt_1b(cls, *, point_head: bool = True, track_head: bool = True) -> VGGTConfig:
        """Return the published model's sizes; the two optional heads may be left out."""
        return cls(point_head=point_head, track_head=track_head)

    @classmethod
    def demo(cls) -> VGGTConfig:
        """Return the sizes of the small model that the project trains itself."""
        return cls(
            pretrain_height=126,
            pretrain_width=168,
            width=128,
            heads=4,
            encoder_depth=2,
            aggregator_depth=5,
            taps=(1, 2, 3, 4),
            dpt_features=32,
            dpt_channels=(32, 64, 96, 128),
            camera_depth=2,
            camera_heads=4,
            layer_scale_init=1.0,  # shallow and trained from scratch: nothing to damp
            point_head=False,
            track_head=False,
        )

    @property
    def head_width(self) -> int:
        """Channels of one attention head in encoder and aggregator."""
        return self.width // self.heads

    @property
    def special_tokens(self) -> int:
        """Tokens per frame that precede its patch tokens in the aggregator."""
        return 1 + self.aggregator_registers

    @property
    def pretrain_grid(self) -> tuple[int, int]:
        """Patch rows and columns of the stored position embedding."""
        return self.grid(self.pretrain_height, self.pretrain_width)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return patch rows and columns of an image; UsageError if patches do not tile it."""
        patch = self.patch_size
        if height < patch or width < patch or height % patch or width % patch:
            raise UsageError(
                f'image size {width}x{height}: both sides must be positive multiples of the '
                f'patch size {patch}'
            )
        return height // patch, width // patch

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the inverse of `from_dict`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VGGTConfig:
        """Make a config from exactly the keys of `to_dict`; UsageError names the key at fault."""
        if not isinstance(values, Mapping):
            raise UsageError(f'model config: must be a mapping, not {type(values).__name__}')
        names = [field.name for field in fields(cls)]
        for name in names:
            if name not in values:
                raise UsageError(f'model config: key {name!r} is missing')
        for name in values:
            if name not in names:
                raise UsageError(f'model config: key {name!r} is not known')
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**arguments)


def _check_types(config: VGGTConfig) -> None:
    """Refuse values of another type than the defaults'; a bool is no number here."""
    for field in fields(VGGTConfig):
        value, default = getattr(config, field.name), field.default
        if isinstance(default, float):
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        elif isinstance(default, tuple):
            fits = (
                isinstance(value, tuple)
                and len(value) == len(default)
                and all(type(item) is int for item in value)
            )
        else:
            fits = type(value) is type(default)
        if not fits:
            raise UsageError(
                f'model config: {field.name}={value!r} must be of the kind of {default!r}'
            )


def _check_values(config: VGGTConfig) -> None:
    """Refuse sizes that no network can have."""
    may_be_zero = {'encoder_registers', 'aggregator_registers', 'encoder_depth', 'camera_depth'}
    for field in fields(VGGTConfig):
        values = getattr(config, field.name)
        for value in values if isinstance(values, tuple) else (values,):
            least = 0 if field.name in may_be_zero or field.name == 'taps' else 1
            if type(value) is int and value < least:
                raise UsageError(f'model config: {field.name}={values!r} must be at least {least}')
    config.grid(config.pretrain_height, config.pretrain_width)
    rules = (
        (config.width % config.heads == 0, 'width must be a multiple of heads'),
        (config.head_width % 4 == 0, 'width / heads must be a multiple of 4 (two rotated axes)'),
        (2 * config.width % config.camera_heads == 0, '2 * width must divide by camera_heads'),
        (config.dpt_features % 4 == 0, 'dpt_features must be a multiple of 4'),
        (config.dpt_features >= 8, 'dpt_features must be at least 8'),
        (all(c % 4 == 0 for c in config.dpt_channels), 'dpt_channels must be multiples of 4'),
        (
            all(a < b for a, b in zip(config.taps, config.taps[1:], strict=False))
            and config.taps[-1] < config.aggregator_depth,
            'taps must rise and be below aggregator_depth',
        ),
        (config.rope_base > 1, 'rope_base must be above 1'),
        (abs(config.layer_scale_init) < float('inf'), 'layer_scale_init must be finite'),
    )
    for holds, rule in rules:
        if not holds:
            raise UsageError(f'model config: {rule}')
