"""Each notebook runs from top to bottom and prints what is stored in it; the stored files are clean.

One run serves as test and as comparison. On Linux words and whole numbers must be equal, measured numbers up to
their last digit, and figures nearly so; elsewhere, where arithmetic and fonts differ, a notebook only has to run."""
import ast
import io
import json
import re
import sys
from base64 import b64decode

import numpy as np
import pytest
from commands import ROOT, begin, end
from PIL import Image

NOTEBOOKS = sorted(ROOT.glob('nbs/**/*.ipynb'))
NAMES = [p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in NOTEBOOKS]
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=NAMES)


def cells(path): return json.loads(path.read_text('utf-8'))['cells']


def source(cell): return ''.join(cell['source'])


def directives(cell): return set(re.findall(r'^#\| *([\w-]+)', source(cell), re.MULTILINE))


def pixels(png): return np.asarray(Image.open(io.BytesIO(b64decode(''.join(png)))).convert('RGB')).astype(int)


def same_figure(a, b):
    "Whether two PNGs have the same size and differ visibly in at most one pixel of a hundred"
    a, b = pixels(a), pixels(b)
    return a.shape == b.shape and (abs(a - b).max(axis=2) > 32).mean() < .01


def split_outputs(cell):
    "What a cell printed, as its figures and all the rest"
    rest = json.loads(json.dumps(cell.get('outputs', [])))
    return [o['data'].pop('image/png') for o in rest if 'image/png' in o.get('data', {})], rest


DECIMAL = re.compile(r'\d+\.\d+')


def same_text(a, b):
    "Whether texts differ in nothing, or only in the last digit of decimal numbers: 11.45 is printed as 11.4 or as 11.5"
    numbers = zip(DECIMAL.findall(a), DECIMAL.findall(b))
    return DECIMAL.sub('#', a) == DECIMAL.sub('#', b) and all(
        abs(float(x) - float(y)) < 1.5 * 10.**-len(x.partition('.')[2]) for x, y in numbers)


def test_numbers_may_differ_in_their_last_digit_alone():
    assert same_text('<b>11.4 bits</b> of 3', '<b>11.5 bits</b> of 3')
    others = '<b>11.6 bits</b> of 3', '<b>11.5 bits</b> of 4', '<b>11.5 bit</b> of 3', '<b>11.5 bits</b> of 3 0.1'
    for other in others:
        assert not same_text('<b>11.4 bits</b> of 3', other)


@each_notebook
def test_runs_and_prints_what_is_stored(path, tmp_path):
    code, out, err = end(begin('tools/refresh.py', path, '--to', tmp_path, cwd=ROOT), seconds=500)
    assert code == 0, err
    if sys.platform != 'linux': return
    for stored, fresh in zip(cells(path), cells(tmp_path/path.relative_to(ROOT/'nbs')), strict=True):
        (figures, rest), (new_figures, new_rest) = split_outputs(stored), split_outputs(fresh)
        same = same_text(json.dumps(rest), json.dumps(new_rest))
        assert same, f'{path.name} prints something else in:\n{source(stored)}'
        assert len(figures) == len(new_figures) and all(map(same_figure, figures, new_figures)), \
            f'{path.name} draws something else in:\n{source(stored)}'


