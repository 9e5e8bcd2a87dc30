"""`hvf adapt`: a decoder trained on several people is moved to a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hvf.cli.options import Float, Folder, Int
from hvf.config import AdaptConfig
from hvf.registry import HvfError, feature_file


@dataclass(frozen=True)
class Adapt:
    """Move a decoder that was trained on several people to a new one, who gives some trials.

    Example: hvf adapt runs/others/seed-0 --trials new-person-epo.fif --images photos --out runs/new-person
    """

    decoder: Annotated[Positional[str | None], arg(metavar="DECODER", help_behavior_hint="")] = None  # a folder, Hub id
    trials: Folder = None  # the new person's trials: -epo.fif, prepared ones, or .npy (N, C, T)
    images: Folder = None  # the images they answer: folder, zip or features:FILE#KEY; in order unless trials name them
    fraction: Float = None  # share of the images to learn from (default: 1; 0: none, trials are only made alike)
    seed: Int = None  # of that share, the validation concepts and the batches (default: the decoder's)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)  # how it learns
    out: Folder = None  # folder of the new decoder (default: runs/adapted-NAME-OF-THE-TRIALS)

    def __call__(self) -> int:
        if self.decoder is None or self.trials is None:
            raise HvfError("name a decoder and the new person's trials: hvf adapt DECODER --trials new-epo.fif")
        if not self.trials.exists():
            raise HvfError(f"--trials: there is no file at {self.trials}")
        if self.images is not None:
            file = feature_file(self.images)
            if not Path(file.path if file else self.images).exists():
                raise HvfError(f"--images: there is nothing at {self.images}")
        out = self.out or Path("runs") / f"adapted-{self.trials.name.split('.')[0]}"
        from hvf.cli.printing import print_adapted
        from hvf.experiments.new_person import NewPerson, adapt
        from hvf.experiments.protocols import device

        images = None if self.images is None else str(self.images)
        fraction = 1.0 if self.fraction is None else self.fraction
        person = NewPerson(self.decoder, self.trials, images, fraction, self.adapt, self.seed)
        print_adapted(adapt(person, out, device()).summary)
        print(f"wrote {out}")
        return 0
