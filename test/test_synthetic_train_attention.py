# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention in training is attention, and one head of it is kept."""

from __future__ import annotations

import torch
from torch import nn

from qvggt_ros.synthetic.train_attention import RecordedHead, attend_unfused
from qvggt_ros.vggt.layers import Attention, attend_sdpa


def test_unfused_attention_is_the_same_attention() -> None:
    query, key, value = (torch.randn(2, 11, 3, 8) for _ in range(3))
    torch.testing.assert_close(attend_unfused(query, key, value), attend_sdpa(query, key, value))


def test_what_a_head_compares_is_kept_and_its_answer_stays() -> None:
    attention = Attention(24, 3, eps=1e-5, qk_norm=True)
    kept: list[torch.Tensor] = []
    plain = attention.attend

    def attend(*qkv: torch.Tensor) -> torch.Tensor:
        kept.extend(qkv[:2])
        return plain(*qkv)

    attention.attend = attend
    block = nn.Module()
    block.attn = attention
    x = torch.randn(2, 11, 24)
    wanted = attention(x)
    recorder = RecordedHead(block, 1)
    torch.testing.assert_close(attention(x), wanted)
    torch.testing.assert_close(recorder.query, kept[0][..., 1, :])
    torch.testing.assert_close(recorder.key, kept[1][..., 1, :])
