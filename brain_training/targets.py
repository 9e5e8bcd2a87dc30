"""Which target is found best from the brain? A table of visual encoders alone, all of them fused, and the controls.

    python brain_training/targets.py [--subject 8] [--seeds 3]                        the simulated study, 3 seeds
    python brain_training/targets.py --trials X.npy --images Z.zip --targets.specs SPEC SPEC --seeds 5 \
        [--grid brain.input_noise=0.5,1.0 ...]                                        your data, 5 random splits

Rows: each encoder, all fused by HVF, the same on permuted trials, ridge regression to all encoders, chance. Every
choice is made on validation concepts taken from the training images: the epoch, ridge's penalty, the settings of
--grid. Each split is tested once. Letters: N trials, P = C·T predictors, M gallery, D embedding.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy.linalg import cho_factor, cho_solve

from hvf import alignment, presets, retrieval
from hvf.config import SUBJECTS, Config, HvfError, check, with_settings
from hvf.data.stimuli import open_images
from hvf.data.study import Study, open_study
from hvf.data.trials import Trials, concept_split
from hvf.runs import Run
from hvf.scripts import parse_preset, run_script
from hvf.vision.cache import embed

FUSED, PERMUTED, RIDGE = "fused (HVF)", "fused, trials permuted", "ridge, all encoders"
PENALTIES = tuple(10.0**e for e in range(1, 7))
Features = dict[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """Compare visual encoders, alone and fused, as targets for the brain."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    subject: int | None = None  # whose responses, the same as --data.subject
    trials: Path | None = None  # your own responses; with --images the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    seeds: int = 3  # simulated: training seeds; files: random splits into training and test
    grid: tuple[str, ...] = ()  # settings to choose among on validation, as brain.input_noise=0.5,1.0
    out: Path | None = None  # where to (default: a readable name in runs/)


def compare(options: Comparison) -> Path:
    """Train and test every row on every seed or split, write the table, and return its folder."""
    settings: dict[str, Any] = {} if options.subject is None else {"data.subject": options.subject}
    for name in ("trials", "images"):
        path = getattr(options, name)
        settings |= {} if path is None else {"data.study": "files", f"data.{name}": str(path.absolute())}
    config, candidates = with_settings(options.config, settings), list(_candidates(options.grid))
    if config.align.mode != "retrieval":
        raise HvfError("targets are compared in retrieval mode: the prior's fusion is one fixed set of encoders")
    for config_of_candidate in (with_settings(config, candidate) for candidate in candidates):
        check(config_of_candidate)
    if options.seeds < 1:
        raise HvfError(f"--seeds must be at least 1, not {options.seeds}")
    simulated = config.data.study in SUBJECTS
    who = f"sub-{config.data.subject:02d}-{config.data.study}" if simulated else Path(config.data.trials or "").stem
    run = Run.create(options.out or Path("runs") / f"{who}-targets", config)
    found = []
    for seed in range(options.seeds):
        which = {"align.seed": seed} if simulated else {"align.seed": seed, "data.split_seed": seed}
        name = f"seed-{seed}.json" if simulated else f"split-{seed}.json"
        if not (run.has(name) and run.read_json(name)["grid"] == list(options.grid)):
            rows = _one_seed(with_settings(config, which), candidates)
            run.write_json(name, {"grid": options.grid, **rows})
        found.append(run.read_json(name))
    table = _table(found)
    run.write_json("targets.json", table)
    run.write_metrics(_flat(table), merge=False)
    _show(table, found[0]["note"], f"{options.seeds} {'training seeds' if simulated else 'random splits'}")
    return run.path


def _candidates(grid: Sequence[str]) -> Iterator[dict[str, Any]]:
    """["a.b=1,2", "c.d=3"] -> {"a.b": 1, "c.d": 3}, {"a.b": 2, "c.d": 3}."""
    axes = []
    for text in grid:
        name, equals, values = text.partition("=")
        try:
            axes.append([(name, json.loads(value)) for value in values.split(",")])
        except ValueError:
            raise HvfError(f"--grid takes SETTING=NUMBER,NUMBER,..., not {text!r}") from None
    return (dict(point) for point in itertools.product(*axes))


