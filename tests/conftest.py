"What all tests share: where the project is, and settings that keep them quiet, offline and repeatable"
import os
from pathlib import Path

import pytest

os.environ.update(MPLBACKEND='agg', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def root():
    "The folder of the project"
    return ROOT
