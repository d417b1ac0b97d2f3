"""Collapse in JupyterLab what the pages hide: `python tools/fold.py [nbs/01_bpe.ipynb ...]`

A cell with `#| hide` is collapsed with what it prints; with `#| echo: false`, only its source is. nbdev_clean keeps the
mark, since `allowed_cell_metadata_keys` in settings.ini names it."""
import json
import re
import sys
from pathlib import Path

HIDE, ECHO = (re.compile(rf'^#\| *{o} *$', re.MULTILINE) for o in ('hide', 'echo: *false'))


def folded(cell):
    "What JupyterLab should know about a cell: which parts of it to collapse"
    src = ''.join(cell['source'])
    if cell['cell_type'] != 'code': return {}
    if HIDE.search(src): return dict(jupyter=dict(outputs_hidden=True, source_hidden=True))
    return dict(jupyter=dict(source_hidden=True)) if ECHO.search(src) else {}


def fold(nb):
    "Mark the cells of a notebook that are to be collapsed, and no others"
    for cell in nb['cells']:
        rest = {k: v for k, v in cell['metadata'].items() if k != 'jupyter'}
        cell['metadata'] = rest | folded(cell)
    return nb


def main(paths):
    for path in paths or Path(__file__).resolve().parents[1].glob('nbs/**/*.ipynb'):
        before = Path(path).read_text('utf-8')
        after = json.dumps(fold(json.loads(before)), ensure_ascii=False, indent=1, sort_keys=True) + '\n'
        if after != before: Path(path).write_text(after, 'utf-8', newline='\n')


if __name__ == '__main__': main(sys.argv[1:])