def _one_seed(config: Config, candidates: list[dict]) -> dict:
    """Ranks of the test images, and what was chosen on validation, for every row of one seed or split."""
    study = open_study(config.data)
    train_features, test_features = _features(config, study)
    train, test = study.train.aligned_to(study.train_images), study.test.aligned_to(study.test_images)
    permuted = study.train.permuted(config.align.seed).aligned_to(study.train_images)
    specs = config.targets.specs
    rows = {spec: (train, (spec,)) for spec in specs}
    if len(specs) > 1:
        rows[FUSED] = (train, specs)
    rows[PERMUTED] = (permuted, specs)
    out = {
        name: _contrastive(config, candidates, trials, study, train_features, row_specs, test, test_features)
        for name, (trials, row_specs) in rows.items()
    }
    concepts = study.train_images.concepts
    out[RIDGE] = _ridge(config, train, concepts, {s: train_features[s] for s in specs}, test, test_features)
    return {"note": study.note, "image_ids": list(study.test_images.ids), "rows": out}


def _features(config: Config, study: Study) -> tuple[Features, Features]:
    """Features of the training and of the test images."""
    if config.data.study in SUBJECTS:
        train, test = ({s: embed(i, s) for s in config.targets.specs} for i in (study.train_images, study.test_images))
        return train, test
    everything = open_images(config.data.images or "")  # embedded once, whatever the splits
    row = {name: i for i, name in enumerate(everything.ids)}
    features = {spec: embed(everything, spec) for spec in config.targets.specs}
    parts = ([row[name] for name in images.ids] for images in (study.train_images, study.test_images))
    train, test = ({spec: x_Nd[index] for spec, x_Nd in features.items()} for index in parts)
    return train, test


def _contrastive(
    config: Config,
    candidates: list[dict],
    trials: Trials,
    study: Study,
    train_features: Features,
    specs: Sequence[str],
    test: Trials,
    test_features: Features,
) -> dict:
    """Fit every candidate, keep the one that is best on its validation images, and test that one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best, chosen = None, {}
    for candidate in candidates:
        settings = with_settings(config, {**candidate, "targets.specs": tuple(specs)})
        fitted = alignment.fit(trials, train_features, settings, study.train_images.concepts, device=device)
        if best is None or fitted.best["validation_mrr"] > best.best["validation_mrr"]:
            best, chosen = fitted, candidate
    assert best is not None
    ranks_N = retrieval.ranks(retrieval.similarity(best.embed_brain(test), best.embed_images(test_features)))
    validation = {name: best.best[f"validation_{name}"] for name in ("mrr", "top1", "n")}
    return {"ranks": ranks_N.tolist(), "chosen": {**chosen, "epoch": best.best["epoch"]}, "validation": validation}


def _ridge(
    config: Config, train: Trials, concepts: Sequence[str], features: Mapping, test: Trials, test_features: Mapping
) -> dict:
    """Ridge from trials to each encoder's features, all standardised; cosines added, weighted by validation MRR."""
    fit_N, val_N = concept_split(concepts, config.align.validation_fraction, config.align.seed, at_least=2)
    x_NP, x_test_NP = _standard(train.x_NCT.reshape(len(train), -1), test.x_NCT.reshape(len(test), -1))
    total_NM, total_val, penalties = 0.0, 0.0, {}
    for spec, y in features.items():
        y_ND, y_test_MD = _standard(y, test_features[spec])
        scores = {
            penalty: retrieval.similarity(predicted, y_ND[val_N])
            for penalty, predicted in _predict(x_NP[fit_N], y_ND[fit_N], x_NP[val_N], PENALTIES)
        }
        mrr = {p: retrieval.mean_reciprocal_rank(retrieval.ranks(s)) for p, s in scores.items()}
        penalties[spec] = penalty = max(mrr, key=lambda p: mrr[p])
        ((_, predicted),) = _predict(x_NP, y_ND, x_test_NP, (penalty,))
        total_NM = total_NM + mrr[penalty] * retrieval.similarity(predicted, y_test_MD)
        total_val = total_val + mrr[penalty] * scores[penalty]
    ranks_val = retrieval.ranks(total_val)
    top1, mrr_all = retrieval.topk(ranks_val, 1), retrieval.mean_reciprocal_rank(ranks_val)
    validation = {"mrr": mrr_all, "top1": top1, "n": len(ranks_val)}
    return {"ranks": retrieval.ranks(total_NM).tolist(), "chosen": penalties, "validation": validation}


