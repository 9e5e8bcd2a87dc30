"""`hvf embed`: visual features of images, into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hvf.cli.options import Folder, Specs, Word
from hvf.cli.parser import Configured
from hvf.registry import HvfError, feature_file
from hvf.runs import cache_dir, check_writable

if TYPE_CHECKING:
    import torch

    from hvf.vision.processes import Processes


@dataclass(frozen=True)
class Embed(Configured):
    """Compute the visual features of images, into the cache; under `accelerate launch -m`, each process a share.

    Example: hvf embed --images photos --targets openclip:mini-vit vae:mini
    """

    images: Folder = None  # folder, zip or file of features (default: the simulated study's images)
    targets: Specs = None  # visual encoders (default: the preset's)
    device: Word = None  # where they run: cpu, cuda, cuda:1 (default: a GPU if there is one)

    def __call__(self) -> int:
        config = self.config
        file = None if self.images is None else feature_file(self.images)
        if self.images is not None and not (Path(file.path) if file else self.images).expanduser().exists():
            raise HvfError(f"--images: no such file or folder: {self.images}")
        if self.images is None and config.data.study == "files":
            raise HvfError(f"the preset {self.preset} has no images of its own: give --images FOLDER-OR-ZIP")
        check_writable(cache_dir())
        from hvf.decoder import Decoder
        from hvf.experiments.protocols import device
        from hvf.vision.processes import launched

        kind = Decoder(config, self.device or device()).checked_device()
        with launched(cpu=kind.type == "cpu") as (processes, place):
            if kind.type == "cuda" and processes.count > 1:
                kind = type(kind)("cuda", place)
            try:
                lines = self._embed(kind, processes)
            except HvfError:
                if processes.rank:  # the first one says it
                    return 2
                raise
        if not processes.rank:
            print(*lines, f"wrote {cache_dir()}", sep="\n")
        return 0

    def _embed(self, device: torch.device, processes: Processes) -> list[str]:
        """A line for each encoder and set of images."""
        from hvf.vision.cache import embed_all

        config = self.config
        if self.images is not None:
            from hvf.vision.feature_images import open_image_set

            sets = [open_image_set(self.images, config.data.background)]
        else:
            from hvf.study import stimuli

            sets = list(stimuli(config.data))
        lines: list[str] = []
        for images in sets:
            features = embed_all(images, config.targets.specs, device, processes=processes, keep=True)
            lines += [
                f"{spec}: {x_ND.shape[0]} images, {x_ND.shape[1]} features each" for spec, x_ND in features.items()
            ]
        return lines
