"""`hvf evaluate`, `hvf report`, `hvf explore`, `hvf cite`: runs and pictures, measured, looked at and cited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hvf.cli.options import Folder, Int, Ints, Word, Words
from hvf.cli.printing import print_figures, print_not_computed, print_run
from hvf.registry import HvfError
from hvf.runs import Run, check_writable, write_atomic


@dataclass(frozen=True)
class Evaluate:
    """Measure a run again from the files it left, or anybody's pictures. Exit code 1 if a run has something wrong.

    Example: hvf evaluate runs/sub-08-eeg-reconstruction
    """

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]", help_behavior_hint="")] = None  # a run folder
    recons: Folder = None  # instead of a run: a folder or zip of reconstructions, rounds in sub-folders or as _0 _1 ...
    images: Folder = None  # and of the images that were seen, matched by name, or by order where no names match
    metrics: Words = None  # which figures, e.g. pixcorr ssim clip (default: all that this machine has the networks for)
    weights: Folder = None  # a folder of network weights, beside those of torchvision and the Hub
    out: Folder = None  # a folder for the figures, of each image too (default: they are only shown)
    repeats: Ints = None  # of a run: what it finds and draws from means over so many single trials, as 1 2 4 8

    def __call__(self) -> int:
        if self.recons is not None or self.images is not None:
            return self._evaluate_pictures()
        if self.run is None:
            raise HvfError("name a folder: hvf evaluate RUN, or give --recons and --images")
        for name in ("metrics", "weights", "out"):
            if getattr(self, name) is not None:
                raise HvfError(f"--{name} belongs to --recons and --images; a run is measured as its settings say")
        run = Run.open(self.run)
        check_writable(run.path)
        if self.repeats is not None:
            return self._evidence(run)
        from hvf.experiments import stages

        findings = stages.evaluate_run(run) or []
        print_run(run, findings)
        print_not_computed(run.read_json("evaluation.json")["not_computed"] if run.has("evaluation.json") else {})
        return 1 if findings else 0

    def _evidence(self, run: Run) -> int:
        from hvf import report
        from hvf.cli.printing import print_evidence
        from hvf.experiments.evidence import evidence_run
        from hvf.experiments.protocols import device
        from hvf.schema.run_folder import EVIDENCE

        print_evidence(evidence_run(run, self.repeats or (), device()), run)
        report.write_evidence(run.path)
        if run.has("report.html"):
            report.write_report([run.path], run.path / "report.html")
        print(f"wrote {run.path / EVIDENCE}")
        return 0

    def _evaluate_pictures(self) -> int:
        if self.repeats is not None:
            raise HvfError("--repeats belongs to a run: hvf evaluate RUN --repeats 1 2 4")
        if self.run is not None:
            raise HvfError("measure either a run or --recons and --images, not both")
        if self.recons is None or self.images is None:
            raise HvfError("--recons and --images belong together: what was drawn and what was seen")
        if self.out is not None and (self.out / "metrics.json").exists():
            raise HvfError(f"{self.out} holds figures already: choose another --out")
        from hvf.evaluation.pictures import evaluate_pictures

        evaluation = evaluate_pictures(self.recons, self.images, self.metrics, self.out, weights=self.weights)
        protocol = evaluation.protocol
        rounds = f", {protocol['rounds']} rounds" if protocol["rounds"] > 1 else ""
        title = f"{self.recons.name}: {protocol['pairs']} pictures{rounds}, matched by {protocol['matched_by']}"
        print_figures(evaluation.metrics, title)
        print_not_computed(evaluation.not_computed)
        if self.out is not None:
            print(f"wrote {self.out}")
        return 0


@dataclass(frozen=True)
class Report:
    """Put runs, or folders of figures, on a page or in a table; two or more are tested against each other.

    Example: hvf report runs/sub-08-eeg --out page.html
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="")]  # folders
    out: Folder = None  # page.html, table.md or table.tex (default: report.html in the only run, or in this folder)
    published: Word = None  # the field's figures beside ours: things-eeg or things-meg (default: the run's preset)

    def __call__(self) -> int:
        if not self.runs:
            raise HvfError("name at least one run folder: hvf report RUN [RUN ...]")
        out = self.out or (self.runs[0] / "report.html" if len(self.runs) == 1 else Path("report.html"))
        check_writable(out)
        from hvf import report

        for sentence in report.write(self.runs, out, self.published):
            print(sentence)
        print(f"wrote {out}")
        return 0


@dataclass(frozen=True)
class Cite:
    """Print BibTeX of all that runs used: data sets, methods, encoders, what draws, metrics, libraries.

    Example: hvf cite runs/sub-08-eeg --out references.bib
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="")]  # folders
    out: Folder = None  # a .bib file to write instead

    def __call__(self) -> int:
        if self.out is not None:
            check_writable(self.out)
        from hvf.report.citations import bibtex

        text = bibtex(self.runs)
        if self.out is None:
            print(text, end="")
            return 0
        write_atomic(self.out, lambda path: path.write_text(text, encoding="utf-8"))
        print(f"wrote {self.out}: {text.count(chr(10) + '@') + text.startswith('@')} entries")
        return 0


@dataclass(frozen=True)
class Explore:
    """Look at a run in the browser, image by image: what was retrieved and drawn. A second run stands beside it.

    Example: hvf explore runs/sub-08-eeg-reconstruction
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN]", help_behavior_hint="")]  # one or two
    port: Int = None  # on 127.0.0.1 (default: 8050, or the next that is free)

    def __call__(self) -> int:
        if not 1 <= len(self.runs) <= 2:
            raise HvfError("name one run folder, or two to compare: hvf explore RUN [RUN]")
        from hvf.report import explore

        explore.serve(self.runs, self.port)
        return 0
