"Texts: cleaning changes white space only, reading refuses what is not text, downloads are whole or refused"
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings, strategies as st

from mini_llm.workshop.corpus import decode, gutenberg, is_wrapped, normalise, read_text
from mini_llm.engine.files import sha256

properties = settings(max_examples=300, deadline=None, derandomize=True, database=None)
words = st.lists(st.sampled_from(['a', 'de', 'rocín', 'caballero', 'desaforados', '—dijo', 'Ma-', '\xa0', '\x0c', '\u2028']), max_size=14)
typed = st.lists(st.tuples(st.sampled_from(['', ' ', '     ', '\t']), words, st.sampled_from(['\n', '\r\n', '\r', ' \n', '\n\n', '\n \n\n'])),
                 max_size=12).map(lambda o: ''.join(a + ' '.join(b) + c for a,b,c in o))


@properties
@given(st.one_of(typed, st.text()))
def test_normalise_keeps_every_character_and_is_idempotent(text):
    res = normalise(text)
    assert ''.join(res.split()) == ''.join(text.split())
    assert normalise(res) == res
    assert '\r' not in res and res.endswith('\n')
    assert all(o == o.strip() for o in res[:-1].split('\n'))


@properties
@given(st.lists(st.sampled_from(['a', 'de', 'que', 'rocín', 'caballero', 'desaforados']), min_size=30, max_size=120), st.integers(60, 80))
def test_wrapped_prose_is_joined_whatever_its_width(words, width):
    lines = ['']
    for w in words:
        if len(lines[-1]) + 1 + len(w) > width: lines.append('')
        lines[-1] = f'{lines[-1]} {w}'.strip()
    assert normalise('\r\n'.join(lines)) == ' '.join(words) + '\n'


def test_verse_and_titles():
    sonnet = ['Rompí, corté, abollé, y dije y hice', 'más que en el orbe caballero andante;',
              'fui diestro, fui valiente, fui arrogante;', 'mil agravios vengué, cien mil deshice.']
    assert not is_wrapped(sonnet)
    blank_verse = ["Of Man's first disobedience, and the fruit", 'Of that forbidden tree whose mortal taste',
                   'Brought death into the World, and all our woe,', 'With loss of Eden, till one greater Man']
    assert not is_wrapped(blank_verse)
    assert is_wrapped(['one line, however short'])
    assert normalise('TASA\n\n\n\n' + '\n'.join(sonnet)) == 'TASA\n\n\n\n' + '\n'.join(sonnet) + '\n'


def test_the_excerpt_is_what_its_readme_says(root):
    path = root/'datasets'/'cervantes.txt'
    text = read_text(path)
    assert sha256(path) in (root/'datasets'/'README.md').read_text(encoding='utf-8')
    assert normalise(text) == text
    assert 'Nunca fuera caballero\nde damas tan bien servido,\ncomo fuera D. Quijote\n' in text
    assert '\nDonde se cuenta la graciosa manera que tuvo D. Quijote en armarse caballero.\n' in text
    assert text.startswith('EL INGENIOSO HIDALGO DON QUIJOTE DE LA MANCHA\n\nMiguel de Cervantes Saavedra\n\nCapítulo primero\n')


@pytest.mark.parametrize('data, where', [
    ('El año'.encode('latin1'), 'byte 0xf1 at position 4 (line 1)'),
    ('\n\nsalió'.encode('latin1'), 'byte 0xf3 at position 6 (line 3)'),
    ('texto'.encode('utf-16'), 'byte 0xff at position 0'),
    ('año'.encode()[:2], 'byte 0xc3 at position 1'),
    (b'PK\x03\x04\x80', 'byte 0x80 at position 4')])
def test_not_utf8_names_the_byte(tmp_path, data, where):
    path = tmp_path/'book.txt'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(where)) as e: read_text(path)
    assert 'book.txt' in str(e.value) and 'iconv' in str(e.value)


def test_windows_files_and_empty_ones(tmp_path):
    path = tmp_path/'book.txt'
    path.write_bytes(b'\xef\xbb\xbfuno\r\ndos\rtres\n')
    assert read_text(path) == 'uno\ndos\ntres\n'
    for empty in (b'', b'\xef\xbb\xbf', b' \r\n\t'):
        path.write_bytes(empty)
        with pytest.raises(ValueError, match='is empty'): read_text(path)
    with pytest.raises(FileNotFoundError): read_text(tmp_path/'nowhere.txt')
    with pytest.raises(OSError): read_text(tmp_path)


def test_a_second_mark_is_text():
    assert decode('\ufeff\ufeffa'.encode(), 'x') == '\ufeffa'


# --- Project Gutenberg, from a server on this machine

BODY = '''Capítulo primero

En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho
tiempo que vivía un hidalgo de los de lanza en astillero.

Yace aquí el Hidalgo fuerte
que a tanto estremo llegó
'''
CLEAN = BODY.replace('mucho\ntiempo', 'mucho tiempo')


def book(begin='*** START OF THE PROJECT GUTENBERG EBOOK X ***', end='*** END OF THE PROJECT GUTENBERG EBOOK X ***'):
    return f'The Project Gutenberg eBook of X\n\n{begin}\n\n\n{BODY}\n\n{end}\n\nSection 1. General Terms of Use\n'.replace('\n', '\r\n')


