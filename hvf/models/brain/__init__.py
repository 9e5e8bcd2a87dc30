"""Brain encoders: trials of evoked responses (N, C, T) become embeddings (N, D) in the space of the images.

One file each, registered by the word that `brain.encoder` takes: a new one is a file here with a subclass of
`BrainEncoder` under `@BRAIN_ENCODERS.register("its-name")`. Ridge and encoding models are no networks: they are solved
in closed form in hvf/alignment, and kept as the linear encoder.
"""

from hvf.models.brain.base import BrainEncoder, Recording, build_brain

__all__ = ["BrainEncoder", "Recording", "build_brain"]
