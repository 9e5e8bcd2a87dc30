"""DreamSim's ensemble (Fu et al., 2023), by the package `dreamsim`: 1 - cosine of the embeddings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.evaluation.metrics.base import FeatureMetric, PackagedNetwork, correlation_distance
from hvf.registry import METRICS, NETWORKS, HvfError
from hvf.vision.weights import reading

if TYPE_CHECKING:
    import torch


class DreamSimNetwork:
    """The ensemble as a function of pictures."""

    def __init__(self, model: Any, source: dict[str, str], device: torch.device) -> None:
        self._model, self.source, self.device = model, source, device

    def __call__(self, images_N3HW: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"": embeddings (N, D)} of pictures in 0..1, resized to 224 pixels (bicubic)."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            x = functional.interpolate(images_N3HW.to(self.device), (224, 224), mode="bicubic", antialias=True)
            return {"": self._model.embed(x.clamp(0, 1)).reshape(len(x), -1).float()}


def load_dreamsim(folders: list[Path], device: torch.device) -> DreamSimNetwork:
    """The ensemble, its weights in the first of these folders that exists; nothing is downloaded."""
    folder = next((f for f in folders if f.is_dir()), None)
    fetch = "from dreamsim import dreamsim; dreamsim(device='cpu', cache_dir='WEIGHTS/dreamsim')"
    how = f'`pip install dreamsim`, then `python -c "{fetch}"`, and set HVF_WEIGHTS=WEIGHTS'
    if find_spec("dreamsim") is None:
        raise HvfError(f"the package dreamsim is not installed: {how}")
    if folder is None or not any(folder.iterdir()):
        raise HvfError(f"no weights at hand: a folder dreamsim in $HVF_WEIGHTS is missing: {how}")
    from dreamsim import dreamsim  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]  (optional)

    with reading(folder, "DreamSim's weights"):
        model, _ = dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
    return DreamSimNetwork(model, {"network": "DreamSim, ensemble", "file": folder.name}, device)


NETWORKS.register("dreamsim")(PackagedNetwork(title="DreamSim, ensemble", load=load_dreamsim))
METRICS.register("dreamsim")(
    FeatureMetric(
        label="DreamSim", network="dreamsim", compare=correlation_distance, centre=False, lower_is_better=True
    )
)
