"""The examples of docs/tools.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")


@pytest.mark.slow(part=4)
def test_the_examples_run(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.S))
    code += (
        "\nimport numpy as np\nassert np.array_equal(same.x_NCT, trials.x_NCT) and scores.mean() > 0.02"
        "\nassert len(images[:4]) == 4 and array.dims == ('trial', 'channel', 'time')\nprint(search.best_params_)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "evoked.png").is_file()
    assert (tmp_path / "rsm.png").is_file()
