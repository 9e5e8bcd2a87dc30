"""Which layer of a vision model does the brain answer to? Accuracy over layers, a gate over them, and their fusion.

    python brain_training/layers.py [--subject 8]                            the simulated study, blocks of the mini ViT
    python brain_training/layers.py --trials X.npy --images Z.zip --backbone torchvision:squeezenet1_0/FILE \
        --layers 2 3 4 5 7 8 9 10 12 --pool grid2 --latents vae:taesdxl@112:grid4 --seeds 5    yours, 5 random splits

Rows and choices: hvf/experiments/layers.py. Writes result.json, layers.json, layers.png and figures; every seed or
split has a run folder of its own inside, and a second call takes up those that are finished.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from hvf.cli import studies
from hvf.experiments.layers import LayerSweep


@dataclass(frozen=True)
class Options(LayerSweep, studies.ExperimentOptions):
    """Compare the layers of a vision model as targets for the brain."""

    def aliased(self) -> dict[str, Any]:
        return {k: x for k, x in super().aliased().items() if k != "members.trainings"}  # --members is a row of its own


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
