# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train a small VGGT on rendered rooms: time-boxed, resumable, on a CPU or a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qvggt_ros.errors import CheckpointError
from qvggt_ros.synthetic.cpu import has_bfloat16
from qvggt_ros.synthetic.losses import (
    LossTerms,
    PatchAnswers,
    PatchHead,
    baseline_loss,
    camera_loss,
    combine,
    depth_loss,
    flow_loss,
    matching_loss,
    patch_pose_loss,
    points_loss,
)
from qvggt_ros.synthetic.muon import Float32Muon
from qvggt_ros.synthetic.targets import (
    PatchMatches,
    WindowTargets,
    patch_matches,
    window_targets,
)
from qvggt_ros.synthetic.train_attention import RecordedHead, attend_unfused
from qvggt_ros.synthetic.train_checkpoint import (
    Progress,
    load_run,
    optimizer_tensors,
    restore_optimizer,
    save_run,
)
from qvggt_ros.synthetic.train_config import TrainConfig
from qvggt_ros.synthetic.train_optimizers import make_optimizers
from qvggt_ros.synthetic.window_source import Renderer, Windows, WindowSource
from qvggt_ros.synthetic.workers import Worker
from qvggt_ros.vggt import VGGT, VGGTConfig
from qvggt_ros.vggt.layers import Attention
from qvggt_ros.vggt.positions import resize_learned

# A window's scale is a mean over its pixels; every third row and column gives the same.
SCALE_PIXEL_STEP = 3


