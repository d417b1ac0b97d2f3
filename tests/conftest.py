"What all tests share: where the project is, and settings that keep them quiet, offline and repeatable"
import os
from pathlib import Path

import pytest

os.environ.update(MPLBACKEND='agg', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='run the slow tests too')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow') or config.getoption('-m'): return
    for item in items:
        if item.get_closest_marker('slow'): item.add_marker(pytest.mark.skip(reason='slow: ask for it with --slow'))


@pytest.fixture(scope='session')
def root():
    "The folder of the project"
    return ROOT
