"The package: what a wheel holds, what each module imports, and that names and versions agree"
import ast
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from commands import DEADLINE, ROOT, begin, end, python

SETTINGS = ConfigParser(delimiters=['='])
SETTINGS.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = SETTINGS['DEFAULT']
PACKAGE = ROOT/'mini_llm'
MODULES = sorted('.'.join(p.relative_to(PACKAGE).with_suffix('').parts) for p in PACKAGE.rglob('*.py')
                 if p.stem not in ('__init__', '_modidx'))

# What importing a module must not load: start-up time is part of the interface
HEAVY = {'matplotlib', 'IPython', 'ipywidgets', 'transformers', 'tokenizers', 'tiktoken'}
NO_NUMBA = {'attention', 'gpt', 'engine.layout', 'engine.device', 'engine.files'}
USES_TORCH = {'attention', 'gpt', 'train', 'engine.backprop', 'engine.checkpoint', 'engine.device', 'engine.finite',
              'engine.gradients', 'engine.muon', 'engine.team', 'engine.trial', 'workshop.plan', 'workshop.settings',
              'gallery.inside', 'gallery.road'}
IMPORT_NAMES = dict(ipython='IPython', pillow='PIL')


def source(module): return (PACKAGE/(module.replace('.', '/') + '.py')).read_text('utf-8')


def requirements(key):
    "Name and version range of each requirement"
    return dict(re.fullmatch(r'([\w-]+)(.*)', o).groups() for o in SETTINGS[key].split())


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the repository, so that nothing built earlier gets in"
    folder = tmp_path_factory.mktemp('wheel')
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE': shutil.copy(ROOT/name, folder)
    shutil.copytree(ROOT/'mini_llm', folder/'mini_llm', ignore=shutil.ignore_patterns('__pycache__'))
    pip = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '.']
    run = subprocess.run(pip, cwd=folder, capture_output=True, text=True, timeout=DEADLINE)
    assert run.returncode == 0, run.stderr
    return next(folder.glob('*.whl'))


def test_wheel_holds_the_package_and_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = {n for n in z.namelist() if '.dist-info/' not in n}
        facts = f"mini_llm-{SETTINGS['version']}.dist-info"
        meta, points = (z.read(f'{facts}/{o}').decode() for o in ('METADATA', 'entry_points.txt'))
    files = (p.relative_to(ROOT) for p in PACKAGE.rglob('*') if p.is_file() and '__pycache__' not in p.parts)
    assert names == {p.as_posix() for p in files}
    assert 'License-Expression: Apache-2.0' in meta and (ROOT/'README.md').read_text('utf-8').strip() in meta
    assert points.split() == ['[console_scripts]', 'mini_llm', '=', 'mini_llm.__main__:main']
    needs = re.findall(r'^Requires-Dist: ([\w-]+)[^;\n]*$', meta, re.MULTILINE)
    assert needs == list(requirements('requirements'))


def test_wheel_works_with_the_runtime_packages_alone(wheel, tmp_path):
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path), str(wheel)]
    subprocess.run(pip, check=True, timeout=DEADLINE)
    blocked = set(requirements('dev_requirements')) - set(requirements('requirements')) - {'pillow', 'setuptools'}
    code = f'''
import importlib, sys
for name in {[IMPORT_NAMES.get(o, o) for o in sorted(blocked)]}: sys.modules[name] = None     # importing it now fails
for name in {MODULES}: print(importlib.import_module('mini_llm.' + name).__file__)'''
    loaded = python(code, cwd=tmp_path).splitlines()
    assert len(loaded) == len(MODULES) and all(Path(o).is_relative_to(tmp_path) for o in loaded)
    begun = begin([sys.executable, '-m', 'mini_llm', '--help'], cwd=tmp_path, PYTHONPATH=str(tmp_path))
    status, out, err = end(begun)
    assert status == 0 and all(o in out for o in ('mini_llm', 'dataset', 'train', 'generate')), err


@pytest.mark.parametrize('module', MODULES)
def test_imports_are_required(module):
    "Everything a module imports, also inside functions, is in the standard library or in the requirements"
    tree = list(ast.walk(ast.parse(source(module))))
    names = {o.name for n in tree if isinstance(n, ast.Import) for o in n.names}
    names |= {n.module for n in tree if isinstance(n, ast.ImportFrom) and not n.level}
    optional = {'workshop.formats': {'tiktoken'}, 'workshop.export': {'tiktoken', 'transformers', 'gguf', 'llama_cpp'}}
    allowed = sys.stdlib_module_names | set(requirements('requirements')) | {'mini_llm'} | optional.get(module, set())
    assert {o.split('.')[0] for o in names} <= allowed


@pytest.mark.parametrize('module', MODULES)
def test_import_stays_cheap(module):
    loaded = python(f"import sys, mini_llm.{module}; print(*{{o.split('.')[0] for o in sys.modules}})").split()
    assert not (HEAVY | ({'numba'} if module in NO_NUMBA else set())) & set(loaded)
    assert ('torch' in loaded) == (module in USES_TORCH)


def test_the_first_text_waits_for_nothing_it_does_not_need(tmp_path):
    "With kernels on disk: no progress bar, no regular expression, and of numba no module for texts"
    from mini_llm.bpe import Tokenizer
    Tokenizer([bytes([i]) for i in range(256)]).save(path := tmp_path/'bytes.model')
    code = f'''
import sys
from mini_llm.bpe import Tokenizer
Tokenizer.load({str(path)!r}).encode('En un lugar de la Mancha')
print(*sys.modules)'''
    for _ in range(2): loaded = python(code).split()    # the first may compile
    assert not {'tqdm', 'regex', 'numba.cpython.unicode'} & set(loaded)


