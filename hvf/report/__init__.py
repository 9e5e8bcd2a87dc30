"""Folders of runs, or of figures, to something one looks at: a self-contained HTML page, a table for a paper, a grid.

Only reads what other stages left (`hvf.report.folder` says what), and computes nothing but paired tests
(`hvf.report.compare`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hvf import runs
from hvf.config import HvfError
from hvf.methods import preset_with_figures
from hvf.report import tables
from hvf.report.compare import Comparison, compare
from hvf.report.folder import Folder, main_figure
from hvf.report.pages import environment
from hvf.report.pictures import draw_grid, evenly_spaced
from hvf.report.sections import describe

TABLES = {".md": tables.markdown, ".tex": tables.latex}


def write(paths: Sequence[str | Path], out: str | Path, published: str | None = None) -> list[str]:
    """The page OUT.html, or the table OUT.md or OUT.tex; returns what comparing the runs came to, in sentences.

    ``published`` names a preset whose published figures are printed beside ours; by default that of the runs.
    Raises HvfError if a path is nothing to report on, a file in it is broken, or `out` cannot be written.
    """
    if not paths:
        raise HvfError("a report needs at least one run folder")
    folders, out = [Folder(path) for path in paths], Path(out)
    if out.suffix.lower() not in (".html", ".htm", *TABLES):
        raise HvfError(f"{out}: a report is a page (.html) or a table (.md, .tex); end --out with one of them")
    if published is not None:
        published = preset_with_figures(published)
    comparisons = [compare(folders[0], other) for other in folders[1:]]  # the first with each of the others
    if out.suffix.lower() in TABLES:
        preset = published or next((folder.preset for folder in folders if folder.preset), "")
        text = TABLES[out.suffix.lower()](folders, preset, comparisons)
    else:
        text = _page(folders, published, comparisons)
    runs.write_atomic(out, lambda tmp: tmp.write_text(text, encoding="utf-8", errors="replace"))
    return [comparison.verdict for comparison in comparisons]


def write_report(run_paths: Iterable[str | Path], out: str | Path) -> Path:
    """One HTML page about one or several runs, with everything inside: it asks nothing of any network; as `write`."""
    write(list(run_paths), out)
    return Path(out)


def write_grid(run_path: str | Path, n_rows: int = 8) -> Path:
    """Draw RUN/grid.png: seen | from the image itself | from the brain, one image per row.

    Rows are not chosen by eye: they are evenly spaced from the best to the worst PixCorr of the brain's picture, which
    the caption says. Raises HvfError if the run holds no pictures.
    """
    return _grid(Folder(run_path), ("seen", "ceiling", "brain"), "grid.png", n_rows)


def write_evidence(run_path: str | Path, n_rows: int = 8) -> Path | None:
    """Draw RUN/repeats.png: seen | from one trial | from more, as `write_grid`; None if nothing was drawn of trials."""
    folder = Folder(run_path)
    drawn = [stage for stage in folder.stages if stage.startswith("trials_") and stage in folder.pictures]
    return _grid(folder, ("seen", *drawn), "repeats.png", n_rows) if drawn else None


def _grid(folder: Folder, stages: Sequence[str], name: str, n_rows: int) -> Path:
    seen = folder.pictures.get("seen")
    if not seen:
        raise HvfError(f"{folder.path} has no pictures in images/seen: draw them with hvf reconstruct")
    scores = folder.scores.get("reconstruction/brain/pixcorr", {})
    chosen, by_score = evenly_spaced(scores, seen, n_rows)
    how = "from the best PixCorr to the worst" if by_score else "in the order of the images"
    grid = draw_grid(
        folder.pictures,
        {stage: folder.stages[stage] for stage in stages},
        [(i, folder.names[i], f"PixCorr {scores.get(i, float('nan')):.3f}" if scores else "") for i in chosen],
        f"{folder.title}. {len(chosen)} of {len(seen)} pictures, evenly spaced {how}, not picked by eye.",
    )
    out = folder.path / name
    runs.write_atomic(out, lambda tmp: grid.save(tmp))
    return out


def _page(folders: Sequence[Folder], published: str | None, comparisons: Sequence[Comparison]) -> str:
    described = [
        describe(folder, f"run{i}", published if published is not None else folder.preset)
        for i, folder in enumerate(folders)
    ]
    return environment().get_template("page.html.j2").render(
        runs=described,
        comparisons=[{"verdict": c.verdict, "a": c.a.name, "b": c.b.name, "refused": c.refused,
                      "lines": tables.compared(c)} for c in comparisons],
        paired=tables.PAIRED,
        hvf_version=runs.code_version(),
    )  # fmt: skip


__all__ = ["Folder", "compare", "main_figure", "write", "write_evidence", "write_grid", "write_report"]
