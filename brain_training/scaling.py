"""How does accuracy grow with data? Top-1 against training images, repeats and subjects, with a log-linear fit.

    python brain_training/scaling.py [--subject 8] [--axes trials repeats subjects]     the simulated study
    python brain_training/scaling.py --trials X.npy --images Z.zip --axes trials        yours

Axes: ``trials``: a random half, quarter, ... of the training concepts; ``repeats``: trials averaged per training image
(simulated; the test trials stay the same); ``subjects``: how many other people are trained on, tested on this one.
Epoch and penalty of each point are chosen on validation concepts. Writes result.json, scaling.json and scaling.png;
what is finished is taken up by a second call.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from hvf.cli import studies
from hvf.experiments.scaling import Scaling


@dataclass(frozen=True)
class Options(Scaling, studies.ExperimentOptions):
    """Accuracy against the amount of data, for a network and for ridge."""


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
