"Kernels are found on disk again, stay fresh, and start without a disk to write to"
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mini_llm.engine.kernels import exp, from_bfloat16, kernel, narrow, overlapping, to_bfloat16, wide

IMPORT = 'from mini_llm.engine.kernels import kernel\n'
PARTS = {
    '__init__': '',
    'deep': IMPORT + '@kernel(inline=True)\ndef two(): return 2\n',
    'parts': IMPORT + 'from .deep import two\n@kernel\ndef times(x): return two()*x\n',
    'sums': IMPORT + 'from .parts import times\n'
            '@kernel\ndef total(a):\n    res = 0\n    for x in a: res += times(x)\n    return res\n',
}
RUN = '''
import numpy as np
from toy.sums import total
def count(stats): return sum(stats.values())
print(total(np.arange(5)), count(total.stats.cache_hits), count(total.stats.cache_misses))
'''
NOWHERE = dict(NUMBA_CACHE_DIR='/proc/nope', HOME='/proc/nope', XDG_CACHE_HOME='/proc/nope', LOCALAPPDATA='/proc/nope')


class Toy:
    "A package with a kernel that calls one of another module, which copies in one of a third"
    def __init__(self, folder):
        self.folder, self.package, self.store = folder, folder/'toy', folder/'store'
        self.package.mkdir()
        for name,code in PARTS.items(): (self.package/f'{name}.py').write_text(code)

    def run(self, code=RUN, **env):
        env = os.environ | dict(NUMBA_CACHE_DIR=str(self.store), PYTHONDONTWRITEBYTECODE='1') | env
        env['PYTHONPATH'] = os.pathsep.join([str(self.folder), str(Path(__file__).parents[1])])
        return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120)

    def says(self, code=RUN, **env):
        "What it prints; it must end well and say nothing else"
        res = self.run(code, **env)
        assert (res.returncode, res.stderr) == (0, ''), res.stderr
        return res.stdout.strip()

    def kept(self, end): return sorted(self.store.rglob(f'*total*.{end}'))

@pytest.fixture
def toy(tmp_path): return Toy(tmp_path)

def check_one_line(stderr, *words):
    lines = stderr.splitlines()
    assert len(lines) == 1 and all(w in lines[0] for w in [*words, 'NUMBA_CACHE_DIR']), stderr


# Found again, and fresh

def test_a_second_process_compiles_nothing(toy):
    assert toy.says() == '20 0 1'
    assert toy.says() == '20 1 0'
    assert toy.kept('nbi') and toy.kept('nbc')

def test_no_kernel_of_the_package_is_compiled_twice():
    code = '''
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, e): compiled.append(e.data['dispatcher'].py_func.__name__)
    def on_end(self, e): pass
event.register('numba:compile', Listener())
from mini_llm.bpe import Tokenizer
tok = Tokenizer.train('En un lugar de la Mancha, de cuyo nombre no quiero acordarme, 1605' * 20, 300)
assert tok.decode(tok.encode('la Mancha')) == 'la Mancha'
print(compiled)
'''
    root = Path(__file__).parents[1]
    env = os.environ | dict(PYTHONPATH=str(root))
    def run(): return subprocess.check_output([sys.executable, '-c', code], text=True, env=env, timeout=300)
    run()
    assert run().strip() == '[]'

@pytest.mark.parametrize('module, old, new', [
    ('sums', 'res = 0', 'res = 5'), ('parts', 'two()*x', 'two()*x + 1'), ('deep', 'return 2', 'return 3')])
def test_a_change_in_any_module_that_it_is_made_of_makes_it_new(toy, module, old, new):
    assert toy.says() == '20 0 1'
    path = toy.package/f'{module}.py'
    path.write_text(path.read_text().replace(old, new))
    assert toy.says() in ('25 0 1', '30 0 1')
    assert toy.says() in ('25 1 0', '30 1 0')

def test_a_change_elsewhere_leaves_it_alone(toy):
    assert toy.says() == '20 0 1'
    (toy.package/'other.py').write_text('from .sums import total\n')
    os.utime(toy.package/'deep.py', (1, 1))    # the same text, copied at another time
    assert toy.says() == '20 1 0'

