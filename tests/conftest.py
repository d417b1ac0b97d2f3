"What all tests share: where the project is, and settings that keep them quiet, offline and repeatable"
import os
import shutil
import sys
from pathlib import Path

import pytest

os.environ.update(MPLBACKEND='agg', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
ROOT = Path(__file__).resolve().parents[1]
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CALM = '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'


def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='run the slow tests too')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow') or config.getoption('-m'): return
    for item in items:
        if item.get_closest_marker('slow'): item.add_marker(pytest.mark.skip(reason='slow: ask for it with --slow'))


@pytest.fixture(scope='session')
def root():
    "The folder of the project"
    return ROOT


@pytest.fixture(scope='module')
def browser():
    "A headless Chromium; its absence is a failure only in CI on Linux"
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not path and not (os.environ.get('CI') and sys.platform == 'linux'): pytest.skip('no Chromium on this machine')
    assert path, 'CI opens every page in a browser: install chromium'
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p: yield p.chromium.launch(executable_path=path, args=list(CALM))


@pytest.fixture(scope='module')
def tokens(root, tmp_path_factory):
    "Token files of a small corpus, in a folder where train.py finds them"
    from mini_llm.bpe import END_OF_TEXT, Tokenizer
    from mini_llm.workshop.dataset import encode_corpus
    folder = tmp_path_factory.mktemp('tokens')
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')[:30_000]
    Tokenizer.train(text, 300, special_tokens=[END_OF_TEXT]).save(folder/'small300.model')
    return encode_corpus(folder/'small300.model', [text], folder/'datasets'/'small300')
