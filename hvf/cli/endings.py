"""How a command or a script ends: an exit code, and one line where it did not come to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType

from hvf.progress import one_line
from hvf.registry import HvfError

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # 130 and 143, as shells count


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it kills: it unwinds as Ctrl-C does."""


def run_to_end(work: Callable[[], int]) -> int:
    """The exit code of `work`, or of what ended it; the reason is said in one line.

    0 and 1 are its own (1: done, and something is wrong with what was looked at); 2: refused, or the disk fails; 130:
    Ctrl-C; 143: SIGTERM. That the reader of the output has gone (`| head`) is no fault.
    """
    with _sigterm_unwinds():
        try:
            try:
                return work()
            finally:  # here, where a reader that has gone can be told
                sys.stdout.flush()
        except HvfError as error:
            print(one_line(f"hvf: {error}"), file=sys.stderr)  # it may quote what somebody else wrote
            return 2
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:  # a disk that fills up, a file that goes away: nothing that a traceback would explain
            print(one_line(f"hvf: {error}"), file=sys.stderr)
            return 2
        except Terminated:
            print("hvf: terminated; the same command continues from what is finished", file=sys.stderr)
            return TERMINATED
        except KeyboardInterrupt:
            print("hvf: interrupted; the same command continues from what is finished", file=sys.stderr)
            return INTERRUPTED


@contextlib.contextmanager
def _sigterm_unwinds() -> Generator[None, None, None]:
    """Within the block SIGTERM raises `Terminated` in this process; children that it forks die of it as usual.

    What Python drops because it came while an object was being taken away is sent again, Ctrl-C too.
    """
    former, former_hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    if threading.current_thread() is not threading.main_thread() or former is not signal.SIG_DFL:
        yield  # somebody else sees to it
        return
    owner = os.getpid()

    def unwind(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        if os.getpid() != owner or not isinstance(dropped.exc_value, KeyboardInterrupt):
            former_hook(dropped)
            return
        number = signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
        threading.Timer(0.01, os.kill, (owner, number)).start()  # later: here it would be dropped once more

    signal.signal(signal.SIGTERM, unwind)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = former_hook
        signal.signal(signal.SIGTERM, former)
