"""brain_training/benchmark.py at the size of a test, and runs that train.py trains together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.script_module import load_script

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "brain_training" / "train.py"


@pytest.fixture(scope="module")
def script():
    return load_script(ROOT / "brain_training" / "benchmark.py")


def quiet(script, mode: str):
    size = script.Size(400, (16, 8, 16), 10, script.SIZES["small"].settings | {"brain.dropout": 0.0})
    size.settings["fusion.dropout"] = 0.0
    return script.training_run(size, mode)


@pytest.mark.parametrize("mode", ["reconstruction", "retrieval"])
def test_the_straightforward_loop_lowers_the_same_loss(script, mode):
    data, config = quiet(script, mode)
    ours = script.Ours([(data, config)], "cpu")
    run = ours.runs[0]
    plain = script.Straightforward(data, config, run.train_N.numpy(), "cpu")
    plain.brain.load_state_dict(run.brain.state_dict())
    if run.fusion_learns:
        plain.fusion.load_state_dict(run.fusion.state_dict())
    rows = run.order()[0]
    batch = {"eeg": run.x_NCT[rows]}
    features = run.features(run.image_N[rows])
    batch["features"] = run.standardised(features) if run.fusion_learns else features
    for _ in range(3):  # the second and third tell that gradient, clipping and AdamW agree
        assert float(run.step(rows)) == pytest.approx(plain.step(batch), rel=1e-4)
    items = script.Items(data, run.train_N.numpy())
    assert items[3]["eeg"].shape == (17, 10)
    assert items[3]["image"] == data.trials.image_ids[run.train_N[3]]


@pytest.mark.slow(part=5)
def test_the_table(script, tmp_path, capsys):
    told = ["--size", "small", "--steps", "1", "--repeats", "1", "--together", "2", "--table"]
    told += ["--out", str(tmp_path / "it")]
    before = torch.get_num_threads()
    assert script.main(told) == 0
    assert torch.get_num_threads() == before
    said = capsys.readouterr().out
    assert said.count("goal: at least 1.8 x") == 2
    assert "Intra-subject table, 10 subjects x 3 seeds x 25 epochs" in said
    found = json.loads((tmp_path / "it" / "benchmark.json").read_text())
    assert set(found["speed"]) == {"reconstruction", "retrieval"}
    assert found["table"]["runs"] == 30
    assert found["table"]["seconds"] > 0
    inside, dims, batch = 32, (16, 8, 16), 360 / 6
    brain = 2 * batch * (17 * 10 * inside * 2 + 6 * inside * inside)  # no gradient for what came in
    frozen = brain + 2 * batch * batch * inside * 2  # logits, and their gradient for the brain alone
    assert found["speed"]["reconstruction"]["flops"] == frozen
    fusion = 2 * batch * (sum(dims) * inside * 2 + 6 * inside * inside)
    assert found["speed"]["retrieval"]["flops"] == frozen + fusion + 2 * batch * batch * inside
    for part in (*found["speed"].values(), found["together"]):
        for clocks in part["ways"].values():
            assert clocks["wall"]["min"] <= clocks["wall"]["median"] <= clocks["wall"]["max"]
    assert script.main(["--steps", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.slow(part=5)
def test_what_leave_one_subject_out_needs(script, tmp_path, capsys):
    """Read from disk, batch by batch, whatever is stored: the process that trains tells its own peak."""
    threads = torch.get_num_threads()
    try:
        assert script.main(["--size", "small", "--memory", "--threads", "2", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "benchmark.json").read_text())["memory"]
    assert figures["trials"] == 9 * 400
    assert np.isfinite(figures["loss"])
    assert figures["libraries_gb"] <= figures["prepared_gb"] <= figures["peak_gb"] < 3
    assert figures["threads"] == 2
    out = capsys.readouterr().out
    assert "one epoch on 2 threads" in out
    assert "goal: at most 4 GB, met" in out


@pytest.mark.slow(part=5)
def test_subjects_and_seeds_train_together_as_alone(tmp_path, capsys):
    tiny = ["--data.train-concepts", "20", "--data.images-per-concept", "2", "--data.test-concepts", "10"]
    tiny += ["--data.study", "simulated-meg", "--data.train-repeats", "1", "--data.test-repeats", "2"]
    tiny += ["--targets.specs", "vae:mini", "--align.epochs", "2", "--brain.width", "16", "--fusion.width", "16"]
    tiny += ["--brain.dropout", "0", "--fusion.dropout", "0", "--brain.input-noise", "0"]
    tiny += ["--subjects", "1", "2", "--seeds", "2"]
    main = load_script(TRAIN).main
    for together in ("4", "1"):
        assert main([*tiny, "--together", together, "--out", str(tmp_path / together)]) == 0
    assert "all 2 subjects; protocol intra; 2 seeds" in capsys.readouterr().out
    for subject in ("sub-01", "sub-02"):
        for seed in ("seed-0", "seed-1"):
            a, b = (json.loads((tmp_path / n / subject / seed / "history.json").read_text()) for n in ("4", "1"))
            assert [e["loss"] for e in a] == pytest.approx([e["loss"] for e in b], rel=1e-4)
            assert [e["best"] for e in a] == [e["best"] for e in b]
    ours, alone = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("4", "1"))
    assert ours["retrieval/brain/mrr"]["value"] == pytest.approx(alone["retrieval/brain/mrr"]["value"], rel=0.05)
    assert ours["retrieval/brain/mrr"]["n"] == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--together", "0"], "--together must be at least 1"),
        (["--together", "2", "--brain.encoder", "tsconv"], "--together 2: encoder tsconv has batch normalisation"),
        (["--subjects", "1", "--trials", str(TRAIN), "--images", str(ROOT / "docs")], "--subjects needs a study of"),
    ],
)
def test_what_cannot_train_together_is_refused(tmp_path, capsys, arguments, said):
    assert load_script(TRAIN).main([*arguments, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
