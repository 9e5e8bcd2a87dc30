"""Runs a script as `accelerate launch` would on GPUs, for FSDP on processors: accelerate sets FSDP up for devices only.

accelerate launch --config_file fsdp.yaml tests/fsdp_on_cpu.py SCRIPT [ARGUMENTS]
"""

from __future__ import annotations

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True)  # gloo
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
