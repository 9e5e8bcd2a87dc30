"""Interpretation of a trained run: which sensors and latencies carry what it decodes, and which image features.

Occlusion of sensors and time windows, a decoder retrained on each window (`hvf.experiments.occlusion`), variance
partitioning between low-level and semantic features (`hvf.experiments.variance`), accuracy by category, and both
modalities in one plane. Test images are looked at: the latencies that are named are those where they show most;
nothing that is tested is chosen on them.

Letters: N test trials, row i answering image i of the gallery; M training images; C channels, T samples, P responses,
D embedding.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hvf.alignment import FILE as CHECKPOINT
from hvf.alignment import Alignment, TrainingSet, fit
from hvf.alignment.members import LINEAR
from hvf.config import SOLVED, HvfError, with_settings
from hvf.data.sensor_positions import positions_in, positions_of
from hvf.data.trials.provenance import is_whitened
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.evaluation import retrieval, statistics
from hvf.experiments import occlusion, variance
from hvf.experiments.categories import categories_of
from hvf.experiments.data_digests import data_digests
from hvf.experiments.occlusion import FIGURES, Window
from hvf.experiments.protocols import Split, device
from hvf.runs import Run, track
from hvf.schema.bounds import EachOnce, Positive, check_options
from hvf.schema.run_folder import MADE_FROM
from hvf.study import Study, channel_info, open_study
from hvf.vision.cache import embed_all

FILE = "interpretation.json"
GROUPS = LOW, HIGH = ("low-level", "semantic")
FIGURE = "mrr"  # the figure that is shown: finer than top-1
PIXELS, EDGES = 16, 64  # pixels of a side: what an image looks like, without any network
PARTS = 6  # windows of a row of topographies
FEW = 10  # validation concepts from which a brain embedding can be explained
MOST = 4000  # images to fit the responses on: for so few components more change nothing
BINS = 40  # of time, at most, at which responses are explained


class RunData:
    """A run's study, its trained alignment, and the features of its images; row i of everything is image i."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.alignment = Alignment.load(run.path / "checkpoint", device())
        self.study: Study = open_study(run.config.data)
        self._decoder = Decoder(run.config, device())
        self._decoder.alignment = self.alignment
        study = self.study
        if self.alignment.people or self.alignment.needs_person:
            asked = "what carries one person's decoding is asked of a run of that person alone"
            raise HvfError(f"{run.path} was trained on several people: {asked}")
        self.alignment.recording.check(study.train, self._decoder.fingerprint(study.train, study.train_images))
        self.train: Trials = study.train.aligned_to(study.train_images)
        self.test: Trials = study.test.aligned_to(study.test_images)

    @cached_property
    def train_features(self) -> dict[str, np.ndarray]:
        """Features of the training images."""
        return self._decoder.features(self.study.train_images)

    @cached_property
    def test_features(self) -> dict[str, np.ndarray]:
        """Features of the test images."""
        return self._decoder.features(self.study.test_images)

    @cached_property
    def positions(self) -> np.ndarray | None:
        """Sensor positions (C, 2) in m: of the data, or else by channel name; None where nobody knows."""
        names, info = list(self.test.ch_names), channel_info(self.run.config.data)
        measured = None if info is None else positions_in(info, names)
        return positions_of(names) if measured is None else measured


