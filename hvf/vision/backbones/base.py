"""The interface of a family of backbones: how its specs are read, and how its networks are loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

PATH = re.compile(r"(/|\./|\.\./|~)")  # how a NAME that is a path begins


class Backbone:
    """Base of all families; none has state. A family overrides `load`, and the others where its specs are special.

    A family whose features lie in files (`has_network` False) defines `of_images` and `weights_hash` instead; the text
    of its specs is a name as a whole.
    """

    has_network = True
    has_layers = True  # where it has none, a bare number after "@" is a size
    has_sizes = False  # whether `load` heeds the size of a spec

    @classmethod
    def name_and_weights(cls, text: str) -> tuple[str, str | None]:
        """NAME[/WEIGHTS], split at the first slash; a path is a name as a whole."""
        if PATH.match(text):
            return text.rstrip("/"), None
        name, _, weights = text.partition("/")
        return name, weights or None

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        """The spec in its canonical form. Raises HvfError for a layer or a pool that this family cannot have."""
        return spec

    @classmethod
    def network(cls, spec: FeatureSpec) -> FeatureSpec:
        """The spec of the whole network: specs with the same one are computed in one pass."""
        return replace(spec, layer=None, pool=None)

    @classmethod
    def of_images(cls, spec: FeatureSpec, ids: Sequence[str]) -> np.ndarray:
        """Features (N, D) float32 of images by their ids, without a network. Raises HvfError naming missing ones."""
        raise NotImplementedError

    @classmethod
    def weights_hash(cls, spec: FeatureSpec) -> str:
        """What changes whenever features without a network do."""
        raise NotImplementedError

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        """The network that a spec names, from local files. Raises HvfError if these are missing or do not fit."""
        raise NotImplementedError
