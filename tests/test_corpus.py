"Texts: cleaning changes white space only, reading refuses what is not text, downloads are whole or refused"
import bz2
import gzip
import io
import json
import lzma
import random
import re
import socket
import textwrap
import threading
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings, strategies as st

from mini_llm.workshop.corpus import gutenberg, is_wrapped, normalise, read_text, text_of, without_licence
from mini_llm.engine.files import sha256

MARKS = [
    ('*** START OF THIS PROJECT GUTENBERG EBOOK X ***', '*** END OF THIS PROJECT GUTENBERG EBOOK X ***'),
    ('***START OF THE PROJECT GUTENBERG EBOOK X***', '***END OF THE PROJECT GUTENBERG EBOOK X***'),
    ('*** START OF THE PROJECT GUTENBERG EBOOK\nTHE LIFE AND DEEDS OF X ***', "End of Project Gutenberg's X, by Y"),
    ('*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*', 'End of The Project Gutenberg Etext of X'),
    ('*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*', 'End of this Project Gutenberg Etext of X')]
properties = settings(max_examples=300, deadline=None, derandomize=True, database=None)
words = st.lists(st.sampled_from(['a', 'de', 'rocín', 'caballero', 'desaforados', '—dijo', 'Ma-', '\xa0', '\x0c',
                                  '\u2028']), max_size=14)
