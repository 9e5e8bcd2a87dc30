"""What `accelerate launch` takes to start processes on CPUs: with --cpu alone it starts one, whatever is asked for."""

from __future__ import annotations

import socket
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "prior_training" / "configs"


def launcher(processes: int, config: str = "ddp.yaml") -> list[str]:
    """Options of `accelerate launch`, with a port that is free."""
    if processes == 1:
        return ["--cpu", "--num_processes", "1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = ["--config_file", str(CONFIGS / config), "--num_processes", str(processes)]
    return [*chosen, "--main_process_port", str(port)]
