"""What is said about pictures of photographs that the mini prior drew."""

from __future__ import annotations

import pytest

from hvf import presets
from hvf.config import Config, HvfError, with_settings
from hvf.experiments.caveats import RENDERED_ALONE, caveats, is_simulated
from hvf.runs import Run


def drawing(**settings: str) -> Config:
    return with_settings(presets.mini(), {"align.mode": "reconstruction", **settings})


def test_the_mini_prior_is_said_to_know_rendered_pictures_alone():
    assert caveats(drawing(), simulated=False) == [RENDERED_ALONE]
    assert caveats(drawing(**{"prior.path": "you/prior"}), simulated=False) == [RENDERED_ALONE]  # the pipeline is mini
    assert caveats(drawing(), simulated=True) == []
    assert caveats(presets.mini(), simulated=False) == []  # nothing is drawn
    assert caveats(presets.things_eeg(), simulated=False) == []


def test_whether_a_run_is_simulated_its_result_says(tmp_path):
    run = Run.create(tmp_path / "run", drawing())
    assert is_simulated(run)
    run.write_json("result.json", {"study": {"simulated": False}})
    assert not is_simulated(run)
    run.write_json("result.json", {"study": {}})
    with pytest.raises(HvfError, match="result.json"):
        is_simulated(run)