class Library(BaseHTTPRequestHandler):
    "Sends what `pages` holds: (status, headers, body); closes the connection after it"
    pages, asked = {}, []

    def do_GET(self):
        self.asked.append(self.path)
        status, headers, body = self.pages.get(self.path, (404, {}, b''))
        self.send_response(status)
        for k,v in headers.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    Library.pages, Library.asked = {}, []
    server = ThreadingHTTPServer(('127.0.0.1', 0), Library)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def plain(data, charset='utf-8', length=None):
    return 200, {'Content-Type': f'text/plain; charset={charset}', 'Content-Length': length or len(data)}, data


FIRST, SECOND = '/cache/epub/7/pg7.txt', '/ebooks/7.txt.utf-8'


def test_a_good_book(library, tmp_path):
    Library.pages = {FIRST: plain(b'\xef\xbb\xbf' + book().encode())}
    path = gutenberg(7, tmp_path, library)
    assert path == tmp_path/'gutenberg7.txt'
    assert path.read_bytes() == CLEAN.encode()
    facts = json.loads((tmp_path/'gutenberg7.json').read_text())
    assert facts['url'] == library + FIRST and facts['sha256'] == sha256(path)
    assert facts['sha256_downloaded'] == sha256(b'\xef\xbb\xbf' + book().encode())
    assert gutenberg(7, tmp_path, library) == path
    assert Library.asked == [FIRST]   # the second call asked nobody


def test_the_second_address_is_tried(library, tmp_path):
    Library.pages = {SECOND: plain(book().encode())}
    assert gutenberg(7, tmp_path, library).read_text(encoding='utf-8') == CLEAN
    assert Library.asked == [FIRST, SECOND]


def test_without_a_length_the_end_mark_decides(library, tmp_path):
    kind = {'Content-Type': 'text/plain'}
    Library.pages = {FIRST: (200, kind, book().encode()[:200]), SECOND: (200, kind, book().encode())}
    assert gutenberg(7, tmp_path, library).read_text(encoding='utf-8') == CLEAN


@pytest.mark.parametrize('begin, end', [
    ('*** START OF THIS PROJECT GUTENBERG EBOOK X ***', '*** END OF THIS PROJECT GUTENBERG EBOOK X ***'),
    ('***START OF THE PROJECT GUTENBERG EBOOK X***', '***END OF THE PROJECT GUTENBERG EBOOK X***'),
    ('*** START OF THE PROJECT GUTENBERG EBOOK\nTHE LIFE AND DEEDS OF X ***', "End of Project Gutenberg's X, by Y"),
    ('*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*', 'End of The Project Gutenberg Etext of X'),
    ('*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*', 'End of this Project Gutenberg Etext of X')])
def test_marks_of_all_times(library, tmp_path, begin, end):
    Library.pages = {FIRST: plain(book(begin, end).encode())}
    assert gutenberg(7, tmp_path, library).read_text(encoding='utf-8') == CLEAN


def test_an_old_book_in_latin1(library, tmp_path):
    Library.pages = {FIRST: plain(book().encode('latin1'), 'iso-8859-1')}
    assert gutenberg(7, tmp_path, library).read_text(encoding='utf-8') == CLEAN
    assert json.loads((tmp_path/'gutenberg7.json').read_text())['encoding'] == 'iso-8859-1'


@pytest.mark.parametrize('page, reason', [
    ((200, {'Content-Type': 'text/html'}, b'<html>Too many requests</html>'), 'this is text/html'),
    ((200, {'Content-Type': 'application/zip'}, b'PK\x03\x04'), 'this is application/zip'),
    (plain(b'<html>Too many requests</html>'), 'not a plain-text Gutenberg book'),
    (plain(b'PK\x03\x04\xff\xff'), 'not UTF-8 text: byte 0xff at position 4'),
    (plain(book().encode('latin1')), 'not UTF-8 text: byte 0xed'),
    (plain(book().encode('latin1'), 'klingon'), 'klingon'),
    (plain(book().encode(), length=9_999), 'cut short'),
    (plain(book().encode()[:200]), 'the text was cut short'),
    ((404, {}, b''), 'HTTP Error 404'),
    ((503, {}, b''), 'HTTP Error 503')])
def test_what_is_refused(library, tmp_path, page, reason):
    Library.pages = {FIRST: page, SECOND: page}
    with pytest.raises(OSError) as e: gutenberg(7, tmp_path, library)
    message = str(e.value)
    assert message.count(reason) == 2
    assert library + FIRST in message and library + SECOND in message
    assert 'ebooks/7' in message and str(tmp_path/'pg7.txt') in message   # the way by hand
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with pytest.raises(OSError, match='refused') as e: gutenberg(7, tmp_path, f'http://127.0.0.1:{port}')
    assert 'By hand' in str(e.value)


def test_a_file_from_a_browser(tmp_path):
    (tmp_path/'pg7.txt').write_bytes(book().encode())
    assert gutenberg(7, tmp_path, 'http://127.0.0.1:9').read_text(encoding='utf-8') == CLEAN


def test_a_changed_book_is_refused_and_kept(library, tmp_path):
    Library.pages = {FIRST: plain(book().encode())}
    path = gutenberg(7, tmp_path, library)
    path.write_text('my own ending')
    with pytest.raises(ValueError, match='is not the text that was downloaded'): gutenberg(7, tmp_path, library)
    assert path.read_text() == 'my own ending'
    path.unlink()
    assert gutenberg(7, tmp_path, library).read_text(encoding='utf-8') == CLEAN
    (tmp_path/'gutenberg7.json').unlink()
    with pytest.raises(ValueError, match='gutenberg7.json is missing'): gutenberg(7, tmp_path, library)


@pytest.mark.parametrize('number', [0, -3])
def test_numbers_begin_at_one(tmp_path, number):
    with pytest.raises(ValueError, match='numbered from 1'): gutenberg(number, tmp_path)
