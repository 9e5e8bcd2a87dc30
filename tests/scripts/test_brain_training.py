"""The scripts as a user runs them, on a study of files small enough for a test, and the launcher itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from hvf.alignment import Alignment
from hvf.config import Config, HvfError
from hvf.decoder import Decoder
from hvf.evaluation import statistics
from hvf.experiments import layers
from hvf.experiments.descriptions import StudyInfo
from hvf.experiments.interpretation import RunData
from hvf.experiments.results import FILE, Result, Row
from hvf.runs import Run
from hvf.study import open_study
from tests.colour_fields import write_colour_fields
from tests.script_module import load_script

ROOT = Path(__file__).resolve().parents[2]
TRAIN, TARGETS, LAYERS, SCALING = (
    ROOT / "brain_training" / f"{n}.py" for n in ("train", "targets", "layers", "scaling")
)
BENCHMARK = ROOT / "eval" / "benchmark.py"
SMALL = [
    "--brain.width", "24", "--fusion.width", "24", "--brain.intermediate", "16", "--fusion.intermediate", "16",
    "--align.epochs", "40", "--align.batch-size", "32", "--align.learning-rate", "3e-3", "--data.test-images", "20",
]  # fmt: skip

STUDY = StudyInfo("mine", "", False, "features", "s", ("c0",), 1.0, (0.0, 1.0), 80, 2, "", "")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a study of 100 colour fields and neurons that report their colours, and two small targets."""
    root = tmp_path_factory.mktemp("files")
    write_colour_fields(root, 100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_0().state_dict(), root / "random.pth")
    specs = [f"torchvision:squeezenet1_0/{root / 'random.pth'}@{layer}:grid2" for layer in (0, 2)]
    return ["--trials", str(root / "trials.npy"), "--images", str(root / "images"), "--targets.specs", *specs, *SMALL]


def call(script: Path, *arguments: str | Path) -> int:
    """Run a script by its path, in this process: its libraries take longer to import than it takes to run."""
    return load_script(script).main([str(a) for a in arguments])


