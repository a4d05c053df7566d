"""What every test may count on: the real photos where there are any, one thread, the same random numbers, a cache of its own."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # the tests' tensors are tiny: more threads only wait for each other


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos: $FRUGALSEG_DATA, else `shared/data` beside the project."""
    folder = Path(os.environ.get("FRUGALSEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder}; set FRUGALSEG_DATA to the folder that holds them")
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache of regions."""
    os.environ["FRUGALSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that fails once fails again, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
