"""Fixtures that several files here use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.things_meg.published_layout import sample_attributes, several, write_csv, write_epochs


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A root with published epochs, three times the table so that there are several parts, and the csv."""
    root = tmp_path_factory.mktemp("meg") / "root"
    write_epochs(root, several(sample_attributes()))
    write_csv(root, several(sample_attributes()))
    assert (root / "derivatives/preprocessed/preprocessed_P1-epo-1.fif").exists()
    return root


@pytest.fixture
def root(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "root"))
