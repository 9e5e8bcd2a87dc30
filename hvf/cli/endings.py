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

PR_SET_PDEATHSIG = 1  # of Linux' prctl
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # 130 and 143, as shells count


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it kills: it unwinds as Ctrl-C does."""


def run_to_end(work: Callable[[], int]) -> int:
    """The exit code of `work`, or of what ended it; the reason is said in one line.

    0 and 1 are its own (1: done, and something is wrong with what was looked at); 2: refused, or the disk fails; 130:
    Ctrl-C; 143: SIGTERM. That the reader of the output has gone (`| head`) is no fault.
    """
    if _launcher_is_gone():
        return _ended_by(signal.SIGTERM)
    with _signals_unwind() as came:
        try:
            try:
                return work()
            finally:  # here, where a reader that has gone can be told
                sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (Exception, KeyboardInterrupt) as error:
            if came:  # whatever a library made of it: torch tells what interrupts its reading of a file as a TypeError
                return _ended_by(came[-1])
            if isinstance(error, KeyboardInterrupt):
                return _ended_by(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
            if isinstance(error, HvfError | OSError):  # the latter: a disk that fills up, a file that goes away
                print(one_line(f"hvf: {error}"), file=sys.stderr)  # it may quote what somebody else wrote
                return 2
            raise


def _launcher_is_gone() -> bool:
    """Whether the launcher that started this process (torchrun, `accelerate launch`) has died; Linux kills it with it.

    The processes of a launcher that was killed would wait for one another half an hour, and hold their GPUs.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or sys.platform != "linux":
        return False
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # SIGTERM would wait for the end of the waiting
    try:  # it may have died before: what adopts orphans is no Python of this user's, which launchers are
        return "python" not in os.readlink(f"/proc/{os.getppid()}/exe")
    except PermissionError:
        return True
    except OSError:  # there is no /proc
        return False


def _ended_by(number: int) -> int:
    """Say which signal ended it; the exit code for that."""
    what = "terminated" if number == signal.SIGTERM else "interrupted"
    print(f"hvf: {what}; the same command continues from what is finished", file=sys.stderr)
    return TERMINATED if number == signal.SIGTERM else INTERRUPTED


@contextlib.contextmanager
def _signals_unwind() -> Generator[list[int], None, None]:
    """In the block SIGTERM raises `Terminated` in this process, as Ctrl-C a KeyboardInterrupt; a list of what came.

    Children that it forks die of SIGTERM as usual. What Python drops because it came while an object was being taken
    away is sent again.
    """
    former = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody else sees to it
        former[signal.SIGINT] = signal.default_int_handler
    former_hook, came = sys.unraisablehook, list[int]()
    if threading.current_thread() is not threading.main_thread() or former[signal.SIGTERM] is not signal.SIG_DFL:
        yield came  # somebody else sees to it
        return
    owner = os.getpid()

    def unwind(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            came.append(number)
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        signal.signal(number, former[signal.Signals(number)])
        os.kill(os.getpid(), number)

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        if os.getpid() != owner or not isinstance(dropped.exc_value, KeyboardInterrupt):
            former_hook(dropped)
            return
        number = signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
        threading.Timer(0.01, os.kill, (owner, number)).start()  # later: here it would be dropped once more

    for number in former:
        signal.signal(number, unwind)
    sys.unraisablehook = send_again
    try:
        yield came
    finally:
        sys.unraisablehook = former_hook
        for number, handler in former.items():
            signal.signal(number, handler)
