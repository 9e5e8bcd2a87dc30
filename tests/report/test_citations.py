"""`hvf cite`: what a run used, no more and no less, as BibTeX that holds together."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hvf import cli, presets
from hvf.config import Config, HvfError, with_settings
from hvf.methods import METHODS
from hvf.registry import BRAIN_ENCODERS, FUSIONS, METRICS
from hvf.report import citations
from hvf.report.citations import bibtex
from hvf.runs import Run
from tests.a_result import a_result

IDS = ["a", "b", "c"]
LIBRARIES = {"hvf", *citations.LIBRARIES}
FILES = {"data.trials": __file__, "data.images": str(Path(__file__).parent)}  # that are there; nothing reads them


def a_run(folder, config: Config, rows=("brain",), *, kind="retrieval", note="", simulated=True, metrics=()):
    result = a_result(IDS, {name: [1, 2, 3] for name in rows}, kind=kind, config=config)
    result = replace(result, study=replace(result.study, note=note, simulated=simulated))
    run = Run.create(folder, config)
    result.write(folder)
    run.write_metrics({name: {"value": 0.5, "ci95": None, "n": 3} for name in metrics})
    return folder


def keys(text: str) -> set[str]:
    return set(re.findall(r"^@\w+\{([\w-]+),", text, flags=re.MULTILINE))


def test_entries_hold_together():
    text, known = citations.REFERENCES.read_text(encoding="utf-8"), citations._entries()
    assert keys(text) == known.keys()
    for key, entry in known.items():
        assert entry.count("{") == entry.count("}"), key
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, flags=re.MULTILINE))
        assert {"title", "author"} <= fields.keys(), key
        assert len(fields) == len(entry.splitlines()) - 2, key
        assert re.fullmatch(r"20\d\d|19\d\d", fields.get("year", "2000")), key
        assert re.fullmatch(r"10\.\d{4,}/\S+", fields.get("doi", "10.1000/x")), key
        assert re.fullmatch(r"\d{4}\.\d{5}", fields.get("eprint", "1234.56789")), key


def test_every_entry_is_used_and_every_name_exists():
    tables = [citations.BRAIN, citations.METRICS, dict(citations.ENCODERS), dict(citations.DATA_SETS.values())]
    named = {key for table in tables for found in table.values() for key in found}
    named |= {*citations.METHOD.values(), *citations.FUSION.values(), *citations.SCALINGS.values(), *LIBRARIES}
    source = citations.__file__
    with open(source, encoding="utf-8") as file:
        named |= set(re.findall(r'"([a-z]+\d{4}|dina)"\)?', file.read()))
    assert named == citations._entries().keys()
    assert set(citations.METHOD) <= set(METHODS)
    assert set(citations.BRAIN) - {"ridge", "encoding"} <= set(BRAIN_ENCODERS)
    assert set(citations.FUSION) <= set(FUSIONS)
    assert set(citations.METRICS) - {"one_to_one", "ece", "coverage"} <= set(METRICS)


def test_a_simulated_run_cites_its_method_and_no_data(tmp_path):
    text = bibtex([a_run(tmp_path / "run", presets.mini())])
    assert keys(text) == {"zheng2026", "oord2018", *LIBRARIES}
    assert "the data are simulated" in text
    assert re.search(r"@inproceedings\{torch,.*?note = \{Version \d", text, flags=re.DOTALL)


def test_a_recipe_tells_the_data_set_and_its_normalisation(tmp_path):
    config = with_settings(presets.things_eeg(), FILES)
    note = "sub-08_trials.npy: EEG, sub-08, recipe nice, 16540 training and 200 test images"
    text = bibtex([a_run(tmp_path / "eeg", config, note=note, simulated=False)])
    encoders = {"radford2021", "cherti2023", "schuhmann2022", "podell2024"}
    data = {"things_eeg2", "things", "guggenmos2018"}
    assert keys(text) == {"zheng2026", "oord2018", *encoders, *data, *LIBRARIES}
    meg = a_run(tmp_path / "meg", config, note=note.replace("EEG", "MEG"), simulated=False)
    assert keys(bibtex([meg])) & {"things_data", *data} == {"things_data", "things"}
    own = a_run(tmp_path / "own", config, note=note.replace("nice", "recording"), simulated=False)
    assert "your own files" in bibtex([own])
    assert not keys(bibtex([own])) & data


def test_drawing_metrics_scalings_and_methods(tmp_path):
    drawing = with_settings(presets.things_eeg(), {"align.mode": "reconstruction", **FILES})
    metrics = ("reconstruction/brain/ssim", "reconstruction/brain/swav", "retrieval/csls/top1", "chance/x/effnet")
    cited = keys(bibtex([a_run(tmp_path / "a", drawing, metrics=metrics)]))
    assert {"ye2023", "podell2024", "sauer2023", "wang2004", "caron2020", "scotti2023", "conneau2018"} <= cited
    assert not {"tan2019", "sinkhorn1967"} & cited  # of the one there is chance alone, of the other nothing
    table = a_run(tmp_path / "b", presets.mini(), ("nice", "ridge", "mine"), kind="benchmark")
    assert {"song2024", "sklearn"} <= keys(bibtex([table]))
    assert "zheng2026" not in keys(bibtex([table]))
    both = bibtex([tmp_path / "a", table])
    assert keys(both) >= cited | {"song2024"}
    assert len(re.findall("^@", both, flags=re.MULTILINE)) == len(keys(both))


def test_encoders_are_those_that_the_prior_fuses(tmp_path):
    """A run that drew by a prior of other encoders cited those of the preset."""
    config = presets.in_mode(presets.things_eeg(), "reconstruction", {"prior.path": "somebody/prior", **FILES})
    folder = a_run(tmp_path / "run", config)
    assert "% encoder openclip:ViT-H-14" in bibtex([folder])
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "decoder.json").write_text('{"encoders": {"openclip:RN50/openai": "a"}}')
    text = bibtex([folder])
    assert "ViT-H-14" not in text
    assert "openclip:RN50/openai" in text


def test_what_has_no_entry_is_named(tmp_path):
    config = with_settings(presets.mini(), {"targets.specs": ("timm:vit_of_tomorrow",)})
    text = bibtex([a_run(tmp_path / "run", config)])
    assert "% no entry for the encoder timm:vit_of_tomorrow: cite its authors" in text


def test_the_command_prints_or_writes(tmp_path, capsys):
    run = a_run(tmp_path / "run", presets.mini())
    assert cli.main(["cite", str(run)]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["cite", str(run), "--out", str(tmp_path / "cited.bib")]) == 0
    assert (tmp_path / "cited.bib").read_text(encoding="utf-8") == printed
    assert f"{len(keys(printed))} entries" in capsys.readouterr().out
    assert cli.main(["cite", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    with pytest.raises(HvfError, match="name at least one run folder"):
        bibtex([])
