"""Time the search of a gallery of millions: in blocks, through faiss, with probabilities, and the straightforward way.

    python eval/gallery_benchmark.py                                  # ImageNet-1k's size: 1,281,167 x 1,024, 5.2 GB
    python eval/gallery_benchmark.py --images 20000 --width 64        # the same, small

The gallery is made up (random directions, so nothing is learnt about accuracy) and lies in a parquet file, read by row
groups. Trials are gallery images with noise. The straightforward way loads all of it, multiplies once and sorts. All
ways must find the same images. Each is a process of its own, whose peak memory is measured. The table goes to
OUT/table.md and table.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvf.cli.options import parse_settings, script
from hvf.config import HvfError
from hvf.experiments.timing import (
    Clock,
    environment,
    goal,
    in_process,
    markdown_table,
    print_table,
    run_stage,
)
from hvf.runs import check_writable, write_atomic, write_json
from hvf.schema.bounds import Count

GROUP = 8192  # rows of a row group
VALIDATION = 600  # validation trials, as the simulated study has them
NOISE = 0.5
K = 10


@dataclass(frozen=True)
class Settings:
    """Time the ranking of a made-up gallery."""

    images: Count = 1_281_167  # ImageNet-1k's training images
    width: Count = 1024  # of the embeddings
    trials: Count = 200  # that are looked up
    out: Path = Path("runs/gallery_benchmark")  # the gallery and the table


def make(path: str, images: int, width: int) -> dict[str, Any]:
    """Write the gallery, unless it is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        field = pa.field("embedding", pa.list_(pa.float32(), width))
        schema = pa.schema([pa.field("image_id", pa.string()), field])
        rng = np.random.default_rng(0)

        def write(temporary: Path) -> None:
            with pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer:
                for start in range(0, images, GROUP):
                    n = min(GROUP, images - start)
                    z_MD = rng.standard_normal((n, width), dtype=np.float32)
                    column = pa.FixedSizeListArray.from_arrays(pa.array(z_MD.reshape(-1)), width)
                    names = pa.array([f"image {i:07d}" for i in range(start, start + n)])
                    writer.write_table(pa.Table.from_arrays([names, column], schema=schema))

        write_atomic(path, write)
    return {"bytes": Path(path).stat().st_size}


def _gallery(path: str) -> Any:
    from hvf.decoding.gallery import Gallery
    from hvf.vision.parquet import ParquetRows

    rows = ParquetRows(Path(path))
    return Gallery(rows.ids, rows.read, rows.width, what=path)


def _trials(gallery: Any, n: int) -> tuple[np.ndarray, list[str]]:
    """Embeddings of n trials: gallery images, evenly spread, with noise; and the images' names."""
    places = np.linspace(0, len(gallery) - 1, n).astype(int)
    z_ND = np.concatenate([gallery.read(int(i), int(i) + 1) for i in places])
    noise_ND = np.random.default_rng(1).standard_normal(z_ND.shape, dtype=np.float32)
    return z_ND + NOISE * np.sqrt(z_ND.shape[1]) / 4 * noise_ND, [gallery.ids[i] for i in places]


def straightforward(path: str, trials: int) -> dict[str, Any]:
    """All of the gallery in memory, one product, one sort."""
    gallery, clock = _gallery(path), Clock()
    z_b_ND, _ = _trials(gallery, trials)
    with clock("load"):
        z_MD = np.concatenate([z_MD for _, z_MD in gallery.blocks()])
    with clock("rank"):
        z_b_ND /= np.linalg.norm(z_b_ND, axis=1, keepdims=True)
        top_NK = np.argsort(-(z_b_ND @ z_MD.T), axis=1, kind="stable")[:, :K]
    return {"seconds": clock.totals()["seconds"], "top": top_NK.tolist()}


def search(path: str, trials: int, way: str) -> dict[str, Any]:
    """hvf's search for the nearest, in blocks or through faiss."""
    from hvf.decoding.ranking import nearest

    gallery, clock = _gallery(path), Clock()
    z_b_ND, _ = _trials(gallery, trials)
    with clock(way):
        top_NK, _ = nearest(z_b_ND, gallery, K, way)  # pyright: ignore[reportArgumentType]
    return {"seconds": clock.totals()["seconds"], "top": top_NK.tolist()}


