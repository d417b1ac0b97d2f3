"README.md is index.ipynb seen from one folder further up"
import json
import runpy

from commands import ROOT

README = runpy.run_path(str(ROOT/'tools'/'readme.py'))


def test_readme_is_the_index(monkeypatch, tmp_path):
    (images := tmp_path/'nbs'/'images').mkdir(parents=True)
    monkeypatch.setitem(README['output'].__globals__, 'ROOT', tmp_path)
    monkeypatch.setitem(README['output'].__globals__, 'IMAGES', images)
    text = README['readme'](json.loads((ROOT/'nbs'/'index.ipynb').read_text('utf-8')))
    assert text == (ROOT/'README.md').read_text('utf-8'), 'run `make readme`'
    stored = {p.name: p.read_bytes() for p in (ROOT/'nbs'/'images').glob('readme-*')}
    assert {p.name: p.read_bytes() for p in images.iterdir()} == stored


def test_links_start_at_the_root():
    text = '[a](01_bpe.ipynb#m) ![b](i/c.png) [d](../LICENSE) [e](https://x.y/z) [f](#g)\n\n```python\nx[0](y)\n```'
    assert README['prose'](text) == ('[a](nbs/01_bpe.ipynb#m) ![b](nbs/i/c.png) [d](LICENSE) [e](https://x.y/z) '
                                     '[f](#g)\n\n```python\nx[0](y)\n```')


def test_cells_become_blocks_and_hidden_ones_vanish():
    code = lambda src, *outputs: dict(cell_type='code', source=src, outputs=list(outputs))
    out = dict(output_type='stream', name='stdout', text=['2\n'])
    nb = dict(cells=[code('#| hide\nimport x', out), code('1+1', out), code('#| echo: false\n1+1', out)])
    assert README['readme'](nb) == '```python\n1+1\n```\n\n```\n2\n```\n\n```\n2\n```\n'


def test_a_drawing_becomes_a_file(monkeypatch, tmp_path):
    drawn = '<svg xmlns="http://www.w3.org/2000/svg"><title>A road</title></svg>\n'
    out = dict(output_type='execute_result', data={'text/html': '<a>', 'image/svg+xml': [drawn], 'text/plain': 'Map'})
    for name in 'ROOT', 'IMAGES': monkeypatch.setitem(README['output'].__globals__, name, tmp_path)
    assert README['output'](out, []) == '![A road](readme-1.svg)'
    assert (tmp_path/'readme-1.svg').read_text('utf-8') == drawn
