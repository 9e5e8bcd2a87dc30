"""What of an image does a population of neurons hold: where, how coarse, which neurons? DINA on (neurons,) responses.

    python brain_training/population.py --trials responses.npy --images images.zip \
        --backbone torchvision:squeezenet1_0/FILE --layers 5 9 12 --latents vae:taesdxl@112 --grid 6

A response tower and an image tower meet at a feature map (hvf/population/towers.py, arXiv 2605.04309). Rows: DINA; each
of its losses left out; reconstruction alone and categories alone, for which the paper's referee asked; the contrastive
HVF and ridge on the same layers, pooled as a vector needs them; DINA on permuted trials; chance. Every epoch and
penalty is chosen on validation images, and every random split is tested once (`hvf.experiments.protocols`); places,
scales and neurons are measured on the test images as well, and choose nothing. Writes population.json, population.png
(the page), and places.png, scales.png, neurons.png. A split that is there is taken up.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from hvf import presets
from hvf.cli.options import parse_preset, repeats, run_script, study_settings
from hvf.config import Config, HvfError, check_files, with_settings
from hvf.evaluation import retrieval
from hvf.experiments.protocols import LINEAR, Choice, HeldOut, Split, choose, open_split
from hvf.population import fitting as dina
from hvf.runs import Run, write_atomic
from hvf.vision.specs import parse_spec

DINA, HVF, RIDGE, PERMUTED = "DINA", "HVF, contrastive", "ridge", "DINA, permuted"
RECONSTRUCTION, CATEGORIES = "reconstruction alone", "categories alone"
KEYS = ("top1", "top5", "mrr")


@dataclass(frozen=True)
class Population:
    """Align a population of neurons with images at the level of feature maps."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    trials: Path | None = None  # responses (images, neurons); the same as --data.study files --data.trials FILE
    images: Path | None = None  # the images they answer, in the same order: folder or zip
    backbone: str = "openclip:mini-vit"  # a feature spec without layer and pool
    layers: tuple[str, ...] = ("0", "1", "2", "3")  # of the backbone, whose maps the image tower takes
    latents: str | None = "vae:mini"  # and those of a VAE; None leaves them out
    grid: int = 4  # side of the shared map; frozen maps are pooled to it
    vector_grid: int = 2  # HVF and ridge take the layers pooled to this side, the latents to twice that
    semantic: str | None = None  # the spec whose clusters are the categories; None: the backbone's own output
    losses: dina.Losses = field(default_factory=dina.Losses)  # how much each loss of DINA counts
    maps: dina.Maps = field(default_factory=dina.Maps)  # the shared map; side and semantic follow from the above
    splits: int = 5  # random splits into training and test images
    out: Path | None = None  # where to (default: a readable name in runs/)


def align(options: Population) -> Path:
    """Fit and test every row on every split, write table and pictures, and return their folder."""
    if options.trials is None or options.images is None:
        raise HvfError("a population's responses come from files: give --trials FILE and --images FOLDER-OR-ZIP")
    if options.splits < 1:
        raise HvfError(f"--splits must be at least 1, not {options.splits}")
    specs, vectors = (_specs(options, grid, of_latents) for grid, of_latents in _grids(options))
    semantic = str(parse_spec(options.semantic or options.backbone))
    maps = replace(options.maps, side=options.grid, semantic=semantic)
    dina.check_targets(options.config)
    settings = study_settings(None, options.trials, options.images)
    config = with_settings(options.config, {**settings, "align.mode": "retrieval", "targets.specs": specs})
    check_files(config)
    run = Run.create(options.out or Path("runs") / f"{options.trials.stem}-population", config)
    told = {"losses": asdict(options.losses), "maps": asdict(maps), "vectors": list(vectors)}
    if run.has("dina.json") and run.read_json("dina.json") != told:
        raise HvfError(f"{run.path} holds a run with other losses, maps or vectors (dina.json): choose another --out")
    run.write_json("dina.json", told)
    found = []
    for name, one in repeats(config, options.splits).items():
        if not run.has(f"{name}.json"):
            run.write_json(f"{name}.json", _one_split(one, vectors, options.losses, maps))
        found.append(run.read_json(f"{name}.json"))
    table = _table(found, specs, options)
    run.write_json("population.json", table)
    run.write_metrics({f"retrieval/{row}/{k}": entry[k] for row, entry in table["rows"].items() for k in KEYS})
    _draw(table, run.path)
    _show(table)
    return run.path


