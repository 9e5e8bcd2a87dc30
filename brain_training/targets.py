"""Which target is found best from the brain, and what does each part of the method bring? A table, and the controls.

    python brain_training/targets.py [--subject 8] [--seeds 3]                        the simulated study, 3 seeds
    python brain_training/targets.py --ablations encoders projector temperature loss  and what each part of it brings
    python brain_training/targets.py --trials X.npy --images Z.zip --targets.specs SPEC SPEC --seeds 5 \
        [--grid brain.input_noise=0.5,1.0 ...]                                        your data, 5 random splits

Rows and choices: hvf/experiments/targets.py. Writes result.json and figures; a second call takes up the rows that are
there, whatever ablations it asks for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from hvf.cli import studies
from hvf.experiments.targets import TargetComparison


@dataclass(frozen=True)
class Options(TargetComparison, studies.ExperimentOptions):
    """Compare visual encoders, alone and fused, as targets for the brain."""


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
