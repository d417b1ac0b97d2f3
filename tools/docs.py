"""Build the site in `_docs` without Quarto: nbdev prepares the notebooks and smalldocs renders them.

With Quarto, `nbdev_docs` builds the same pages. What Quarto does and smalldocs does not is done here: a page is named
after its module, formulas become MathML, themes lose the fonts they would fetch, and search looks for words."""
import html
import re
import shutil
import sys
from pathlib import Path

from latex2mathml.converter import convert
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.config import load
from smalldocs.site import Site

FORMULA = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.DOTALL)
KATEX = re.compile(r'<(link|script)[^>]*/katex@[^>]*>(</script>)?')
DONE_HERE = ('output-file is not read', 'html-math-method is ignored', 'html.grid is ignored',    # grid: in styles.css
             'respect-user-color-scheme is ignored',       # it always is
             'theme dark.scss')                            # no_fonts does that here


class NamedSite(Site):
    "A site whose pages have the names that nbdev chose for them: `bpe.html` for `01_bpe.ipynb`, each in its folder"
    def read(self, src):
        page = super().read(src)
        page.out = src.with_name(page.front['output-file'])
        return page


NOTEBOOK = re.compile(r'(?<= href=")([\w/.]*/)?(?:\d+_)?(\w+)\.ipynb(?=[#"])')     # in a drawing, or in HTML of a cell


def mathml(page):
    "The page with its formulas as MathML, without the scripts that would have drawn them, its links leading to pages"
    formula = lambda m: convert(html.unescape(m[2]), display='block' if m[1] == 'display' else 'inline')
    return NOTEBOOK.sub(r'\1\2.html', KATEX.sub('', FORMULA.sub(formula, page)))


def no_fonts(theme):
    "The theme without the fonts that it would fetch: pages load nothing from elsewhere"
    return re.sub(r'@import url\(http[^)]*\);?', '', theme)


def main():
    cfg = get_config()
    refresh_quarto_yml()
    site = NamedSite(load(proc_nbs(force=True, n_workers=2)), quiet=True)
    n = site.build()
    for path in [*site.out.rglob('*.html'), site.out/'search.json']:
        path.write_text(mathml(path.read_text('utf-8')), 'utf-8')
    with open(site.out/'site_libs'/'fuse'/'fuse.min.js', 'a', encoding='utf-8') as f:
        f.write('\n' + Path(__file__).with_name('search.js').read_text('utf-8'))
    for path in site.out.glob('site_libs/themes/*.css'): path.write_text(no_fonts(path.read_text('utf-8')), 'utf-8')
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(site.out, cfg.doc_path)
    problems = [o for o in site.warnings if not any(d in o for d in DONE_HERE)]
    print(*problems, f'{n} pages in {cfg.doc_path.name}', sep='\n')
    return 1 if problems else 0


if __name__ == '__main__': sys.exit(main())
