"""Scripts are run by path and not importable by name, on purpose; a test that calls into one loads it here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_script(path: Path) -> ModuleType:
    """The script as a module, loaded once."""
    name = f"script_{path.parent.name}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their annotations up there
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
