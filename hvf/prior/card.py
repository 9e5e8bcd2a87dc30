"""The model card of a Fusion Prior, and how it is drawn with by diffusers alone."""

from __future__ import annotations

from collections.abc import Mapping

from hvf.runs import code_version

HEAD = """---
license: apache-2.0
library_name: diffusers
---
"""
DRAWING = """
## Drawing with it

`hvf reconstruct --prior OWNER/NAME` draws from it, and `hvf export RUN --out FOLDER` leaves the adapter, the embeddings
of a run and a script that draws them with diffusers alone. By hand: `prior.export_ip_adapter("adapter/")`, then
`pipe.load_ip_adapter("adapter/", subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)`,
and as `ip_adapter_image_embeds` not z_f but z_c = `prior.project(z_f)`, shape (1, 1, D), with zeros before it under
guidance.

**One picture a call.** Given the embeddings of N pictures, a stock pipeline lets each picture attend to all N.
"""


def prior_card(dims: Mapping[str, int], width: int, layers: int, parameters: int) -> str:
    """The card of a prior that came without one: what is known of it from its settings.

    Parameters
    ----------
    dims : mapping of str to int
        Width of each encoder by its FeatureSpec.
    width : int
        Of the fused embedding.
    layers : int
        How many cross-attentions its adapter belongs to.
    parameters : int
        How many it has.
    """
    encoders = ", ".join(f"`{spec}` ({dim})" for spec, dim in dims.items())
    return f"""{HEAD}
# Fusion Prior

HVF, projector and IP-Adapter of arXiv 2602.07495 (hvf {code_version()}).
Read it with `hvf.FusionPrior.from_pretrained("OWNER/NAME")`.

| | |
| --- | --- |
| encoders | {encoders} |
| embedding | {width} numbers, heard by {layers} cross-attentions |
| parameters | {parameters:,} |
| training | not said |
{DRAWING}"""