@dataclass(frozen=True)
class Interpretation:
    """Interpretation of a trained run."""

    window: Positive = 50.0  # ms, width of the windows that are occluded and retrained on
    radius: Positive = 0.035  # m; sensors so near to another are occluded together with it
    retrain: Literal["ridge", "own"] = "ridge"  # what is retrained on each window: ridge, or the run's own encoder
    layers: EachOnce[str] = ()  # further feature specs, whose share of the responses is followed over time
    categories: Path | None = None  # CSV of concept,category; none: simulated kinds, else concepts of several images

    def analyse(self, run: Run) -> dict[str, Any]:
        """Analyse all that the run's data allow, and write interpretation.json.

        Each part is kept in interpretation/ with the checkpoint, data and settings that it belongs to, and not computed
        again by a second call. Without umap-learn the map of both modalities is left out, and the result says so.
        Raises HvfError if an option is out of range, the training data have changed, or the categories lack a concept.
        """
        check_options(self)
        targets = run.config.targets
        if self.retrain == "own" and (targets.views or targets.text):
            raise HvfError(
                f"{run.path} learnt from views or captions, which windows are not retrained on: --retrain ridge"
            )
        data = RunData(run)
        windows = occlusion.windows_of(data.test, self.window / 1000)
        named = self._categories(data)
        result: dict[str, Any] = {
            "note": data.study.note,
            "simulated": data.study.simulated,
            "kind": data.test.kind,
            "subject": data.test.subject,
            "ch_names": list(data.test.ch_names),
            "positions": None if data.positions is None else data.positions.tolist(),
            "radius": self.radius,
            "whitened": is_whitened(data.test.history),
        }
        result["categories"] = _part(run, "categories", partial(_by_category, data, named), named)
        result["map"] = _map(data)
        occluded = partial(_occlusion, data, windows, self.radius)
        result["occlusion"] = _part(run, "occlusion", occluded, self.window, self.radius)
        result["retrained"] = [
            _part(run, f"window-{1000 * a:.0f}-{1000 * b:.0f}", partial(self._window, data, (a, b)), self.retrain)
            for a, b in track(windows, "retraining on windows")
        ]
        explained = partial(_explained, data, self.layers)
        result["explained"] = _part(run, "explained", explained, self.layers, "without validation rows")
        run.write_json(FILE, result)
        return result

    def _window(self, data: RunData, window: Window) -> dict[str, Any]:
        """Accuracy of a decoder that is trained on this window alone."""
        images = data.study.train_images
        split = Split(data.train, data.train_features, images.concepts, np.arange(len(data.train)))
        config = with_settings(data.run.config, LINEAR if self.retrain == "ridge" else {})
        row = occlusion.retrain(split, data.test, data.test_features, config, window)
        ids = list(data.test.image_ids)
        scores = occlusion.scores(np.array(row.ranks), len(ids))
        return {
            "tmin": window[0],
            "tmax": window[1],
            "figures": {figure: statistics.interval(values_N, ids) for figure, values_N in scores.items()},
            "top5": row.top5,
            "validation": row.validation,
        }

    def _categories(self, data: RunData) -> list[str] | None:
        """The category of each test image; None if none are known. Raises HvfError for a file that lacks a concept."""
        concepts = data.study.test_images.concepts
        named = categories_of(concepts, data.run.config.data, self.categories)
        return named or (list(concepts) if len(set(concepts)) < len(concepts) else None)


def _part(run: Run, name: str, compute: Callable[[], Any], *settings: Any) -> Any:
    """One part of the analysis: what is stored for this checkpoint, data and settings, or else computed and stored."""
    trained = hashlib.sha256((run.path / "checkpoint" / CHECKPOINT).read_bytes()).hexdigest()[:16]
    stamp: dict[str, Any] = {"checkpoint": trained, "settings": json.loads(json.dumps(settings))}
    if digests := data_digests(run.config):
        stamp[MADE_FROM] = digests
    file_name = f"interpretation/{name}.json"
    if not (run.has(file_name) and run.read_json(file_name).get("stamp") == stamp):
        run.write_json(file_name, {"stamp": stamp, "result": compute()})
    return run.read_json(file_name)["result"]


def _occlusion(data: RunData, windows: Sequence[Window], radius: float) -> dict[str, Any]:
    """Losses by sensor, by sensor with neighbours, by window, by both; and the same of permuted trials."""
    test, positions = data.test, data.positions
    alone = [np.array([c]) for c in range(test.shape[1])]
    groups = alone if positions is None else occlusion.neighbours(positions, radius)
    questions = {"sensor": occlusion.sensor_masks(alone, test)}
    if positions is not None:
        questions["neighbours"] = occlusion.sensor_masks(groups, test)
    if windows:
        questions["window"] = occlusion.window_masks(windows, test)

    mean_CT = occlusion.mean_response(data.train)

    def occlude(trials: Trials, masks: Sequence[np.ndarray]) -> occlusion.Occlusion:
        return occlusion.occlude(data.alignment, trials, data.test_features, mean_CT, masks)

    result: dict[str, Any] = {"neighbours_each": float(np.mean([len(group) for group in groups]))}
    permuted = test.permuted(0).aligned_to(data.study.test_images)  # row i answers image i, with another's response
    for name, masks in track(list(questions.items()), "occluding"):
        out, control = occlude(test, masks), occlude(permuted, masks)
        scores = occlusion.scores(out.intact_N, len(test))
        result["intact"] = {figure: statistics.interval(x_N, out.image_ids) for figure, x_N in scores.items()}
        result[name] = {
            "figures": {figure: out.figures(figure) for figure in FIGURES},
            "threshold": {figure: out.threshold(figure) for figure in FIGURES},
            "permuted": control.lost(FIGURE).mean(axis=1).tolist(),
        }
    result["parts"] = []
    if positions is not None and windows:
        # So many windows in a row, those that lose most together.
        lost = [entry["value"] for entry in result["window"]["figures"][FIGURE]]
        total = np.convolve(lost, np.ones(min(PARTS, len(lost))), "valid")
        for window in windows[int(total.argmax()) :][:PARTS]:
            out = occlude(test, occlusion.sensor_masks(groups, test, window))
            means = {figure: out.lost(figure).mean(axis=1).tolist() for figure in FIGURES}
            result["parts"].append({"tmin": window[0], "tmax": window[1], "lost": means})
    return result


