# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The devices that `qvggt plan` knows, with the source of every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB, GIB = 1e9, 2.0**30
FP32, FP16, INT8 = 'fp32', 'fp16', 'int8'

# Share of the tensor cores' peak that VGGT-1B reaches. From the one published TensorRT run that
# states card, size and precision: RTX 3080, float16, one frame of 518x518 (3.35 TFLOP) in 52 ms
# (github.com/yester31/Monocular_Depth_Estimation_TRT, TensorRT 10.16). That is 64 TFLOP/s, 0.54
# of the card's 119; with the steps that memory bounds taken off, the products' share is this one.
GPU_COMPUTE_EFFICIENCY = 0.66
# Share of the memory's peak that large copies reach on GPUs; an assumption.
GPU_MEMORY_EFFICIENCY = 0.80
# Between two kernels of a stream, CUDA graphs not used; an assumption.
GPU_STEP_SECONDS = 5e-6
MEASURED_ON_3080 = (
    "float products reach 66 % of the tensor cores' peak, which puts a published TensorRT run on "
    'an RTX 3080 (VGGT-1B, one frame, 52 ms) where it was measured; int8 products are assumed to '
    'reach the same share, memory 80 % of its peak'
)

# A third-generation tensor core multiplies 1024 int8 pairs a clock where matrices are dense (an
# SM, which has four, does 4096 operations in the A100's size and in Orin: the AGX module's 170
# sparse TOPS are 85 dense on 16 SMs at 1.3 GHz), half as many in float16.
# NVIDIA, "Jetson AGX Orin Series Technical Brief" v1.2 (GPU alone: 170 sparse int8 TOPS, 5.3
# TFLOPS in float32, 2048 CUDA cores, 64 tensor cores).
ORIN_INT8_PER_SM_CLOCK = 2 * 2048
ORIN_CUDA_CORES_PER_SM = 128


@dataclass(frozen=True)
class Device:
    """What a prediction needs to know of a machine.

    Attributes:
        name: as given to `--device`.
        title: for people, with the clock that the rates hold for.
        rates: operations per second at peak, dense matrices, by type of the operands.
        bandwidth: bytes per second between processor and memory, at peak.
        pointwise_bandwidth: the same for steps without products, where they have their own.
        memory: bytes; shared with the system on a Jetson.
        reserve: bytes that the system, cameras and ROS 2 need; an assumption.
        overhead: bytes that the engine's runtime takes beside weights and activations.
        step_seconds: time that every step costs, however small.
        compute_efficiency, memory_efficiency: reached share of the peaks.
        efficiency_source: where these come from, in words.
        has_float16: whether quantised networks compute the rest in float16.
        measured: whether the numbers were measured on the machine itself.

    """

    name: str
    title: str
    rates: Mapping[str, float]
    bandwidth: float
    pointwise_bandwidth: float
    memory: float
    reserve: float
    overhead: float
    step_seconds: float = GPU_STEP_SECONDS
    compute_efficiency: float = GPU_COMPUTE_EFFICIENCY
    memory_efficiency: float = GPU_MEMORY_EFFICIENCY
    efficiency_source: str = MEASURED_ON_3080
    has_float16: bool = True
    measured: bool = False


def _orin(name: str, title: str, sms: int, clock_hz: float, bandwidth: float, gib: int) -> Device:
    """Return a Jetson module; rates of the GPU alone, without sparsity and DLA."""
    int8 = ORIN_INT8_PER_SM_CLOCK * sms * clock_hz
    return Device(
        name,
        f'{title}, GPU at {clock_hz / 1e6:.0f} MHz',
        # float32 on CUDA cores: TF32 would be faster, and is not what an fp32 bundle is checked
        # with.
        {INT8: int8, FP16: int8 / 2, FP32: 2 * ORIN_CUDA_CORES_PER_SM * sms * clock_hz},
        bandwidth,
        bandwidth,
        memory=gib * GIB,
        # Firmware 0.6, Ubuntu without a desktop 1.0, cameras, DDS and the node's other work 0.9:
        # assumptions, none of them measured here.
        reserve=2.5 * GB,
        # CUDA context, TensorRT's libraries, Python: an assumption.
        overhead=0.8 * GB,
    )


# The documents are named as origin; the Orins' and the RTX 4090's figures were checked on public
# pages that quote them, not in the documents themselves.
# Clocks and bandwidths are the highest of each module's data sheet before JetPack 6.2's "Super"
# modes, which not every carrier board can feed and cool.
DEVICES = {
    device.name: device
    for device in (
        # NVIDIA, "Jetson Orin Nano Series Data Sheet": 8 SMs (1024 CUDA, 32 tensor cores) at
        # 625 MHz, 40 sparse int8 TOPS, 68 GB/s. MAXN_SUPER: 1020 MHz, 67 TOPS, 102 GB/s.
        _orin('orin-nano-8gb', 'Jetson Orin Nano 8GB', 8, 625e6, 68 * GB, 8),
        # NVIDIA, "Jetson Orin NX Series Data Sheet": 8 SMs at 918 MHz, 60 of the 100 sparse TOPS
        # (the DLAs have the rest), 102.4 GB/s. MAXN_SUPER: 1173 MHz.
        _orin('orin-nx-16gb', 'Jetson Orin NX 16GB', 8, 918e6, 102.4 * GB, 16),
        # NVIDIA, "Jetson AGX Orin Series Data Sheet": 16 SMs at 1300 MHz, 170 of the 275 sparse
        # TOPS, 204.8 GB/s.
        _orin('orin-agx-64gb', 'Jetson AGX Orin 64GB', 16, 1300e6, 204.8 * GB, 64),
        # NVIDIA, "Ada GPU Architecture" white paper, appendix A, dense: float16 with float16
        # accumulation 330.3 TFLOPS (165.2 with float32's), int8 660.6 TOPS, float32 82.6 TFLOPS,
        # 1008 GB/s, 24 GB.
        Device(
            'rtx-4090',
            'GeForce RTX 4090',
            {INT8: 660.6e12, FP16: 330.3e12, FP32: 82.6e12},
            1008 * GB,
            1008 * GB,
            memory=24 * GIB,
            reserve=1.5 * GB,  # a desktop on the same card; an assumption
            overhead=0.6 * GB,  # CUDA context and TensorRT; an assumption
        ),
    )
}

# The card of the published run that the efficiency above was fitted to. Figures as in NVIDIA's
# "Ampere GA102 GPU Architecture" white paper, not checked again: float16 (float16 accumulation)
# 119 TFLOPS and int8 238 TOPS dense, 760 GB/s.
RTX_3080 = Device(
    'rtx-3080',
    'GeForce RTX 3080',
    {INT8: 238e12, FP16: 119e12, FP32: 29.8e12},
    760 * GB,
    760 * GB,
    memory=10 * GIB,
    reserve=1.5 * GB,
    overhead=0.6 * GB,
)
CPU = 'cpu'
DEVICE_NAMES = (*DEVICES, CPU)
