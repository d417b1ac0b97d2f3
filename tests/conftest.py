"What all tests share: the fixtures, and settings that keep them quiet, offline, repeatable and within a time"
import os
import shutil
import sys

import pytest
from commands import ROOT, begin, end, stop

# one thread for each product: the tests share the cores among themselves
os.environ.update(MPLBACKEND='agg', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', OMP_NUM_THREADS='1',
                  MKL_NUM_THREADS='1')
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CALM = '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'


def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='run the slow tests too')


def cores(): return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole suite is shared out to the cores, if pytest-xdist is there: `pytest -n 0` keeps it in one process"
    if os.environ.get('PYTEST_XDIST_WORKER'): return      # one of those processes, which must not start more
    o = config.option
    whole = config.args_source == config.ArgsSource.TESTPATHS and not (o.collectonly or o.usepdb or o.keyword)
    if whole and getattr(o, 'numprocesses', 0) is None and o.dist == 'no': o.numprocesses = min(cores(), 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Each test goes to a process that is free; those of the site stay together, since it stands in one place"
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid): return 'docs' if 'test_docs' in nodeid else nodeid
    return Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    "Slow tests run when asked for; a test that hangs ends with its stack, if pytest-timeout is there"
    asked = config.getoption('--slow') or config.getoption('-m')
    for item in items:
        slow = item.get_closest_marker('slow')
        if slow and not asked: item.add_marker(pytest.mark.skip(reason='slow: ask for it with --slow'))
        if config.pluginmanager.hasplugin('timeout') and not item.get_closest_marker('timeout'):
            item.add_marker(pytest.mark.timeout(3600 if slow else 600))


def pytest_terminal_summary(terminalreporter):
    "How many inputs the tests of damaged files and random text have tried"
    reports = [r for o in terminalreporter.stats.values() for r in o]
    tried = sum(v for r in reports for k, v in getattr(r, 'user_properties', []) if k == 'tried' and r.when == 'call')
    if tried: terminalreporter.write_line(f'{tried:,} random inputs were tried')


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
def tokens(tmp_path_factory):
    "Token files of a small corpus, in a folder where train.py finds them"
    from mini_llm.bpe import END_OF_TEXT, Tokenizer
    from mini_llm.workshop.dataset import encode_corpus
    folder = tmp_path_factory.mktemp('tokens')
    text = (ROOT/'datasets'/'cervantes.txt').read_text(encoding='utf-8')[:30_000]
    Tokenizer.train(text, 300, special_tokens=[END_OF_TEXT]).save(folder/'small300.model')
    return encode_corpus(folder/'small300.model', [text], folder/'datasets'/'small300')


@pytest.fixture
def start(tmp_path):
    "Start a command (see commands.begin) in an empty folder; what is left of it ends with the test"
    started = []
    def run(what, *args, **env):
        started.append(begin(what, *args, cwd=tmp_path, **env))
        return started[-1]
    yield run
    for p in started: stop(p)


@pytest.fixture
def finish(start):
    "Run a command to its end: exit code, standard output, standard error"
    def run(*args, **env): return end(start(*args, **env))
    return run
