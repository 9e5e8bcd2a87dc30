"""Which sensors and latencies carry what a run decodes, and is it what the image looks like, or what it shows?

    python brain_training/interpret.py runs/sub-08-eeg          a run of hvf train, retrieve or reconstruct
    python brain_training/interpret.py RUN --layers openclip:mini-vit@0:mean openclip:mini-vit@2:mean
    python brain_training/interpret.py RUN --categories categories.csv      lines "concept,category"

Into the run folder: occlusion of head, alone and with their neighbours, and of time windows; a decoder retrained on
each window, chosen on validation concepts (`hvf.experiments.protocols`); variance of the responses and of the brain
embedding that low-level features (pixels, edges, VAE latents) and semantic ones explain; accuracy by category; both
modalities in one plane. Test images are looked at: the latencies named and drawn are where they show most; nothing that
is tested is chosen on them. Writes sensors.json and windows.json, which `hvf report` and `hvf explore` show,
interpretation.json, interpretation.png and embedding.png; takes up pieces in interpretation/.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from hvf.alignment import FILE, Alignment, TrainingSet, fit
from hvf.cli.options import parse_settings, run_script
from hvf.config import SUBJECTS, HvfError, with_settings
from hvf.data.trials.trials import Trials, concept_split
from hvf.decoder import Decoder
from hvf.evaluation import retrieval
from hvf.experiments import interpretation
from hvf.experiments.interpretation import HIGH, LOW, Window
from hvf.experiments.protocols import LINEAR, Split, device
from hvf.report.interpreted import (
    FIGURE,
    LOST,
    ONLY,
    draw_embedding,
    draw_interpretation,
    lost_of,
    ms,
    sensor_lists,
    window_lists,
)
from hvf.report.sensors import flat, positions_of
from hvf.runs import Run, track, write_atomic
from hvf.simulation import head, rendering
from hvf.study import Study, open_study
from hvf.vision.cache import embed_all

PIXELS, EDGES = 16, 64  # pixels of a side: what an image looks like, without any network
PARTS = 6  # windows of a row of topographies
FEW = 10  # validation concepts from which a brain embedding can be explained
MOST = 4000  # images to fit the responses on: for so few components more change nothing
BINS = 40  # of time, at most, at which responses are explained


@dataclass(frozen=True)
class Interpret:
    """Ask a trained run what carries its decoding."""

    run: tyro.conf.Positional[Path] = Path()  # a run folder with a trained brain encoder
    window: float = 50.0  # ms, width of the windows that are occluded and retrained on
    radius: float = 0.035  # m; sensors so near to another are occluded together with it
    retrain: Literal["ridge", "own"] = "ridge"  # what is retrained on each window: ridge, or the run's own encoder
    layers: tuple[str, ...] = ()  # feature specs more, whose share of the responses is followed over time
    categories: Path | None = None  # CSV of concept,category (default: simulated kinds; concepts of several images)


class Material:
    """A run's study, its trained alignment, and the features of its images; row i of everything is image i."""

    def __init__(self, run: Run, options: Interpret) -> None:
        self.run, self.options = run, options
        trained = Alignment.load(run.path / "checkpoint", device())
        self.study: Study = open_study(run.config.data)
        self.decoder = Decoder(run.config, device())
        self.decoder.alignment = self.alignment = trained
        study = self.study
        trained.recording.check(study.train, self.decoder.material(study.train, study.train_images))
        self.train: Trials = study.train.aligned_to(study.train_images)
        self.test: Trials = study.test.aligned_to(study.test_images)
        self.windows: list[Window] = interpretation.windows_of(self.test, options.window / 1000)

    @cached_property
    def seen(self) -> dict[str, np.ndarray]:
        """Features of the training images."""
        return self.decoder.features(self.study.train_images)

    @cached_property
    def shown(self) -> dict[str, np.ndarray]:
        """Features of the test images."""
        return self.decoder.features(self.study.test_images)

    @cached_property
    def mean_CT(self) -> np.ndarray:
        return interpretation.mean_response(self.train)

    @cached_property
    def positions(self) -> np.ndarray | None:
        """(C, 2) in m: of the simulated helmet, of the epochs' own file, or by name; None where nobody knows."""
        data, names = self.run.config.data, list(self.test.ch_names)
        info = None
        if data.study == "simulated-meg":
            info = head.sensor_info("meg", self.test.sfreq)
        elif data.trials and data.trials.endswith((".fif", ".fif.gz")):
            info = mne.read_epochs(data.trials, preload=False, verbose="error").info
        if info is not None and set(names) <= set(info["ch_names"]):
            place = {channel["ch_name"]: channel["loc"][:3] for channel in info["chs"]}
            positions_C3 = np.stack([place[name] for name in names])
            if np.isfinite(positions_C3).all() and (np.linalg.norm(positions_C3, axis=1) > 0).all():
                return flat(positions_C3)
        return positions_of(names)


