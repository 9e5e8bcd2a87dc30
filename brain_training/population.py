"""What of an image does a population of neurons hold: where, how coarse, which neurons? DINA on (neurons,) responses.

    python brain_training/population.py --trials responses.npy --images images.zip \
        --backbone torchvision:squeezenet1_0/FILE --layers 5 9 12 --latents vae:taesdxl@112 --grid 6

A response tower and an image tower meet at a feature map (hvf/population/towers.py, arXiv 2605.04309). Rows, controls
and choices: hvf/experiments/population.py. Writes result.json, population.json (the analysis of the maps),
population.png (the page), and places.png, scales.png, neurons.png. A split that is there is taken up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from hvf.cli import studies
from hvf.experiments.population import PopulationAlignment


@dataclass(frozen=True)
class Options(PopulationAlignment, studies.ExperimentOptions):
    """Align a population of neurons with images at the level of feature maps."""


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
