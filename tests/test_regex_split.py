"Splitting: nothing is lost, whatever the text, and the chunks are those of another regex engine"
import pytest
import regex
from hypothesis import example, given, settings, strategies as st

from mini_llm.regex_split import GPT4_PATTERN, compile_pattern, split

examples = settings(max_examples=300, deadline=None, derandomize=True, database=None)
# The signs at the borders of the pattern, and letters and numbers on which all Unicode versions agree
BORDERS = list("aZñóÑß中яא9٣½' \t\n\r\u00a0\u2028.,;¿?¡!—-_\"()€😀")
BORDERS += ["'s", "'LL", "'d", '  ', '\r\n', '123', 'o\u0301']
border_text = st.lists(st.sampled_from(BORDERS), max_size=30).map(''.join)


@examples
@given(st.text(st.characters()))
@example('a\n  ')
@example('\ud800')
def test_chunks_joined_are_the_text(text):
    chunks = split(text)
    assert ''.join(chunks) == text
    assert all(chunks)


@examples
@given(border_text)
def test_chunks_are_those_of_oniguruma(text):
    tokenizers = pytest.importorskip('tokenizers')
    peer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT4_PATTERN), 'isolated')
    assert split(text) == [chunk for chunk,_ in peer.pre_tokenize_str(text)]


@examples
@given(border_text)
def test_no_chunk_mixes_letters_with_numbers_or_line_breaks_with_words(text):
    for chunk in split(text):
        assert not (regex.search(r'\p{L}', chunk) and regex.search(r'[\p{N}\r\n]', chunk))
        assert len(regex.findall(r'\p{N}', chunk)) <= 3


@examples
@given(border_text, st.sampled_from([r'\p{L}+', r'\w+|\s+', r'(\p{L})+|(\P{L})', r'[\s\S]', r'a|', r'\S+\s*']))
def test_a_pattern_loses_nothing_or_says_where(text, pattern):
    try: assert ''.join(split(text, pattern)) == text
    except ValueError as e:
        start = int(regex.search(r'at character (\d+);', str(e))[1])
        assert repr(text[start])[1:-1] in str(e)
        assert not any(m.start() <= start < m.end() for m in regex.finditer(pattern, text))
        assert ''.join(split(text[:start], pattern)) == text[:start]


@pytest.mark.parametrize('pattern, reason', [('(', 'missing )'), ('[', 'does not compile'), ('(?r).', 'backwards')])
def test_patterns_that_cannot_be_used(pattern, reason):
    with pytest.raises(ValueError, match=regex.escape(reason)): compile_pattern(pattern)
    with pytest.raises(ValueError, match=regex.escape(reason)): split('text', pattern)


def test_the_book(root):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')
    assert ''.join(split(text)) == text
    assert [regex.match(GPT4_PATTERN, chunk)[0] for chunk in split(text)[:1000]] == split(text)[:1000]
