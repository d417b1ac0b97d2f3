"""What the site has beyond the notebooks: run in the folder of its sources, before they are rendered.

A reference for each module, made from its source; the model of the book to play with, on the home page; and below each
exercise that can be answered without Python a line to answer it in. `nbs/_quarto.yml` names this file as `pre-render`,
so smalldocs (`make docs`) and Quarto (`nbdev_docs`) both run it."""
import ast
import html
import json
import re
import runpy
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT/'mini_llm'
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]


# --- cells that are added to notebooks

def add_cells(path, adds=lambda kind, src: '', last=''):
    "Add the Markdown that `adds` gives for a cell, if any, behind that cell, and some at the end"
    nb, cells = json.loads(path.read_text('utf-8')), []
    def add(text): cells.append(dict(cell_type='markdown', id=f'added{len(cells)}', metadata={}, source=text))
    for cell in nb['cells']:
        cells.append(cell)
        if text := adds(cell['cell_type'], ''.join(cell['source'])): add(text)
    if last: add(last)
    path.write_text(json.dumps({**nb, 'cells': cells}), 'utf-8')


def raw(text): return f'```{{=html}}\n{text}\n```'



# --- the reference: each module's definitions as far as their bodies, with the comments that explain their parameters

def header(node, lines):
    "The source of a definition as far as its body; of a class, with its fields; all of a constant"
    if isinstance(node, ast.Assign): return '\n'.join(lines[node.lineno-1:node.end_lineno])
    if node.lineno == node.body[0].lineno: return lines[node.lineno-1].strip().partition(': ')[0] + ':'
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    fields = [o for o in node.body if isinstance(o, ast.AnnAssign)]
    rows = lines[first-1:node.body[0].lineno-1]
    return dedent('\n'.join([*rows, *(row for o in fields for row in lines[o.lineno-1:o.end_lineno])]))


def offered(text): return re.findall(r"'(\w+)'", re.search(r'__all__ = \[(.*?)\]', text, re.DOTALL)[1])


def borrowed(text, name):
    "Links to what a module offers and another one defines"
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ImportFrom) or not node.level or not node.module: continue
        module = '.'.join([*f'mini_llm.{name}'.split('.')[1:-node.level], node.module])
        yield from (f'[`{o.name}`]({module}.qmd#{o.name})' for o in node.names if o.name in offered(text))


def definitions(text):
    "Name and definition of all that a module offers; the methods of a class follow it, wherever they are written"
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            names = [o.id for o in ast.walk(node.targets[0]) if isinstance(o, ast.Name)]
            yield from ((o, node) for o in names if o in offered(text))
        if not isinstance(node, ast.FunctionDef | ast.ClassDef): continue
        if any('patch' in ast.unparse(o) for o in node.decorator_list):
            owner = ast.unparse(node.args.args[0].annotation).strip("'")
            if not node.name.startswith('_'): yield f'{owner}.{node.name}', node
        elif node.name in offered(text):
            yield node.name, node
            methods = [o for o in node.body if isinstance(o, ast.FunctionDef)]
            yield from ((f'{node.name}.{o.name}', o) for o in methods if o.name[0] != '_' or o.name == '__init__')


def described(name, node, lines):
    "A definition on its page"
    level, said = '###' if '.' in name else '##', not isinstance(node, ast.Assign) and ast.get_docstring(node)
    title = name.replace('_', r'\_')
    return '\n\n'.join([f'{level} {title} {{#{name}}}', f'```python\n{header(node, lines)}\n```', said or ''])


def module_page(folder, path, notebook):
    "The page of a module, to which its notebook leads; what the list says of it"
    text, name = path.read_text('utf-8'), '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
    said, found = ast.get_docstring(ast.parse(text)), list(definitions(text))
    owners = [o.partition('.')[0] for o, _ in found]
    found.sort(key=lambda o: owners.index(o[0].partition('.')[0]))
    parts = [front_matter(f'mini_llm.{name}', f'{name}.html', said),
             f'Made, and explained, by [its notebook](../{notebook}).',
             *(described(o, node, text.splitlines()) for o, node in found)]
    if more := ', '.join(borrowed(text, name)): parts.append(f'## From other modules\n\n{more}')
    (folder/f'{name}.qmd').write_text('\n\n'.join(parts) + '\n', 'utf-8')
    back = '../'*notebook.count('/') + f'reference/{name}.qmd'
    add_cells(Path(notebook), last=f'All that `mini_llm.{name}` offers is in [the reference]({back}).')
    names = ', '.join(f'[`{o}`]({name}.qmd#{o})' for o, _ in found if '.' not in o)
    return f'**[mini_llm.{name}]({name}.qmd)**: {said}  \n{names}'


def reference(folder):
    "A page for each module, and one that lists them all, the chapters first"
    folder.mkdir(exist_ok=True)
    made = [(re.search(r'File to edit: .*?nbs/(.*\.ipynb)', o.read_text('utf-8'))[1], o)
            for o in PACKAGE.rglob('*.py') if not o.stem.startswith('_')]
    listed, room = [front_matter('Reference', 'index.html', 'Every module, and what it offers')], None
    for notebook, path in sorted(made):
        if room != (room := notebook.rpartition('/')[0] or 'road'): listed.append(f'## The {room}')
        listed.append(module_page(folder, path, notebook))
    (folder/'index.qmd').write_text('\n\n'.join(listed) + '\n', 'utf-8')