def interpret(options: Interpret) -> Path:
    """Ask all that the run's data can answer, write it beside what is there, and return the folder."""
    if not (options.run / "config.json").is_file():
        raise HvfError("name a run folder: python brain_training/interpret.py RUN (hvf retrieve makes one)")
    if options.window <= 0 or options.radius <= 0:
        raise HvfError(f"--window and --radius must be greater than 0, not {options.window:g} and {options.radius:g}")
    run = Run.open(options.run)
    if options.retrain == "own" and (run.config.targets.views or run.config.targets.text):
        raise HvfError(f"{run.path} learnt from views or captions, which windows are not retrained on: --retrain ridge")
    material = Material(run, options)
    categories = _categories(material)
    told: dict[str, Any] = {"note": material.study.note, "simulated": material.study.simulated}
    # First: it alone needs a package that may be absent, which is better told before an hour than after it.
    told["found"] = _piece(run, "found", material, lambda m: _found(m, categories), categories, "UMAP")
    told["occlusion"] = _piece(run, "occlusion", material, _occlusion, options.window, options.radius)
    told["retrained"] = [
        _piece(
            run, f"window-{1000 * a:.0f}-{1000 * b:.0f}", material, lambda m, w=(a, b): _window(m, w), options.retrain
        )
        for a, b in track(material.windows, "retraining on windows")
    ]
    told["explained"] = _piece(run, "explained", material, _explained, options.layers, "without validation rows")
    told |= {"title": _title(material, told), "ch_names": list(material.test.ch_names), "radius": options.radius}
    told["positions"] = None if material.positions is None else material.positions.tolist()
    run.write_json("interpretation.json", told)
    run.write_json("sensors.json", sensor_lists(told))
    if material.windows:
        run.write_json("windows.json", window_lists(told))
    write_atomic(run.path / "interpretation.png", lambda path: draw_interpretation(told, path))
    write_atomic(run.path / "embedding.png", lambda path: draw_embedding(told, path))
    _show(material, told)
    return run.path


def _piece(run: Run, name: str, material: Material, make: Callable[[Material], Any], *settings: Any) -> Any:
    """What was found for this checkpoint and these settings, or found now."""
    trained = hashlib.sha256((run.path / "checkpoint" / FILE).read_bytes()).hexdigest()[:16]
    stamp = {"checkpoint": trained, "settings": json.loads(json.dumps(settings))}
    file_name = f"interpretation/{name}.json"
    if run.has(file_name):
        there = run.read_json(file_name)
        if there.get("stamp") == stamp:
            return there["found"]
    run.write_json(file_name, {"stamp": stamp, "found": make(material)})
    return run.read_json(file_name)["found"]


# --- the questions ----------------------------------------------------------------------------------------------------