typed = st.lists(st.tuples(st.sampled_from(['', ' ', '     ', '\t']), words,
                           st.sampled_from(['\n', '\r\n', '\r', ' \n', '\n\n', '\n \n\n'])),
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
@given(st.lists(st.sampled_from(['a', 'de', 'que', 'rocín', 'caballero', 'desaforados']), min_size=30, max_size=120),
       st.integers(60, 80))
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
    assert text.startswith('EL INGENIOSO HIDALGO DON QUIJOTE DE LA MANCHA\n\nMiguel de Cervantes Saavedra\n\n')


SPANISH = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme, vivía un hidalgo.\n'
ENGLISH = 'The quick brown fox.\n'
CHINESE = '此開卷第一回也作者自云因曾歷過一番夢幻之後\n'


def read(path, data):
    "What is read, and what is said about it"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        return read_text(path), ' '.join(str(o.message) for o in told)


@pytest.mark.parametrize('code', ['utf-16-le', 'utf-16-be', 'utf-32-le', 'utf-32-be'])
@pytest.mark.parametrize('text', [SPANISH, ENGLISH, CHINESE, 'Всё смешалось в доме Облонских.\n', 'Σε ένα χωριό\n'])
def test_wide_encodings_with_and_without_a_mark(tmp_path, code, text):
    for mark in ('', '\ufeff'):
        got, told = read(tmp_path/'book.txt', (mark + 9*text).encode(code))
        assert got == 9*text and code[:6].upper() in told and 'book.txt' in told
    assert text_of((9*text).encode(code), 'x', code) == 9*text


@pytest.mark.parametrize('text', ['“It’s late” — he said… café.\n', SPANISH, 'Où est-il né ? « À Nîmes. » Œuvre\n',
                                  'Straße, ÄRGER, größer\n'])
def test_windows_1252_is_read_with_a_word(tmp_path, text):
    got, told = read(tmp_path/'book.txt', (9*text).encode('cp1252'))
    assert got == 9*text and 'Windows-1252' in told and '--encoding' in told


@pytest.mark.parametrize('code, text', [
    ('cp1251', 'Всё смешалось в доме Облонских.'), ('koi8-r', 'Всё смешалось в доме Облонских.'),
    ('cp1253', 'Σε ένα χωριό της Μάντσας'),
    ('gb18030', CHINESE), ('big5', CHINESE), ('shift_jis', '吾輩は猫である。名前はまだ無い。'),
    ('euc_kr', '옛날 어느 마을에'),
    ('mac_roman', 'el año pasado, mañana, rincón'), ('cp850', 'el año que pasó'), ('cp1255', 'בראשית ברא אלהים')])
def test_other_encodings_are_refused_until_they_are_named(tmp_path, code, text):
    data = (9*(text + '\n')).encode(code)
    with pytest.raises(ValueError,
                       match=r'book.txt is not UTF-8 text: byte 0x.* \(line 1\).*--encoding') as e:
        read(tmp_path/'book.txt', data)
    assert 'iconv' not in str(e.value)
    assert text_of(data, 'x', code) == 9*(text + '\n')


@pytest.mark.parametrize('data, reason', [
    ((200*SPANISH).encode() + b'ma\xf1ana\n', 'byte 0xf1 at position 16,202 (line 201); but for 1 bytes it is'),
    (SPANISH.encode() + 'año'.encode()[:2], 'but for 1 bytes it is'),
    ('año'.encode()[:2], 'byte 0xc3 at position 1'),
    ((9*SPANISH).encode('utf-16').decode('latin1').encode(), 'UTF-16 that was taken for Latin-1'),
    ((99*'“It’s late” ').encode('cp1252').decode('latin1').encode(), 'Windows-1252 for Latin-1'),
    (b'uno\ndos \0 tres\n', 'zero bytes (1, the first in line 2)'),
    (bytes(range(256))*9, 'zero bytes'),
    (b'\x01\x02\x03\x04', 'control characters'),
    (b'\xff\xfea', 'is not UTF-16-LE text'),
    (b'\xff\xfe\0\xd8a\0', 'is not UTF-16-LE text')])
def test_what_is_no_text_is_refused_with_the_reason(tmp_path, data, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as e: read(tmp_path/'book.txt', data)
    assert str(e.value).startswith(str(tmp_path/'book.txt'))


def test_a_text_converted_twice_is_told(tmp_path):
    got, told = read(tmp_path/'book.txt', (9*SPANISH).encode().decode('latin1').encode())
    assert 'Ã± for ñ' in told


@pytest.mark.parametrize('make, reason', [
    (lambda: gzip.compress(SPANISH.encode()), 'compressed (gzip)'), (lambda: bz2.compress(SPANISH.encode()),
                                                            'compressed (bzip2)'),
    (lambda: lzma.compress(SPANISH.encode()), 'compressed (xz)'), (lambda: zipped('book.txt'), 'compressed (zip)'),
    (lambda: zipped('word/document.xml'), 'a Word document'), (lambda: zipped('mimetype', 'application/epub+zip'),
                                                            'an EPUB book'),
    (lambda: zipped('mimetype', 'application/vnd.oasis.opendocument.text'), 'an OpenDocument text'),
    (lambda: b'%PDF-1.4\n%text only', 'a PDF'), (lambda: b'SQLite format 3\0' + bytes(99), 'an SQLite database'),
    (lambda: bytes.fromhex('d0cf11e0a1b11ae1') + bytes(99), 'a document of an old Microsoft Office'),
    (lambda: b'\x89PNG\r\n\x1a\n\0\0', 'a PNG picture')])
def test_files_of_other_kinds_are_named(tmp_path, make, reason):
    with pytest.raises(ValueError, match=re.escape(f'book.txt is {reason}, not a text: ')): read(tmp_path/'book.txt',
                                                            make())


def zipped(name, text=SPANISH):
    "A ZIP archive of one file"
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as z: z.writestr(name, text)
    return data.getvalue()


def test_texts_that_only_begin_like_something_else(tmp_path):
    for text in ('MZ is a letter pair\n', 'BZh, said he\n', 'ID3 and PAR1\n', 'RIFF RAFF\n',
                 'GIF89a\n'): assert read(tmp_path/'b.txt', text.encode()) == (text, '')


@pytest.mark.parametrize('encoding', ['klingon', 'rot13', 'hex', 'undefined', '', 'a\0b', 'idna'])
def test_encodings_that_are_none(encoding):
    if not encoding: assert text_of(b'a', 'x', encoding) == 'a'
    else:
        with pytest.raises(ValueError, match='^x '): text_of(b'a\xff', 'x', encoding)


# --- lines and scripts

THAI = ('ในหมู่บ้านแห่งหนึ่งในแคว้นลามันชาซึ่งข้าพเจ้าไม่อยากจะจำชื่อมีขุน'
        'นางผู้หนึ่งอาศัยอยู่เขามีหอกเก่าแก่โล่โบราณม้าผอมและสุนัขล่าเนื้อ')
KHMER = ('នៅក្នុងភូមិមួយនៃតំបន់ឡាម៉ាន់ឆាដែលខ្ញុំមិនចង់ចាំឈ្មោះម'
        'ានអភិជនម្នាក់រស់នៅមិនយូរប៉ុន្មានដោយមានលំពែងនិងខែលចាស់')
LAO = ('ຢູ່ໃນໝູ່ບ້ານແຫ່ງໜຶ່ງຂອງແຂວງລາມັນຊາທີ່ຂ້ອຍບໍ່ຢາກຈື່ຊື່'
        'ມີຂຸນນາງຜູ້ໜຶ່ງອາໄສຢູ່ບໍ່ດົນມານີ້ມີຫອກເກົ່າແລະໂລ່ບູຮານ')
JAPANESE = ('吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何'
        'でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。')
RED = ('此開卷第一回也作者自云因曾歷過一番夢幻之後故將真事隱去而借通靈之說撰'
        '此石頭記一書也故曰甄士隱云云但書中所記何事何人自又云今風塵碌碌一事無成')


@pytest.mark.parametrize('text, width', [(THAI, 66), (KHMER*3, 90), (LAO*3, 80), (JAPANESE, 40), (RED, 40),
                                         (RED*5, 38)])
def test_scripts_without_blanks_are_joined_without(text, width):
    assert normalise('\n'.join(text[i:i+width] for i in range(0, len(text), width))) == text + '\n'


def test_korean_and_latin_are_joined_with_blanks():
    korean = ' '.join('옛날 어느 마을에 마음씨 착한 나무꾼이 살고 있었다'.split()*9)
    assert normalise('\n'.join(textwrap.wrap(korean, 36))) == korean + '\n'
    mixed = '這是一個很長的段落它說到了很多事情也說到了計算機和語言模型以及人們怎樣使用' 'Python'
    assert normalise(mixed + '\n' + 'language ' * 3) == mixed + ' ' + 'language language language\n'


HEXAMETERS = """Sage mir, Muse, die Taten des vielgewanderten Mannes,
Welcher so weit geirrt, nach der heiligen Troja Zerstörung,
Vieler Menschen Städte gesehn, und Sitte gelernt hat,
Und auf dem Meere so viel' unnennbare Leiden erduldet,
Seine Seele zu retten, und seiner Freunde Zurückkunft.
Aber die Freunde rettet' er nicht, wie eifrig er strebte;
Denn sie bereiteten selbst durch Missetat ihr Verderben:
"""

def test_long_lined_verse_keeps_its_lines():
    assert normalise(HEXAMETERS) == HEXAMETERS
    rng, words = random.Random(1), 'arma virumque cano troiae qui primus ab oris italiam fato profugus'
    words = f'{words} laviniaque venit litora'.split()
    for _ in range(9):
        lines, line = [], []
        while len(lines) < 40:
            line.append(rng.choice(words))
            if len(' '.join(line)) >= 57: lines, line = lines + [' '.join(line)], []
        assert normalise('\n'.join(lines)) == '\n'.join(lines) + '\n'


# --- a licence around a book of one's own

def test_a_licence_is_left_out_with_a_word():
    for begin, end in MARKS:
        with pytest.warns(UserWarning,
                          match=r'pg1.txt is from Project Gutenberg; its licence, .* characters, is left out'):
            assert without_licence(book(begin, end).replace('\r\n', '\n'), 'pg1.txt').strip() == BODY.strip()
    two = book().replace('\r\n', '\n')*2
    with pytest.warns(UserWarning): assert without_licence(two).count('En un lugar') == 2
    with pytest.warns(UserWarning): assert 'General Terms' not in without_licence(two)


def test_half_a_licence():
    text = book().replace('\r\n', '\n')
    with pytest.warns(UserWarning): assert without_licence(text[:text.index('*** END')]).strip() == BODY.strip()
    with pytest.warns(UserWarning): assert without_licence(text[text.index('Capítulo'):]).strip() == BODY.strip()
    with pytest.raises(ValueError, match='more text outside'): without_licence(text + 'my own book\n'*9_000, 'x')
    with pytest.warns(UserWarning,
                      match='no marks'): without_licence('A book.'
                        '\nSection 1. General Terms of Use and Redistributing Project Gutenberg works\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert without_licence(BODY) == BODY


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
    assert text_of('\ufeff\ufeffa'.encode(), 'x') == '\ufeffa'


# --- Project Gutenberg, from a server on this machine

BODY = '''Capítulo primero

En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho
tiempo que vivía un hidalgo de los de lanza en astillero.

Yace aquí el Hidalgo fuerte
que a tanto estremo llegó
'''
CLEAN = BODY.replace('mucho\ntiempo', 'mucho tiempo')


def book(begin='*** START OF THE PROJECT GUTENBERG EBOOK X ***', end='*** END OF THE PROJECT GUTENBERG EBOOK X ***'):
    head = f'The Project Gutenberg eBook of X\n\n{begin}\n\n\n'
    return f'{head}{BODY}\n\n{end}\n\nSection 1. General Terms of Use\n'.replace('\n', '\r\n')


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


@pytest.mark.parametrize('begin, end', MARKS)
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
    for damaged in ('', '['*100_000, '{"sha', '[]', '{}', 'null'):
        (tmp_path/'gutenberg7.json').write_text(damaged)
        with pytest.raises(ValueError, match='gutenberg7.json is damaged'): gutenberg(7, tmp_path, library)


@pytest.mark.parametrize('number', [0, -3])
def test_numbers_begin_at_one(tmp_path, number):
    with pytest.raises(ValueError, match='numbered from 1'): gutenberg(number, tmp_path)


def test_utf16_that_was_taken_for_latin1_is_not_read_as_utf16():
    data = 'ÿþ'.encode() + 'hola mundo\n'.encode('utf-16-le')*30
    with pytest.raises(ValueError, match='UTF-16 that was taken for Latin-1'): text_of(data, 'x')
    with pytest.raises(ValueError, match='is not UTF-8 text: byte 0xff'): text_of(data + b'\xff\0', 'x')


def test_the_oldest_books_do_not_name_gutenberg_at_their_mark():
    text = 'legal\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\nEn un lugar de la Mancha\n'
    with pytest.warns(UserWarning, match='its licence'): assert without_licence(text) == 'En un lugar de la Mancha\n'
