# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is quantised, how finely, and after which transforms: precisions and methods.

A precision says how many bits each kind of layer gets, a method how its numbers are prepared.
Both together give every layer a `LayerPlan`, before any data is seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import nn

from qvggt_ros.errors import UsageError
from qvggt_ros.vggt import VGGT

NONE, STATIC, TOKEN = 'none', 'static', 'token'
TWO_PARTS = 16  # bits of an input that is taken as two integers of 8
ONLINE = 'online'  # smoothing by one multiplication per channel, as the input comes


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is quantised.

    Attributes:
        name: the module's name in the network.
        kind: qkv, proj, fc1, fc2, or what else the module is called.
        weight_bits: 8 or 4; 32 leaves the layer as it is.
        weight_block: inputs that share a step; None: one step per output channel.
        activation: `none`, `static` (one step per tensor, fixed) or `token` (one per token,
            computed as it comes).
        activation_block: with `token`, channels that share a step; None: one step per token.
        activation_bits: 8 or 4; 16 with `static`: two integers of 8 bits, the second for what the
            first leaves over.
        smoothing: where the factors c go: `norm` (into the norm before), `value` (into the rows
            that make V), `online` (one multiplication per channel), or `none`.
        hadamard: whether the input is rotated as it comes.
        offset: whether an input may have its integers' zero elsewhere than at 0.

    """

    name: str
    kind: str
    weight_bits: int = 32
    weight_block: int | None = None
    activation: str = NONE
    activation_bits: int = 16
    smoothing: str = NONE
    hadamard: bool = False
    offset: bool = False
    activation_block: int | None = None

    @property
    def in_two_parts(self) -> bool:
        """Whether the input is taken as two integers of 8 bits."""
        return self.activation == STATIC and self.activation_bits == TWO_PARTS


@dataclass(frozen=True)
class Precision:
    """Bits by part of the network.

    Attributes:
        blocks: of the linear layers in the blocks of encoder and aggregator.
        heads: of the linear layers in the camera head.
        convolutions: of the dense head's convolutions.
        simulated: whether no engine runs it yet.

    """

    name: str
    blocks: LayerPlan
    heads: LayerPlan
    convolutions: LayerPlan
    simulated: bool


def _bits(
    weights: int, activation: str = NONE, activations: int = 16, block: int | None = None
) -> LayerPlan:
    return LayerPlan('', '', weights, block, activation, activations)


_W8A8 = _bits(8, STATIC, 8)
# The camera head reads one token per frame and answers with the pose: inputs of 8 bits there made
# half of a whole network's rotation error, and a second product costs nothing.
_CAMERA_HEAD = _bits(8, STATIC, TWO_PARTS)
INT4_BLOCK = 64
PRECISIONS = {
    'w8a8': Precision('w8a8', _W8A8, _CAMERA_HEAD, _W8A8, simulated=False),
    'w4a16': Precision(
        'w4a16',
        _bits(4, block=INT4_BLOCK),
        _bits(4, block=INT4_BLOCK),
        _bits(8),
        simulated=False,
    ),
    'w4a8': Precision('w4a8', _bits(4, TOKEN, 8), _CAMERA_HEAD, _W8A8, simulated=True),
    'w4a4': Precision('w4a4', _bits(4, TOKEN, 4), _CAMERA_HEAD, _W8A8, simulated=True),
    # Steps for 64 channels of weights and inputs alike (Zhao et al. 2024, Atom: 128).
    'w4a4g64': Precision(
        'w4a4g64',
        replace(_bits(4, TOKEN, 4, block=INT4_BLOCK), activation_block=INT4_BLOCK),
        _CAMERA_HEAD,
        _W8A8,
        simulated=True,
    ),
}


@dataclass(frozen=True)
class Method:
    """How numbers are prepared for quantisation.

    Attributes:
        rotate: keep tokens in rotated bases (folded, free).
        head_rotation: rotate V within its heads (folded, free).
        balance: even out V's channels before that, and those of the dense head.
        smooth: kinds of layers whose inputs are smoothed.
        online_hadamard: rotate fc2's input as it comes.
        search: look for clipping ranges instead of taking the largest magnitude; give an offset
            to the input of fc2, which GELU leaves on one side of zero, and to tokens with a step
            of their own, whose range is seldom as wide below zero as above.
        learn: refine factors, ranges and biases block by block.
        compensate: round 4-bit weights so that their errors cancel.
        token_clip: fixed share of a token's range at 4 bits, where ranges are not searched.

    """

    name: str
    rotate: bool = False
    head_rotation: bool = False
    balance: bool = False
    smooth: tuple[str, ...] = ()
    online_hadamard: bool = False
    search: bool = False
    learn: bool = False
    compensate: bool = False
    token_clip: float = 1.0


METHODS = {
    'rtn': Method('rtn'),
    # Xiao et al. 2023: the layers after a norm, alpha = 0.5.
    'smoothquant': Method('smoothquant', smooth=('qkv', 'fc1')),
    # Ashkboos et al. 2024, with its fixed clipping of 4-bit activations.
    'quarot': Method(
        'quarot', rotate=True, head_rotation=True, online_hadamard=True, token_clip=0.9
    ),
    'dsfq': Method(
        'dsfq',
        rotate=True,
        head_rotation=True,
        balance=True,
        smooth=('qkv', 'proj', 'fc1', 'fc2'),
        online_hadamard=True,
        search=True,
        learn=True,
        compensate=True,
    ),
}
SMOOTHING_PLACE = {'qkv': 'norm', 'fc1': 'norm', 'proj': 'value', 'fc2': ONLINE}

# Left in float: a few outputs that are the answer itself, and inputs of nine numbers.
FLOAT_LAYERS = re.compile(
    r'camera_head\.(embed_pose|pose_branch\.fc2)|depth_head\.scratch\.output_conv2\.2'
    r'|aggregator\.patch_embed\.norm\.1'
)
# Weights alone are quantised: the input is an image, or the engines have no integer kernel.
WEIGHT_ONLY = re.compile(r'aggregator\.patch_embed\.patch_embed|depth_head\.resize_layers\.[01]')
_IN_BLOCKS = re.compile(r'aggregator\..*blocks\.')


def plan_layers(model: VGGT, precision: str, method: str) -> dict[str, LayerPlan]:
    """Return the plan of every layer with weights, by the module's name.

    Args:
        model: the network; only its layers' names and sizes matter.
        precision: one of `PRECISIONS`.
        method: one of `METHODS`.

    Raises:
        UsageError: a name is not known.

    """
    bits, prepared = get_precision(precision), get_method(method)
    return {
        name: _plan(name, module, bits, prepared)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    }


def get_precision(name: str) -> Precision:
    """Return a precision by name."""
    if name not in PRECISIONS:
        raise UsageError(f'precision {name!r}: must be one of {", ".join(PRECISIONS)}')
    return PRECISIONS[name]


def get_method(name: str) -> Method:
    """Return a method by name."""
    if name not in METHODS:
        raise UsageError(f'method {name!r}: must be one of {", ".join(METHODS)}')
    return METHODS[name]


def _plan(name: str, module: nn.Module, precision: Precision, method: Method) -> LayerPlan:
    kind = name.rpartition('.')[2]
    if FLOAT_LAYERS.match(name):
        return LayerPlan(name, kind)
    convolution = not isinstance(module, nn.Linear)
    if WEIGHT_ONLY.match(name):
        return LayerPlan(name, kind, weight_bits=8)
    if convolution:
        spread = module.kernel_size != (1, 1)
        plan = replace(precision.convolutions, name=name, kind='conv')
        return replace(plan, activation=NONE, activation_bits=16) if spread else plan
    in_blocks = bool(_IN_BLOCKS.match(name))
    plan = replace(precision.blocks if in_blocks else precision.heads, name=name, kind=kind)
    if plan.weight_block and module.in_features % plan.weight_block:  # type: ignore[operator]
        plan = replace(plan, weight_bits=8, weight_block=None, activation_block=None)
    if kind not in SMOOTHING_PLACE or ('.attn.' not in name and '.mlp.' not in name):
        return plan
    return _with_transforms(plan, in_blocks, method)


def _with_transforms(plan: LayerPlan, in_blocks: bool, method: Method) -> LayerPlan:
    """Add what the method does to the input of a layer of a transformer block."""
    # Rotating the wide hidden layer costs operations: 8 bits do without.
    coarse = plan.activation_bits < 8
    hadamard = method.online_hadamard and plan.kind == 'fc2' and in_blocks and coarse
    smoothing = SMOOTHING_PLACE[plan.kind] if plan.kind in method.smooth else NONE
    # Nor are they worth a multiplication per channel, where nothing can be folded.
    if plan.activation == NONE or (smoothing == ONLINE and not coarse):
        smoothing = NONE
    single = plan.activation == STATIC and not plan.in_two_parts
    one_sided = plan.kind == 'fc2' and single
    offset = method.search and (one_sided or plan.activation == TOKEN)
    return replace(plan, smoothing=smoothing, hadamard=hadamard, offset=offset)
