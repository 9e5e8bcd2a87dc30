"""What all tests share: a cache of their own, few threads, and the real data where a machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SLOW_PARTS = (1, 2, 3, 4, 5, 6, 7, 8, 9)  # each ends within ten minutes on two cores

# Before torch and numpy are imported: parallel workers must not each take every core.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))
os.environ.setdefault("HVF_QUIET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_network = pytest.mark.skip(reason="needs the Hub: set HVF_NETWORK=1")
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        slow = item.get_closest_marker("slow")
        if slow and slow.kwargs.get("part") not in SLOW_PARTS:
            raise pytest.UsageError(
                f"{item.nodeid}: mark it slow(part=K), K of {SLOW_PARTS}: `make test-slow-K` runs it"
            )
        if item.get_closest_marker("network") and os.environ.get("HVF_NETWORK") != "1":
            item.add_marker(no_network)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(no_gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Features computed by one test serve the others, parallel workers included, and never the user's own cache."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HVF_CACHE", str(base / "hvf-cache"))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and weights, kept beside the checkout (shared/data) and never in it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout: ../shared/data is absent")
    return folder
