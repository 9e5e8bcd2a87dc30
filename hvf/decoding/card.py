"""The model card of a decoder, written from its own settings and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hvf.alignment import Alignment
from hvf.data.trials.provenance import modality
from hvf.decoding.artefact import Artefact
from hvf.evaluation.catalogue import label, leaf
from hvf.files.escapes import plain_markdown
from hvf.models.fusions.routed import Routed
from hvf.progress import one_line
from hvf.registry import listed


def model_card(artefact: Artefact) -> str:
    """Markdown with the Hub's front matter: task, data, protocol, figures with intervals, limits, how to use it."""
    recording, config, about = artefact.alignment.recording, artefact.alignment.config, artefact.about
    simulated = bool(about.get("simulated"))
    kind = modality(recording.kind)
    end = recording.tmin + recording.n_times / recording.sfreq
    lines = [
        *_front_matter(recording.kind, simulated),
        f"# Which image was seen: a decoder of {kind}",
        "",
        f"It embeds a trial of {kind} in the space of images, so that the image that was seen can be looked up in a "
        f"gallery{' and drawn' if config.align.mode != 'retrieval' else ''}."
        + (" **Trained on simulated data: it decodes nobody's brain.**" if simulated else ""),
        "",
        "## Trained on",
        "",
        f"- {plain_markdown(about.get('study') or 'trials that were given in Python')}",
        *_people(artefact.alignment),
        *_origin(about),
        f"- {len(recording.ch_names)} channels: {plain_markdown(listed(recording.ch_names, 80))}",
        f"- {recording.sfreq:g} Hz, {recording.n_times} samples from {recording.tmin:g} to {end:g} s after onset",
        f"- brain encoder `{config.brain.encoder}`, mode `{config.align.mode}`, seed {config.align.seed}, "
        f"hvf {recording.code}",
        f"- visual encoders: {', '.join(f'`{spec}`' for spec in (artefact.encoders or config.targets.specs))}",
    ]
    if artefact.alignment.members:
        lines.append(f"- members: {_members(artefact.alignment.best['members'])}")
    if config.align.mode == "reconstruction":
        lines.append(f"- drawn by the Fusion Prior `{config.prior.path}` in the pipeline `{config.prior.pipeline}`")
    if config.align.mode == "latents":
        lines.append(f"- drawn by the VAE `{config.targets.specs[0]}`, from latents that a ridge predicts; no prior")
    lines += ["", "## Figures", "", *_figures(artefact)]
    lines += [
        "",
        "## Limits",
        "",
        f"- It knows this recording: {kind} with these channels, rate, window and units. Others are matched by name or "
        "refused.",
        "- It was trained on the responses of "
        f"{plain_markdown(about.get('subject') or 'the people named above')}: other people's are decoded worse, "
        "often at chance.",
        "- Probabilities and sets hold for trials like those of validation: the same person, task and preprocessing. "
        "Among images of another kind they are not to be trusted.",
        *(["- Its data are simulated: no figure says anything about real recordings."] if simulated else []),
        "",
        "## How to use it",
        "",
        "```bash",
        "hvf decode THIS-FOLDER --trials new-epo.fif --gallery photos",
        "```",
        "",
        "```python",
        "decoder = hvf.Decoder.from_pretrained('THIS-FOLDER')",
        "```",
        "",
    ]
    return "\n".join(lines)


def _members(kinds: Mapping[str, Any]) -> str:
    """Of each kind how many answer, and with which share: "3 of mbp (0.71), 1 of encoding (0.29)"."""
    return listed([f"{number} of {kind} ({share:.2f})" for kind, (number, share) in kinds.items()])


def _origin(about: Mapping[str, Any]) -> list[str]:
    """Where an adapted decoder comes from, and how it was moved to its person."""
    adapted: Mapping[str, Any] | None = about.get("adapted")
    if not adapted:
        return []
    n, method = adapted["images"], adapted["method"]
    of = f" `{one_line(adapted['from']).replace('`', '')}`" if adapted.get("from") else ""
    how = f"by method `{method}` to {n} images" if n else "without images"
    return [f"- adapted from another decoder,{of or ' of several people'}, {how}"]


def _people(trained: Alignment) -> list[str]:
    """Who was trained on, if several, and whose gate over layers and map of channels the decoder has."""
    if not trained.people:
        return []
    routed, layered = isinstance(trained.hvf, Routed), trained.config.brain.person_layer
    learnt = [name for name, has in (("gate over layers", routed), ("map of the channels", layered)) if has]
    whose = f"{plain_markdown(trained.person)}'s own" if trained.person else "the mean of all people's"
    of = f"; {' and '.join(learnt)}: {whose}" if learnt else ""
    return [f"- {len(trained.people)} people: {plain_markdown(listed(trained.people, 20))}{of}"]


def _front_matter(kind: str, simulated: bool) -> list[str]:
    tags = ["brain-decoding", "image-retrieval", kind, *(["simulated"] if simulated else [])]
    return ["---", "library_name: hvf", f"tags: {json.dumps(tags)}", "---", ""]


def _figures(artefact: Artefact) -> list[str]:
    """The protocol, and the figures of the brain beside chance as a table; or those of validation."""
    about, lines = artefact.about, []
    figures: Mapping[str, Mapping[str, Any]] = about.get("figures") or {}
    if figures:
        lines += [f"{about.get('protocol', '')}".strip() or "On held-out images.", ""]
        lines += ["| figure | value | 95 % interval | chance | n |", "| --- | ---: | ---: | ---: | ---: |"]
        for name, entry in figures.items():
            chance = about.get("chance", {}).get(leaf(name))
            interval = "{:.3f} to {:.3f}".format(*entry["ci95"]) if entry["ci95"] else ""
            guess = f"{chance['value']:.3f}" if chance else ""
            lines.append(f"| {label(name)} | {entry['value']:.3f} | {interval} | {guess} | {entry['n']} |")
        lines.append("")
    best = artefact.alignment.best
    if "validation_top1" in best:
        lines.append(
            f"Validation, by which the epoch was chosen: top-1 {best['validation_top1']:.3f} among "
            f"{best['validation_n']} images of concepts that were not trained on."
        )
    if not figures:
        lines.append("It was not tested yet: `hvf retrieve` tests it.")
    return lines
