"""Standardised trials by row, on the device or read from disk batch by batch.

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hvf.alignment.inputs import standardised
from hvf.alignment.people import People
from hvf.data.trials.lazy import release
from hvf.data.trials.trials import Trials


class Rows:
    """Standardised trials, by row: `resident` on the device, in place of the array that they had, or read by batch.

    Where there are `people` each one's trials have been aligned, too.
    """

    def __init__(
        self, trials: Trials, statistics: tuple[Tensor, Tensor], resident: bool, people: People | None = None
    ) -> None:
        self.statistics, self.shape, self.device = statistics, trials.shape, statistics[0].device
        self.people = people
        self.kept_NCT: Tensor | None = None
        if resident:
            mean, sd = statistics
            x_NCT = torch.from_numpy(trials.load_array()).to(self.device)
            self.kept_NCT = x_NCT.sub_(mean).div_(sd) if people is None else people.aligned(x_NCT)
        else:
            self.trials = trials
            self._release()  # read whole, to check and to standardise them

    @property
    def resident(self) -> bool:
        """Whether they are on the device."""
        return self.kept_NCT is not None

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self.kept_NCT is not None:
            return self.kept_NCT.index_select(0, rows)
        index_N = rows.cpu().numpy()
        x_NCT = self.trials.batch(index_N)
        self._release()
        if self.people is not None:
            return self.people.aligned(torch.from_numpy(x_NCT).to(self.device), index_N)
        return standardised(x_NCT, self.statistics, self.device)

    def _release(self) -> None:
        for part in self.trials.values.parts:
            release(part.array)
