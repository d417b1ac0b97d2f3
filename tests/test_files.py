"Files: whole or absent, whatever happens"
import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mini_llm.engine import files
from mini_llm.engine.files import atomic_open, sha256, write_atomic

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX permissions and signals')


def test_every_way_of_writing(tmp_path):
    path = tmp_path/'a'/'b'/'file'
    write_atomic(path, 'ñ\n')
    assert path.read_bytes() == b'\xc3\xb1\n'
    write_atomic(str(path), b'')
    assert path.read_bytes() == b''
    with atomic_open(path, 'w') as f: f.write('one\ntwo\n')
    assert path.read_bytes() == b'one\ntwo\n'
    assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path/'file'
    write_atomic(path, 'old')
    with pytest.raises(error):
        with atomic_open(path, 'w') as f:
            f.write('new')
            raise error
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError): write_atomic(tmp_path/'file', 'good until \ud800')
    assert os.listdir(tmp_path) == []


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path/'file'
    with atomic_open(path) as f:
        f.write(b'x')
        assert not path.exists()
    assert path.exists()


def test_what_cannot_be_replaced(tmp_path):
    for path in ['', '.', os.sep]:
        with pytest.raises(ValueError if path == '' else (ValueError, IsADirectoryError)): write_atomic(path, 'x')
    with pytest.raises(IsADirectoryError, match='name a file'): write_atomic(tmp_path, 'x')
    assert os.listdir(tmp_path) == []

@posix
def test_devices_and_pipes_are_left_alone(tmp_path):
    with pytest.raises(OSError, match='device or a pipe'): write_atomic('/dev/null', 'x')
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(OSError, match='device or a pipe'): write_atomic(tmp_path/'pipe', 'x')
    assert os.path.exists('/dev/null') and os.listdir(tmp_path) == ['pipe']

@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path/'disk').mkdir()
    for name in ('there', 'not yet there'):
        link = tmp_path/f'link to {name}'
        link.symlink_to(tmp_path/'disk'/name)
        if name == 'there': (tmp_path/'disk'/name).write_text('old')
        write_atomic(link, 'new')
        assert link.is_symlink() and (tmp_path/'disk'/name).read_text() == 'new'
    assert sorted(os.listdir(tmp_path/'disk')) == ['not yet there', 'there']

@pytest.mark.parametrize('name', ['a'*255, 'ñ'*127, '😀'*63, ' ', 'a b\'"$', '-rf', '.hidden', 'x.tmp'])
def test_any_name_that_a_file_may_have(tmp_path, name):
    if os.name != 'posix' and name in (' ', 'a b\'"$'): pytest.skip('not a name on Windows')
    write_atomic(tmp_path/name, 'x')
    assert os.listdir(tmp_path) == [name]

def test_windows_waits_for_other_programs(tmp_path, monkeypatch):
    path,refused,slept,real = tmp_path/'file',[],[],os.replace
    def replace(a, b):
        if len(refused) == 3: return real(a, b)
        refused.append(a)
        raise PermissionError(errno.EACCES, 'Access is denied', str(a), None, str(b))
    monkeypatch.setattr(files, '_WINDOWS', True)
    monkeypatch.setattr(files.time, 'sleep', slept.append)
    monkeypatch.setattr(os, 'replace', replace)
    write_atomic(path, 'x')
    assert path.read_text() == 'x' and len(slept) == 3 and sum(slept) < .1

def test_windows_says_who_is_in_the_way(tmp_path, monkeypatch):
    path,slept = tmp_path/'file',[]
    write_atomic(path, 'old')
    def replace(a, b): raise PermissionError(errno.EACCES, 'Access is denied', str(a), None, str(b))
    monkeypatch.setattr(files, '_WINDOWS', True)
    monkeypatch.setattr(files.time, 'sleep', slept.append)
    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(PermissionError, match='another program uses this file') as e: write_atomic(path, 'new')
    assert e.value.filename == str(path) and 1 < sum(slept) < 5
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']

@posix
def test_elsewhere_nobody_waits(tmp_path, monkeypatch):
    def replace(a, b): raise PermissionError(errno.EACCES, 'Permission denied', str(a), None, str(b))
    monkeypatch.setattr(os, 'replace', replace)
    monkeypatch.setattr(files.time, 'sleep', lambda s: pytest.fail('waits'))
    with pytest.raises(PermissionError, match='Permission denied') as e: write_atomic(tmp_path/'file', 'x')
    assert e.value.filename == str(tmp_path/'file')


@posix
@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try: write_atomic(tmp_path/'file', 'x')
    finally: os.umask(old)
    assert (tmp_path/'file').stat().st_mode & 0o777 == 0o666 & ~umask


@posix
@pytest.mark.skipif(hasattr(os, 'geteuid') and os.geteuid() == 0, reason='root may write anywhere')
def test_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError) as e: write_atomic(tmp_path/'file', 'x')
    finally: tmp_path.chmod(0o700)
    assert e.value.filename == str(tmp_path/'file')


def test_errors_of_the_system_name_the_final_path(tmp_path):
    path = tmp_path/'file'
    with pytest.raises(OSError, match='No space left') as e:
        with atomic_open(path): raise OSError(errno.ENOSPC, 'No space left on device')
    assert e.value.filename == str(path)
    (tmp_path/'folder').mkdir()
    with pytest.raises(OSError) as e: write_atomic(tmp_path/'folder', 'x')
    assert e.value.filename == str(tmp_path/'folder')
    assert os.listdir(tmp_path) == ['folder']


def test_errors_about_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError) as e:
        with atomic_open(tmp_path/'file'): open(tmp_path/'other')
    assert e.value.filename == str(tmp_path/'other')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    path = tmp_path/'file'
    write_atomic(path, 'old')
    real = open
    monkeypatch.setattr('builtins.open', lambda name, mode, **kwargs: real('/dev/full', 'wb'))
    with pytest.raises(OSError, match='No space left') as e: write_atomic(path, b'x'*100_000)
    monkeypatch.undo()
    assert e.value.filename == str(path)
    assert path.read_text() == 'old'


@posix
def test_killed_at_any_moment(tmp_path):
    "A process that rewrites a file without a pause is killed; the file is whole each time"
    path = tmp_path/'file'
    code = ('import sys; from mini_llm.engine.files import write_atomic\n'
            'while True:\n  for c in "ab": write_atomic(sys.argv[1], c*300_000)')
    for i in range(6):
        p = subprocess.Popen([sys.executable, '-c', code, str(path)])
        start = time.monotonic()
        while not path.exists() and time.monotonic() - start < 30: time.sleep(.01)
        time.sleep(.01*i)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert path.read_text() in ('a'*300_000, 'b'*300_000)


def test_two_writers_and_a_reader(tmp_path):
    path = tmp_path/'file'
    write_atomic(path, 'a'*50_000)
    def write(c):
        for _ in range(20): write_atomic(path, c*50_000)
    writers = [threading.Thread(target=write, args=c) for c in 'ab']
    if os.name != 'posix': pytest.skip('Windows does not rename over a file that is being read')
    for o in writers: o.start()
    while any(o.is_alive() for o in writers): assert path.read_text() in ('a'*50_000, 'b'*50_000)
    assert os.listdir(tmp_path) == ['file']


def test_sha256_of_bytes_and_files(tmp_path):
    abc = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'   # FIPS 180-4
    assert sha256(b'abc') == abc
    write_atomic(tmp_path/'file', 'abc')
    assert sha256(tmp_path/'file') == sha256(str(tmp_path/'file')) == abc
    with pytest.raises(FileNotFoundError): sha256('abc')
