"""A result with given ranks, for tests of what reads results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hvf.config import Config
from hvf.experiments.descriptions import StudyInfo
from hvf.experiments.results import Kind, Result, Row

STUDY = StudyInfo("study", "a note", True, "eeg", "sub-08", ("O1", "Oz"), 100.0, (0.0, 0.5), 80, 12, "train", "test")


def a_result(
    ids: Sequence[str],
    rows: dict[str, Sequence[int]],
    top5: Sequence[Sequence[int]] = (),
    *,
    concepts: Sequence[str] = (),
    kind: Kind = "retrieval",
    config: Config | None = None,
    run: str = "seed-0",
    digest: str = "test",
) -> Result:
    """The result of one run, its first row the main one, of which ``top5`` are."""
    main, study = next(iter(rows), "brain"), replace(STUDY, test_digest=digest)
    result = Result.start(kind, config or Config(), study, ids, concepts or ids, run=run, main=main)
    for name, ranks in rows.items():
        validation = {"mrr": 0.5, "top1": 0.25, "n": 7}
        row = Row.of_ranks(np.asarray(ranks), validation, {"epoch": 3})
        result = result.with_row(name, replace(row, top5=tuple(map(tuple, top5)) if name == main else ()))
    return result