def answers(path: str, trials: int) -> dict[str, Any]:
    """hvf's answers: ranks, calibrated probabilities and sets, with validation trials that are made up too."""
    from hvf.decoding.confidence import Confidence
    from hvf.decoding.ranking import answer

    gallery, clock = _gallery(path), Clock()
    z_b_ND, names = _trials(gallery, trials)
    rng = np.random.default_rng(2)
    own_VD = rng.standard_normal((VALIDATION, gallery.width), dtype=np.float32)
    noise = NOISE * np.sqrt(gallery.width) / 4
    z_b_VD, nothing_ND = (
        x + noise * rng.standard_normal(own_VD.shape, dtype=np.float32) for x in (own_VD, np.zeros_like(own_VD))
    )
    concepts = tuple(map(str, range(VALIDATION)))
    confidence = Confidence(own_VD, {1: z_b_VD}, {1: nothing_ND[:400]}, z_b_VD[:256], concepts)
    with clock("answers"):
        found = answer(z_b_ND, gallery, confidence, image_ids=names)
    figures = {"held": float(found.held_N.mean()), "set_size": float(found.set_size_N.mean())}
    return {"seconds": clock.totals()["seconds"], "top": found.top_NK.tolist(), **figures}


STAGES = {"make": make, "straightforward": straightforward, "search": search, "answers": answers}


def run(options: Settings) -> dict[str, Any]:
    """Measure every way, each in a process of its own. Raises HvfError if two find different images."""
    check_writable(options.out / "table.md")
    path = options.out / f"gallery-{options.images}-{options.width}.parquet"
    results: dict[str, Any] = {"gallery": in_process(__file__, "make", path, options.images, options.width)}
    results["straightforward"] = in_process(__file__, "straightforward", path, options.trials)
    results["blocks"] = in_process(__file__, "search", path, options.trials, "blocks")
    results["faiss"] = in_process(__file__, "search", path, options.trials, "faiss")
    results["answers"] = in_process(__file__, "answers", path, options.trials)
    expected = results["straightforward"].pop("top")
    for way in ("blocks", "faiss", "answers"):
        found = results[way].pop("top")
        results[way]["equal"] = int((np.array(found) == np.array(expected)).sum())
        if found != expected and results[way]["equal"] < 0.999 * options.trials * min(K, options.images):
            raise HvfError(f"{way} finds other images than the straightforward way")
    return results


def rows(results: dict[str, Any], options: Settings) -> list[dict[str, Any]]:
    """The table: what was done; seconds, peak memory, how many of the answers are those of the straightforward way."""
    asked = options.trials * min(K, options.images)
    names = {
        "straightforward": "all in memory, one product, one sort",
        "blocks": f"hvf: the {K} nearest, in blocks",
        "faiss": f"hvf: the {K} nearest, through faiss",
        "answers": "hvf decode: ranks, probabilities, sets",
    }
    return [
        {
            "": name,
            "seconds": sum(results[way]["seconds"].values()),
            "memory": f"{results[way]['peak'] / 1e9:.2f} GB",
            "equal answers": f"{results[way].get('equal', asked)} of {asked}",
        }
        for way, name in names.items()
    ]


@script
def main(arguments: Sequence[str] | None) -> None:
    """Measure, print and write the table."""
    options = parse_settings(Settings(), arguments)
    results = run(options) | {"environment": environment()}
    print_table(
        f"{options.trials} trials among {options.images:,} made-up images of {options.width}", rows(results, options)
    )
    most = max(results[way]["peak"] for way in ("blocks", "faiss", "answers")) / 1e9
    said = [
        goal("peak memory", most, 2, "GB"),
        f"Sets of 90 % held the image of {results['answers']['held']:.1%} of the trials, "
        f"with {results['answers']['set_size']:.1f} images on average.",
    ]
    print("\n".join(said))
    write_json(options.out / "table.json", results)
    text = "\n\n".join([markdown_table(rows(results, options)), *said]) + "\n"
    write_atomic(options.out / "table.md", lambda path: path.write_text(text))
    print(f"wrote {options.out / 'table.md'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        sys.exit(run_stage(STAGES, *sys.argv[2:]))
    sys.exit(main())
