"""Features that another program computed: read from a file, for images that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hvf.registry import BACKBONES, FEATURE_ENDINGS, HvfError
from hvf.vision.backbones.base import Backbone

if TYPE_CHECKING:
    import numpy as np

    from hvf.vision.encoder import Tower
    from hvf.vision.specs import FeatureSpec

_MARKED = re.compile(rf".*(?:{'|'.join(map(re.escape, FEATURE_ENDINGS))})[@:~][^/]*", re.IGNORECASE | re.DOTALL)


@BACKBONES.register("features")
class Features(Backbone):
    """``features:clip.npz#image``, ``features:things_train_RN50-part-00000-of-00000.parquet``, ``features:FOLDER#KEY``.

    The whole text behind the colon is the path, whatever it holds, and the key (`hvf.registry.feature_file`). Images
    are found by their names; no picture is looked at.
    """

    has_network = False

    @classmethod
    def check(cls, spec: FeatureSpec) -> FeatureSpec:
        if spec.layer or spec.pool or spec.view or _MARKED.fullmatch(spec.name):
            raise HvfError("features in a file are taken as they are: they have no @LAYER, no :POOL and no ~VIEW")
        if spec.name.endswith("#"):
            raise HvfError("nothing follows '#'; name one of the arrays in the file, or leave '#' out")
        return spec

    @classmethod
    def of_images(cls, spec: FeatureSpec, ids: Sequence[str]) -> np.ndarray:
        from hvf.vision.embeddings import read_embeddings

        return read_embeddings(str(spec)).rows_of(ids)

    @classmethod
    def weights_hash(cls, spec: FeatureSpec) -> str:
        from hvf.vision.embeddings import read_embeddings

        return read_embeddings(str(spec)).digest

    @classmethod
    def load(cls, spec: FeatureSpec) -> Tower:
        raise HvfError(
            f"{spec} holds features of given images: there is no network that could be run on others; "
            "name an encoder here, such as openclip:mini-vit"
        )