def front_matter(title, file, said):
    return f'---\ntitle: {title}\noutput-file: {file}\ndescription: {json.dumps(said)}\n---'


# --- the model of the book, on the home page

PLAY = """## Let it write

This is the model of the book, all of it. It writes on your machine, and asks nobody. Touch a word to see what else it
might have been. [The same page by itself](quijote.html) is one file, for a friend or for a train.
[A larger model](cervantes.html) has read both parts of *Don Quijote* and the *Novelas ejemplares*.

```{=html}
<iframe src="quijote.html" title="The model of the book"
style="width:100%;height:52rem;border:1px solid #8886"></iframe>
```"""


def play(folder):
    "The pages of the two models, and the home page with that of the book"
    from mini_llm.workshop.page import write_page
    for name in 'quijote', 'cervantes':
        write_page(ROOT/'models'/name, folder/f'{name}.html', prompt='En un lugar de la Mancha', book='./')
    add_cells(folder/'index.ipynb', lambda kind, src: PLAY if 'That is the whole game.' in src else '')


# --- exercises that can be answered while reading: `judge` says beforehand what there is to say

SHAPES = {    # exercise: how its answer is written, and one that is wrong in no way that has a name
    '00.1': ('chunks', ['—', '¡', 'Señor!  —dijo en 1605.\n\nY']), '00.4': ('words', ['verb']),
    '01.1': ('rows', [((97, 97), 7), ((0, 0), 0), ((0, 0), 0)]), '02.1': ('rows', [[9, 9]]*3),
    '02.4': ('rows', [[4, 5, 6, 7], [0]]), '03.1': ('row', dict(embedding=1, attention=1, mlp=1, norms=1, total=1)),
    '03.2': ('row', 99), '04.1': ('row', 99), '04.3': ('row', 99), '04.4': ('row', (9, 9)), '05.2': ('row', (9, 8)),
    '05.3': ('row', 9)}
HINTS = dict(chunks='chunks, with | between them and \\n for a line break', words='names, with commas',
             rows='numbers, with a semicolon at the end of a row', row='numbers, in their order')
PIECES = 'contraction', 'word', 'number', 'punctuation', 'line_break', 'spaces', 'space'


def flat(answer):
    "The numbers of an answer in a row"
    if isinstance(answer, dict): answer = answer.values()
    return [float(answer)] if not hasattr(answer, '__iter__') else [v for o in answer for v in flat(o)]


def written(kind, answer):
    "An answer as the page reads it: a list of texts, or of rows of numbers"
    if kind == 'chunks': return answer
    if kind == 'words': return sorted([answer] if isinstance(answer, str) else answer)
    return [flat(o) for o in answer] if kind == 'rows' else [flat(answer)]


@cache
def tests(): return runpy.run_path(str(ROOT/'tests'/'test_exercises.py'))


def known(number):
    "What the page has to know of an exercise: answers that the tests give, each with what `judge` says to it"
    from mini_llm.gallery.exercises import judge
    tried = tests()
    kind, odd = SHAPES[number]
    answers = [tried['RIGHT'][number](), *(o for n, o, _ in tried['WRONG'] if n == number)]
    if kind == 'words': answers = [o for n in range(1, 8) for o in combinations(PIECES, n)]
    res = []
    for o in answers:
        try: res.append((written(kind, o), judge(number, o) or 'right'))
        except (TypeError, ValueError): pass
    return dict(kind=kind, known=res, otherwise=judge(number, odd))


def form(number, said):
    "A line to answer an exercise in; where the notebook says what an answer is, so does this"
    kind = SHAPES[number][0]
    label = said if said and kind == 'row' else HINTS[kind]
    data = json.dumps(known(number), ensure_ascii=False).replace('<', '\\u003c')
    return raw(f'''<form class="exercise">
<label>{number}, here: <input autocomplete="off" placeholder="{html.escape(label)}"></label> <button>Check</button>
<output aria-live="polite"></output><script type="application/json">{data}</script>
</form>''')


NUMBER = re.compile(r"^check\('(\d\d\.\d)', answer", re.MULTILINE)
SAID = re.compile(r'^answer = .*# (.*)', re.MULTILINE)


def exercises(folder):
    "Lines to answer in, below the exercises of the chapters, or a word that this one needs Python"
    script = raw(f"<script>{(ROOT/'tools'/'exercises.js').read_text('utf-8')}</script>")
    def below(kind, src):
        if kind != 'code' or not (number := NUMBER.search(src)): return
        if number[1] not in SHAPES: return '*This one needs Python: open the notebook and fill in* `answer`.'
        return form(number[1], (said := SAID.search(src)) and said[1])
    for path in folder.glob('0*.ipynb'): add_cells(path, below, script)


if __name__ == '__main__':
    reference(Path('reference'))
    play(Path())
    exercises(Path())
