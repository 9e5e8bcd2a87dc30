"""Long trainings that survive interruption: whole checkpoints, signals, averaged weights, logs.

Works alike for one process, DDP, FSDP and DeepSpeed, as `accelerate launch` sets them up. All processes must see the
same output folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import TypedDict

from hvf.config import HvfError
from hvf.files.checksums import sha256_of
from hvf.runs import clear_leftovers, settle, temporary_beside, write_atomic
from hvf.schema.reading import parse_as, read_as
from hvf.schema.run_folder import MORE, Count

TERMINATED = 128 + signal.SIGTERM  # 143, what a shell calls a process that SIGTERM ended
CHECKSUMS = "checksums.json"  # of a checkpoint: {file: its sha256}
AVERAGED = "averaged-{}.pt"
NO_OWNER = re.compile(r"\.checkpoint-\d+")  # what earlier versions were saving


class Termination:
    """Notices SIGTERM, as a scheduler sends before it kills, while it is entered; all processes agree on the step.

    With several processes the answer is that of the step before: reading it does not make a device wait.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._here = accelerator, False
        self._before: Any = None

    def __enter__(self) -> Termination:
        self._former = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._former)

    def _notice(self, *_: object) -> None:
        self._here = True

    def asked(self) -> bool:
        """Whether to stop now; to be called by every process after every step."""
        if self._accelerator.num_processes == 1:
            return self._here
        before = self._before
        here = torch.tensor(float(self._here), device=self._accelerator.device)
        self._before = self._accelerator.reduce(here, "sum")
        return before is not None and bool(before.item())


class EmaWeights:
    """The exponential moving average of a model's parameters, of this process's shards where they are sharded."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, decay: float) -> None:
        self._accelerator, self._model = accelerator, model
        self._ema = EMAModel(self._parameters(), decay=decay)

    def step(self) -> None:
        """Update the average with the present parameters."""
        self._ema.step(self._parameters())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averaged weights, in evaluation mode; afterwards its own, in training mode, again."""
        parameters = self._parameters()
        self._ema.store(parameters)
        self._ema.copy_to(parameters)
        self._forget_gathered()
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()
            self._ema.restore(parameters)
            self._forget_gathered()

    def save(self, folder: Path) -> None:
        """Write this process's part; only one writes where all hold the same."""
        if self._sharded or self._accelerator.is_main_process:
            torch.save(self._ema.state_dict(), folder / AVERAGED.format(self._part))

    def load(self, folder: Path) -> None:
        path = folder / AVERAGED.format(self._part)
        # By way of the CPU: torch cannot restore to "cpu:1", as a second process on the CPU calls its device.
        self._ema.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._ema.to(self._accelerator.device)

    @property
    def _sharded(self) -> bool:
        return hasattr(self._model, "reshard")  # FSDP2; its parameters are whole tensors between some forwards

    @property
    def _part(self) -> int:
        return self._accelerator.process_index if self._sharded else 0

    def _forget_gathered(self) -> None:
        """FSDP may keep whole parameters from one forward to the next; these no longer agree with their shards."""
        model: Any = self._model
        if self._sharded:
            model.reshard()

    def _parameters(self) -> list[Any]:
        """Plain tensors that share the memory of the parameters, or of this process's shards."""
        self._forget_gathered()
        return [getattr(parameter, "to_local", lambda p=parameter: p)() for parameter in self._model.parameters()]


def whole_state(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """All parameters, gathered on the main process (empty elsewhere); to be called by every process."""
    state: Any = accelerator.get_state_dict(model)
    return {name: x.detach() for name, x in state.items()} if accelerator.is_main_process else {}


@contextmanager
def folder_in_place(accelerator: Accelerator, final: Path) -> Iterator[Path]:
    """A temporary folder that all processes fill; it gets its final name once it is whole.

    Raises HvfError when the disk refuses; what was there before stays.
    """
    # Its name says whose it is (the main process's), so that the next run clears it after a kill.
    temporary = Path(broadcast_object_list([str(temporary_beside(final))])[0])
    try:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        yield temporary
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for file in (path for path in temporary.rglob("*") if path.is_file()):
                settle(file)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, RuntimeError, SafetensorError)):  # the last two: what others make of an OSError
            raise HvfError(f"Cannot write {final}: {error}. Make room and go on with --resume.") from error
        raise


