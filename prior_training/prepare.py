"""VAE latents and encoder features of a large image set, computed once for any number of trainings.

    accelerate launch prior_training/prepare.py --preset sdxl --images IMAGENET --out FOLDER [--estimate]

IMAGENET is a folder or zip of images, tar shards, or a Hub data set, say ILSVRC/imagenet-1k
(`hvf.data.images.sources`). FOLDER gets an index and Arrow shards (`hvf.vision.shards`). Every process takes its share
of the shards. A preparation killed at any moment goes on where it was when the same command is given again, also with
another number of processes.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hvf import presets
from hvf.cli.options import parse_preset, script
from hvf.config import HvfError, TargetConfig
from hvf.data.images.image_set import ImageSet
from hvf.data.images.sources import open_image_source
from hvf.data.indexing import spread_rows
from hvf.experiments.timing import Clock
from hvf.progress import Track
from hvf.runs import track
from hvf.schema.bounds import Count, check_options
from hvf.simulation.captioned import pretraining_images
from hvf.vision import shards
from hvf.vision.loading import load_encoder
from hvf.vision.processes import several_on_cpus
from hvf.vision.specs import Encoder, check_targets, parse_spec

# Processes end hours apart where their devices differ; none gives up waiting for the others.
PATIENCE = InitProcessGroupKwargs(timeout=timedelta(days=30))


@dataclass(frozen=True)
class Preparation:
    """Cache latents and features of images as Arrow shards."""

    preset: Literal["mini", "sdxl"] = "mini"  # where the other defaults come from
    images: str | None = None  # folder, zip, tar shards or Hub data set; none: the mini preset's rendered pictures
    split: str = "train"  # of a Hub data set
    latents: str = "vae:mini"  # FeatureSpec of the pipeline's own VAE at the size to train at
    targets: tuple[str, ...] = ()  # FeatureSpecs of the encoders to fuse
    out: Path | None = None  # output folder; none: runs/prepared-PRESET
    shard_size: Count = 2048  # images per shard: what a kill can cost each process
    batch_size: Count = 16  # images encoded at once
    workers: Count = 8  # threads that decode images, per process
    precision: Literal["float32", "bfloat16"] = "float32"  # in which the encoders run
    estimate: bool = False  # only say how many bytes and hours it takes, measured on a few images; writes nothing
    probe: Count = 32  # images that --estimate measures
    check: bool = False  # at the end, read every shard and compare it with its checksum


def mini() -> Preparation:
    """The embedded prior's pictures and encoders."""
    return Preparation(targets=presets.mini().targets.specs)


def sdxl() -> Preparation:
    """ImageNet for SDXL at 512 px: 38 kB an image, 49 GB for ImageNet-1k."""
    return Preparation(preset="sdxl", latents="vae:sdxl@512", targets=presets.things_eeg().targets.specs)


PRESETS = {"mini": mini, "sdxl": sdxl}


def prepare(options: Preparation) -> Path:
    """Write every shard that is missing; returns the folder. Raises HvfError before anything is written."""
    check_options(options)
    check_targets(TargetConfig(specs=options.targets))
    out = options.out or Path("runs") / f"prepared-{options.preset}"
    accelerator = Accelerator(cpu=several_on_cpus(), kwargs_handlers=[PATIENCE])
    images, fingerprint = open_pictures(options)
    specs = dict.fromkeys(str(parse_spec(spec)) for spec in (options.latents, *options.targets))
    encoders = {spec: load_encoder(spec, accelerator.device) for spec in specs}
    settings = shards.Settings(
        dataset=options.images or "rendered",
        fingerprint=fingerprint,
        images=len(images),
        latents=str(parse_spec(options.latents)),
        encoders={spec: {"dim": one.dim, "weights_hash": one.weights_hash} for spec, one in encoders.items()},
        shard_size=options.shard_size,
        precision=options.precision,
    )
    if options.estimate:
        if accelerator.is_main_process:
            print(estimate(options, out, images, encoders, settings, accelerator.num_processes))
        return out
    if accelerator.is_main_process:
        _check_room(out, settings)
        shards.start(out, settings)
    accelerator.wait_for_everyone()
    absent = shards.missing(out, settings)
    mine = [number for number in absent if number % accelerator.num_processes == accelerator.process_index]
    accelerator.wait_for_everyone()  # no shard appears before every process has looked which are missing
    share = [row for number in mine for row in settings.rows(number)]
    with track(len(share), f"encoding {len(share)} images") as bar, _Decoding(images, share, options) as pictures:
        for number in mine:
            rows = settings.rows(number)
            features = _encoded(pictures, rows, encoders, options, bar)
            ids, concepts = (labels[rows.start : rows.stop] for labels in (images.ids, images.concepts))
            shards.write_shard(out, settings, number, ids, concepts, features)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shards.finish(out, settings)
        if options.check:
            shards.open_shards(out).check()
    accelerator.end_training()
    return out