@each_notebook
def test_stored_outputs_are_clean(path):
    nb = json.loads(path.read_text('utf-8'))
    assert nb['metadata'] == {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    assert len({c['id'] for c in nb['cells']}) == len(nb['cells'])
    for out in [o for c in nb['cells'] for o in c.get('outputs', [])]:
        assert out['output_type'] != 'error' and out.get('name') != 'stderr', out
        assert not any('widget' in kind for kind in out.get('data', {})), 'a widget is nothing without its kernel'
        text = json.dumps({**out, 'data': {k: v for k, v in out.get('data', {}).items() if not k.startswith('image')}})
        assert not re.search(r'/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\| at 0x|\d+(\.\d+)?(it|B)/s', text), out


@each_notebook
def test_jupyterlab_collapses_what_the_pages_hide(path):
    "`python tools/fold.py` sets these marks, and `nbdev_clean` keeps them"
    for cell in cells(path):
        said = re.findall(r'^#\| *(hide|echo: false) *$', source(cell), re.MULTILINE)
        marks = {'hide': dict(outputs_hidden=True, source_hidden=True), 'echo: false': dict(source_hidden=True)}
        assert cell['metadata'] == ({'jupyter': marks[said[0]]} if said else {}), source(cell)


@each_notebook
def test_cells_with_imports_hold_nothing_else(path):
    "nbdev may run the imports of a notebook without the rest, as for signatures in docs, and what stands beside them"
    for cell in [c for c in cells(path) if c['cell_type'] == 'code' and 'nbdev_export(' not in source(c)]:
        kinds = {isinstance(o, (ast.Import, ast.ImportFrom))
                 for o in ast.parse(re.sub(r'^[%!].*$', '', source(cell), flags=re.MULTILINE)).body}
        assert len(kinds) < 2, f'{path.name}: move the imports to a cell of their own:\n{source(cell)}'


@each_notebook
def test_opens_with_a_title_and_a_summary_alone(path):
    "nbdev takes that cell for the page's title and description, and drops anything else in it"
    title = next(source(c) for c in cells(path) if c['cell_type'] == 'markdown')
    assert re.fullmatch(r'# .+\n\n> .+\n*', title), f'{path.name}: prose goes to the next cell:\n{title}'


def test_each_module_comes_from_one_notebook():
    said = [re.search(r'^#\| *default_exp +([\w.]+)', source(c), re.MULTILINE) for p in NOTEBOOKS for c in cells(p)]
    exps, package = [m[1] for m in said if m], ROOT/'mini_llm'
    modules = {'.'.join(p.relative_to(package).with_suffix('').parts) for p in package.rglob('*.py')
               if p.stem not in ('__init__', '__main__', '_modidx')}
    assert len(exps) == len(set(exps)) and set(exps) == modules


def code_lines(cell): return [o for o in source(cell).splitlines() if o.strip() and not re.match(r'\s*#\s*\|', o)]


@each_notebook
def test_cells_are_small(path):
    "One idea a cell, and a chapter that can be read in a sitting or two"
    sizes = [len(code_lines(c)) for c in cells(path) if c['cell_type'] == 'code' and code_lines(c)]
    for c in cells(path):
        if c['cell_type'] == 'code': assert len(code_lines(c)) <= 30, f'{path.name}: cut in two:\n{source(c)}'
    if re.match(r'\d', path.name): assert len(sizes) <= 90, f'{path.name} has {len(sizes)} code cells'


@pytest.mark.parametrize('path', sorted(ROOT.glob('nbs/0*.ipynb')), ids=lambda o: o.stem)
def test_hints_and_solutions_are_folded(path):
    "Below each exercise, in JupyterLab as on the site"
    code = [i for i, c in enumerate(cells(path)) if c['cell_type'] == 'code']
    asked = [i for i in code if re.search(r'^check\(', source(cells(path)[i]), re.MULTILINE)]
    assert len(asked) >= 4
    for i in asked:
        folds = re.findall(r'<details( open)?><summary>(\w+)</summary>', source(cells(path)[i+1]))
        assert folds == [('', 'Hint'), ('', 'Solution')], source(cells(path)[i])


HEADING = re.compile(r'^(#+) (.*)\n', re.MULTILINE)


def slug(heading): return re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')


def section(path, anchor):
    "The prose under a heading, with what stands below it; without an anchor, the opening"
    text = '\n\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'markdown')
    heads = [(len(m[1]), slug(m[2]), m.start()) for m in HEADING.finditer(text)]
    if not anchor: return text[:heads[1][2]]
    level, begin = next((level, begin) for level, name, begin in heads if name == anchor)
    return text[begin:min([at for l, _, at in heads if at > begin and l <= level], default=None)]


def test_glossary_leads_to_where_its_words_are_explained():
    glossary = '\n'.join(map(source, cells(ROOT/'nbs/glossary.ipynb')))
    words = re.findall(r'^- \*\*(.+)\*\*: .+ \(\[\w+\]\(([\w./]+)#?([\w-]*)\)\)$', glossary, re.MULTILINE)
    assert len(words) == glossary.count('\n- ') >= 40 and len({name for name, *_ in words}) == len(words)
    for name, path, anchor in words:
        explained = section(ROOT/'nbs'/path, anchor).lower()
        assert all(o in explained for o in name.lower().split(', ')), f'{name}: {path}#{anchor} does not say it'


def test_the_road_leads_to_the_glossary():
    for path in [ROOT/'nbs/index.ipynb', *ROOT.glob('nbs/0*.ipynb')]:
        assert '](glossary.ipynb)' in ''.join(map(source, cells(path))), f'{path.name} does not name the glossary'