def _explained(data: RunData, layers: Sequence[str]) -> dict[str, Any]:
    """R² of responses over time and of the brain embedding: low-level, semantic, shared; and of each encoder alone."""
    study, align = data.study, data.run.config.align
    concepts, ids = np.array(study.train_images.concepts), list(data.test.image_ids)
    learnt, held = concept_split(concepts, align.validation_fraction, align.seed, at_least=2)
    if len(set(concepts[held])) < FEW:
        return {"left_out": f"{len(set(concepts[held]))} validation concepts are too few to explain the embedding with"}
    if not study.test_images.has_pictures:
        return {"left_out": "low-level features are those of pictures, and the images are known by features alone"}
    specs, train, test = list(data.train_features), dict(data.train_features), dict(data.test_features)
    more = [spec for spec in layers if spec not in specs]
    for features, images in ((train, study.train_images), (test, study.test_images)):
        features |= embed_all(images, more, device())
        features["pixels"] = images.array(size=PIXELS).reshape(len(images), -1).astype(np.float32) / 255
        features["edges"] = variance.orientation_energy(images.array(size=EDGES))
    low = ["pixels", "edges", *(spec for spec in specs if spec.startswith("vae:"))]
    groups = {LOW: low, HIGH: [spec for spec in specs if spec not in low]}
    if not groups[HIGH]:
        return {"left_out": "every target is a VAE's: there is nothing semantic to compare with"}

    def bands(parts: Mapping[str, Sequence[str]], rows: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        each = {name: ([train[s][rows] for s in part], [test[s] for s in part]) for name, part in parts.items()}
        return {name: variance.band(*part) for name, part in each.items()}

    def intervals(r2: Mapping[str, np.ndarray], total_NT: np.ndarray) -> dict[str, list[dict[str, Any]]]:
        return {name: variance.r2_intervals(r2_NT, total_NT) for name, r2_NT in r2.items()}

    rows = np.sort(np.random.default_rng(0).permutation(len(concepts))[:MOST])
    (y_MPT, y_NPT), edges = _binned(data.train.select(rows), data.test)
    r2, _ = variance.partition(bands(groups, rows), y_MPT, y_NPT, concepts[rows])
    alone = {
        spec: variance.explained([fit_Md], [test_Nd], y_MPT, y_NPT, concepts[rows])[0]
        for spec, (fit_Md, test_Nd) in bands({spec: [spec] for spec in (*specs, *more)}, rows).items()
    }
    total_NT = variance.variance(y_MPT, y_NPT)
    result: dict[str, Any] = {"groups": groups, "edges": edges}
    result |= {"responses": intervals(r2, total_NT), "encoders": intervals(alone, total_NT)}
    # Of the brain embedding: fitted where its encoder was not, on validation concepts.
    encoder = _encoder_without_validation(data, learnt)
    z_MD, z_ND = (_unit(encoder.embed_brain(trials)) for trials in (data.train.select(held), data.test))
    z_MD1, z_ND1 = z_MD[..., None], z_ND[..., None]
    r2, predicted = variance.partition(bands(groups, held), z_MD1, z_ND1, concepts[held])
    of_z = intervals(r2, variance.variance(z_MD1, z_ND1))
    result["embedding"] = {name: entries[0] for name, entries in of_z.items()}
    ranks = {name: variance.identified(z_ND, y_NPT[..., 0]) for name, y_NPT in predicted.items()}
    result["identified"] = {name: statistics.interval(ranks_N <= 1, ids) for name, ranks_N in ranks.items()}
    return result


def _encoder_without_validation(data: RunData, learnt: np.ndarray) -> Alignment:
    """The run's encoder; where it is solved at once, and of the validation rows too, another from ``learnt``."""
    config = data.run.config
    if config.brain.encoder not in SOLVED:
        return data.alignment
    prior = data.alignment.hvf if config.align.mode == "reconstruction" else None
    concepts = data.study.train_images.concepts
    return fit(TrainingSet(data.train.select(learnt), data.train_features, concepts, learnt, prior), config, device())


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


def _by_category(data: RunData, named: Sequence[str] | None) -> dict[str, Any] | None:
    """The categories of the test images, and accuracy by category; None if there are none."""
    if named is None:
        return None
    z_b_ND, z_f_ND = data.alignment.embed_brain(data.test), data.alignment.embed_images(data.test_features)
    scores_NN = retrieval.similarity(z_b_ND, z_f_ND)
    first_N = retrieval.top_items(scores_NN, 1)[:, 0]
    return {"of_image": list(named), "accuracy": by_category(retrieval.ranks(scores_NN), first_N, named)}


def _map(data: RunData) -> dict[str, Any]:
    """Brain and image embeddings of the test images in one plane; or why they are left out."""

    def compute() -> dict[str, Any]:
        z_b_ND, z_f_ND = data.alignment.embed_brain(data.test), data.alignment.embed_images(data.test_features)
        with track(1, "laying out both modalities in one plane"):
            brain_N2, image_N2 = joint_map(z_b_ND, z_f_ND)
        return {"brain": brain_N2.tolist(), "images": image_N2.tolist()}

    try:
        return _part(data.run, "map", compute, "UMAP")
    except HvfError as error:
        return {"left_out": str(error)}


def by_category(ranks_N: np.ndarray, first_N: np.ndarray, categories: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy by category, best first: of the image itself, and of the category of the image retrieved first.

    {category: {"top1", "category", "chance" of the latter}}, from the rank of each image, the gallery index retrieved
    first, and the category of each image.

    Examples
    --------
    >>> accuracy = by_category(np.array([1, 2]), np.array([0, 0]), ["cat", "dog"])
    >>> [(name, figures["category"]["value"]) for name, figures in accuracy.items()]
    [('cat', 1.0), ('dog', 0.0)]
    """
    category_N, n = np.asarray(categories), len(categories)
    figures = {}
    for name in dict.fromkeys(categories):
        rows = np.flatnonzero(category_N == name)
        figures[name] = {
            "top1": statistics.interval(np.asarray(ranks_N)[rows] <= 1),
            "category": statistics.interval(category_N[np.asarray(first_N)[rows]] == name),
            "chance": len(rows) / n,
        }
    return dict(sorted(figures.items(), key=lambda item: -item[1]["category"]["value"]))


def joint_map(z_b_ND: np.ndarray, z_f_ND: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Brain and image embeddings in one plane, (N, 2) each, by UMAP of cosine distances (McInnes et al. 2018).

    Each modality is centred on its own mean: contrastive embeddings lie on two cones, and a map would show nothing but
    that gap (Liang et al. 2022). Raises HvfError for fewer than four images, or without umap-learn.
    """
    n = len(z_b_ND)
    if n < 4:
        raise HvfError(f"a map needs four images or more, not {n}")
    z_ND = np.concatenate([z - z.mean(axis=0) for z in (z_b_ND, z_f_ND)])
    # One thread: with a seed there is no other, and umap would warn of it.
    plane = _umap().UMAP(n_neighbors=min(15, n), metric="cosine", random_state=seed, n_jobs=1).fit_transform(z_ND)
    return plane[:n], plane[n:]


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # that there is no TensorFlow, which is not needed
            import umap  # here, for it is slow; the first map of a process compiles some 20 s more
    except (ImportError, RuntimeError) as error:  # numba's, where it finds no folder to cache what it compiled
        raise HvfError(
            f"the map is UMAP's, which cannot be imported ({error}): pip install 'hvf[interpret]'"
        ) from error
    return umap
