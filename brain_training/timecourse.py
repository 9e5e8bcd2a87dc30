"""When do responses tell what a picture looks like, and when what it shows? Decoding over time, and across times.

    python brain_training/timecourse.py [--subject 8]                       the simulated study
    python brain_training/timecourse.py --targets openclip:mini-vit@0:mean openclip:mini-vit@3:mean --subjects 1 2 3
    python brain_training/timecourse.py --trials sub-08-epo.fif --images images/ --categories categories.csv

Targets and folds: hvf/experiments/timecourse.py. Writes result.json, timecourse.json, windows.json, timecourse.png;
every subject has a run folder of its own inside, and a second call takes up those that are finished.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from hvf.cli import studies
from hvf.experiments.timecourse import Timecourse


@dataclass(frozen=True)
class Options(Timecourse, studies.ExperimentOptions):
    """Decode a hierarchy of targets over time."""


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