class Trainer:
    """One run: model, moving average, optimiser, data and the file that they are kept in."""

    def __init__(
        self,
        model_config: VGGTConfig,
        config: TrainConfig,
        render: Renderer,
        run_path: Path,
        device: str = 'cpu',
        worker: Worker | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.worker = worker or Worker()
        self.run_path = run_path
        self.device = torch.device(device)
        self.model = VGGT(model_config).to(self.device)
        self.patch_heads = nn.ModuleList(
            PatchHead(2 * model_config.width) for _ in model_config.taps
        ).to(self.device)
        if self.device.type == 'cpu':
            # The stubs know this argument only together with others.
            self.model.depth_head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for module in self.model.modules():
                if isinstance(module, Attention):
                    module.attend = attend_unfused
        self.recorders = [
            RecordedHead(self.model.aggregator.global_blocks[block], config.matching_head)
            for block in config.matching_blocks
        ]
        self.average = {
            name: value.detach().clone() for name, value in self.model.state_dict().items()
        }
        self._names = {id(p): name for name, p in self._named_parameters()}
        self.bfloat16 = self.device.type != 'cpu' or has_bfloat16()
        muon = torch.optim.Muon if self.bfloat16 else Float32Muon
        self.optimizers = make_optimizers(list(self._named_parameters()), config, muon)
        self.progress = Progress()
        if run_path.exists():
            self._resume()
        self._render = render
        self.source = WindowSource(config, render, self.progress.sequences, self.worker)

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in (('model.', self.model), ('patch_heads.', self.patch_heads)):
            for name, parameter in module.named_parameters():
                yield prefix + name, parameter

    # ------------------------------------------------------------------ running

    def run(
        self,
        minutes: float,
        report: Callable[[Progress, dict[str, float]], None],
        validate: Callable[[VGGT, Progress], None],
        cooldown: bool = False,
    ) -> None:
        """Train for so many minutes; checkpoints as it goes and at the end.

        Args:
            minutes: length of this run.
            report: called about once a second with the smoothed losses and speeds.
            validate: called now and then with the averaged model.
            cooldown: let the learning rate fall to zero over this run.

        Only the leading worker calls `report` and `validate`, writes files and ends the run.

        """
        self.source.refill(self.config.stage(self.progress.windows))
        started = last_report = last_save = last_validation = time.monotonic()
        session_start = self.progress
        figures = RunningFigures()
        going = True
        while going:
            share_done = min(1.0, (time.monotonic() - started) / (60 * minutes))
            self._set_learning_rate(1 - share_done if cooldown else 1.0)
            terms, seconds, going = self.step_once(share_done < 1 or not self.worker.leads)
            now = time.monotonic()
            self.progress = replace(self.progress, seconds=session_start.seconds + now - started)
            if not self.worker.leads:
                continue
            figures.add(terms, seconds)
            if now - last_report > 1:
                last_report = now
                report(self.progress, figures.means())
            if now - last_save > self.config.checkpoint_seconds:
                last_save = now
                self.save()
            if now - last_validation > self.config.validation_seconds:
                validate(self.averaged_model(), self.progress)
                last_validation = time.monotonic()
        if self.worker.leads:
            self.save()
            validate(self.averaged_model(), self.progress)

    def step_once(self, ready: bool = True) -> tuple[LossTerms, dict[str, float], bool]:
        """Draw windows and take one optimiser step.

        Args:
            ready: whether this worker wants to go on after it.

        Returns:
            losses, seconds per window of each part, and whether all workers want to go on.

        """
        begin = time.monotonic()
        stage = self.config.stage(self.progress.windows)
        windows = self.source.draw(self.progress.step, self.progress.windows, stage)
        drawn = time.monotonic()
        terms, going = self._step(windows, ready)
        count = windows.images.shape[0]
        self.progress = replace(
            self.progress,
            step=self.progress.step + 1,
            windows=self.progress.windows + count * self.worker.count,
            sequences=self.source.sequences_rendered,
        )
        seconds = {'draw': (drawn - begin) / count, 'step': (time.monotonic() - drawn) / count}
        return terms, seconds, going

    def _step(self, windows: Windows, ready: bool) -> tuple[LossTerms, bool]:
        self.model.train()
        terms = self.losses(windows)
        parameters = [p for _, p in self._named_parameters()]
        for parameter in parameters:
            parameter.grad = None
        terms.total.backward()
        going = self.worker.average_gradients(parameters, ready)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self._update_average()
        return terms, going

    # ------------------------------------------------------------------ the losses of a batch

    def losses(self, windows: Windows) -> LossTerms:
        """Run the network on windows and score all its answers."""
        config, model = self.config, self.model
        b, s, _, height, width = windows.images.shape
        patch = model.config.patch_size
        grid = (height // patch, width // patch)
        targets = window_targets(
            windows.depth_m, windows.camera_from_world, windows.intrinsics, SCALE_PIXEL_STEP
        )
        matches = patch_matches(
            targets.depth, targets.camera_from_first, windows.intrinsics, patch
        )
        chosen = self._depth_choice(b * s)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            tokens = model.encode(windows.images.flatten(0, 1)).unflatten(0, (b, s))
            camera_tokens, taps = model.aggregator(tokens, grid)
            poses = model.camera_head(camera_tokens)
            depth, confidence = model.decode_depth([tap.flatten(0, 1)[chosen] for tap in taps])
            answers = [head(tap) for head, tap in zip(self.patch_heads, taps, strict=True)]
        value, gradient = depth_loss(
            depth, confidence, targets.depth.flatten(0, 1)[chosen], config.loss
        )
        terms = {
            'camera': camera_loss(poses, targets.pose_enc, config.loss),
            'baseline': config.loss.baseline * baseline_loss(poses[-1], targets.pose_enc),
            'depth': value,
            'gradient': gradient,
        }
        figures: dict[str, Tensor] = {}
        self._add_auxiliary(terms, figures, answers, matches, targets, grid)
        return combine(terms, figures)

    def _depth_choice(self, frames: int) -> Tensor:
        """Pick the frames of this step whose depth is decoded: the dense head costs most."""
        rng = np.random.default_rng((self.config.seed, self.progress.step, 1, self.worker.rank))
        count = max(1, round(self.config.depth_share * frames))
        chosen = np.sort(rng.permutation(frames)[:count])
        return torch.from_numpy(chosen).to(self.device)

    def _add_auxiliary(
        self,
        terms: dict[str, Tensor],
        figures: dict[str, Tensor],
        answers: list[PatchAnswers],
        matches: PatchMatches,
        targets: WindowTargets,
        grid: tuple[int, int],
    ) -> None:
        """Add the losses that only training knows, and the error of the last flow, in patches."""
        weights = self.config.loss
        attention = [
            matching_loss(recorder.query, recorder.key, matches, grid)
            for recorder in self.recorders
        ]
        flows = [flow_loss(answer.flow, matches, grid) for answer in answers]
        points = [points_loss(answer.points, matches) for answer in answers]
        poses = [patch_pose_loss(answer.pose, targets.pose_enc, weights) for answer in answers]
        terms['matching'] = weights.matching * torch.stack(attention).mean()
        terms['flow'] = weights.flow * torch.stack([loss for loss, _ in flows]).mean()
        terms['points'] = weights.points * torch.stack(points).mean()
        terms['patch_pose'] = weights.patch_pose * torch.stack(poses).mean()
        figures['flow_patches'] = flows[-1][1]

    # ------------------------------------------------------------------ state

    def _set_learning_rate(self, share: float) -> None:
        warm = min(1.0, (self.progress.step + 1) / self.config.warmup_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group['lr'] = group['initial_lr'] * warm * share

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.progress.step) / (10 + self.progress.step))
        state = self.model.state_dict()
        floating = [n for n, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[n] for n in floating], [state[n] for n in floating], 1 - decay
        )

    def begin_with(self, model: VGGT, windows_seen: int = 0) -> None:
        """Take another network's weights, trained on so many windows; the optimiser starts anew.

        The network may have been made for another image size: positions are resized. Curriculum
        and rooms go on from where those windows end.
        """
        self.model.load_state_dict(resized_positions(model, self.model.config))
        self.average = {n: v.detach().clone() for n, v in self.model.state_dict().items()}
        sequences = self.config.ring_sequences + int(
            windows_seen / self.worker.count / self.config.uses_per_window
        )
        self.progress = replace(
            self.progress,
            windows=windows_seen,
            windows_before=windows_seen,
            sequences=sequences,
        )
        self.source = WindowSource(self.config, self._render, sequences, self.worker)

    def averaged_model(self) -> VGGT:
        """Return a copy of the network with the moving average of its weights."""
        model = VGGT(self.model.config).to(self.device)
        model.load_state_dict(self.average)
        return model.eval()

    def save(self) -> None:
        """Write the run to its file."""
        tensors = {
            'model': dict(self.model.state_dict()),
            'patch_heads': dict(self.patch_heads.state_dict()),
            'average': self.average,
            'optimizer': optimizer_tensors(self.optimizers, self._names),
        }
        save_run(self.run_path, tensors, self.progress, self.model.config.to_dict())

    def _resume(self) -> None:
        groups, self.progress, saved_config = load_run(self.run_path)
        if saved_config != self.model.config.to_dict():
            raise CheckpointError(
                f'{self.run_path}: trained with another network configuration; '
                'choose another run file to start anew'
            )
        self.model.load_state_dict(groups['model'])
        self.patch_heads.load_state_dict(groups['patch_heads'])
        self.average = {n: v.to(self.device) for n, v in groups['average'].items()}
        restore_optimizer(self.optimizers, self._names, groups.get('optimizer', {}))


