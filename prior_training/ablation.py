"""What fusing, and the prior, do for the pictures: the two claims of arXiv 2602.07495 about drawing, at the mini size.

    python prior_training/ablation.py [--subject 8] [--max-steps 600] [--out FOLDER] [--docs docs]

A prior is trained for each single encoder and for all of them fused, on the same pictures, for the same steps, and a
brain encoder against each. *Without the prior* the fused embedding is that of an HVF trained with the brain alone, by
contrast; it goes straight into the adapter of the prior that knows only --adapter-of, as a published IP-Adapter knows
only its own CLIP: no projector, and an adapter that never saw such an embedding. Drawn from noise, not from predicted
latents, of the image's own embedding (ceiling) and of the brain's, on test images; nothing is chosen here. Every stage
is kept: the same command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from hvf import presets
from hvf.alignment import FILE
from hvf.cli.options import parse_settings, script
from hvf.config import Config, HvfError, digest, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.decoder import Decoder
from hvf.evaluation.evaluator import Evaluator
from hvf.evaluation.metrics.kind import KINDS, kinds_of
from hvf.files.tensors import digest_of, read_tensors, write_tensors
from hvf.prior.loading import load_pipeline, load_prior
from hvf.prior.reconstruction import Reconstructor
from hvf.runs import check_writable, write_atomic, write_json
from hvf.schema.bounds import Bound, Count, Seed, check_options
from hvf.study import Study, open_study
from hvf.vision.specs import parse_spec

TRAIN = Path(__file__).with_name("train.py")
FUSED, WITHOUT = "fused, with the prior", "fused, without the prior"
KIND = "kind_top1"
SOURCES = ("ceiling", "brain")  # what is drawn from: the image's own embedding, the brain's
Compared = Annotated[int, Bound("be at least 2", lambda n: n >= 2)]  # two-way scores set pictures against each other


@dataclass(frozen=True)
class Ablation:
    """Pictures with and without the prior, and from single encoders and fused."""

    subject: int = 8  # of the simulated study
    max_steps: Count = 600  # of each prior's training
    batch_size: Count = 64  # of each prior's training
    images: Compared = 200  # test images that are drawn
    shown: Count = 8  # of those in the grid
    adapter_of: str = "openclip:mini-vit"  # the single encoder whose adapter stands for a published IP-Adapter
    seed: Seed = 0  # of all trainings and of sampling
    out: Path = Path("runs/ablation")  # where every stage is kept
    docs: Path | None = None  # folder that gets ablation.md and ablation.png; none: only --out


def run(options: Ablation) -> str:
    """Do what is not done yet; returns the table. Raises HvfError for options that do not allow it, nothing written."""
    check_options(options)
    base = with_settings(
        presets.mini(),
        {
            "data.subject": options.subject,
            "align.seed": options.seed,
            "sampling.seed": options.seed,
            "sampling.start": "noise",  # latents are predicted past the prior
        },
    )
    encoders = base.targets.specs
    if options.adapter_of not in encoders:
        raise HvfError(f"--adapter-of must be one of {', '.join(encoders)}, not {options.adapter_of}")
    for folder in filter(None, (options.out, options.docs)):
        check_writable(folder)
    study = open_study(base.data)
    seen = study.test_images.select(range(min(options.images, len(study.test_images))))
    rows = {f"{spec}, with the prior": (spec,) for spec in encoders} | {FUSED: encoders}
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for name, specs in rows.items():
        prior = trained_prior(options, specs)
        own = {"prior.path": str(prior), "targets.specs": specs}
        config = presets.in_mode(base, "reconstruction", own)
        drawn[name] = pictures(options, name, config, study, seen, prior, projected=True)
    of_brain = presets.in_mode(base, "reconstruction").align
    config = with_settings(base, {"align.mode": "retrieval"})
    drawn[WITHOUT] = pictures(
        options, WITHOUT, config, study, seen, trained_prior(options, (options.adapter_of,)), projected=False
    )
    real = seen.array()
    kinds = kinds_of(seen.concepts)
    scores = {
        name: {source: score(real, x, encoders, kinds) for source, x in one.items()} for name, one in drawn.items()
    }
    write_json(options.out / "scores.json", scores)
    made = (
        f"Brain encoders: {of_brain.epochs} epochs at {of_brain.learning_rate:g}, without the prior "
        f"{config.align.epochs} at {config.align.learning_rate:g}; pictures from noise in {base.sampling.steps} steps."
    )
    text = table(options, scores, len(seen), made)
    grid = picture_grid(real, drawn, options.shown)
    for folder in (options.out, *([options.docs] if options.docs else [])):
        write_atomic(folder / "ablation.md", lambda path: path.write_text(text))
        write_atomic(folder / "ablation.png", lambda path: grid.save(path))
    return text


def folder_of(options: Ablation, name: str) -> Path:
    """A readable folder for a row or a set of encoders."""
    return options.out / "".join(c if c.isalnum() else "-" for c in name).strip("-")


def trained_prior(options: Ablation, specs: Sequence[str]) -> Path:
    """The prior of those encoders, trained by prior_training/train.py, which also takes up a training cut short."""
    length = f"{options.max_steps} x {options.batch_size} seed {options.seed}"
    out = folder_of(options, " ".join(["prior", *specs, length]))
    if not (out / "metrics.json").is_file():
        settings = {"max-steps": options.max_steps, "batch-size": options.batch_size, "seed": options.seed, "out": out}
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        resume = ["--resume"] if (out / "training.json").exists() else []
        command = [sys.executable, str(TRAIN), "--preset", "mini", *flags, *resume, "--targets", *specs]
        if subprocess.run(command, check=False).returncode:
            raise HvfError(f"the training of {out} ended early; the same command goes on with it")
    return out / "prior"


def pictures(
    options: Ablation, name: str, config: Config, study: Study, seen: ImageSet, prior: Path, *, projected: bool
) -> dict[str, np.ndarray]:
    """{source: uint8 (N, H, W, 3)} of a row. Not ``projected``: embeddings go to the adapter as they are.

    Kept, and drawn anew where the settings, the embeddings or the models that make a picture of one have changed.
    Raises HvfError where the row's decoder was made with other settings, or against another prior.
    """
    folder = folder_of(options, name)
    kept = folder / "pictures.safetensors"
    if (folder / FILE).is_file():
        decoder = Decoder.load(folder)
        if digest(decoder.config) != digest(config):
            raise HvfError(f"{folder} was made with other settings: choose another --out")
        try:  # the prior's fusion takes part in the fingerprint
            decoder.fitted().recording.check(study.train, decoder.fingerprint(study.train, study.train_images))
        except HvfError as error:
            raise HvfError(f"{folder} was made against another prior ({error}): choose another --out") from error
    else:
        decoder = Decoder(config).fit(study.train, study.train_images)
        decoder.save(folder)
    z = {
        "ceiling": decoder.embed_images(seen),
        "brain": decoder.embed_trials(study.test.aligned_to(study.test_images))[: len(seen)],
    }
    if projected:
        z["brain"] = decoder.to_draw(z["brain"])
    model = load_prior(str(prior))
    if not projected:
        with torch.no_grad():
            model.projector.down.weight.zero_()  # z_c = z + φ_c(z) with φ_c = 0
    reconstructor = Reconstructor(load_pipeline(config.prior.pipeline), model)
    made_from = {
        "settings": digest(config),
        "drawn_from": digest_of({source: np.ascontiguousarray(z_ND) for source, z_ND in z.items()}, ""),
        "drawn_by": reconstructor.fingerprint,
    }
    if kept.is_file():
        drawn, before = read_tensors(kept)
        if before == made_from:
            return drawn
    drawn = {source: reconstructor.draw(z_ND, config.sampling) for source, z_ND in z.items()}
    write_tensors(kept, drawn, made_from)  # in one file with the pictures: what is killed leaves both or neither
    return drawn


def score(
    real_NHWC: np.ndarray, drawn_NHWC: np.ndarray, encoders: Sequence[str], kinds: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Kind of object, PixCorr, SSIM, and the two-way scores of the run's CLIPs, each with its interval."""
    clips = {f"two-way, {parse_spec(spec).name}": spec for spec in encoders if spec.startswith("openclip")}
    evaluator = Evaluator(real_NHWC, (KIND, "pixcorr", "ssim"), encoders=clips, kinds=kinds)
    return evaluator.measure([drawn_NHWC]).figures()


