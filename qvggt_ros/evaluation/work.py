# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a network does, as a list of steps: operations, numbers read and written, weights.

The steps come from a bundle's graphs (`graph_costs`) or from a network's sizes
(`network_costs`); what they cost is counted here, the same way for both. `fused` joins steps as
engines do, so that a number which never leaves a kernel is not counted as memory traffic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

PRODUCT, ATTENTION, CONVOLUTION, POINTWISE = 'product', 'attention', 'convolution', 'pointwise'
KINDS = (PRODUCT, ATTENTION, CONVOLUTION, POINTWISE)
# A pointwise step that engines compute while they store the result of the step before it.
EPILOGUE = 'epilogue'

IO_BYTES = 4  # a bundle's inputs and outputs are float32
INT8_BITS = 8.0
INT4_BITS = 4.5  # with one float32 scale for each block of 64
PRECISIONS = ('fp32', 'fp16', 'w8a8', 'w4a16')


@dataclass(frozen=True)
class Weight:
    """A product's constant operand; steps that share it name it alike.

    Attributes:
        name: in the graph.
        numbers: how many.
        bits: of each, scales included; None where it is float, as wide as the engine's floats.

    """

    name: str
    numbers: int
    bits: float | None = None


@dataclass(frozen=True)
class Step:
    """What an engine runs at once.

    Attributes:
        kind: one of `KINDS`, or `EPILOGUE` before steps are fused.
        operations: two for each multiplication with an addition; 0 for pointwise steps.
        reads: tensor -> how many of its numbers are read.
        writes: tensors.
        weight: the constant operand, if there is one.
        integer: whether both operands are int8.

    """

    kind: str
    operations: int
    reads: Mapping[str, int]
    writes: tuple[str, ...]
    weight: Weight | None = None
    integer: bool = False


@dataclass(frozen=True)
class Work:
    """All steps of one graph for a number of frames.

    Attributes:
        steps: in running order.
        numbers: tensor -> how many numbers it holds.
        inputs, outputs: tensors that the caller provides and keeps.
        constants: how many numbers the engine stores beside the weights: tables, biases, gains.

    """

    steps: tuple[Step, ...]
    numbers: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: int

    def operations(self) -> dict[str, int]:
        """Return the operations of each kind of step."""
        total = dict.fromkeys(KINDS, 0)
        for step in self.steps:
            total[step.kind] += step.operations
        return total


def recast(work: Work, precision: str) -> Work:
    """Return the work as another precision would do it; the recipe is that of `qvggt build`."""
    product_bits = {'w8a8': INT8_BITS, 'w4a16': INT4_BITS}.get(precision)
    convolution_bits = None if product_bits is None else INT8_BITS
    bits = {PRODUCT: product_bits, CONVOLUTION: convolution_bits}
    return replace(
        work,
        steps=tuple(
            step
            if step.weight is None
            else replace(
                step,
                weight=replace(step.weight, bits=bits[step.kind]),
                integer=precision == 'w8a8' and step.kind == PRODUCT,
            )
            for step in work.steps
        ),
    )


def weight_bytes(work: Work, float_bytes: int) -> float:
    """Return what the engine's constants take in memory; shared weights count once."""
    weights = {step.weight.name: step.weight for step in work.steps if step.weight is not None}
    return work.constants * float_bytes + sum(
        bytes_of(weight, float_bytes) for weight in weights.values()
    )


def bytes_of(weight: Weight, float_bytes: int) -> float:
    """Return what one weight takes."""
    return weight.numbers * (float_bytes if weight.bits is None else weight.bits / 8)


def tensor_widths(work: Work, float_bytes: int) -> dict[str, int]:
    """Return the bytes of one number of each tensor: 1 where only int8 products read it."""
    floating = {name for step in work.steps if not step.integer for name in step.reads}
    widths = {
        name: float_bytes if name in floating else 1 for step in work.steps for name in step.reads
    }
    return widths | dict.fromkeys((*work.inputs, *work.outputs), IO_BYTES)


def bytes_moved(step: Step, work: Work, widths: Mapping[str, int], float_bytes: int) -> float:
    """Return what one step reads from memory and writes to it."""
    activations = sum(count * widths.get(name, float_bytes) for name, count in step.reads.items())
    activations += sum(work.numbers[name] * widths.get(name, float_bytes) for name in step.writes)
    return activations + (0 if step.weight is None else bytes_of(step.weight, float_bytes))