ROAD = 'regex_split', 'bpe', 'attention', 'gpt', 'train', 'generate'


def thin(node):
    "Whether a function is one line over something it imports: such a door to a later room makes no circle"
    body = node.body if isinstance(node, ast.FunctionDef) else []
    return [type(o) for o in body] == [ast.Expr, ast.ImportFrom, ast.Return]


def imported(module):
    "The modules of the package that a module imports, also inside functions"
    here, tree = ('mini_llm.' + module).split('.')[:-1], ast.parse(source(module))
    doors = {id(o) for n in ast.walk(tree) if module in ROAD and thin(n) for o in n.body}
    for node in ast.walk(tree):
        if id(node) in doors: continue
        if isinstance(node, ast.Import): names = [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[:len(here)-node.level+1] if node.level else []
            base = '.'.join([*above, *filter(None, [node.module])])
            names = [base, *(f'{base}.{o.name}' for o in node.names)]
        else: continue
        yield from (n for o in names if (n := o.removeprefix('mini_llm.')) in MODULES)


def may_import(module, other):
    "The rule of the house: chapters in their order, an engine by itself, a gallery that nobody needs"
    room, there = (o.partition('.')[0] if '.' in o else 'road' for o in (module, other))
    if room == 'engine': return there == 'engine'
    if there == 'road' == room: return ROAD.index(other) < ROAD.index(module)
    return there != 'gallery' or room == 'gallery'


@pytest.mark.parametrize('module', MODULES)
def test_imports_follow_the_rule_of_the_house(module):
    for other in imported(module): assert may_import(module, other), f'{module} imports {other}'


def test_there_is_no_circle_of_imports():
    left = {m: {o for o in imported(m)} for m in MODULES}
    while ready := [m for m in left if not left[m] & left.keys()]:
        for m in ready: del left[m]
    assert not left, f'imports go in a circle among {sorted(left)}'


@pytest.mark.parametrize('module', MODULES)
def test_public_names_are_meant(module):
    "Functions and classes say what they are; the rest are constants, or stand for what another module offers"
    loaded = importlib.import_module(f'mini_llm.{module}')
    for name in getattr(loaded, '__all__', []):
        thing = getattr(loaded, name)
        assert name.isupper() or (callable(thing) and thing.__doc__ and thing.__module__.startswith('mini_llm.')), name


def test_no_module_is_long():
    lines = {m: source(m).count('\n') for m in MODULES}
    for m, n in lines.items(): assert n <= 700 and n <= .12*sum(lines.values()), f'{m} has {n} lines'


SCRIPTS = [*ROOT.glob('*.py'), *ROOT.glob('benchmarks/*.py'), *ROOT.glob('tools/*.py'), ROOT/'README.md']
FROM = re.compile(r'^\s*from (mini_llm[\w.]*) import (\([^)]*\)|.*)$', re.MULTILINE)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_scripts_import_what_there_is(script):
    "Also where a script has Python in a string, or a page shows some"
    for module, names in FROM.findall(script.read_text('utf-8')):
        module = importlib.import_module(module)
        for name in re.findall(r'(\w+)(?: as \w+)?(?:,|\)|$)', names.strip('()').partition('#')[0].strip()):
            there = hasattr(module, name) or importlib.util.find_spec(f'{module.__name__}.{name}')
            assert there, f'{module.__name__} has no {name}'


BENCHMARKS = [p for p in SCRIPTS if p.parent.name == 'benchmarks' and p.stem != 'common']


@pytest.mark.parametrize('script', BENCHMARKS, ids=lambda p: p.stem)
def test_benchmarks_say_what_they_do(script):
    code, out, err = end(begin([sys.executable, script, '--help'], cwd=ROOT))
    assert code == 0 and 'usage:' in out, err


def test_environments_are_pinned_within_what_the_package_allows():
    from packaging.specifiers import SpecifierSet
    pins = requirements('dev_requirements')
    assert all(re.fullmatch(r'==[\w.]+', o) for o in pins.values())
    for name, allowed in requirements('requirements').items(): assert pins[name][2:] in SpecifierSet(allowed), name


def test_version_is_one():
    import mini_llm
    assert mini_llm.__version__ == SETTINGS['version']
    assert f"## {SETTINGS['version']}" in (ROOT/'CHANGELOG.md').read_text('utf-8')


def test_the_whole_suite_is_shared_out_to_the_cores_and_no_further(tmp_path):
    "With these settings, in a folder of its own: each test runs once, in a worker that starts no workers"
    pytest.importorskip('xdist')
    (tmp_path/'tests').mkdir()
    for name in 'pyproject.toml', 'tests/conftest.py', 'tests/commands.py': shutil.copy(ROOT/name, tmp_path/name)
    (tmp_path/'tests'/'test_x.py').write_text('''import os, pytest
@pytest.mark.parametrize('i', range(6))
def test_x(i):
    with open(f'ran-{os.getpid()}-{i}', 'x') as f: f.write(os.environ.get('PYTEST_XDIST_WORKER') or 'alone')
''')
    def workers(*args):
        run = begin([sys.executable, '-m', 'pytest', '-q', *args], cwd=tmp_path, PYTEST_XDIST_WORKER='')
        status, out, err = end(run)
        assert status == 0 and '6 passed' in out, out + err
        ran = list(tmp_path.glob('ran-*'))
        res = {p.read_text() for p in ran}, len({p.name.split('-')[1] for p in ran}), len(ran)
        for p in ran: p.unlink()
        return res
    names, processes, n = workers()
    assert n == 6 and processes == len(names) and names <= {f'gw{i}' for i in range(8)}
    assert workers('-n', '0') == workers('tests/test_x.py') == ({'alone'}, 1, 6)
