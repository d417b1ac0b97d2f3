"""Exercise 05.5: red until `Sampling` has a knob more, `top_n_sigma`.

    pytest tests/exercises/top_n_sigma.py
"""
import dataclasses

import numpy as np
import pytest

from mini_llm.generate import Sampling

SCORES = np.array([3., 2.5, 0., -1., -2.])      # their standard deviation is 1.94


def sampling(**fields):
    assert 'top_n_sigma' in {o.name for o in dataclasses.fields(Sampling)}, \
        'Sampling has no field top_n_sigma: is it in the exported cell, and was nbdev_export run?'
    return Sampling(**dict(temperature=1, top_p=1) | fields)


def left(**fields): return sampling(**fields).candidates(SCORES, [])[0].tolist()


def test_it_keeps_what_is_near_the_highest_score():
    assert left(top_n_sigma=1) == [0, 1], 'the scores of at least 3 - 1.94 stay: the first two'
    assert left(top_n_sigma=2) == [0, 1, 2], '3 - 2*1.94 is below the third score'
    assert left(top_n_sigma=.1) == [0], 'the likeliest always stays'


def test_0_keeps_all(): assert left(top_n_sigma=0) == left() == [0, 1, 2, 3, 4], '0 is the default and cuts nothing'


def test_temperature_does_not_matter():
    assert left(top_n_sigma=1, temperature=.2) == left(top_n_sigma=1, temperature=5) == [0, 1], \
        'who stays is decided by the scores before the temperature'


def test_the_deviation_is_that_of_all_scores():
    assert left(top_n_sigma=1, top_k=2) == [0, 1], \
        'after top-k only two scores are left, and their deviation is another: the cut has to come before'


def test_the_rest_still_sums_to_1(): assert sampling(top_n_sigma=1).probabilities(SCORES, []).sum() == pytest.approx(1)


@pytest.mark.parametrize('wrong', [-1, float('nan'), '2'])
def test_nonsense_is_refused(wrong):
    sampling()
    with pytest.raises(ValueError, match='top_n_sigma='): Sampling(top_n_sigma=wrong)
