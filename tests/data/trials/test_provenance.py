"""What the history of trials says of them."""

import numpy as np
import pytest

from hvf.data.things_eeg2.preprocessing import RECIPES, units
from hvf.data.trials.provenance import is_whitened
from hvf.data.trials.trials import Trials


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_whitened_by_a_recipe(recipe):
    assert is_whitened({"units": units(RECIPES[recipe])}) == (RECIPES[recipe].normalisation in ("time", "epochs"))


def test_whitened_in_part():
    one, other = (
        Trials(np.ones((1, 2, 3)), [name], "s", 100.0, 0.0, ("a", "b"), "eeg", history=history)
        for name, history in (("x", None), ("y", {"units": "standard deviations of the whitened noise"}))
    )
    assert not is_whitened(one.history)
    assert is_whitened(other.history)
    assert is_whitened(Trials.concatenate([one, other], subject="both").history)
    assert not is_whitened({"units": "V"})
