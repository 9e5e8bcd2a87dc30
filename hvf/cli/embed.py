"""`hvf embed`: visual features of images, into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvf.cli.options import Folder, Specs
from hvf.cli.parser import Configured
from hvf.registry import HvfError, feature_file
from hvf.runs import cache_dir, check_writable


@dataclass(frozen=True)
class Embed(Configured):
    """Compute the visual features of images, into the cache."""

    images: Folder = None  # folder, zip or file of features (default: the simulated study's images)
    targets: Specs = None  # visual encoders (default: the preset's)

    def __call__(self) -> int:
        config = self.config
        file = None if self.images is None else feature_file(self.images)
        if self.images is not None and not (Path(file.path) if file else self.images).expanduser().exists():
            raise HvfError(f"--images: no such file or folder: {self.images}")
        if self.images is None and config.data.study == "files":
            raise HvfError(f"the preset {self.preset} has no images of its own: give --images FOLDER-OR-ZIP")
        check_writable(cache_dir())
        from hvf.vision.cache import embed_all

        if self.images is not None:
            from hvf.vision.feature_images import open_image_set

            sets = [open_image_set(self.images, config.data.background)]
        else:
            from hvf.study import stimuli

            sets = list(stimuli(config.data))
        for images in sets:
            for spec, features_ND in embed_all(images, config.targets.specs).items():
                print(f"{spec}: {features_ND.shape[0]} images, {features_ND.shape[1]} features each")
        print(f"wrote {cache_dir()}")
        return 0
