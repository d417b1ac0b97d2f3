"""Exercise 00.5: red until the library has a pattern for Spanish.

    pytest tests/exercises/spanish_pattern.py
"""
from pathlib import Path

from mini_llm import regex_split
from mini_llm.regex_split import split

BOOK = Path(__file__).parents[2]/'datasets'/'cervantes.txt'


def pattern():
    found = getattr(regex_split, 'SPANISH_PATTERN', None)
    assert found, 'mini_llm.regex_split has no SPANISH_PATTERN: is it in an exported cell, and was nbdev_export run?'
    return found


def test_marks_that_open_stand_alone():
    assert split('¿Quién? ¡Oh!', pattern()) == ['¿', 'Quién', '?', ' ¡', 'Oh', '!'], \
        'the mark before a word may be neither ¿ nor ¡'


def test_other_marks_stay_with_their_word():
    assert split('—dijo Sancho', pattern()) == ['—dijo', ' Sancho'], 'any other mark must stay with its word'


def test_no_english_endings():
    assert split("pa'delante", pattern()) == ['pa', "'delante"], 'the English contractions are still there'


def test_nothing_of_the_book_is_lost():
    chunks = split(text := BOOK.read_text(encoding='utf-8'), pattern())
    assert ''.join(chunks) == text
    assert len(chunks) == 64_860, 'the book should be 64,860 chunks'


def test_all_may_import_it(): assert pattern() and 'SPANISH_PATTERN' in regex_split.__all__
