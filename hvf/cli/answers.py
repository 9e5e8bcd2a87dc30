"""`hvf decode`: what was seen, for trials whose images nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from hvf.cli.options import Float, Folder, Int, Word
from hvf.registry import HvfError

Decoder = Annotated[Positional[str | None], arg(metavar="DECODER", help_behavior_hint="")]
Switch = Annotated[bool, FlagCreatePairsOff]


@dataclass(frozen=True)
class Decode:
    """Answer trials whose images nobody knows: which image of a gallery was seen, and how sure that is."""

    decoder: Decoder = None  # the folder of a run or of a decoder, or a decoder on the Hub (owner/name)
    trials: Folder = None  # the new trials: -epo.fif, prepared ones, or .npy (N, C, T)
    gallery: Word = None  # images to look in: folder, zip, FEATURES[#KEY] (default: those it was tested on)
    same_image: Word = None  # column of the trials' metadata: trials with one value saw one image, and are averaged
    presentations: Int = None  # how many presentations each row of the file is a mean of already (default: 1)
    level: Float = None  # share of the trials whose set shall hold the right image (default: 0.9)
    draw: Switch = False  # draw what was seen, too; of a decoder trained with --mode reconstruction
    search: Literal["blocks", "faiss"] = "blocks"  # what finds the nearest images of a large gallery; faiss: an extra
    out: Folder = None  # folder of the answers (default: runs/decoded-NAME-OF-THE-TRIALS)

    def __call__(self) -> int:
        if self.decoder is None or self.trials is None:
            raise HvfError("name a decoder and its trials: hvf decode DECODER --trials new-epo.fif")
        if not self.trials.exists():
            raise HvfError(f"--trials: there is no file at {self.trials}")
        out = self.out or Path("runs") / f"decoded-{self.trials.name.split('.')[0]}"
        from hvf.cli.printing import print_answers
        from hvf.decoding.ranking import LEVEL
        from hvf.experiments.decoding import Question, decode
        from hvf.experiments.protocols import device
        from hvf.report.answers import write_page

        question = Question(
            self.decoder,
            self.trials,
            self.gallery,
            self.same_image,
            self.presentations if self.presentations is not None else 1,
            self.level if self.level is not None else LEVEL,
            self.draw,
            self.search,
        )
        decoded = decode(question, out, device())
        write_page(decoded, out / "answers.html")
        print_answers(decoded)
        print(f"wrote {out}")
        for name in ("answers.csv", "answers.html"):
            print(f"  {out / name}")
        return 0
