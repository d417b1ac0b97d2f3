"""Run notebooks from top to bottom and store what they print: `python tools/refresh.py [nbs/01_bpe.ipynb ...]`

Each runs in a process of its own, on one thread. Where a cell fails, the notebook stays as it was."""
import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')

from execnb.nbio import write_nb
from execnb.shell import CaptureShell
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.process import NBProcessor

from fold import fold


def refresh(path, out):
    "Execute one notebook, but for the cells that settings.ini or `eval: false` exclude, and write it clean"
    os.chdir(path.parent)
    flags = set(get_config().tst_flags.split())
    def skip(cell):
        if cell.cell_type != 'code': return True
        d = cell.directives_
        if flags & d.keys() or d.get('eval:') == ['false'] or 'nbdev_export(' in cell.source: return True
        cell.outputs = []
    nb, shell = NBProcessor(path, rm_directives=False).nb, CaptureShell(path, mpl_format='png')
    try: shell.run_all(nb, exc_stop=True, preproc=skip)
    except Exception: sys.exit(shell.prettytb(path.name))
    clean_nb(nb)
    fold(nb)
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f'.{out.name}.tmp')      # the home page reads the others while they are written
    write_nb(nb, half)
    half.replace(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='*', type=Path, help='default: all in nbs')
    p.add_argument('--to', type=Path, help='write the results to this folder and leave the notebooks alone')
    args = p.parse_args()
    nbs_path = get_config().nbs_path.resolve()
    nbs = [o.resolve() for o in args.notebooks or sorted(nbs_path.rglob('*.ipynb'))]
    outs = [args.to.resolve()/o.relative_to(nbs_path) if args.to else o for o in nbs]
    with ProcessPoolExecutor(os.cpu_count(), get_context('spawn'), max_tasks_per_child=1) as pool:
        for nb, _ in zip(nbs, pool.map(refresh, nbs, outs)): print('refreshed', nb.relative_to(nbs_path), flush=True)


if __name__ == '__main__': main()
