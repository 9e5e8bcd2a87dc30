"""Every script refuses a number out of range, and a list that names one twice or none, before it writes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.script_module import load_script

ROOT = Path(__file__).resolve().parents[2]
ONE, FINITE, ONCE = "must be at least 1, not ", "must be a finite number, not ", "must name each once, not "

# {script: {options: what is said of them}}
REFUSED = {
    "prior_training/benchmark": {
        "--budget -5": "--budget must be at least 0, not -5",
        "--warmup -1": "--warmup must be at least 0, not -1",
        "--batch-size 0": f"--batch-size {ONE}0",
        "--steps 0": f"--steps {ONE}0",
        "--draw-batch -1": f"--draw-batch {ONE}-1",
    },
    "prior_training/prepare": {
        "--shard-size 0": f"--shard-size {ONE}0",
        "--batch-size -1": f"--batch-size {ONE}-1",
        "--workers 0": f"--workers {ONE}0",
        "--estimate --probe 0": f"--probe {ONE}0",
        "--targets vae:mini vae:mini": "targets.specs names vae:mini twice",
        "--targets": "targets.specs is empty",
    },
    "brain_training/benchmark": {
        "--steps 0": f"--steps {ONE}0",
        "--repeats -1": f"--repeats {ONE}-1",
        "--threads 0": f"--threads {ONE}0",
        "--together 0": f"--together {ONE}0",
    },
    "brain_training/train": {
        "--seeds 0": f"--seeds {ONE}0",
        "--members 0": f"members.trainings {ONE}0",
        "--together -1": f"--together {ONE}-1",
        "--subjects 1 1": "--subjects names 1 twice",
        "--protocol loso --trained-on 1 1": "--trained-on names 1 twice",
        "--protocol loso --trained-on 11": "subject 11 does not exist",
        "--align.learning-rate nan": f"align.learning_rate {FINITE}nan",
    },
    "brain_training/adaptation": {
        "--shares nan": f"--shares {FINITE}nan",
        "--shares 50 50": f"--shares {ONCE}(50.0, 50.0)",
        "--shares": "--shares are per cent",
        "--seeds 0": f"--seeds {ONE}0",
    },
    "brain_training/interpret": {
        "--window nan": f"--window {FINITE}nan",
        "--window 0": "--window must be greater than 0, not 0.0",
        "--radius inf": f"--radius {FINITE}inf",
        "--layers vae:mini vae:mini": f"--layers {ONCE}",
    },
    "brain_training/layers": {
        "--layers 1 1": f"--layers {ONCE}('1', '1')",
        "--layers": "at least two layers",
        "--members 0": f"--members {ONE}0",
    },
    "brain_training/population": {
        "--losses.contrast nan": f"--losses.contrast {FINITE}nan",
        "--losses.local -1": "--losses.local must be at least 0, not -1.0",
        "--maps.channels 0": f"--maps.channels {ONE}0",
        "--grid 0": f"--grid {ONE}0",
        "--vector-grid -1": f"--vector-grid {ONE}-1",
        "--layers": "--layers must name at least one, each once, not ()",
    },
    "brain_training/scaling": {
        "--axes trials trials": "name at least one axis, each once",
        "--points 2": "at least three points",
        "--seeds 0": f"--seeds {ONE}0",
    },
    "brain_training/targets": {
        "--temperatures nan": f"--temperatures {FINITE}nan",
        "--temperatures 0": "--temperatures must be greater than 0, not 0.0",
        "--ablations temperature --temperatures": "--temperatures must name at least one, each once, not ()",
        "--ablations loss loss": f"--ablations {ONCE}",
        "--grid brain.dropout=0.1,0.1": "--grid takes each setting, and each value of it, once",
        "--grid brain.dropout=0.1 brain.dropout=0.2": "--grid takes each setting, and each value of it, once",
    },
    "brain_training/timecourse": {
        "--step nan": f"--step {FINITE}nan",
        "--step inf": f"--step {FINITE}inf",
        "--folds 1": "--folds must be at least 2, not 1",
        "--what size size": "name each target once",
    },
    "eval/benchmark": {
        "--scaling centred centred": f"--scaling {ONCE}",
        "--methods ridge --encoders given --specs vae:mini vae:mini": f"--specs {ONCE}",
        "--seeds -1": "align.seed must lie between 0 and",
        "--subjects": "name at least one subject",
    },
    "eval/gallery_benchmark": {"--images 0": f"--images {ONE}0", "--trials -1": f"--trials {ONE}-1"},
    "eval/metrics_benchmark": {
        "--pairs 1": "two pairs or more",
        "--rounds 0": "two pairs or more",
        "--networks clip clip": f"--networks {ONCE}",
    },
    "eval/prepare_benchmark": {
        "--scale nan": f"--scale {FINITE}nan",
        "--fraction 0": "lie between 0 and 1",
        "--jobs 0": f"--jobs {ONE}0",
        "--recipe neurobridge-zscore": "for recipes that whiten, not for neurobridge-zscore",
        "--dtype int8": "--dtype is 'int8'",
    },
    "eval/world_benchmark": {"--pictures 0": f"--pictures {ONE}0", "--rounds -1": f"--rounds {ONE}-1"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_and_nothing_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = load_script(ROOT / f"{name}.py")
    for options, said in REFUSED[name].items():
        more = ["--trials", "x.npy", "--images", "pictures"] if name.endswith("population") else []
        assert script.main([*options.split(), *more]) == 2, options
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("hvf: "), options
        assert said in lines[-1]
        assert not any(tmp_path.iterdir()), options
