"""`hvf decode`: what was seen, for trials whose images nobody knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from hvf.cli.options import Float, Folder, Int, Word
from hvf.registry import HvfError

if TYPE_CHECKING:
    from hvf.experiments.decoding import Decoded, Question

Decoder = Annotated[Positional[str | None], arg(metavar="DECODER", help_behavior_hint="")]
Switch = Annotated[bool, FlagCreatePairsOff]


@dataclass(frozen=True)
class Decode:
    """Answer trials whose images nobody knows: which image of a gallery was seen, and how sure that is.

    Example: hvf decode runs/sub-08-eeg --trials new-epo.fif --gallery photos
    """

    decoder: Decoder = None  # the folder of a run or of a decoder, or a decoder on the Hub (owner/name)
    trials: Folder = None  # the new trials: -epo.fif, prepared ones, or .npy (N, C, T)
    gallery: Word = None  # images to look in: folder, zip, FEATURES[#KEY] (default: those it was tested on)
    same_image: Word = None  # column of the trials' metadata: trials with one value saw one image, and are averaged
    presentations: Int = None  # how many presentations each row of the file is a mean of already (default: 1)
    level: Float = None  # share of the trials whose set shall hold the right image (default: 0.9)
    draw: Switch = False  # draw what was seen, too; of a decoder trained with --mode reconstruction
    search: Literal["blocks", "faiss"] = "blocks"  # what finds the nearest images of a large gallery; faiss: an extra
    scaling: Word = None  # of the scores: cosine (the default), centred, or csls, by the decoder's training trials
    stream: Word = None  # instead of --trials: a stream of the Lab Streaming Layer, answered as it comes; an extra
    markers: Word = None  # with --stream: its trigger channel, by whose codes trials of one image are known
    baseline: Switch = False  # with --stream: subtract the mean of the 0.2 s before each marker
    out: Folder = None  # folder of the answers (default: runs/decoded-NAME)

    def __call__(self) -> int:
        if self.decoder is None or (self.trials is None) == (self.stream is None):
            raise HvfError("name a decoder and its trials: hvf decode DECODER --trials new-epo.fif, or --stream NAME")
        if self.trials is not None and not self.trials.exists():
            raise HvfError(f"--trials: there is no file at {self.trials}")
        for name in ("markers", "baseline") if self.stream is None else ("same_image",):
            if getattr(self, name):
                beside = "--stream" if self.stream is None else "--trials"
                raise HvfError(f"--{name.replace('_', '-')} belongs to {beside}")
        what = self.stream if self.trials is None else self.trials.name.split(".")[0]
        out = self.out or Path("runs") / f"decoded-{re.sub(r'[^A-Za-z0-9._-]+', '-', str(what))}"
        from hvf.cli.printing import print_answers
        from hvf.decoding.ranking import LEVEL
        from hvf.experiments.decoding import Question, check_question, decode, write
        from hvf.experiments.protocols import device
        from hvf.report.answers import write_page

        question = Question(
            self.decoder,
            self.trials or Path(f"stream-{self.stream}"),
            self.gallery,
            self.same_image,
            self.presentations if self.presentations is not None else 1,
            self.level if self.level is not None else LEVEL,
            self.draw,
            self.search,
            self.scaling if self.scaling is not None else "cosine",
        )
        check_question(question, out)
        decoded = decode(question, device()) if self.stream is None else self._live(question, out, device())
        write_page(decoded, out / "answers.html")
        write(decoded, out)
        print_answers(decoded)
        print(f"wrote {out}")
        for name in ("answers.csv", "answers.html"):
            print(f"  {out / name}")
        return 0

    def _live(self, question: Question, out: Path, device: str) -> Decoded:
        from hvf.cli.printing import print_live
        from hvf.decoding.live import LiveTrials
        from hvf.experiments.decoding import open_decoder
        from hvf.experiments.live import State, decode_live
        from hvf.report.answers import write_live_page

        opened = open_decoder(question, device)
        live = LiveTrials(str(self.stream), opened.decoder.fitted().recording, self.markers, self.baseline)
        latest: dict[str, State] = {}
        print(f"listening to {self.stream}, {live.sfreq:g} Hz, markers in {live.markers}; Ctrl+C ends it")

        def shown(state: State) -> None:
            print_live(state)
            latest[state.stimulus] = state
            if question.draw:
                write_live_page(latest, out / "live.html")

        try:
            return decode_live(opened, live, shown)
        finally:
            live.close()