def save_checkpoint(accelerator: Accelerator, averaged: EmaWeights, out: Path, step: int) -> None:
    """Everything needed to go on after ``step`` steps; all but the last two checkpoints are removed."""
    with folder_in_place(accelerator, out / f"checkpoint-{step:07d}") as folder:
        accelerator.save_state(str(folder))
        averaged.save(folder)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            sums = {str(path.relative_to(folder)): sha256_of(path) for path in files}
            (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
    if accelerator.is_main_process:
        for old in checkpoints(out)[:-2]:
            shutil.rmtree(old)


def load_checkpoint(accelerator: Accelerator, averaged: EmaWeights, out: Path) -> int:
    """Go back to the last whole checkpoint, if there is one; returns the number of steps that are done.

    One that was damaged since is passed over, with a note. What a kill in the middle of saving left is removed. Raises
    HvfError if all were damaged.
    """
    if accelerator.is_main_process:
        clear_leftovers(out)
        for left in (path for path in out.glob(".checkpoint-*") if NO_OWNER.fullmatch(path.name)):
            shutil.rmtree(left, ignore_errors=True)
    whole = checkpoints(out)
    if not whole:
        return 0
    faults = {folder: fault for folder in whole if (fault := _damage(folder))}
    sound = [folder for folder in whole if folder not in faults]
    if not sound:
        raise HvfError(f"{faults[whole[-1]]}: delete the checkpoints in {out} and begin anew")
    if sound[-1] != whole[-1] and accelerator.is_main_process:
        print(f"{faults[whole[-1]]}: going on from {sound[-1].name}", file=sys.stderr)
    accelerator.load_state(str(sound[-1]))
    averaged.load(sound[-1])
    return int(sound[-1].name.removeprefix("checkpoint-"))


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint, by its checksums; "" if nothing is, or it is of a version that wrote none."""
    if not (folder / CHECKSUMS).is_file():
        return ""
    try:
        for name, expected in read_as(dict[str, str], folder / CHECKSUMS).items():
            if sha256_of(folder / name) != expected:
                return f"{folder / name} is damaged (sha256 differs)"
    except (HvfError, OSError, ValueError) as error:
        return f"{folder} is damaged ({error})"
    return ""


class Entry(TypedDict):
    """A line of a training's history, of whatever figures."""

    __pydantic_config__ = MORE  # pyright: ignore[reportGeneralTypeIssues]
    step: Count


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(out.glob("checkpoint-*"))


def read_history(path: Path, steps: int) -> list[dict[str, Any]]:
    """The entries up to the step that training goes on from. HvfError for a line that is none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        entries = [parse_as(Entry, line) for line in lines]
    except ValueError as error:
        raise HvfError(f"{path} is damaged ({error}): delete it; the training goes on without its curve") from error
    return [dict(entry) for entry in entries if entry["step"] <= steps]


def write_history(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per line, atomically."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_atomic(path, lambda temporary: temporary.write_text(text))


class Log:
    """Figures and pictures of a training, in the trackers that the accelerator was made with (see `trackers`)."""

    def __init__(self, accelerator: Accelerator, name: str) -> None:
        self._accelerator = accelerator
        accelerator.init_trackers("hvf-prior", init_kwargs={"wandb": {"name": name}})

    def figures(self, entry: Mapping[str, float], step: int) -> None:
        self._accelerator.log(dict(entry), step=step)

    def pictures(self, name: str, images_NHW3: np.ndarray, step: int) -> None:
        if self._accelerator.is_main_process:
            for tracker in self._accelerator.trackers:
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: images_NHW3}, step=step, **layout)


def trackers(name: str) -> list[str] | None:
    """The argument of `Accelerator(log_with=...)` for "tensorboard", "wandb" or "none".

    TensorBoard is a convenience, for metrics.jsonl has the figures: none where its package is missing. Raises HvfError
    where wandb's is.
    """
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "none": ()}[name]
    if any(find_spec(package) for package in packages):
        return [name]
    if name == "wandb":
        raise HvfError("--tracker wandb: its package is not installed (pip install wandb)")
    return None


def scalar_norm(norm: Any, like: Tensor) -> Tensor:
    """A gradient norm, however the engine gives it, as a scalar tensor; NaN for none."""
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return torch.as_tensor(float("nan") if norm is None else norm, device=like.device, dtype=like.dtype)


def say(accelerator: Accelerator, line: str) -> None:
    """One line on stderr, from the main process."""
    if accelerator.is_main_process:
        print(f"hvf: {line}", file=sys.stderr, flush=True)
