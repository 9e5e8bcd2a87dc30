"""The examples of docs/tools.md run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented import ROOT, blocks, run_code

PAGE = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")


@pytest.mark.slow(part=4)
def test_the_examples_run(tmp_path: Path) -> None:
    code = "\n".join(block.text for block in blocks(PAGE) if block.language == "python")
    code += (
        "\nimport numpy as np\nassert np.array_equal(same.x_NCT, trials.x_NCT) and scores.mean() > 0.02"
        "\nassert len(images[:4]) == 4 and array.dims == ('trial', 'channel', 'time')\nprint(search.best_params_)"
    )
    run_code(code, tmp_path)
    assert (tmp_path / "evoked.png").is_file()
    assert (tmp_path / "rsm.png").is_file()
