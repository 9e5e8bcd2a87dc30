"""What a reader must be told about a run: whether its data are simulated, and what drew its pictures.

Importing this loads no torch.
"""

from __future__ import annotations

from hvf.config import Config
from hvf.runs import Run
from hvf.schema.reading import read_as
from hvf.schema.run_folder import RESULT, ResultHead

RENDERED_ALONE = (
    "the mini prior has learnt from rendered pictures alone, and these are others: what it draws looks like its own "
    "world, whatever was seen. Name a prior for photographs with --preset things-eeg, or --prior and --pipeline"
)


def is_simulated(run: Run) -> bool:
    """Whether a run's figures come from simulated data: its study's word, or before there is a result, its name."""
    if not run.has(RESULT):
        return run.config.data.study.startswith("simulated")
    return read_as(ResultHead, run.path / RESULT)["study"]["simulated"]


def caveats(config: Config, simulated: bool) -> list[str]:
    """Sentences about the pictures of a run or a decoder; `simulated` is whether the simulated world was seen."""
    drawn_by_prior = config.align.mode == "reconstruction"
    mini = "mini" in (config.prior.path, config.prior.pipeline)
    return [RENDERED_ALONE] if drawn_by_prior and mini and not simulated else []
