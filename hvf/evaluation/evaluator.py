"""All scores of reconstructions: every registered metric whose network's weights are on this machine.

Each picture is decoded, resized and put through each network once, for all metrics that use it; all rounds share the
seen pictures' features. A metric whose weights are missing is listed as not computed, with the reason.

Shapes: N images, R rounds (reconstructions of each image), H and W pixels, D features.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from hvf.evaluation import picture_metrics
from hvf.evaluation.catalogue import is_two_way
from hvf.evaluation.catalogue import picture_metrics as all_metrics
from hvf.evaluation.metrics.base import FeatureMetric, LabelMetric, LayersMetric, PixelMetric, TwoWayMetric
from hvf.evaluation.networks import Weights, load_network
from hvf.evaluation.picture_metrics import FIRST_SIZE, PixelMeter, SeenFeatures
from hvf.evaluation.statistics import mean_over_images
from hvf.registry import METRICS, HvfError
from hvf.runs import track
from hvf.vision.loading import load_encoder

TOGETHER = 24  # pictures that a network takes in one pass
HELD = 72  # drawn pictures, of all rounds, that are held at once

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Scores:
    """Of one set of reconstructions: ``per_image`` {name: (R, N)}; ``correlations`` {two-way name: r (R, N, N)}.

    ``read`` {name: (R, N)} are numbers of labels that were read, and ``own`` (N,) those of what was seen.
    """

    per_image: dict[str, np.ndarray] = field(default_factory=dict)
    correlations: dict[str, np.ndarray] = field(default_factory=dict)
    read: dict[str, np.ndarray] = field(default_factory=dict)
    own: dict[str, np.ndarray] = field(default_factory=dict)

    def of_rounds(self, first: int, end: int) -> Scores:
        """Those of some of the rounds alone."""
        some = slice(first, end)
        per_image, correlations, read = (
            {name: values[some] for name, values in part.items()}
            for part in (self.per_image, self.correlations, self.read)
        )
        return Scores(per_image, correlations, read, self.own)

    def figures(self) -> dict[str, dict[str, Any]]:
        """{name: {"value", "ci95", "n"}}: rounds of an image averaged first, the interval over images."""
        return {name: mean_over_images(values_RN) for name, values_RN in self.per_image.items()}

    def chance(self) -> dict[str, dict[str, Any]]:
        """{name of a two-way figure, or of a label's: what random pairings of these very pictures score}."""
        of_labels = {name: picture_metrics.chance_of_labels(read, self.own[name]) for name, read in self.read.items()}
        return of_labels | {name: picture_metrics.chance_of(r_RNN) for name, r_RNN in self.correlations.items()}


class Options(TypedDict, total=False):
    """How pictures are measured: arguments of `Evaluator`, and of what makes one."""

    encoders: Mapping[str, str] | None  # {name: feature spec}: two-way scores that are added, on pictures as they are
    weights: Weights  # of the networks: see `hvf.evaluation.networks.load_network`
    first: int | None  # pixels of the first resize (see `picture_metrics.pixcorr`); None: all are squares of one size
    device: str | None  # where networks run; by default a GPU if there is one
    kinds: Sequence[str] | None  # the kind of object that each seen picture shows, in the simulated world


class Evaluator:
    """Measures reconstructions against N seen pictures, whose features are computed once, when it is made.

    Parameters
    ----------
    seen : sequence
        Pictures: PIL, or uint8 (H, W, 3), each of any size.
    names : iterable of str, optional
        Metrics of reconstruction in `hvf.registry.METRICS`; all by default. Those that cannot be computed here are
        listed in ``not_computed``.
    encoders, weights, first, device, kinds
        See `Options`. Without kinds no figure of them is computed.

    Raises
    ------
    HvfError
        No metric and no encoder, an unknown metric, an encoder that cannot be loaded, fewer than two pictures, a figure
        of kinds without them.
    """

    def __init__(
        self,
        seen: Sequence,
        names: Iterable[str] | None = None,
        *,
        encoders: Mapping[str, str] | None = None,
        weights: Weights = None,
        first: int | None = FIRST_SIZE,
        device: str | None = None,
        kinds: Sequence[str] | None = None,
    ) -> None:
        known = all_metrics()
        labelled = [name for name, metric in known.items() if isinstance(metric, LabelMetric)]
        if names is None:
            names = [name for name in known if kinds is not None or name not in labelled]
        names = list(dict.fromkeys(names))
        if not names and not encoders:
            raise HvfError(
                "no figure is asked for: name some, as --metrics pixcorr ssim, or leave --metrics out for all"
            )
        for name in names:
            METRICS.check(name)
            if name not in known:
                raise HvfError(f"{name} is no figure of pictures; there is {', '.join(known)}")
            if kinds is None and name in labelled:
                raise HvfError(f"{name} needs kinds of object: runs of simulated data have them, photographs do not")
        if len(seen) < 2:
            raise HvfError("an evaluation needs at least two images: two-way identification compares them")
        self.seen, self.first = seen, first
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.not_computed: dict[str, str] = {}
        self._of_thread, self._libraries = threading.local(), ThreadpoolController()
        self._networks: dict[str, Any] = {}
        self._heads: dict[str, Any] = {}
        self.names = [name for name in names if self._at_hand(name, weights)]
        self._encoders = {name: load_encoder(spec, self.device) for name, spec in (encoders or {}).items()}
        self._features = self._features_of_seen()
        self._own: dict[str, np.ndarray] = {}
        for name in self.names:
            if isinstance(metric := METRICS[name], LabelMetric) and kinds is not None:
                self._own[name] = np.array([metric.labels.index(kind) for kind in kinds])

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """{network: {"network", "file", "sha256"}} of the weights in use."""
        sources = {name: network.source for name, network in self._networks.items()}
        return sources | {name: heads.source for name, heads in self._heads.items()}

    def readers(self) -> dict[str, dict[str, Any]]:
        """{name of a label's figure: that of the seen pictures themselves}: what its network reads at best."""
        read: dict[str, list[np.ndarray]] = {name: [] for name in self._own}
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            for start in range(0, len(self.seen) if read else 0, TOGETHER):
                _, raw = self._pictures(self.seen, range(start, min(start + TOGETHER, len(self.seen))), pool)
                for name, parts in read.items():
                    parts.append(self._read(name, raw))
        return {name: mean_over_images(np.concatenate(parts) == self._own[name]) for name, parts in read.items()}

    def measure(self, rounds: Sequence[Sequence], title: str = "measuring pictures") -> Scores:
        """Scores of R rounds of N reconstructions each, in the order of the seen pictures; else HvfError."""
        n, drawn = len(self.seen), [len(one_round) for one_round in rounds]
        if not drawn or set(drawn) != {n}:
            raise HvfError(f"{n} seen pictures but {drawn} reconstructions: they should pair, in every round")
        scores = Scores()
        for name in (*self.names, *self._encoders):
            scores.per_image[name] = np.full((len(rounds), n), np.nan)
            if self._is_two_way(name):
                scores.correlations[name] = np.empty((len(rounds), n, n))
            elif name in self._own:
                scores.read[name], scores.own[name] = np.empty((len(rounds), n), int), self._own[name]
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            together = min(TOGETHER, max(1, HELD // len(rounds)))
            for start in track(list(range(0, n, together)), title):
                self._measure_some(slice(start, min(start + together, n)), rounds, scores, pool)
        for name, r_RNN in scores.correlations.items():
            scores.per_image[name][:] = picture_metrics.two_way_shares(r_RNN)
        return scores

    def _measure_some(self, part: slice, rounds: Sequence[Sequence], scores: Scores, pool: ThreadPoolExecutor) -> None:
        """All scores of a few images in all rounds; of two-way scores, their columns of r."""
        images = range(part.start, part.stop)
        seen, _ = self._pictures(self.seen, images, pool)
        drawn, drawn_raw = zip(*(self._pictures(one_round, images, pool) for one_round in rounds), strict=True)
        pixels = [name for name in self.names if isinstance(METRICS[name], PixelMetric)]
        if pixels:
            per_image = [(seen[i], [one_round[i] for one_round in drawn], pixels) for i in range(len(images))]
            for image, measured in zip(images, self._each(self._pixel_scores, per_image, pool), strict=True):
                for name in pixels:
                    scores.per_image[name][:, image] = [one_round[name] for one_round in measured]
        features: dict[str, list[np.ndarray]] = {}
        for network in self._networks:
            using = [name for name in self._using(network) if name not in self._own]
            if not using:
                continue
            layerwise = any(isinstance(METRICS[name], LayersMetric) for name in using)
            of_seen = self._run(network, seen) if layerwise else {}  # too large to keep
            for r, one_round in enumerate(drawn):
                layers = self._run(network, one_round)
                for name in using:
                    metric = METRICS[name]
                    if isinstance(metric, LayersMetric):
                        scores.per_image[name][r, part] = self._heads[metric.heads](of_seen, layers).numpy()
                    else:
                        features.setdefault(name, []).append(_flat(layers[metric.layer]))
        for name, encoder in self._encoders.items():
            features[name] = [_encode(encoder, raw) for raw in drawn_raw]
        for name, own_N in self._own.items():
            scores.read[name][:, part] = [self._read(name, raw) for raw in drawn_raw]
            scores.per_image[name][:, part] = scores.read[name][:, part] == own_N[part]
        which = np.tile(np.arange(part.start, part.stop), len(rounds))
        for name, of_rounds in features.items():
            features_MD = np.concatenate(of_rounds)
            if self._is_two_way(name):
                r_NRn = self._features[name].correlations(features_MD, which).reshape(len(self.seen), len(rounds), -1)
                scores.correlations[name][:, :, part] = r_NRn.swapaxes(0, 1)
            else:
                compared_M = METRICS[name].compare(self._features[name], features_MD, which)
                scores.per_image[name][:, part] = compared_M.reshape(len(rounds), -1)

    def _features_of_seen(self) -> dict[str, SeenFeatures]:
        features: dict[str, list[np.ndarray]] = {}
        by_features = [name for name in self.names if isinstance(METRICS[name], (FeatureMetric, TwoWayMetric))]
        if by_features or self._encoders:
            with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
                for start in track(list(range(0, len(self.seen), TOGETHER)), "features of the seen pictures"):
                    images = range(start, min(start + TOGETHER, len(self.seen)))
                    seen, raw = self._pictures(self.seen, images, pool)
                    for network in self._networks:
                        layers = self._run(network, seen)
                        for name in self._using(network):
                            if name in by_features:
                                features.setdefault(name, []).append(_flat(layers[METRICS[name].layer]))
                    for name, encoder in self._encoders.items():
                        features.setdefault(name, []).append(_encode(encoder, raw))
        cosine = [name for name in by_features if not getattr(METRICS[name], "centre", True)]
        return {name: SeenFeatures(np.concatenate(parts), name not in cosine) for name, parts in features.items()}

    def _at_hand(self, name: str, weights: Weights) -> bool:
        """Load the network of a metric; if that is not possible, enter the reason in `not_computed`."""
        metric = METRICS[name]
        try:
            if metric.network and metric.network not in self._networks:
                self._networks[metric.network] = load_network(metric.network, weights, self.device)
            if isinstance(metric, LayersMetric):
                self._heads[metric.heads] = load_network(metric.heads, weights, self.device)
        except HvfError as error:
            self.not_computed[name] = str(error)
            return False
        return True

    def _read(self, name: str, raw: list[np.ndarray]) -> np.ndarray:
        """Numbers (N,) of the labels that a metric's network reads from pictures as they are."""
        network = self._networks[METRICS[name].network]
        return _encode(lambda x_N3HW: network(x_N3HW)[""], raw).argmax(axis=1)

    def _using(self, network: str) -> list[str]:
        return [name for name in self.names if METRICS[name].network == network]

    def _is_two_way(self, name: str) -> bool:
        return name in self._encoders or is_two_way(name)

    def _pictures(self, pictures: Sequence, images: range, pool: ThreadPoolExecutor) -> tuple[list, list]:
        """Some pictures after the first resize, float32 (H, W, 3), and as they are."""
        raw = self._each(lambda i: _pixels(pictures[i], i), images, pool)
        if self.first is None:
            odd = next((x for x in raw if x.shape != raw[0].shape or x.shape[0] != x.shape[1]), None)
            if odd is not None:
                raise HvfError(f"without a first resize pictures have to be squares of one size, not {odd.shape[:2]}")
        size = self.first or raw[0].shape[0]
        return self._each(lambda x: picture_metrics.resized(x, size, size), raw, pool), raw

    def _each(self, work: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor) -> list[R]:
        """`work` on each item, one thread for each: BLAS would put its own beneath, and all would wait for another."""
        with self._libraries.limit(limits=1, user_api="blas"):
            return list(pool.map(work, items))

    def _pixel_scores(self, work: tuple[np.ndarray, list[np.ndarray], list[str]]) -> list[dict[str, float]]:
        """{name: score} of one image for each of its rounds."""
        seen, drawn, names = work
        if not hasattr(self._of_thread, "meter"):
            self._of_thread.meter = PixelMeter(None)
        self._of_thread.meter.see(seen)
        return [self._of_thread.meter.score(picture, names) for picture in drawn]

    def _run(self, network: str, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
        x_N3HW = torch.from_numpy(np.stack([picture.transpose(2, 0, 1) for picture in pictures]))
        return {layer: features.cpu() for layer, features in self._networks[network](x_N3HW).items()}


def _pixels(picture: Any, index: int) -> np.ndarray:
    x_HWC = np.asarray(picture)
    if x_HWC.ndim != 3 or x_HWC.shape[2] != 3 or x_HWC.dtype != np.uint8:
        raise HvfError(f"picture {index} is not RGB with 8 bits: {x_HWC.dtype} {x_HWC.shape}")
    return x_HWC


def _flat(features: torch.Tensor) -> np.ndarray:
    return features.flatten(1).float().numpy()


def _encode(encoder: Callable[[torch.Tensor], torch.Tensor], raw: list[np.ndarray]) -> np.ndarray:
    """Features (N, D) of pictures as they are, those of one size together."""
    features: list[np.ndarray | None] = [None] * len(raw)
    for shape in dict.fromkeys(x.shape for x in raw):
        same = [i for i, x in enumerate(raw) if x.shape == shape]
        x_N3HW = torch.from_numpy(np.stack([raw[i] for i in same])).permute(0, 3, 1, 2).float() / 255
        for i, row in zip(same, encoder(x_N3HW).cpu().numpy(), strict=True):
            features[i] = row
    return np.stack([row for row in features if row is not None])
