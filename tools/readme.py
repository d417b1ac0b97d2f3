"Write README.md from nbs/index.ipynb: prose as it stands, code and what it printed as blocks, figures as files"
import json
import re
from base64 import b64decode
from pathlib import Path
from posixpath import normpath

ROOT = Path(__file__).resolve().parents[1]
NBS, IMAGES = ROOT/'nbs', ROOT/'nbs'/'images'
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|[#/])([^)\s]+)(?=\))')


def prose(text):
    "Markdown whose links start at the root of the repository, where README.md stands, and not in nbs"
    parts = re.split(r'(^```.*?^```$)', text, flags=re.MULTILINE | re.DOTALL)
    return ''.join(o if o.startswith('```') else LINK.sub(lambda m: normpath(f'nbs/{m[1]}'), o) for o in parts)


def block(text, lang=''): return f"```{lang}\n{''.join(text).rstrip()}\n```"


def output(out, images):
    "One output of a cell; a figure becomes a file"
    if out['output_type'] == 'stream': return block(out['text'])
    data = out['data']
    if 'image/png' in data:
        images.append(IMAGES/f'readme-{len(images)+1}.png')
        images[-1].write_bytes(b64decode(''.join(data['image/png'])))
        return f'![]({images[-1].relative_to(ROOT).as_posix()})'
    if 'image/svg+xml' in data:
        images.append(IMAGES/f'readme-{len(images)+1}.svg')
        drawn = ''.join(data['image/svg+xml'])
        images[-1].write_text(drawn, 'utf-8', newline='\n')
        label = re.search('<title>(.*?)</title>', drawn)[1]
        return f'![{label}]({images[-1].relative_to(ROOT).as_posix()})'
    return prose(''.join(data['text/markdown'])) if 'text/markdown' in data else block(data['text/plain'])


def readme(nb):
    "The text of README.md"
    res, images = [], []
    for cell in nb['cells']:
        src = ''.join(cell['source']).strip()
        if cell['cell_type'] == 'markdown': res.append(prose(src))
        if cell['cell_type'] != 'code': continue
        directives, code = re.fullmatch(r'((?:#\|.*(?:\n|$))*)(.*)', src, re.DOTALL).groups()
        if re.search(r'^#\| *hide *$', directives, re.MULTILINE): continue
        if code and 'echo: false' not in directives: res.append(block(code, 'python'))
        res += [output(o, images) for o in cell['outputs']]
    return '\n\n'.join(res) + '\n'


if __name__ == '__main__':
    IMAGES.mkdir(exist_ok=True)
    for old in IMAGES.glob('readme-*'): old.unlink()
    nb = json.loads((NBS/'index.ipynb').read_text('utf-8'))
    (ROOT/'README.md').write_text(readme(nb), 'utf-8', newline='\n')
    if not any(IMAGES.iterdir()): IMAGES.rmdir()