def _grids(options: Population) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sides of (layers, latents): for maps, and for vectors."""
    return (options.grid, options.grid), (options.vector_grid, 2 * options.vector_grid)


def _specs(options: Population, grid: int, of_latents: int) -> tuple[str, ...]:
    specs = [str(parse_spec(f"{options.backbone}@{layer}:grid{grid}")) for layer in options.layers]
    latents = [str(replace(parse_spec(options.latents), pool=f"grid{of_latents}"))] if options.latents else []
    return (*specs, *latents)


def _one_split(config: Config, vectors: tuple[str, ...], losses: dina.Losses, maps: dina.Maps) -> dict:
    """Ranks of the test images and what validation said, for every row; what is held by the maps of those that have."""
    every = tuple(dict.fromkeys((*config.targets.specs, *vectors, str(maps.semantic))))
    split, held_out = open_split(config, every)
    none = dina.Losses(**{f.name: 0.0 for f in fields(dina.Losses)})
    weighed = {DINA: losses}
    weighed |= {f"without {name}": losses.but(**{name: 0.0}) for name, weight in asdict(losses).items() if weight}
    weighed |= {RECONSTRUCTION: none.but(reconstruction=1.0), CATEGORIES: none.but(category=1.0)}
    rows, held = {}, {}
    for row, weights in weighed.items():
        rows[row], held[row] = _dina(split, held_out, config, weights, maps)
    fused = with_settings(config, {"targets.specs": vectors})
    rows[HVF] = _row(choose(split, fused), held_out)
    linear = with_settings(fused, LINEAR)
    rows[RIDGE] = _row(choose(split, linear), held_out)
    rows[PERMUTED], held[PERMUTED] = _dina(split.permuted(config.align.seed), held_out, config, losses, maps)
    return {
        "note": split.note, "image_ids": list(held_out.image_ids), "rows": rows, "maps": held,
        "neurons": list(split.trials.ch_names), "mean_response": split.trials.x_NCT.mean(axis=(0, 2)).tolist(),
    }  # fmt: skip


def _dina(split: Split, held_out: HeldOut, config: Config, losses: dina.Losses, maps: dina.Maps) -> tuple[dict, dict]:
    choice = choose(split, config, fit=functools.partial(dina.fit, losses=losses, maps=maps))
    told = asdict(held_out.examine(choice))
    if not losses.reconstruction:  # nothing has taught the map to be read
        told = {name: value for name, value in told.items() if not name.startswith("explained")}
    return _row(choice, held_out), told


def _row(choice: Choice[Any], held_out: HeldOut) -> dict:
    return {
        "ranks": held_out.ranks(choice).tolist(),
        "validation": choice.validation,
        "chosen": {name: list(v) if isinstance(v, tuple) else v for name, v in choice.settings.items()},
    }


def _table(found: list[dict], specs: tuple[str, ...], options: Population) -> dict:
    """Figures of every row over all splits, and what was seen in the maps: means over splits, intervals over images."""
    ids = [name for one in found for name in one["image_ids"]]
    m = len(found[0]["image_ids"])
    hit = {row: np.concatenate([one["rows"][row]["ranks"] for one in found]) <= 1 for row in found[0]["rows"]}
    rows: dict[str, dict] = {}
    for row in found[0]["rows"]:
        parts = [one["rows"][row] for one in found]
        summary = retrieval.summarise(np.concatenate([part["ranks"] for part in parts]), ids)
        rows[row] = {key: summary[key] for key in KEYS}
        rows[row]["each"] = [retrieval.topk(part["ranks"], 1) for part in parts]
        rows[row]["dina_leads"] = retrieval.interval(hit[DINA].astype(float) - hit[row], ids)
        rows[row]["validation_mrr"] = float(np.mean([part["validation"]["mrr"] for part in parts]))
    names = [*options.layers, *(["latents"] if options.latents else [])]
    return {
        "note": found[0]["note"], "splits": len(found), "specs": specs, "encoders": names,
        "layers": list(options.layers), "rows": rows,
        "chance": {**{f"top{k}": retrieval.chance(k, len(ids), m) for k in (1, 5)}, "mrr": _chance_mrr(m)},
        "scales": {row: _scales([one["maps"][row] for one in found], ids) for row in found[0]["maps"]},
        "places": {row: _places([one["maps"][row] for one in found]) for row in (DINA, PERMUTED)},
        "neurons": _neurons(found, ids),
    }  # fmt: skip


def _chance_mrr(m: int) -> float:
    return float((1 / np.arange(1, m + 1)).mean())


def _mean(held: list[dict], name: str) -> list:
    return np.mean([one[name] for one in held], axis=0).tolist()


def _places(held: list[dict]) -> dict:
    shown = [name for name in ("place_mrr_SS", "explained_KSS") if name in held[0]]
    return {name: _mean(held, name) for name in shown}


def _scales(held: list[dict], ids: list[str]) -> dict:
    """Top-1 with some bands of the maps, and the variance that is explained in each."""
    shown: dict[str, Any] = {}
    for name in ("low", "high", "band"):
        ranks_BN = np.concatenate([one[f"{name}_BN"] for one in held], axis=1)
        shown[name] = [retrieval.interval(ranks_N <= 1, ids) for ranks_N in ranks_BN]
    shown |= {name: _mean(held, name) for name in ("explained_KB", "variance_KB") if name in held[0]}
    return shown


def _neurons(found: list[dict], ids: list[str]) -> dict:
    """Contribution of each neuron, how it goes with the strength of its responses, and how few are enough."""
    held = [one["maps"][DINA] for one in found]
    drop_C, strength_C = np.mean([one["neuron_drop_C"] for one in held], axis=0), np.asarray(found[0]["mean_response"])
    positive_C = np.sort(np.maximum(drop_C, 0))[::-1]
    draws = np.random.default_rng(0).integers(len(drop_C), size=(1000, len(drop_C)))
    rho = [spearmanr(drop_C[rows], strength_C[rows]).statistic for rows in draws]
    counts = {
        how: {k: retrieval.interval(np.concatenate([one[how][k] for one in held]) <= 1, ids) for k in held[0][how]}
        for how in ("kept", "dropped")
    }
    apart = [np.corrcoef(a["neuron_drop_C"], b["neuron_drop_C"])[0, 1] for i, a in enumerate(held) for b in held[:i]]
    pairs = np.concatenate([np.asarray(one["pair_PP"])[np.triu_indices(len(one["pair_PP"]), 1)] for one in held])
    singles = np.concatenate([np.sort(one["neuron_drop_C"])[::-1][: len(one["pair_PP"])] for one in held])
    return {
        "names": found[0]["neurons"], "drop": drop_C.tolist(), "drop_map": _mean(held, "neuron_drop_CSS"),
        "drop_each": [one["neuron_drop_C"] for one in held], "strength": strength_C.tolist(),
        "strength_rho": {"value": float(spearmanr(drop_C, strength_C).statistic),
                         "ci95": np.nanpercentile(rho, [2.5, 97.5]).tolist(), "n": len(drop_C)},
        "share_of_quarter": float(positive_C[: max(1, len(drop_C) // 4)].sum() / max(positive_C.sum(), 1e-12)),
        "split_r": float(np.mean(apart)) if apart else None, **counts,
        "pairs": {"mean": float(pairs.mean()), "sd": float(pairs.std()), "mean_single": float(singles.mean())},
    }  # fmt: skip


def _draw_places(table: dict, figure: Any) -> None:
    """Where in the image: finding it by one place of the maps, and variance explained there, encoder by encoder."""
    shown = table["places"][DINA]
    maps = [("found by one place", np.asarray(shown["place_mrr_SS"]), table["chance"]["mrr"], "mean reciprocal rank")]
    if "explained_KSS" in shown:
        explained_KSS = np.asarray(shown["explained_KSS"])
        best = int(explained_KSS.mean(axis=(1, 2)).argmax())
        name = _encoder(table["encoders"][best])
        maps.append((f"{name} given back", 100 * explained_KSS[best], 0.0, "explained variance, %"))
    for axes, (title, map_SS, low, unit) in zip(np.ravel(figure.subplots(1, len(maps))), maps, strict=True):
        picture = axes.imshow(map_SS, cmap="magma", vmin=low, vmax=max(map_SS.max(), low + 1e-9))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, fontsize=9)
        figure.colorbar(picture, ax=axes, shrink=0.8, label=f"{unit} (from chance)" if low else unit)


def _draw_scales(table: dict, figure: Any) -> None:
    """Coarse against fine: top-1 by what is left of the maps, and variance explained in each band."""
    left, right = figure.subplots(1, 2)
    scales = table["scales"][DINA]
    at = np.arange(len(scales["low"]))
    for key, colour, label in (
        ("low", "C0", "this and coarser"),
        ("high", "C3", "this and finer"),
        ("band", "0.4", "this alone"),
    ):
        values = 100 * np.array([[e["value"], *e["ci95"]] for e in scales[key]]).T
        left.plot(at, values[0], "o-", color=colour, markersize=4, label=label)
        left.fill_between(at, values[1], values[2], color=colour, alpha=0.15, linewidth=0)
    left.axhline(100 * table["chance"]["top1"]["value"], color="0.6", linestyle=":", linewidth=1)
    left.set(xlabel="half-cycles across the image", ylabel="top-1 %", ylim=(0, None), xticks=at)
    left.set_title("bands of the shared map", fontsize=9)
    left.legend(fontsize=7, frameon=False)
    for k, name in enumerate(table["encoders"]):
        colour = "C4" if name == "latents" else f"{0.75 - 0.75 * k / max(1, len(table['layers']) - 1):.2f}"
        if "explained_KB" in scales:
            right.plot(
                at, 100 * np.asarray(scales["explained_KB"])[k], "o-", color=colour, markersize=4, label=_encoder(name)
            )
    right.axhline(0, color="0.6", linestyle=":", linewidth=1)
    right.set(xlabel="half-cycles across the image", ylabel="explained variance, %", xticks=at)
    right.set_title("bands of the frozen maps", fontsize=9)
    right.legend(fontsize=7, frameon=False)


def _draw_neurons(table: dict, figure: Any) -> None:
    """Each neuron's contribution against its strength, how few are enough, and where the best speak."""
    neurons = table["neurons"]
    drop_C, strength_C = np.asarray(neurons["drop"]), np.asarray(neurons["strength"])
    first, second, third = figure.subfigures(1, 3, width_ratios=(1, 1, 1.15))
    axes = first.subplots()
    axes.scatter(strength_C, 1000 * drop_C, s=14, color="C0", alpha=0.7, linewidth=0)
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1)
    rho, (low, high) = neurons["strength_rho"]["value"], neurons["strength_rho"]["ci95"]
    axes.set_title(f"leaving one neuron out\nSpearman's ρ {rho:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
    axes.set(xlabel="mean response", ylabel="cosine lost, × 10⁻³")
    axes = second.subplots()
    for how, colour, label in (("kept", "C0", "only these"), ("dropped", "C3", "all but these")):
        counts = sorted(int(k) for k in neurons[how])
        entries = [neurons[how][k] if k in neurons[how] else neurons[how][str(k)] for k in counts]
        values = 100 * np.array([[e["value"], *e["ci95"]] for e in entries]).T
        axes.plot(counts, values[0], "o-", color=colour, markersize=4, label=label)
        axes.fill_between(counts, values[1], values[2], color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.axhline(100 * table["chance"]["top1"]["value"], color="0.6", linestyle=":", linewidth=1)
    axes.set(xlabel="neurons that contribute most", ylabel="top-1 %", ylim=(0, None))
    axes.set_title("how many neurons\n(their order is from validation)", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    drop_CSS = np.asarray(neurons["drop_map"])
    best = np.argsort(-drop_C)[:9]
    most = np.abs(drop_CSS[best]).max()
    third.suptitle("where the nine that\ncontribute most speak", fontsize=9)
    for axes, c in zip(np.ravel(third.subplots(3, 3)), best, strict=False):
        axes.imshow(drop_CSS[c], cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_xticks([])
        axes.set_yticks([])


def _draw_rows(table: dict, figure: Any) -> None:
    """Top-1 of every row with its interval, and chance."""
    axes = figure.subplots()
    rows = list(table["rows"])[::-1]
    values = 100 * np.array([[table["rows"][r]["top1"]["value"], *table["rows"][r]["top1"]["ci95"]] for r in rows]).T
    own = {DINA: "C0", HVF: "C2", RIDGE: "C1", PERMUTED: "0.7"}
    axes.barh(rows, values[0], color=[own.get(r, "#9ec5e3") for r in rows], height=0.7)
    errors = np.abs(values[1:] - values[0])
    axes.errorbar(values[0], np.arange(len(rows)), xerr=errors, fmt="none", ecolor="0.2", elinewidth=1, capsize=2)
    axes.axvline(100 * table["chance"]["top1"]["value"], color="0.3", linestyle=":", linewidth=1)
    axes.set(xlabel="top-1 %, dotted: chance")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _encoder(name: str) -> str:
    return name if name == "latents" else f"layer {name}"


PICTURES: dict[str, tuple[Callable[[dict, Any], None], tuple[float, float]]] = {
    "places": (_draw_places, (6.4, 2.8)),
    "scales": (_draw_scales, (7.2, 3.0)),
    "neurons": (_draw_neurons, (9.0, 3.1)),
}


def _draw(table: dict, folder: Path) -> None:
    """Each picture alone, and all of them on one page with the rows."""
    from matplotlib.figure import Figure

    def save(figure: Any, name: str) -> None:
        write_atomic(folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=160))

    for name, (draw, size) in PICTURES.items():
        figure = Figure(figsize=size, layout="constrained")
        draw(table, figure)
        save(figure, name)
    page = Figure(figsize=(11, 6.8), layout="constrained")
    above, below = page.subfigures(2, 1, height_ratios=(1, 1))
    panels = [*above.subfigures(1, 2, width_ratios=(1, 1.45)), *below.subfigures(1, 2, width_ratios=(1, 1.75))]
    for letter, panel, draw in zip(
        "abcd", panels, (_draw_rows, _draw_scales, _draw_places, _draw_neurons), strict=True
    ):
        draw(table, panel)
        panel.text(0.0, 1.0, letter, fontsize=12, fontweight="bold", va="top")
    save(page, "population")


def _show(table: dict) -> None:
    shown = Table(title=f"{table['note']}; {table['splits']} random splits", title_justify="left")
    columns = ("row", "top-1 % [95 %]", "each", "top-5 %", "DINA leads by", "coarsest half", "finer half", "valid. MRR")
    for column in columns:
        shown.add_column(column, justify="left" if column == "row" else "right", overflow="fold")
    percent = lambda e: f"{100 * e['value']:.1f} [{100 * e['ci95'][0]:.1f}, {100 * e['ci95'][1]:.1f}]"  # noqa: E731
    for row, entry in table["rows"].items():
        cells = [percent(entry["top1"]), " ".join(f"{100 * v:.1f}" for v in entry["each"])]
        cells += [f"{100 * entry['top5']['value']:.1f}", "" if row == DINA else percent(entry["dina_leads"])]
        scales = table["scales"].get(row)
        half = len(scales["low"]) // 2 if scales else 0
        cells += (
            [f"{100 * scales[k][b]['value']:.1f}" for k, b in (("low", half - 1), ("high", half))]
            if scales
            else ["", ""]
        )
        shown.add_row(row, *cells, f"{entry['validation_mrr']:.3f}")
    chance = [f"{100 * table['chance'][k]['value']:.1f}" for k in ("top1", "top5")]
    shown.add_row("chance", chance[0], "", chance[1], "", "", "", "")
    Console().print(shown)
    neurons = table["neurons"]
    print(f"a quarter of the neurons does {neurons['share_of_quarter']:.0%} of what all contribute")


def main(arguments: Sequence[str] | None = None) -> int:
    known = {name: lambda name=name: Population(presets.get(name), name) for name in presets.PRESETS}
    return run_script(lambda argv: print(f"wrote {align(parse_preset(known, argv))}"), arguments)


if __name__ == "__main__":
    sys.exit(main())