def test_several_processes_at_once(toy):
    results = []
    threads = [threading.Thread(target=lambda: results.append(toy.says())) for _ in range(3)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert [r.split()[0] for r in results] == ['20']*3
    assert toy.says() == '20 1 0'


# When it cannot be kept

def flip(data, at): return data[:at] + bytes([data[at] ^ 1]) + data[at+1:]

DAMAGE = {
    'empty': lambda data: b'',
    'half': lambda data: data[:len(data)//2],
    'short by one byte': lambda data: data[:-1],
    'zeros': lambda data: bytes(len(data)),
    'something else': lambda data: b'#!/bin/sh\n',
    'a flipped bit': lambda data: flip(data, len(data)//2),
    'a flipped bit at the end': lambda data: flip(data, len(data)-1),
}

@pytest.mark.parametrize('end', ['nbi', 'nbc'])
@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_files_are_noticed_and_made_anew(toy, damage, end):
    assert toy.says() == '20 0 1'
    path, = toy.kept(end)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    res = toy.run()
    assert (res.returncode, res.stdout.strip()) == (0, '20 0 1')
    check_one_line(res.stderr, 'is damaged', 'made anew', str(path.parent))
    assert toy.says() == '20 1 0'

def test_an_index_without_its_code(toy):
    assert toy.says() == '20 0 1'
    for path in toy.kept('nbc'): path.unlink()
    assert toy.says() == '20 0 1'
    assert toy.says() == '20 1 0'

def test_no_place_to_keep_anything(toy):
    (toy.package/'__pycache__').write_text('a file where the folder should be')
    for _ in range(2):
        res = toy.run(**NOWHERE)
        assert (res.returncode, res.stdout.strip()) == (0, '20 0 1')
        check_one_line(res.stderr, 'cannot be kept')
    assert toy.says() == '20 0 1'    # the remedy that the line names

READ_ONLY = '''
import numba.core.caching as caching
def refuse(self): raise OSError(30, 'Read-only file system')
caching._CacheLocator.ensure_cache_path = refuse
'''

def test_what_was_compiled_before_is_used_where_nothing_can_be_written(toy):
    assert toy.says(NUMBA_CACHE_DIR='') == '20 0 1'
    assert toy.says(READ_ONLY + RUN, NUMBA_CACHE_DIR='') == '20 1 0'
    another = READ_ONLY + RUN + 'total(np.ones(3)); total(np.ones(3, dtype=np.float32))\n'
    res = toy.run(another, NUMBA_CACHE_DIR='')
    assert (res.returncode, res.stdout.strip()) == (0, '20 1 0')
    check_one_line(res.stderr, 'cannot be kept', 'Read-only')

def test_the_package_itself_starts_without_a_place(root, tmp_path):
    shutil.copytree(root/'mini_llm', tmp_path/'mini_llm', ignore=shutil.ignore_patterns('__pycache__'))
    for folder in (tmp_path/'mini_llm', *(tmp_path/'mini_llm').glob('*/')): (folder/'__pycache__').write_text('')
    code = "from mini_llm.regex_split import split; import mini_llm.bpe; print(split('En un lugar'))"
    env = os.environ | NOWHERE | dict(PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE='1')
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, cwd=tmp_path,
                         timeout=120)
    assert (res.returncode, res.stdout.strip()) == (0, "['En', ' un', ' lugar']"), res.stderr
    check_one_line(res.stderr, 'cannot be kept')

@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX limits')
def test_a_disk_that_fills_up(toy):
    limit = ('import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
             'resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n')
    res = toy.run(limit + RUN)
    assert (res.returncode, res.stdout.strip()) == (0, '20 0 1')
    check_one_line(res.stderr, 'cannot be kept')
    assert not list(toy.store.rglob('*.tmp.*'))
    assert toy.says() == '20 0 1'
    assert toy.says() == '20 1 0'

@pytest.mark.parametrize('stderr', ['None', 'open(os.devnull, "w"); sys.stderr.close()', 'Broken()', 'object()'])
def test_nobody_is_there_to_be_told(toy, stderr):
    (toy.package/'__pycache__').write_text('')
    broken = 'class Broken:\n    def isatty(self): return True\n    def write(self, s): raise BrokenPipeError\n'
    code = f'import os, sys\n{broken}sys.stderr = {stderr}\n{RUN}sys.stderr = sys.__stderr__\n'
    assert toy.says(code) == '20 0 1'
    assert toy.says(code, **NOWHERE) == '20 0 1'


# What is said while compiling

TERMINAL = '''
import io, sys
class Terminal(io.StringIO):
    def isatty(self): return True
real,sys.stderr = sys.stderr,Terminal()
'''
SAID = "\nprint(sys.stderr.getvalue().count('compiling for this machine'), sys.stderr.getvalue().count('\\n'))\n"

def test_people_are_told_once_and_only_when_something_is_compiled(toy):
    again = '\ntotal(np.arange(5.)); total(np.arange(5, dtype=np.uint8))\n'
    assert toy.says(TERMINAL + RUN + again + SAID).splitlines()[1] == '1 1'
    assert toy.says(TERMINAL + RUN + again + SAID).splitlines()[1] == '0 0'

def test_other_peoples_kernels_are_their_own_business(toy):
    code = 'import mini_llm.regex_split, numba\n@numba.njit\ndef mine(x): return x + 1\nprint(mine(1))\n'
    assert toy.says(TERMINAL + code + SAID).splitlines() == ['2', '0 0']


# How it is made

def test_options_of_other_versions(toy):
    without = ('from numba.core import options, cpu\n'
               "for o in cpu.CPUTargetOptions.__mro__:\n    if '_nrt' in vars(o): delattr(o, '_nrt')\n")
    assert toy.says(without + RUN) == '20 0 1'

def test_kernels_may_be_switched_off(toy):
    code = "import numpy as np\nfrom toy.sums import total\nprint(total(np.arange(5)), type(total).__name__)"
    assert toy.says(code, NUMBA_DISABLE_JIT='1') == '20 function'

def test_parallel_kernels_are_kept_too(toy):
    (toy.package/'wide.py').write_text('from numba import prange\n' + IMPORT + '@kernel(parallel=True)\n'
                                       'def double(a):\n    for i in prange(len(a)): a[i] *= 2\n')
    code = '''
import numpy as np
from toy.wide import double
double(a := np.arange(5))
print(a.tolist(), sum(double.stats.cache_hits.values()))
'''
    assert toy.says(code) == '[0, 2, 4, 6, 8] 0'
    assert toy.says(code) == '[0, 2, 4, 6, 8] 1'

def test_with_and_without_options():
    @kernel
    def plain(a): return a[0] + a[-1]
    @kernel(allocates=True, fastmath=True)
    def makes(n): return np.ones(n).sum()
    assert plain(np.arange(5)) == 4 and makes(3) == 3
    assert makes.targetoptions['fastmath'] and '_nrt' not in makes.targetoptions
    with pytest.raises(TypeError): kernel(plain.py_func, cache=False)


# What kernels share

def test_overlapping_numbers():
    for n in range(20):
        data = np.arange(1, n+1, dtype=np.uint8)
        assert overlapping(data).tolist() == [int.from_bytes(bytes(data[i:i+8]), 'little') for i in range(n-7)]

@kernel
def _copy(a, b):
    for i in range(len(a)): b[i] = narrow(wide(a[i]), b[i])

def test_bfloat16_is_that_of_torch():
    torch = pytest.importorskip('torch')
    bits = np.arange(2**16, dtype=np.uint16)
    theirs = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    ours = from_bfloat16(bits)
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    xs = np.random.default_rng(0).integers(0, 2**32, 10**6, np.uint64).astype(np.uint32).view(np.float32)
    xs = np.concatenate([xs[~np.isnan(xs)], ours[~np.isnan(ours)], [np.float32(np.inf), np.float32(3.4e38)]])
    rounded = torch.from_numpy(xs).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16(xs), rounded)
    in_kernel, back = np.empty(len(xs), np.uint16), np.empty_like(xs)
    _copy(xs, in_kernel)
    _copy(in_kernel, back)
    assert np.array_equal(in_kernel, rounded) and np.array_equal(back, from_bfloat16(rounded))

def test_float32_stays_as_it_is():
    xs = np.random.default_rng(0).normal(size=99).astype(np.float32)
    _copy(xs, ys := np.empty_like(xs))
    assert np.array_equal(xs, ys)

@kernel
def _exps(xs, ys):
    for i in range(len(xs)): ys[i] = exp(xs[i])

def test_the_exponential():
    xs = np.concatenate([np.linspace(-80, 80, 100_001), [-1e30, -87, 0]]).astype(np.float32)
    _exps(xs, ys := np.empty_like(xs))
    error = np.abs(ys[:-3] / np.exp(xs[:-3].astype(float)) - 1)
    assert error.max() < 1e-5 and error[np.abs(xs[:-3]) < 5].max() < 1e-6
    assert ys[-3:].tolist() == [pytest.approx(np.exp(-87), rel=1e-4)]*2 + [1.]