def open_pictures(options: Preparation) -> tuple[ImageSet, str]:
    """The images to encode and their fingerprint."""
    if options.images:
        return open_image_source(options.images, options.split)
    if options.preset != "mini":
        raise HvfError("--images is missing: name a folder, a zip, tar shards or a Hub data set (ILSVRC/imagenet-1k)")
    images = pretraining_images()
    return images, images.digest


class _Decoding:
    """Pictures as uint8 (3, H, W) in the order asked for, decoded by threads a few batches ahead of their use."""

    def __init__(self, images: ImageSet, rows: Iterable[int], options: Preparation) -> None:
        self._images, self._rows = images, iter(rows)
        self._pool = ThreadPoolExecutor(options.workers)
        self._ahead: deque[Future[torch.Tensor]] = deque()
        self._room = 2 * options.batch_size + options.workers

    def __enter__(self) -> Iterator[torch.Tensor]:
        return self._pictures()

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _pictures(self) -> Iterator[torch.Tensor]:
        for row in self._rows:
            self._ahead.append(self._pool.submit(self._load, row))
            if len(self._ahead) >= self._room:
                yield self._ahead.popleft().result()
        while self._ahead:
            yield self._ahead.popleft().result()

    def _load(self, row: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._images[row])).permute(2, 0, 1).contiguous()


def _encoded(
    pictures: Iterator[torch.Tensor], rows: range, encoders: dict[str, Encoder], options: Preparation, bar: Track[Any]
) -> dict[str, np.ndarray]:
    """{spec: (n, d)} of a shard's rows. Batches begin anew in each shard, so that it does not depend on the rest."""
    parts: dict[str, list[np.ndarray]] = {spec: [] for spec in encoders}
    for first in range(0, len(rows), options.batch_size):
        batch = [next(pictures) for _ in rows[first : first + options.batch_size]]
        for spec, encoder in encoders.items():
            parts[spec].append(encoder.encode_mixed(batch, options.precision).half().cpu().numpy())
        bar.advance(len(batch))
    return {spec: np.concatenate(arrays) for spec, arrays in parts.items()}


def estimate(
    options: Preparation,
    out: Path,
    images: ImageSet,
    encoders: dict[str, Encoder],
    settings: shards.Settings,
    processes: int,
) -> str:
    """Bytes and hours in words. Decoding and each encoder are measured on images spread over the set."""
    rows = spread_rows(len(images), options.probe).tolist()
    device = str(next(iter(encoders.values())).device)
    clock, decoding = Clock(device), f"decoding, {options.workers} threads"
    with clock(decoding), _Decoding(images, rows, options) as pictures:
        decoded = list(pictures)
    batches = [decoded[i : i + options.batch_size] for i in range(0, len(decoded), options.batch_size)]
    for spec, encoder in encoders.items():
        encoder.encode_mixed(batches[0], options.precision)  # the first call also finds its algorithms
        with clock(spec):
            for batch in batches:
                encoder.encode_mixed(batch, options.precision).cpu()
    seconds = {name: times[0] / len(rows) for name, times in clock.wall.items()}
    encoding = sum(list(seconds.values())[1:])
    hours = max(encoding, seconds[decoding]) * len(images) / processes / 3600  # one goes on beside the other
    needed, free = settings.row_bytes * len(images), _free_bytes(out)
    lines = [f"{len(images):,} images of {len(set(images.concepts)):,} concepts, {settings.shards:,} shards"]
    lines += [f"  {spec}: {one.dim:,} numbers, {2 * one.dim:,} bytes an image" for spec, one in encoders.items()]
    lines += [f"disk: {needed / 1e9:.3f} GB in {out}; {free / 1e9:.1f} GB are free there"]
    lines += [f"time on this device ({device}), measured on {len(rows)} images:"]
    lines += [f"  {name}: {1000 * value:.1f} ms an image" for name, value in seconds.items()]
    lines += [f"{hours:.2f} hours with {processes} process{'es' if processes > 1 else ''}; nothing was written"]
    return "\n".join(lines)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(next(one for one in (path, *path.absolute().parents) if one.exists())).free


def _check_room(out: Path, settings: shards.Settings) -> None:
    """Refuse what the disk cannot hold now, not after a day."""
    needed = settings.row_bytes * sum(len(settings.rows(number)) for number in shards.missing(out, settings))
    free = _free_bytes(out)
    if needed > free:
        raise HvfError(f"{out} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: choose another --out")


@script
def main(arguments: Sequence[str] | None) -> None:
    options = parse_preset(PRESETS, arguments)
    out = prepare(options)
    if not options.estimate and os.environ.get("RANK", "0") == "0":
        read = shards.open_shards(out)
        print(f"{len(read):,} images prepared in {out}: train with prior_training/train.py --shards {out}")


if __name__ == "__main__":
    sys.exit(main())
