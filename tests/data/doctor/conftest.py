"""Fixtures that several files here use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.doctor.findings import eeg_root


@pytest.fixture(scope="module")
def good_root(tmp_path_factory):
    return eeg_root(tmp_path_factory.mktemp("eeg") / "root")


@pytest.fixture
def root(good_root, tmp_path):
    return Path(shutil.copytree(good_root, tmp_path / "root"))
