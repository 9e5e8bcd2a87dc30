"""Alignment of a population of neurons with images at the level of feature maps (DINA), with controls.

Rows of the result: DINA; each of its losses left out; reconstruction alone and categories alone; the contrastive HVF
and ridge on the same layers, pooled to vectors; DINA on permuted trials. Every epoch and penalty is chosen on
validation images (`hvf.experiments.protocols`). The maps are analysed by place, by scale and by neuron on the test
images as well, and nothing is chosen by that. Letters: as in hvf/population/feature_maps.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from hvf.alignment.members import LINEAR
from hvf.config import Config, HvfError, check_files, with_settings
from hvf.evaluation import statistics
from hvf.experiments.population_figures import draw_all
from hvf.experiments.protocols import HeldOut, Split, choose, open_split, repeats
from hvf.experiments.repeated import each_repeat, open_folder, table_of_rows, write_combined
from hvf.experiments.results import Entry, Result, Row
from hvf.population import fitting as dina
from hvf.population.frozen_maps import Maps
from hvf.runs import Run
from hvf.schema.bounds import Count, SomeEachOnce
from hvf.vision.specs import parse_spec

DINA, HVF, RIDGE, PERMUTED = "DINA", "HVF, contrastive", "ridge", "DINA, permuted"
RECONSTRUCTION, CATEGORIES = "reconstruction alone", "categories alone"
FILE, MAPS = "population.json", "maps.json"


@dataclass(frozen=True)
class PopulationAlignment:
    """Alignment of a population of neurons with images at the level of feature maps.

    `run` writes the `Result`; population.json with the analysis of the maps by place, scale and neuron; the figures
    places.png, scales.png and neurons.png; and population.png, all of them on a page.
    """

    backbone: str = "openclip:mini-vit"  # a feature spec without layer and pool
    layers: SomeEachOnce[str] = ("0", "1", "2", "3")  # of the backbone, whose maps the image tower takes
    latents: str | None = "vae:mini"  # and those of a VAE; None leaves them out
    grid: Count = 4  # side of the shared map; frozen maps are pooled to it
    vector_grid: Count = 2  # HVF and ridge take the layers pooled to this side, the latents to twice that
    semantic: str | None = None  # the spec whose clusters are the categories; None: the backbone's own output
    losses: dina.Losses = field(default_factory=dina.Losses)  # how much each loss of DINA counts
    maps: Maps = field(default_factory=Maps)  # the shared map; side and semantic follow from the above
    splits: int = 5  # random splits into training and test images

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Fit and test every row on every split, write results and figures, and return their folder."""
        if config.data.trials is None or config.data.images is None:
            raise HvfError("a population's responses come from files: give --trials FILE and --images FOLDER-OR-ZIP")
        dina.check_targets(config)
        specs, maps = self._specs(self.grid, self.grid), self._maps()
        config = with_settings(config, {"align.mode": "retrieval", "targets.specs": specs})
        check_files(config)
        configs = repeats(config, self.splits, "splits")
        run = open_folder(out, config, "population")
        options = {f"losses.{name}": value for name, value in asdict(self.losses).items()}
        options |= {f"maps.{name}": value for name, value in asdict(maps).items()} | {"vector-grid": self.vector_grid}
        results = each_repeat(run, configs, self._one_split, options)
        combined = write_combined(run, results)
        names = [*self.layers, *(["latents"] if self.latents else [])]
        analysis = _analysis([Run.open(run.path / name).read_json(MAPS) for name in configs], combined, names)
        run.write_json(FILE, analysis)
        draw_all(combined, analysis, run.path)
        return run.path

    def summary(self, folder: Path) -> Iterator[Table | str]:
        """The table of all rows, with top-1 from the coarser and the finer half of the maps; a line on neurons."""
        analysis = Run.open(folder).read_json(FILE)
        coarse, fine = {}, {}
        for row, scales in analysis["scales"].items():
            half = len(scales["low"]) // 2
            coarse[row] = f"{100 * scales['low'][half - 1]['value']:.1f}"
            fine[row] = f"{100 * scales['high'][half]['value']:.1f}"
        yield table_of_rows(Result.read(folder), {"coarser half": coarse, "finer half": fine})
        share = analysis["neurons"]["share_of_quarter"]
        yield f"a quarter of the neurons does {share:.0%} of what all contribute"

    def _specs(self, grid: int, of_latents: int) -> tuple[str, ...]:
        """The specs of the layers and the latents, pooled to grids of these sides."""
        specs = [str(parse_spec(f"{self.backbone}@{layer}:grid{grid}")) for layer in self.layers]
        latents = [str(replace(parse_spec(self.latents), pool=f"grid{of_latents}"))] if self.latents else []
        return (*specs, *latents)

    def _maps(self) -> Maps:
        """The settings of the shared map."""
        return replace(self.maps, side=self.grid, semantic=str(parse_spec(self.semantic or self.backbone)))

    def _one_split(self, run: Run) -> Result:
        """Choose and test every row on one split; leaves the analysis of the maps in maps.json."""
        config, maps, vectors = run.config, self._maps(), self._specs(self.vector_grid, 2 * self.vector_grid)
        split, held_out = open_split(
            config, tuple(dict.fromkeys((*config.targets.specs, *vectors, str(maps.semantic))))
        )
        none = dina.Losses(**{f.name: 0.0 for f in fields(dina.Losses)})
        losses = {DINA: self.losses}
        losses |= {
            f"without {n}": replace(self.losses, **{n: 0.0}) for n, weight in asdict(self.losses).items() if weight
        }
        losses |= {RECONSTRUCTION: replace(none, reconstruction=1.0), CATEGORIES: replace(none, category=1.0)}
        result = held_out.result("population", config, run=run.path.name, main=DINA)
        analyses = {}
        for row, weights in losses.items():
            tested, analyses[row] = _dina(split, held_out, config, weights, maps)
            result = result.with_row(row, tested)
        fused = with_settings(config, {"targets.specs": vectors})
        result = result.with_row(HVF, held_out.row(choose(split, fused)))
        result = result.with_row(RIDGE, held_out.row(choose(split, with_settings(fused, LINEAR))))
        permuted = split.permuted(config.align.seed)
        tested, analyses[PERMUTED] = _dina(permuted, held_out, config, self.losses, maps)
        neurons, mean_response = split.trials.ch_names, split.trials.load_array().mean(axis=(0, 2))
        run.write_json(MAPS, {"maps": analyses, "neurons": list(neurons), "mean_response": mean_response})
        return result.with_row(PERMUTED, tested)