def _occlusion(m: Material) -> dict:
    """Losses by sensor, by sensor with neighbours, by window, by both; and the same of permuted trials."""
    alone = [np.array([c]) for c in range(m.test.shape[1])]
    groups = alone if m.positions is None else interpretation.neighbours(m.positions, m.options.radius)
    questions = {"sensor": interpretation.sensor_masks(alone, m.test)}
    if m.positions is not None:
        questions["neighbours"] = interpretation.sensor_masks(groups, m.test)
    if m.windows:
        questions["window"] = interpretation.window_masks(m.windows, m.test)
    found: dict[str, Any] = {"neighbours_each": float(np.mean([len(group) for group in groups]))}
    permuted = _in_order(m.test, m.test.permuted(0))
    for name, masks in track(list(questions.items()), "occluding"):
        out = interpretation.occlude(m.alignment, m.test, m.shown, m.mean_CT, masks)
        floor = interpretation.occlude(m.alignment, permuted, m.shown, m.mean_CT, masks)
        found["intact"] = {
            figure: retrieval.interval(values_N, out.image_ids)
            for figure, values_N in interpretation.scores(out.intact_N, len(m.test)).items()
        }
        found[name] = {
            "figures": {figure: out.figures(figure) for figure in interpretation.FIGURES},
            "threshold": {figure: out.threshold(figure) for figure in interpretation.FIGURES},
            "permuted": floor.lost(FIGURE).mean(axis=1).tolist(),
        }
    found["parts"] = []
    for part in _parts(m, found["window"]["figures"][FIGURE] if m.windows else ()):
        out = interpretation.occlude(
            m.alignment, m.test, m.shown, m.mean_CT, interpretation.sensor_masks(groups, m.test, part)
        )
        lost = {f: out.lost(f).mean(axis=1).tolist() for f in interpretation.FIGURES}
        found["parts"].append({"tmin": part[0], "tmax": part[1], "lost": lost})
    return found


def _in_order(trials: Trials, permuted: Trials) -> Trials:
    """The permuted trials in the images' order again: row i answers image i, with another image's response."""
    row = {name: i for i, name in enumerate(permuted.image_ids.tolist())}
    return permuted.select([row[name] for name in trials.image_ids.tolist()])


def _parts(m: Material, lost: Sequence[dict]) -> list[Window]:
    """So many windows in a row, those that lose most together."""
    if m.positions is None or not m.windows:
        return []
    total = np.convolve([entry["value"] for entry in lost], np.ones(min(PARTS, len(lost))), "valid")
    return m.windows[int(total.argmax()) :][:PARTS]


def _window(m: Material, window: Window) -> dict:
    """Top-1 and the rest of a decoder that had this window alone."""
    split = Split(m.train, np.arange(len(m.train)), m.seen, m.study.train_images.concepts, m.study.note)
    linear = LINEAR if m.options.retrain == "ridge" else {}
    made = interpretation.retrain(split, m.test, m.shown, with_settings(m.run.config, linear), window)
    ids = list(m.test.image_ids)
    figures = {f: retrieval.interval(v, ids) for f, v in interpretation.scores(made.ranks_N, len(ids)).items()}
    return {
        "tmin": window[0], "tmax": window[1], "figures": figures, "top5": made.top_NK.tolist(),
        "validation": dict(made.validation),
    }  # fmt: skip


