"""How many images does a new person need? Accuracy against the share of their images, of a decoder trained on others.

    python brain_training/adaptation.py [--subjects 3 5 7] [--others 2 4 6 10] [--brain.people standardised]

The simulated study. Beside the adapted decoder: one trained from scratch on the same images, and the decoder of the
others as it is. Writes result.json, adaptation.json and adaptation.png; what is finished is taken up by a second call.
A decoder of your own is moved with `hvf adapt`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from hvf.cli import studies
from hvf.experiments.adaptation import AdaptationCurve


@dataclass(frozen=True)
class Options(AdaptationCurve, studies.ExperimentOptions):
    """Accuracy against the share of new people's images, of a decoder trained on others."""


main = partial(studies.main, Options)

if __name__ == "__main__":
    sys.exit(main())
