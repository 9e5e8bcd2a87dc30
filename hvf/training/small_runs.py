"""One loop for small trainings on one device, whose steps are replayed as a CUDA graph where there is a GPU."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hvf.config import HvfError
from hvf.files.checksums import check_zip
from hvf.runs import write_atomic
from hvf.training.cuda_graphs import Replayed

LOG_EVERY, SAVE_EVERY = 100, 1000  # steps between losses, and between checkpoints


@dataclass(frozen=True)
class Hyperparameters:
    """Length and rate of a training: AdamW, cosine learning rate after a warm-up of a twentieth."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-2
    ema: float = 0.998  # decay of the averaged weights, which are the ones kept


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises HvfError if torch knows none, or nothing can be computed there."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise HvfError(f"nothing can be computed on --device {name}: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def optimise(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    n: int,
    settings: Hyperparameters,
    checkpoint: Path,
    device: torch.device,
    bf16: bool = False,
    between: Callable[[], None] | None = None,
) -> nn.Module:
    """Minimise ``loss(indices)`` over ``n`` items; return the moving average of ``model``, in evaluation mode.

    ``indices`` (batch_size,) are distinct and on ``device``; ``loss`` may draw random numbers there, and must not look
    at values (no `.item()`), so that it can be captured. Whatever is drawn follows from the step's number. Gradients
    are clipped at norm 1; ``bf16`` asks for autocast. ``between`` is called before every 100th step, outside of the
    captured one. Goes on from ``checkpoint`` if there is one.
    Raises HvfError if there are fewer items than a batch holds, or the loss is not finite.
    """
    if n < settings.batch_size:
        raise HvfError(f"there are {n} pictures, fewer than a batch of {settings.batch_size}")
    step = _Step(model.to(device).train(), loss, settings, device, bf16)
    first = step.load(checkpoint) if checkpoint.exists() else 0
    started, losses = time.time(), []
    for number in range(first, settings.steps):
        if between is not None and number % LOG_EVERY == 0:
            between()
        step.take(number, n)
        done, last = number + 1, number + 1 == settings.steps
        if done % LOG_EVERY == 0 or last:
            losses.append(step.mean_loss())
            print(f"step {done}/{settings.steps} loss {losses[-1]:.4f} {time.time() - started:.1f} s", flush=True)
            if not math.isfinite(losses[-1]):
                raise HvfError(f"the loss is not finite after step {done}: lower the learning rate")
        if done % SAVE_EVERY == 0 or last:
            step.save(checkpoint, done)
            record = json.dumps({"settings": asdict(settings), "loss": losses[-1:]})
            write_atomic(checkpoint.with_suffix(".json"), lambda path, record=record: path.write_text(record))
    return step.averaged.eval()


class _Step:
    """Weights, their average, the optimizer, and one update of all of them."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor], Tensor],
        settings: Hyperparameters,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.model, self.loss, self.settings, self.device, self.bf16 = model, loss, settings, device, bf16
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rate = torch.tensor(settings.learning_rate, device=device)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.average = get_ema_multi_avg_fn(settings.ema)
        self.total, self.count, self.counted = torch.zeros((), device=device), 0, 0
        self.update = Replayed(self.updated, device)

    def take(self, number: int, n: int) -> None:
        """Step ``number``, which alone seeds its random numbers."""
        warm_up = self.settings.steps // 20 or 1
        past = max(0, number - warm_up) / max(1, self.settings.steps - warm_up)
        self.rate.fill_(
            self.settings.learning_rate * min(1, (number + 1) / warm_up) * (1 + math.cos(math.pi * past)) / 2
        )
        rows = np.random.default_rng(number).choice(n, self.settings.batch_size, replace=False)
        torch.manual_seed(number)
        self.update(torch.from_numpy(rows).to(self.device))
        self.count += 1

    def updated(self, indices: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            value = self.loss(indices)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.total += value
            ours, theirs = self.model.state_dict(), self.averaged.state_dict()
            moving = [name for name, x in theirs.items() if x.is_floating_point()]
            self.average([theirs[name] for name in moving], [ours[name] for name in moving], None)
            for name in theirs.keys() - set(moving):
                theirs[name].copy_(ours[name])
        return value.detach()

    def mean_loss(self) -> float:
        """The mean loss since this was last asked."""
        count, self.counted = self.count - self.counted, self.count
        value = self.total.item() / count
        self.total.zero_()
        return value

    def save(self, path: Path, done: int) -> None:
        parts = {"model": self.model, "averaged": self.averaged, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()} | {"step": done}
        write_atomic(path, lambda temporary: torch.save(state, temporary))

    def load(self, path: Path) -> int:
        """Continue from what `save` wrote; returns how many steps were done. HvfError if it is damaged."""
        try:
            check_zip(path)
            state = torch.load(path, weights_only=True, map_location=self.device)
            for name, part in {"model": self.model, "averaged": self.averaged, "optimizer": self.optimizer}.items():
                part.load_state_dict(state[name])
        except (HvfError, OSError, RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
            words = " ".join(str(error).split())[:200]
            raise HvfError(f"the training cannot go on from {path} ({words}): delete it to begin anew") from error
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        return state["step"]