def peak_bytes(work: Work, float_bytes: int) -> float:
    """Return the most that activations take at one time, the caller's tensors included."""
    widths = tensor_widths(work, float_bytes)
    kept = {*work.inputs, *work.outputs}
    spans: dict[str, list[int]] = defaultdict(list)
    written = {name for step in work.steps for name in step.writes}
    for index, step in enumerate(work.steps):
        for name in {*step.reads, *step.writes} & written - kept:
            spans[name].append(index)
    changes = [0.0] * (len(work.steps) + 1)
    for name, touched in spans.items():
        size = work.numbers[name] * widths.get(name, float_bytes)
        changes[min(touched)] += size
        changes[max(touched) + 1] -= size
    live = most = 0.0
    for change in changes:
        live += change
        most = max(most, live)
    return most + IO_BYTES * sum(work.numbers[name] for name in kept)


def fused(work: Work) -> Work:
    """Join steps as engines do: epilogues with their products, pointwise steps among them."""
    readers: dict[str, int] = defaultdict(int)
    for step in work.steps:
        for name in step.reads:
            readers[name] += 1
    for name in work.outputs:
        readers[name] += 1
    return replace(work, steps=tuple(_regions(_epilogues(work, readers), work.outputs)))


def _epilogues(work: Work, readers: Mapping[str, int]) -> list[Step]:
    """Let products compute what follows them number by number and alone reads their result."""
    steps: list[Step] = []
    made_by: dict[str, int] = {}
    for step in work.steps:
        last = max((made_by.get(name, -1) for name in step.reads), default=-1)
        name = steps[last].writes[0] if last >= 0 else ''
        joins = (
            step.kind == EPILOGUE
            and last >= 0
            and steps[last].kind != POINTWISE
            and len(steps[last].writes) == 1
            and readers[name] == 1
            and step.reads.get(name) == work.numbers[step.writes[0]]
        )
        if joins:
            others = {key: count for key, count in step.reads.items() if key != name}
            step = replace(steps[last], reads={**steps[last].reads, **others}, writes=step.writes)
            steps[last] = step
        else:
            last = len(steps)
            steps.append(replace(step, kind=POINTWISE) if step.kind == EPILOGUE else step)
        made_by.update(dict.fromkeys(step.writes, last))
    return steps


def _regions(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Join pointwise steps that hand each other numbers with no product on the way."""
    depth: dict[str, int] = defaultdict(int)  # products on the longest way to a tensor
    region_of: dict[str, list[Step]] = {}  # tensor -> the pointwise steps that it is made with
    ordered: list[list[Step]] = []
    for step in steps:
        level = max((depth[name] for name in step.reads), default=0)
        depth.update(dict.fromkeys(step.writes, level + (step.kind != POINTWISE)))
        region = [step]
        if step.kind == POINTWISE:
            near = [region_of[n] for n in step.reads if n in region_of and depth[n] == level]
            region = _merged(near, step, ordered, region_of)
        else:
            ordered.append(region)
    last_reads = _readers_outside(ordered, outputs)
    return [_one_step(region, last_reads) for region in ordered if region]


def _merged(
    near: list[list[Step]], step: Step, ordered: list[list[Step]], region_of: dict[str, list[Step]]
) -> list[Step]:
    """Put a step into the first of the regions that it reads from, the others with it."""
    if near:
        region = near[0]
        for other in near[1:]:
            if other is not region and other:
                region += other
                for joined in other:
                    region_of.update(dict.fromkeys(joined.writes, region))
                other.clear()
        region.append(step)
    else:
        region = [step]
        ordered.append(region)
    region_of.update(dict.fromkeys(step.writes, region))
    return region


def _readers_outside(regions: Sequence[Sequence[Step]], outputs: Sequence[str]) -> set[str]:
    """Return the tensors that another region, or the caller, reads."""
    needed = set(outputs)
    for region in regions:
        own = {name for step in region for name in step.writes}
        needed |= {name for step in region for name in step.reads} - own
    return needed


def _one_step(region: Sequence[Step], needed: set[str]) -> Step:
    """Return a region as one step, which reads each tensor once and keeps the rest to itself."""
    if len(region) == 1:
        return region[0]
    own = {name for step in region for name in step.writes}
    reads: dict[str, int] = {}
    for step in region:
        for name, count in step.reads.items():
            if name not in own:
                reads[name] = max(count, reads.get(name, 0))
    return Step(POINTWISE, 0, reads, tuple(name for name in sorted(own) if name in needed))
