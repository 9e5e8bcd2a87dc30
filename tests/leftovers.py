"""Files as a killed process leaves them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WRITE = """
import os, sys
from pathlib import Path
from hvf.runs import temporary_beside
left = temporary_beside(Path(sys.argv[1]))
left.write_bytes(b"half")
print(left, flush=True)
sys.stdin.read()
"""

LIBRARY = """
import sys
from pathlib import Path
from hvf.runs import write_atomic

def write(path):
    left = path.with_name(".tmpAbc123")
    left.write_bytes(b"half")
    print(left, flush=True)
    sys.stdin.read()

write_atomic(Path(sys.argv[1]), write)
"""


def writer(path: Path, how: str = WRITE) -> tuple[subprocess.Popen[str], Path]:
    """A living process that is writing `path`, and the name under which it does."""
    command = [sys.executable, "-c", how, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().rstrip())


def left_by_a_dead_process(path: Path, how: str = WRITE) -> Path:
    """What a process that was killed while it wrote `path` left beside it."""
    process, left = writer(path, how)
    process.kill()
    process.communicate()
    assert left.is_file()
    return left