def table(options: Ablation, scores: dict[str, Any], n: int, made: str) -> str:
    """The figures as Markdown, chance last, and in words how brain encoders and pictures were `made`."""
    names = list(next(iter(scores.values()))["brain"])
    lines = [
        "# Ablation: the prior, and fusing",
        "",
        f"*Simulated* subject {options.subject}, {n} test images of unseen concepts; each prior trained for",
        f"{options.max_steps} steps of {options.batch_size}, seed {options.seed}; 95 % intervals over images. Made by",
        "`prior_training/ablation.py`.",
        made,
        f"Without the prior: the adapter is that of {options.adapter_of} alone, as a published IP-Adapter's would be.",
        "",
    ]
    for source in SOURCES:
        lines += [f"| drawn from the {source} | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
        for row, of_source in scores.items():
            entries = [of_source[source][name] for name in names]
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(entry["value"], *entry["ci95"]) for entry in entries]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        chance = {KIND: f"{1 / len(KINDS):.3f}"} | {name: "0.5" for name in names if name.startswith("two-way")}
        lines += [f"| chance | {' | '.join(chance.get(name, '') for name in names)} |", ""]
    lines += ["![Seen, and drawn from the brain by each row](ablation.png)", ""]
    return "\n".join(lines)


def picture_grid(real_NHWC: np.ndarray, drawn: dict[str, dict[str, np.ndarray]], shown: int) -> Image.Image:
    """Rows of pictures with their names above: seen, then each way, from the ceiling and from the brain."""
    bands = {"seen": real_NHWC}
    for name, one in drawn.items():
        bands |= {f"{name}; drawn from the {source}": x for source, x in one.items()}
    height, width = real_NHWC.shape[1:3]
    label = 14
    sheet = Image.new("RGB", (width * min(shown, len(real_NHWC)), (height + label) * len(bands)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(bands.items()):
        top = i * (height + label)
        pen.text((2, top + 1), name, fill="black")
        for j, image in enumerate(images[:shown]):
            sheet.paste(Image.fromarray(image), (j * width, top + label))
    return sheet


@script
def main(arguments: Sequence[str] | None) -> None:
    print(run(parse_settings(Ablation(), arguments)), end="")


if __name__ == "__main__":
    sys.exit(main())