def _explained(m: Material) -> dict:
    """R² of responses over time and of the brain embedding: low-level, semantic, shared; and of each encoder alone."""
    concepts, ids, align = np.array(m.study.train_images.concepts), list(m.test.image_ids), m.run.config.align
    learnt, held = concept_split(concepts, align.validation_fraction, align.seed, at_least=2)
    if len(set(concepts[held])) < FEW:
        return {"left_out": f"{len(set(concepts[held]))} validation concepts are too few to explain the embedding with"}
    specs, seen, shown = list(m.seen), dict(m.seen), dict(m.shown)
    more = [spec for spec in m.options.layers if spec not in specs]
    for features, images in ((seen, m.study.train_images), (shown, m.study.test_images)):
        features |= embed_all(images, more, device())
        features["pixels"] = images.array(size=PIXELS).reshape(len(images), -1).astype(np.float32) / 255
        features["edges"] = interpretation.orientation_energy(images.array(size=EDGES))
    low = ["pixels", "edges", *(spec for spec in specs if spec.startswith("vae:"))]
    groups = {LOW: low, HIGH: [spec for spec in specs if spec not in low]}
    if not groups[HIGH]:
        return {"left_out": "every target is a VAE's: there is nothing semantic to compare with"}

    def bands(parts: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: interpretation.band([seen[s][rows] for s in part], [shown[s] for s in part])
                for name, part in parts.items()}  # fmt: skip

    def intervals(r2: Mapping[str, np.ndarray], total_NT: np.ndarray) -> dict[str, list[dict]]:
        return {name: interpretation.r2_intervals(r2_NT, total_NT) for name, r2_NT in r2.items()}

    rows = np.sort(np.random.default_rng(0).permutation(len(concepts))[:MOST])
    (y_MPT, y_NPT), edges = _binned(m.train.select(rows), m.test)
    r2, _ = interpretation.partition(bands(groups, rows), y_MPT, y_NPT, concepts[rows])
    alone = {
        spec: interpretation.explained([fit], [test], y_MPT, y_NPT, concepts[rows])[0]
        for spec, (fit, test) in bands({spec: [spec] for spec in (*specs, *more)}, rows).items()
    }
    found: dict[str, Any] = {"groups": groups, "edges": edges}
    total_NT = interpretation.variance(y_MPT, y_NPT)
    found |= {"responses": intervals(r2, total_NT), "encoders": intervals(alone, total_NT)}
    # Of the brain embedding: fitted where its encoder was not, on validation concepts.
    encoder = _encoder_without_validation(m, learnt)
    z_MD, z_ND = (_unit(encoder.embed_brain(trials)) for trials in (m.train.select(held), m.test))
    z_MD1, z_ND1 = z_MD[..., None], z_ND[..., None]
    r2, predicted = interpretation.partition(bands(groups, held), z_MD1, z_ND1, concepts[held])
    of_z = intervals(r2, interpretation.variance(z_MD1, z_ND1))
    found["embedding"] = {name: entries[0] for name, entries in of_z.items()}
    ranks = {name: interpretation.identified(z_ND, y_NPT[..., 0]) for name, y_NPT in predicted.items()}
    found["identified"] = {name: retrieval.interval(ranks_N <= 1, ids) for name, ranks_N in ranks.items()}
    return found


def _encoder_without_validation(m: Material, learnt: np.ndarray) -> Alignment:
    """The run's encoder; for ridge, fitted to the validation rows too in the end, another from the rows ``learnt``."""
    if m.run.config.brain.encoder != "ridge":
        return m.alignment
    prior = m.alignment.hvf if m.run.config.align.mode == "reconstruction" else None
    concepts = m.study.train_images.concepts
    return fit(TrainingSet(m.train.select(learnt), m.seen, concepts, learnt, prior), m.run.config, device())


def _binned(train: Trials, test: Trials) -> tuple[list[np.ndarray], list[float]]:
    """Responses (N, C, T') of both, standardised by channel and averaged over bins of time; the bins' edges in s."""
    n_times = test.shape[2]
    step = -(-n_times // BINS)
    starts = np.arange(0, n_times - step + 1, step)
    responses = []
    for trials in (train, test):
        parts = [x_NCT[..., : len(starts) * step].reshape(*x_NCT.shape[:2], -1, step).mean(-1)
                 for _, x_NCT in trials.batches()]  # fmt: skip
        responses.append(np.concatenate(parts))
    size_C11 = responses[0].std(axis=(0, 2))[:, None]
    scaled = [x_NCT / np.where(size_C11 > 0, size_C11, 1.0) for x_NCT in responses]
    return scaled, [test.tmin + float(i) * step / test.sfreq for i in range(len(starts) + 1)]


def _unit(z_ND: np.ndarray) -> np.ndarray:
    return z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True)


def _found(m: Material, categories: Sequence[str] | None) -> dict:
    """Accuracy by category, and the map of both modalities."""
    z_b_ND, z_f_ND = m.alignment.embed_brain(m.test), m.alignment.embed_images(m.shown)
    scores_NN = retrieval.similarity(z_b_ND, z_f_ND)
    with track(1, "laying out both modalities in one plane"):
        brain_N2, image_N2 = interpretation.joint_map(z_b_ND, z_f_ND)
    found: dict[str, Any] = {"brain": brain_N2.tolist(), "images": image_N2.tolist(), "categories": categories}
    if categories is not None:
        first_N = retrieval.top_items(scores_NN, 1)[:, 0]
        found["by_category"] = interpretation.by_category(retrieval.ranks(scores_NN), first_N, categories)
    return found


