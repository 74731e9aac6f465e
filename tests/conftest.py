"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _one_thread():
    """The machines have two cores; results and times are steadier with one thread a process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and published numbers for development; a user has none of it."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared beside the project")
    return SHARED


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where this run of the tests keeps trained full-precision models: each is trained once."""
    return tmp_path_factory.mktemp("cache")