def _predict(x_NP, y_ND, x_new, penalties: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
    """Ridge predictions for each penalty, solved on the smaller side of X."""
    dual = len(x_NP) < x_NP.shape[1]
    gram = x_NP @ x_NP.T if dual else x_NP.T @ x_NP
    right = y_ND if dual else x_NP.T @ y_ND
    left = x_new @ x_NP.T if dual else x_new
    for penalty in penalties:
        factor = cho_factor(gram + penalty * np.eye(len(gram), dtype=gram.dtype), overwrite_a=True)
        yield penalty, left @ cho_solve(factor, right)


def _standard(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, standardised by the training rows."""
    mean, sd = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    sd[sd == 0] = 1.0
    return (train - mean) / sd, (test - mean) / sd


def _table(found: list[dict]) -> dict[str, dict]:
    """For every row: top1 and top5, the fused row's lead in top1 on the same images, and the mean on validation."""
    ids = [name for one in found for name in one["image_ids"]]
    ranks = {row: np.concatenate([one["rows"][row]["ranks"] for one in found]) for row in found[0]["rows"]}
    table = {}
    for row, ranks_N in ranks.items():
        summary = retrieval.summarise(ranks_N, ids)
        each = [float(np.mean(np.asarray(one["rows"][row]["ranks"]) <= 1)) for one in found]
        validation = float(np.mean([one["rows"][row]["validation"]["top1"] for one in found]))
        table[row] = {name: summary[name] for name in ("top1", "top5", "mrr")}
        table[row] |= {"top1_each": each, "validation_top1": validation}
        if FUSED in ranks and row != FUSED:
            lead_N = (ranks[FUSED] <= 1).astype(float) - (ranks_N <= 1)
            table[row]["fused_leads"] = retrieval.interval(lead_N, ids)
    m = len(found[0]["image_ids"])
    table["chance"] = {f"top{k}": retrieval.chance(k, len(ids), m) for k in retrieval.KS}
    return table


def _flat(table: dict[str, dict]) -> dict[str, dict]:
    names = ("top1", "top5", "mrr")
    figures = {f"retrieval/{row}/{k}": entry[k] for row, entry in table.items() for k in names if k in entry}
    return {name.replace("retrieval/chance/", "chance/retrieval/"): entry for name, entry in figures.items()}


def _show(table: dict[str, dict], note: str, repeated: str) -> None:
    shown = Table(title=f"{note}; {repeated}", title_justify="left")
    shown.add_column("target", overflow="fold")
    for column in ("top-1 % [95 %]", "each", "top-5 % [95 %]", "fused leads by [95 %]", "validation top-1 %"):
        shown.add_column(column, justify="right")
    for row, entry in table.items():
        cells = [_percent(entry["top1"]), " ".join(f"{100 * v:.1f}" for v in entry.get("top1_each", []))]
        cells += [_percent(entry["top5"]), _percent(entry["fused_leads"]) if "fused_leads" in entry else ""]
        shown.add_row(row, *cells, f"{100 * entry['validation_top1']:.1f}" if "validation_top1" in entry else "")
    Console().print(shown)


def _percent(entry: dict) -> str:
    low, high = entry["ci95"]
    return f"{100 * entry['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    known = {name: lambda name=name: Comparison(presets.get(name), name) for name in presets.PRESETS}
    return run_script(lambda argv: print(f"wrote {compare(parse_preset(known, argv))}"), arguments)


if __name__ == "__main__":
    sys.exit(main())