def resized_positions(model: VGGT, config: VGGTConfig) -> dict[str, Tensor]:
    """Return a network's weights for a config that may differ from its own in image size.

    Raises:
        CheckpointError: something else differs.

    """
    resized_config = replace(
        model.config,
        pretrain_height=config.pretrain_height,
        pretrain_width=config.pretrain_width,
    )
    if resized_config != config:
        raise CheckpointError('initial weights: of another network than the one trained here')
    state = dict(model.state_dict())
    stored, key = model.config.pretrain_grid, 'aggregator.patch_embed.pos_embed'
    first, patches = state[key][:, :1], state[key][:, 1:]
    resized = resize_learned(patches, stored, config.pretrain_grid)
    state[key] = torch.cat([first, resized], dim=1)
    return state


@dataclass
class RunningFigures:
    """Exponential means of the loss terms and speeds."""

    decay: float = 0.98

    def __post_init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, terms: LossTerms, seconds: dict[str, float]) -> None:
        """Take one step's losses and seconds per window."""
        values = {name: float(value) for name, value in terms.parts.items()}
        values.update({f'{name}_ms': 1000 * value for name, value in seconds.items()})
        for name, value in values.items():
            if math.isfinite(value):
                self._sums[name] = self.decay * self._sums.get(name, 0.0) + value
                self._weights[name] = self.decay * self._weights.get(name, 0.0) + 1

    def means(self) -> dict[str, float]:
        """Return the current means."""
        return {name: self._sums[name] / self._weights[name] for name in self._sums}