@pytest.mark.slow(part=5)
def test_targets_table(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    arguments = [*files, "--seeds", "2", "--grid", "brain.input_noise=0.0,0.3", "--out", out]
    assert call(TARGETS, *arguments) == 0
    printed = capsys.readouterr().out
    for row in ("fused (HVF)", "fused, trials permuted", "ridge, all encoders", "chance"):
        assert row in printed
    result = Result.read(out)
    top1 = {name: row.figures["top1"]["value"] for name, row in result.rows.items()}
    assert len(top1) == 5
    assert result.chance["top1"]["value"] == 0.05
    assert top1["fused (HVF)"] > 0.3
    assert top1["ridge, all encoders"] > 0.3
    assert top1["fused, trials permuted"] < 0.2
    lead = result.details["leads"]["fused, trials permuted"]
    assert lead["value"] == pytest.approx(top1["fused (HVF)"] - top1["fused, trials permuted"])
    assert lead["ci95"][0] > 0
    split = Result.read(out / "split-1")
    assert split.rows["fused (HVF)"].chosen[0]["brain.input_noise"] in (0.0, 0.3)
    assert len(set(split.image_ids)) == 20

    kept, before = (out / "split-0" / FILE).stat().st_mtime_ns, (out / FILE).read_bytes()
    (out / "split-1" / FILE).unlink()
    assert call(TARGETS, *arguments) == 0  # a finished split is taken up, an unfinished one comes out the same
    assert (out / "split-0" / FILE).stat().st_mtime_ns == kept
    assert (out / FILE).read_bytes() == before


@pytest.mark.slow(part=5)
def test_ablations_are_rows_beside_the_fusion(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    arguments = [*files, "--seeds", "1", "--align.epochs", "12", "--out", out]
    assert call(TARGETS, *arguments) == 0
    kept = Result.read(out / "split-0").rows
    more = ["--ablations", "encoders", "projector", "temperature", "loss", "--temperatures", "0.05", "1.0"]
    assert call(TARGETS, *arguments, *more) == 0
    rows = Result.read(out / "split-0").rows
    assert {row: rows[row] for row in kept} == kept  # taken up
    added = [
        "fusion: linear",
        "fusion: gated",
        "fusion: concatenated",
        "fusion: plain",
        "τ fixed at 0.05",
        "τ fixed at 1",
    ]
    added += ["loss: brain-to-image", "loss: image-to-brain"]
    assert set(rows) - set(kept) == set(added)  # two encoders have no further set
    assert rows["τ fixed at 1"].settings == {"align.learn_temperature": False, "align.temperature": 1.0}
    result = Result.read(out)
    assert set(added) <= set(result.details["leads"])
    assert set(added) <= set(result.rows)
    printed = capsys.readouterr().out
    assert all(row in printed for row in added)


@pytest.mark.slow(part=5)
def test_ridge_stands_beside_targets_with_views(files, tmp_path):
    out = tmp_path / "out"
    assert call(TARGETS, *files, "--targets.views", "blur9", "--align.epochs", "2", "--seeds", "1", "--out", out) == 0
    assert "ridge, all encoders" in Result.read(out).rows


def without_targets(files: list[str]) -> list[str]:
    at = files.index("--targets.specs")
    return files[:at] + files[at + 3 :]


@pytest.mark.slow(part=5)
def test_layers_and_the_gate(files, tmp_path, capsys):
    out = tmp_path / "out"
    backbone = files[files.index("--targets.specs") + 1].partition("@")[0]
    arguments = [*without_targets(files), "--backbone", backbone, "--layers", "0", "2", "12", "--pool", "grid2"]
    arguments += ["--latents", "None", "--seeds", "1", "--members", "2", "--out", out]
    assert call(LAYERS, *arguments) == 0
    assert "from the sweep's best to the gate's" in capsys.readouterr().out
    sweep, rows = json.loads((out / "layers.json").read_text()), Result.read(out).rows
    top1 = {name: row.figures["top1"]["value"] for name, row in rows.items()}
    assert sum(sweep["gate"].values()) == pytest.approx(1, abs=1e-5)
    assert sweep["gate_layer"][0] in sweep["layers"]
    assert top1["layers and latents (HVF)"] > 0.3 > top1["permuted"]
    assert top1["several HVFs together"] > 0.3
    assert top1["ridge"] > 0.2
    assert sweep["best_layer"][0] == max(sweep["layers"], key=lambda spec: rows[spec].validation["mrr"])
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")
    before = [(out / name).read_bytes() for name in (FILE, "layers.json", "split-0/" + FILE)]
    assert call(LAYERS, *arguments) == 0  # taken up, not made again
    assert [(out / name).read_bytes() for name in (FILE, "layers.json", "split-0/" + FILE)] == before


def test_stored_splits_of_other_members_are_refused(files, tmp_path, capsys, monkeypatch):
    """--members is no setting of the run: another number beside the same --out must not show what was there before."""
    out, made = tmp_path / "out", []

    def one_repeat(sweep, run):
        made.append(sweep.members)
        specs, _ = sweep._specs()
        result = Result.start("layers", run.config, STUDY, ["a", "b"], ["a", "b"], run=run.path.name, main=layers.FUSED)
        for row in (*specs, layers.FUSED, *([layers.TOGETHER] if sweep.members > 1 else [])):
            validation = {"mrr": 0.5, "top1": 0.5, "n": 2}
            result = result.with_row(row, Row.of_ranks(np.array([1, 2]), validation, {"targets.specs": []}))
        return result.with_details(best_layer=specs[0], gate_layer=specs[0], gate=dict.fromkeys(specs, 0.5))

    monkeypatch.setattr(layers.LayerSweep, "_one_repeat", one_repeat)
    monkeypatch.setattr(layers, "_draw", lambda result, sweep, names, path: path.write_bytes(b""))
    arguments = [*without_targets(files), "--layers", "0", "1", "--seeds", "2", "--out", out]
    assert call(LAYERS, *arguments, "--members", "2") == 0
    assert call(LAYERS, *arguments, "--members", "2") == 0
    assert made == [2, 2]  # two splits, taken up by the second call
    (out / "split-0" / FILE).unlink()
    for members in ("1", "3"):
        assert call(LAYERS, *arguments, "--members", members) == 2
        assert f"split-1 with --members 2, not {members}: choose another --out" in capsys.readouterr().err
    assert made == [2, 2]  # refused before anything is computed
    assert call(LAYERS, *arguments, "--members", "2") == 0
    stored = json.loads((out / "split-0" / FILE).read_text())
    stored["details"]["options"] = {}
    (out / "split-0" / FILE).write_text(json.dumps(stored))
    assert call(LAYERS, *arguments, "--members", "2") == 2
    assert "with --members unknown, not 2" in capsys.readouterr().err


@pytest.mark.slow(part=5)
def test_scaling_of_a_study(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(SCALING, *files, "--points", "3", "--seeds", "2", "--out", out) == 0
    assert "points a doubling" in capsys.readouterr().out
    for fit in json.loads((out / "scaling.json").read_text())["trials"].values():
        assert fit["amounts"] == [20, 40, 80]
        assert fit["top1"][-1]["value"] > 0.3
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_axes_of_a_simulated_study_are_refused_for_files(files, tmp_path, capsys):
    assert call(SCALING, *files, "--axes", "subjects", "--out", tmp_path / "no") == 2
    assert "your own files have --axes trials" in capsys.readouterr().err


@pytest.mark.slow(part=5)
def test_benchmark_of_methods(files, tmp_path, capsys):
    at = files.index("--targets.specs")
    out, specs = tmp_path / "out", files[at + 1 : at + 3]
    arguments = [*without_targets(files), "--methods", "hvf", "ridge", "--encoders", "given", "--specs", *specs]
    arguments += ["--seeds", "0", "1", "--out", out]
    assert call(BENCHMARK, *arguments, "--epochs", "40") == 2
    assert "--align.epochs is what --epochs says here" in capsys.readouterr().err
    at = arguments.index("--align.epochs")
    arguments[at : at + 2] = ["--epochs", "40"]
    assert call(BENCHMARK, *arguments) == 0
    table = json.loads((out / "table.json").read_text())
    rows = table["rows"]
    assert list(rows) == ["hvf", "ridge", "trials permuted", "chance"]
    assert rows["ridge"]["top1"]["value"] > 0.2 > rows["trials permuted"]["top1"]["value"]
    assert rows["chance"]["top1"]["value"] == 0.05
    text = (out / "table.md").read_text()
    assert "published" not in text  # figures of EEG have no place beside those of neurons
    assert "75.7" not in text
    hvf = next(line for line in text.splitlines() if line.startswith("| hvf |"))
    assert "| squeezenet1_0@0:grid2, squeezenet1_0@2:grid2 | In float32 (there: bfloat16). |" in hvf
    assert f"squeezenet1_0@0:grid2 is {specs[0]}" in text
    assert "Protocol: intra, 1 subject(s) x 2 seed(s)" in text
    cell = out / "intra-hvf-sub-08-seed-0" / "result.json"
    kept = cell.stat().st_mtime_ns
    assert call(BENCHMARK, *arguments) == 0
    assert cell.stat().st_mtime_ns == kept
    assert call(BENCHMARK, "--methods", "hfv", "--out", out) == 2
    assert "there is no method 'hfv'; did you mean 'hvf'" in capsys.readouterr().err
    assert call(BENCHMARK, "--protocol", "loso", "--out", out) == 2
    assert "for methods: name some" in capsys.readouterr().err


@pytest.mark.slow(part=5)
def test_scaled_scores_of_a_benchmark_stand_apart_where_they_are_transductive(files, tmp_path, capsys):
    at, out = files.index("--targets.specs"), tmp_path / "out"
    arguments = [
        *without_targets(files),
        "--methods",
        "ridge",
        "--encoders",
        "given",
        "--specs",
        *files[at + 1 : at + 3],
    ]
    arguments += ["--seeds", "0", "1", "--out", out]
    assert call(BENCHMARK, *arguments, "--scaling", "csls", "sinkhorn", "hungarian") == 0
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert list(rows) == ["ridge", "ridge, csls", "trials permuted", "trials permuted, csls", "chance"]
    result = Result.read(out)
    apart = [f"{row}, {name}" for row in ("ridge", "trials permuted") for name in ("sinkhorn", "hungarian")]
    assert list(result.transductive) == apart
    assert result.rows["ridge, csls"].settings["k"] == 10  # a closed form leaves no trial to choose it on
    of = result.rows["ridge"]
    for name, row in (("csls", result.rows["ridge, csls"]), ("sinkhorn", result.transductive["ridge, sinkhorn"])):
        gain_N = row.hits(1).astype(float) - of.hits(1)
        expected = statistics.interval(gain_N, result.image_ids)
        assert row.figures["top1_gain"]["value"] == pytest.approx(expected["value"]), name
        assert row.figures["top1_gain"]["ci95"] == pytest.approx(expected["ci95"]), name
        each = [Result.read(out / f"intra-ridge-sub-08-seed-{seed}") for seed in (0, 1)]
        figures = [{**one.rows, **one.transductive}[f"ridge, {name}"].figures["top1"]["value"] for one in each]
        assert row.figures["top1"]["value"] == pytest.approx(np.mean(figures))
        assert row.each["top1"] == pytest.approx(figures)
    assert result.transductive["ridge, hungarian"].figures.keys() == {"top1", "top1_gain"}
    text = (out / "table.md").read_text()
    above, _, below = text.partition("Transductive: all test trials at once")
    assert "| ridge, csls |" in above
    assert "sinkhorn" not in above
    assert "| ridge, sinkhorn |" in below
    assert call(BENCHMARK, *arguments, "--scaling", "centred") == 2
    assert "was computed without --scaling centred: choose another --out" in capsys.readouterr().err


def test_drawn_figures_and_their_chance_are_means_over_cells():
    benchmark = load_script(BENCHMARK)

    def cell(ssim: float, chance: float, **more: float) -> dict[str, dict]:
        values = {"reconstruction/brain/ssim": ssim, "chance/reconstruction/clip": chance, **more}
        return {name: {"value": value, "ci95": [0.0, 0.5], "n": 12} for name, value in values.items()}

    cells = {
        "one": cell(0.2, 0.5, **{"reconstruction/brain/pixcorr": 0.1}),
        "two": cell(0.4, 0.4),
    }  # a constant picture
    drawn = benchmark.drawn_figures(list(cells.values()))
    assert drawn.keys() == {"reconstruction/brain/ssim", "chance/reconstruction/clip"}
    assert [entry["value"] for entry in drawn.values()] == pytest.approx([0.3, 0.45])
    assert all(entry["ci95"] is None for entry in drawn.values())
    rows = benchmark.table_rows(cells)
    assert rows["brain"].keys() == {"ssim"}
    assert rows["chance"]["clip"]["value"] == pytest.approx(0.45)


def test_processes_share_the_cells_of_the_benchmark(tmp_path, monkeypatch):
    benchmark, done = load_script(BENCHMARK), []
    configs = {tmp_path / f"cell-{i}": Config() for i in range(5)}
    for index in (0, 1):
        state = SimpleNamespace(process_index=index, num_processes=2, wait_for_everyone=lambda: done.append("wait"))
        monkeypatch.setattr(benchmark, "PartialState", lambda state=state: state)
        benchmark.share_cells(configs, lambda run: done.append(run.path.name))
    assert done == ["cell-0", "cell-2", "cell-4", "wait", "cell-1", "cell-3", "wait"]


@pytest.mark.slow(part=5)
def test_train_by_the_launcher(files, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    command += [TRAIN, *files, "--seeds", "2", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "protocol intra; 2 seeds" in done.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    each = [json.loads((out / f"seed-{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
    name = "retrieval/brain/top1"
    assert metrics[name]["value"] == pytest.approx(np.mean([m[name]["value"] for m in each]))
    assert metrics[name]["n"] == 20  # images, not images times seeds
    assert metrics["chance/retrieval/top1"]["value"] == 0.05
    assert metrics[name]["value"] > 0.3 > metrics["retrieval/floor/top1"]["value"]
    for seed in (0, 1):
        assert (out / f"seed-{seed}" / "checkpoint" / "alignment.safetensors").is_file()
    again = tmp_path / "again"
    assert call(TRAIN, *files, "--seeds", "1", "--out", again) == 0  # another process, the same seed, the same numbers
    assert (again / "seed-0" / "metrics.json").read_bytes() == (out / "seed-0" / "metrics.json").read_bytes()


@pytest.mark.slow(part=5)
def test_training_sees_views(files, tmp_path):
    z = {}
    for name, views in {"plain": [], "seen": ["--targets.views", "blur9", "blur41"]}.items():
        assert call(TRAIN, *files, *views, "--align.epochs", "3", "--seeds", "1", "--out", tmp_path / name) == 0
        trained = Alignment.load(tmp_path / name / "seed-0" / "checkpoint")
        z[name] = trained.embed_brain(open_study(trained.config.data).test)
    assert not np.allclose(z["plain"], z["seen"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--subject", "11"], "subject 11 does not exist"),
        (["--preset", "minni"], "did you mean 'mini'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--targets", "openclp:mini-vit"], "unknown kind 'openclp'; did you mean 'openclip'?"),
    ],
)
@pytest.mark.parametrize("script", [TRAIN, TARGETS, LAYERS, SCALING], ids=lambda path: path.stem)
def test_refused_in_one_line(tmp_path, capsys, script, arguments, said):
    assert call(script, *arguments, "--out", tmp_path / "out") == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (TRAIN, "--subjects 8 1 8", "--subjects names 8 twice"),
        (TRAIN, "--align.seed 4294967295 --seeds 2", "align.seed must lie between"),
        (TRAIN, "--brain.person-layer", "--brain.person-layer is for several people"),
        (TRAIN, "--trained-on 1 2", "--trained-on is for several people: --protocol loso or pooled"),
        (TRAIN, "--protocol loso --trained-on 1 8", "leaves subject 8 out: take 8 from --trained-on"),
        (TRAIN, "--protocol pooled --trained-on 1 2", "tests people who are trained on: add 8 to --trained-on"),
        (BENCHMARK, "--methods hvf hvf", "--methods names one of them twice"),
        (BENCHMARK, "--methods hvf --seeds 1 1", "--seeds names one of them twice"),
        (BENCHMARK, "--methods hvf --scaling clss", "--scaling is 'clss'; did you mean 'csls'?"),
        (BENCHMARK, "--scaling csls", "--scaling is for methods: name some"),
        (BENCHMARK, "--methods hvf --specs vae:mini", "--specs needs --encoders given, not mini"),
        (BENCHMARK, "--methods hvf --encoders given --specs vea:mini", "did you mean 'vae'?"),
        (TARGETS, "--grid targets.text=2", "targets.text"),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(tmp_path, capsys, script, arguments, message):
    assert call(script, *arguments.split(), "--out", tmp_path / "out") == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_one_recording_cannot_be_left_out(files, tmp_path, capsys):
    assert call(TRAIN, *files, "--protocol", "loso", "--out", tmp_path / "out") == 2
    assert "needs a study of several subjects" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(part=5)
def test_leave_one_subject_out_of_the_simulated_study(files, tmp_path, capsys):
    specs = files[files.index("--targets.specs") + 1 : files.index("--targets.specs") + 3]
    tiny = ["--data.train-concepts", "20", "--data.images-per-concept", "1", "--data.test-concepts", "10"]
    tiny += ["--data.study", "simulated-meg", "--data.train-repeats", "1", "--data.test-repeats", "2"]
    out = tmp_path / "out"
    arguments = ["--subject", "2", "--seeds", "1", "--targets.specs", *specs, *tiny, "--align.epochs", "2"]
    arguments += ["--out", out]
    assert call(TRAIN, *arguments, "--protocol", "loso") == 0
    assert "protocol loso" in capsys.readouterr().out
    history = json.loads((out / "seed-0" / "history.json").read_text())
    assert history[0]["validation_n"] == 2 * 3  # two concepts, three other people
    assert Result.read(out / "seed-0").details["trained_on"] == ["sub-01", "sub-03", "sub-04"]
    assert call(TRAIN, *arguments, "--protocol", "intra") == 2
    assert "another protocol" in capsys.readouterr().err
    assert call(TRAIN, *arguments, "--protocol", "loso", "--trained-on", "1", "3") == 2
    assert "trained on sub-01, sub-03, sub-04" in capsys.readouterr().err


TINY = ["--data.train-concepts", "8", "--data.images-per-concept", "1", "--data.test-concepts", "4"]
TINY += ["--data.study", "simulated-meg", "--data.train-repeats", "1", "--data.test-repeats", "2"]
TINY += ["--subject", "2", "--seeds", "1", "--targets.specs", "vae:mini", "--align.epochs", "1"]


def test_what_asks_a_run_again_knows_its_data_and_its_people(tmp_path):
    assert call(TRAIN, *TINY, "--out", tmp_path / "intra") == 0
    run = Run.open(tmp_path / "intra" / "seed-0")
    study = open_study(run.config.data)
    assert len(RunData(run).train) == len(study.train_images) == 8  # as interpret.py opens it
    Decoder(run.config).resume(run.path / "checkpoint", study.train, study.train_images)  # as hvf retrieve does
    assert call(TRAIN, *TINY, "--protocol", "loso", "--out", tmp_path / "loso") == 0
    with pytest.raises(HvfError, match="seed-0 was trained on several people: what carries one person's decoding"):
        RunData(Run.open(tmp_path / "loso" / "seed-0"))


@pytest.mark.parametrize(("first", "then"), [(["1", "3"], []), (["1"], ["3"]), ([], ["3"])])
def test_runs_trained_on_other_people_are_not_taken_up(first, then, tmp_path, capsys):
    arguments = [*TINY, "--protocol", "loso", "--out", tmp_path / "out"]
    people = {"": "sub-01, sub-03, sub-04", "1": "sub-01", "3": "sub-03", "13": "sub-01, sub-03"}
    assert call(TRAIN, *arguments, *(["--trained-on", *first] if first else [])) == 0
    assert Result.read(tmp_path / "out" / "seed-0").details["trained_on"] == people["".join(first)].split(", ")
    assert call(TRAIN, *arguments, *(["--trained-on", *then] if then else [])) == 2
    said = f"was trained on {people[''.join(first)]}, not on {people[''.join(then)]}: choose another --out"
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow(part=5)
def test_one_decoder_of_several_people_is_tested_on_each(files, tmp_path, capsys):
    specs = files[files.index("--targets.specs") + 1 : files.index("--targets.specs") + 3]
    tiny = ["--data.train-concepts", "20", "--data.images-per-concept", "1", "--data.test-concepts", "10"]
    tiny += ["--data.study", "simulated-meg", "--data.train-repeats", "1", "--data.test-repeats", "2"]
    of_people = ["--fusion.kind", "routed", "--brain.person-layer", "--brain.people", "euclidean"]
    arguments = ["--subjects", "1", "2", "--trained-on", "1", "2", "3", "--protocol", "pooled", "--seeds", "1"]
    arguments += ["--targets.specs", *specs, *tiny, *of_people, "--align.epochs", "2", "--out", tmp_path / "out"]
    assert call(TRAIN, *arguments) == 0
    assert "protocol pooled" in capsys.readouterr().out
    each = [Alignment.load(tmp_path / "out" / f"sub-0{i}" / "seed-0" / "checkpoint") for i in (1, 2)]
    assert [one.person for one in each] == ["sub-01", "sub-02"]
    assert each[0].people == ("sub-01", "sub-02", "sub-03")
    assert each[0].history == each[1].history  # one training
    first, second = (one.brain.encoder.state_dict() for one in each)
    assert all((first[name] == second[name]).all() for name in first)
    assert not (each[0].hvf.regret_K == each[1].hvf.regret_K).all()  # each with the own gate, and the own channels
    assert not (each[0].brain.start_CC == each[1].brain.start_CC).all()
    assert Result.read(tmp_path / "out").protocol.training == "pooled"
