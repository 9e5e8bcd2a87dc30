"""`hvf train`, `hvf retrieve`, `hvf reconstruct`: each opens a run folder and carries out one stage of the run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvf.cli.options import Float, Folder, Int, Ints, StudyOptions, Word, Words, check_people, run_name
from hvf.cli.parser import ALIASES
from hvf.cli.printing import print_figures, print_run
from hvf.config import LATENTS, Config, with_settings
from hvf.registry import HvfError, did_you_mean, listed
from hvf.runs import Run, check_writable, write_atomic, write_json


@dataclass(frozen=True)
class _Stage(StudyOptions):
    """Options of every stage of a run."""

    members: Int = None  # trainings by other seeds that answer together (default: 1; --members.encoding: and what else)
    out: Folder = None  # the run folder (default: a readable name in runs/)

    def carry_out(self, run: Run) -> None:
        """Do the work of the stage in the run that the options describe."""
        raise NotImplementedError

    def __call__(self) -> int:
        chosen = self.targets is not None or "targets.specs" in self.settings
        if chosen and self.config.align.mode == "reconstruction":
            raise HvfError(
                "--targets cannot be chosen for drawing: the prior decides which encoders are decoded towards; "
                "leave it out, or give it to hvf retrieve"
            )
        run = Run.create(self.out or Path("runs") / run_name(self.config), self.config)
        try:
            self.carry_out(run)
        except BaseException:
            run.discard_if_unused()  # the inputs were refused before any work was done
            raise
        return print_run(run)


@dataclass(frozen=True)
class Train(_Stage):
    """Train the brain encoder to meet the images' embeddings.

    Example: hvf train --trials responses.npy --images images.zip
    """

    mode: Word = None  # retrieval (the default: the fusion trains too) or reconstruction (against the prior's own)

    def carry_out(self, run: Run) -> None:
        from hvf.experiments import stages

        stages.train_run(run)


@dataclass(frozen=True)
class Retrieve(_Stage):
    """Find the seen images among the gallery, from the brain; or rank embeddings that somebody else computed.

    Example: hvf retrieve --subject 8
    """

    embeddings: Word = None  # instead of a study: embeddings from the brain, as another program computed them
    gallery: Word = None  # with --embeddings: the images'; FILE#KEY if a file holds several; matched by name, or order
    scores: Word = None  # instead of both: scores (queries, gallery), row i of the image in column i
    labels: Word = None  # with --scores: a file that says which column, from 0, or which image each query belongs to
    scaling: Words = None  # scores scaled, too: centred csls; all trials at once: csls-transductive sinkhorn hungarian
    bank: Word = None  # with --scaling csls and --embeddings or --scores: those of training trials
    bank_gallery: Word = None  # with --bank and --embeddings: the images of the training trials

    def __call__(self) -> int:
        from hvf.evaluation.scaling import check_scalings

        check_scalings(self.scaling or ())
        if any(given is not None for given in (self.embeddings, self.gallery, self.scores, self.labels)):
            return self._rank_others()
        if self.bank is not None or self.bank_gallery is not None:
            raise HvfError("--bank is for --embeddings and --scores: a run scales by its own training trials")
        return super().__call__()

    def carry_out(self, run: Run) -> None:
        from hvf import report
        from hvf.experiments import stages

        stages.retrieve_run(run, scalings=self.scaling or ())
        report.write_report([run.path], run.path / "report.html")

    def _rank_others(self) -> int:
        """Figures of embeddings or scores that another program computed."""
        if self.scores is None and self.labels is not None:
            raise HvfError("--labels says which column of --scores each query belongs to: give --scores too")
        if self.scores is None and (self.embeddings is None or self.gallery is None):
            raise HvfError("--embeddings and --gallery belong together: the brain's and the images'")
        if self.bank is None and self.bank_gallery is not None:
            raise HvfError("--bank and --bank-gallery belong together: training trials and their images")
        taken = ("embeddings", "gallery") if self.scores is None else ("scores", "labels")
        if ignored := self.given((*taken, "out", "scaling", "bank", "bank_gallery")):
            what = "--embeddings, which are" if self.scores is None else "--scores, which are"
            raise HvfError(f"{listed(ignored)}: leave it out beside {what} ranked as given")
        if self.out is not None:
            if (self.out / "metrics.json").exists():
                raise HvfError(f"{self.out} holds figures already: choose another --out")
            check_writable(self.out / "metrics.json")
        from hvf.evaluation import others

        scaled_by = (self.scaling or (), None if self.bank is None else others.Bank(self.bank, self.bank_gallery))
        if self.scores is None:
            ranked = others.rank_embeddings(str(self.embeddings), str(self.gallery), *scaled_by)
        else:
            ranked = others.rank_scores(self.scores, self.labels, *scaled_by)
        print_figures(ranked.figures, ranked.title)
        if self.out is not None:
            write_json(self.out / "metrics.json", ranked.figures)
            print(f"wrote {self.out / 'metrics.json'}")
        return 0


@dataclass(frozen=True)
class Reconstruct(_Stage):
    """Draw the seen images, from the brain; of several people under `accelerate launch -m`, each process a share.

    Example: hvf reconstruct --subject 8
    """

    subjects: Ints = None  # several people, each into a folder of its own, and the table over all of them
    draw: Word = None  # prior (the default), or latents of the VAE that --targets names (default: vae:mini), by ridge
    steps: Int = None  # denoising steps
    guidance: Float = None  # strength of classifier-free guidance; 1 or less switches it off
    rounds: Int = None  # pictures of each image, each from other noise
    start: Word = None  # what denoising starts from: noise, or latents predicted from the brain
    strength: Float = None  # --start latents: share of the steps done (default: by what the embedding leaves open)
    prior: Word = None  # Fusion Prior: a folder, or a Hub id (owner/name); Brain-HIVE's published ones too
    pipeline: Word = None  # SDXL pipeline: a folder, or a Hub id such as stabilityai/sdxl-turbo

    def aliased(self) -> dict[str, Any]:
        if self.draw not in (None, "prior", "latents"):
            raise HvfError(f"--draw is {self.draw!r}{did_you_mean(self.draw, ('prior', 'latents'))}")
        if self.draw == "latents":
            of_prior = ("steps", "guidance", "rounds", "start", "strength", "prior", "pipeline")
            ignored = [f"--{name}" for name in of_prior if getattr(self, name) is not None]
            dotted = {"sampling.scheduler", *(setting for name in of_prior for setting in ALIASES[name])}
            ignored += [f"--{name}" for name in self.settings if name in dotted]
            if ignored:
                raise HvfError(f"{listed(ignored)}: leave it out with --draw latents, where nothing is denoised")
            return super().aliased() | {"align.mode": "latents"}
        # Only an encoder trained against the prior's frozen fusion speaks the language that the prior draws from.
        return super().aliased() | {"align.mode": "reconstruction"}

    def implied(self) -> dict[str, Any]:
        of_latents = LATENTS | {"targets.specs": ("vae:mini",)} if self.draw == "latents" else {}
        return super().implied() | of_latents

    def __call__(self) -> int:
        if self.subjects is None and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return super().__call__()
        if self.subjects is None:  # they would all write into one folder
            if os.environ.get("RANK", "0") != "0":
                return 2
            raise HvfError("several processes share the pictures of --subjects: give it, of one person too")
        if self.subject is not None or "data.subject" in self.settings:
            raise HvfError("--subject belongs to one run and --subjects to several: give one of them")
        check_people(self.subjects, self.config.data.study, self.config.data.trials)
        return self._of_people(self.subjects)

    def _of_people(self, subjects: Sequence[int]) -> int:
        """Each person's run, and the table over them."""
        configs = [with_settings(self.config, {"data.subject": number}) for number in subjects]
        names = re.sub(r"sub-\d+", f"subjects-{'-'.join(map(str, subjects))}", run_name(configs[0]), count=1)
        out = self.out or Path("runs") / names
        check_weights(self.config)
        from hvf import report
        from hvf.experiments.over_people import FILE, over_people, table
        from hvf.experiments.protocols import device
        from hvf.experiments.stages import reconstruct_runs
        from hvf.report.folder import Folder
        from hvf.report.tables import markdown
        from hvf.vision.processes import launched

        with launched(cpu=device() == "cpu") as (processes, _):
            try:
                runs = processes.first(lambda: [Run.create(out / f"sub-{c.data.subject:02d}", c) for c in configs])
                reconstruct_runs(runs, processes)
                for run in runs[processes.rank :: processes.count]:
                    report.write_grid(run.path)
                    report.write_report([run.path], run.path / "report.html")
                processes.wait()
            except HvfError:
                if processes.rank:  # the first one says it
                    return 2
                raise
            if processes.rank:
                return 0
        summary = over_people(runs)
        write_json(out / FILE, summary)
        tables = [table(summary, out.name), markdown([Folder(run.path) for run in runs], self.preset, [])]
        write_atomic(out / "table.md", lambda path: path.write_text("\n".join(tables), encoding="utf-8"))
        print_figures(summary["figures"] | summary["chance"], f"{out.name}: mean over {len(runs)} people")
        print(f"wrote {out}")
        print(f"  {out / 'table.md'}")
        return 0

    def carry_out(self, run: Run) -> None:
        from hvf.experiments.finished import is_finished, keep_finished

        if is_finished(run):
            return
        check_weights(run.config)
        from hvf import report
        from hvf.experiments import stages

        stages.reconstruct_run(run)
        report.write_grid(run.path)
        report.write_report([run.path], run.path / "report.html")
        keep_finished(run)


def check_weights(config: Config) -> None:
    """Refuse to draw without weights that the Hub has: a line for each of them, before anything heavy is loaded."""
    if config.align.mode != "reconstruction" or "/" not in config.prior.path + config.prior.pipeline:
        return
    from hvf.prior.hub_weights import missing, not_here

    if lacking := missing(config):
        lines, together = not_here(config, lacking)
        print(*lines, sep="\n", file=sys.stderr)
        raise HvfError(together)