def _categories(m: Material) -> list[str] | None:
    """The category of each test image; None where nobody told any. Raises HvfError for a file that lacks a concept."""
    concepts = m.study.test_images.concepts
    if m.options.categories is not None:
        try:
            with open(m.options.categories, newline="", encoding="utf-8") as file:
                told = {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) > 1}
        except (OSError, UnicodeDecodeError) as error:
            raise HvfError(f"--categories: {m.options.categories} cannot be read ({error})") from None
        missing = [concept for concept in concepts if concept not in told]
        if missing:
            raise HvfError(f"{m.options.categories} lacks {len(missing)} test concepts, the first {missing[0]!r}")
        return [told[concept] for concept in concepts]
    if m.run.config.data.study in SUBJECTS:
        known = {concept.name: concept.category for concept in rendering.concepts()}
        return [known[name] for name in concepts]
    return list(concepts) if len(set(concepts)) < len(concepts) else None


# --- what is told -----------------------------------------------------------------------------------------------------


def _title(m: Material, told: dict) -> str:
    intact = told["occlusion"]["intact"]["top1"]
    label = "simulated " if m.study.simulated else ""
    low, high = (100 * v for v in intact["ci95"])
    found = f"top-1 {100 * intact['value']:.1f} % [{low:.1f}, {high:.1f}] of {intact['n']} images"
    return f"{label}{m.test.kind.upper() if m.test.kind != 'features' else 'responses'}, {m.test.subject}: {found}"


def _show(m: Material, told: dict) -> None:
    lost = told["occlusion"]
    table = Table(title=told["title"] + f"; {LOST} without ...", title_justify="left")
    for column in ("", "without it [95 %]", "p < .05", "top-1 lost, points", "permuted"):
        table.add_column(column, justify="left" if not column else "right")

    def line(label: str, found: dict, i: int) -> None:
        entry, top1 = found["figures"][FIGURE][i], found["figures"]["top1"][i]
        mark = "*" if entry["value"] > found["threshold"][FIGURE] else ""
        table.add_row(label, _interval(entry), mark, f"{100 * top1['value']:+.1f}", f"{found['permuted'][i]:+.3f}")

    for name, label in (("neighbours", "{} and neighbours"), ("sensor", "{}")):
        if name in lost:
            for i in np.argsort(-np.array(lost_of(lost[name])[0]))[:5]:
                line(label.format(m.test.ch_names[i]), lost[name], int(i))
            table.add_section()
    for i, window in enumerate(told["retrained"]):
        line(ms(window), lost["window"], i)
    Console().print(table)
    if told["retrained"]:
        best = max(told["retrained"], key=lambda w: w["validation"]["mrr"])
        top1 = best["figures"]["top1"]
        print(f"retrained on one window, {ms(best)} by validation: top-1 {_interval(top1, 100)} % ({_chance(top1)})")
    explained = told["explained"]
    if "left_out" in explained:
        print(f"low-level against semantic: {explained['left_out']}")
        return
    for name in (*ONLY, "both"):
        peak = int(np.argmax([entry["value"] for entry in explained["responses"][name]]))
        at = {"tmin": explained["edges"][peak], "tmax": explained["edges"][peak + 1]}
        when = f" (most, on the test images, at {ms(at)})" if told["retrained"] else ""
        of = f"R² of responses {_interval(explained['responses'][name][peak])}{when}"
        print(f"{name}: {of}; of z_b {_interval(explained['embedding'][name])}")
    for spec, entries in explained["encoders"].items():
        peak = int(np.argmax([entry["value"] for entry in entries]))
        when = f", most, on the test images, at {1000 * explained['edges'][peak]:.0f} ms" if told["retrained"] else ""
        print(f"{spec} alone: R² of responses {_interval(entries[peak])}{when}")
    for name, entry in explained["identified"].items():
        print(f"z_b identified by what {name} features predict: {_interval(entry, 100)} % ({_chance(entry)})")


def _chance(top1: dict) -> str:
    return f"chance {100 / top1['n']:.1f}"


def _interval(entry: dict, scale: float = 1) -> str:
    digits = 1 if scale == 100 else 3
    low, high = entry["ci95"]
    return f"{scale * entry['value']:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    def run(argv: Sequence[str] | None) -> None:
        print(f"wrote {interpret(parse_settings(Interpret(), argv))}")

    return run_script(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