def _dina(
    split: Split, held_out: HeldOut, config: Config, losses: dina.Losses, maps: Maps
) -> tuple[Row, dict[str, Any]]:
    """Choose and test DINA with these losses, and analyse its maps of the test trials."""
    choice = choose(split, config, fit=functools.partial(dina.fit, losses=losses, maps=maps))
    analysis = asdict(held_out.analyse_feature_maps(choice))
    if not losses.reconstruction:  # nothing has trained the map to be read out
        analysis = {name: value for name, value in analysis.items() if not name.startswith("explained")}
    return held_out.row(choice), analysis


def _analysis(splits: Sequence[dict[str, Any]], result: Result, encoders: Sequence[str]) -> dict[str, Any]:
    """The analysis of the maps over all splits: means over splits, intervals over images."""
    of_row = {row: [split["maps"][row] for split in splits] for row in splits[0]["maps"]}
    m = result.gallery_size
    return {
        "encoders": list(encoders),
        "chance_mrr": float((1 / np.arange(1, m + 1)).mean()),
        "scales": {row: _scales(maps, result.image_ids) for row, maps in of_row.items()},
        "explained": {  # share of the frozen maps' variance that the responses' maps give back
            row: statistics.interval(np.concatenate([one["explained_N"] for one in maps]), result.image_ids)
            for row, maps in of_row.items()
            if "explained_N" in maps[0]
        },
        "places": {row: _means(of_row[row], ("place_mrr_SS", "explained_KSS")) for row in (DINA, PERMUTED)},
        "neurons": _neurons(splits, result.image_ids),
    }


def _means(maps: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list]:
    """The mean over splits of those arrays that are there."""
    return {name: np.mean([one[name] for one in maps], axis=0).tolist() for name in names if name in maps[0]}


def _scales(maps: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[str, list]:
    """Top-1 with some bands of the maps, and the variance that is explained in each."""
    top1: dict[str, list[Entry]] = {}
    for name in ("low", "high", "band"):
        ranks_BN = np.concatenate([one[f"{name}_BN"] for one in maps], axis=1)
        top1[name] = [statistics.interval(ranks_N <= 1, ids) for ranks_N in ranks_BN]
    return top1 | _means(maps, ("explained_KB", "variance_KB"))


def _neurons(splits: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[str, Any]:
    """Contribution of each neuron, its correlation with the strength of its responses, and how few are enough."""
    maps = [split["maps"][DINA] for split in splits]
    drop_C, strength_C = np.mean([one["neuron_drop_C"] for one in maps], axis=0), np.asarray(splits[0]["mean_response"])
    positive_C = np.sort(np.maximum(drop_C, 0))[::-1]
    draws = np.random.default_rng(0).integers(len(drop_C), size=(1000, len(drop_C)))
    rho = [_rank_correlation(drop_C[rows], strength_C[rows]) for rows in draws]
    counts = {
        how: {k: statistics.interval(np.concatenate([one[how][k] for one in maps]) <= 1, ids) for k in maps[0][how]}
        for how in ("kept", "dropped")
    }
    apart = [np.corrcoef(a["neuron_drop_C"], b["neuron_drop_C"])[0, 1] for i, a in enumerate(maps) for b in maps[:i]]
    pairs = np.concatenate([np.asarray(one["pair_PP"])[np.triu_indices(len(one["pair_PP"]), 1)] for one in maps])
    singles = np.concatenate([np.sort(one["neuron_drop_C"])[::-1][: len(one["pair_PP"])] for one in maps])
    return {
        "names": splits[0]["neurons"],
        "drop": drop_C.tolist(),
        "drop_map": np.mean([one["neuron_drop_CSS"] for one in maps], axis=0).tolist(),
        "drop_each": [one["neuron_drop_C"] for one in maps],
        "strength": strength_C.tolist(),
        "strength_rho": {
            "value": _rank_correlation(drop_C, strength_C),
            "ci95": np.nanpercentile(rho, [2.5, 97.5]).tolist(),
            "n": len(drop_C),
        },
        "share_of_quarter": float(positive_C[: max(1, len(drop_C) // 4)].sum() / max(positive_C.sum(), 1e-12)),
        "split_r": float(np.mean(apart)) if apart else None,
        **counts,
        "pairs": {"mean": float(pairs.mean()), "sd": float(pairs.std()), "mean_single": float(singles.mean())},
    }


def _rank_correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Spearman's rho."""
    outcome: Any = spearmanr(a_N, b_N)  # whose type scipy leaves open
    return float(outcome.statistic)
