"""What tables print has a LaTeX spelling, or is refused by name."""

import pytest

from reals.experiment.spelling import tex, unspelled


def test_special_characters_are_spelled():
    assert tex("50 % of λ_k ≤ 3") == r"50 \% of $\lambda$\_k $\leq$ 3"
    assert tex("Łukasz") == "Łukasz"


def test_a_character_that_pdflatex_does_not_know_is_named():
    assert unspelled("plain") is None
    assert "no LaTeX spelling for '数' (U+6570)" in unspelled("数字")
    with pytest.raises(ValueError, match="'数字': no LaTeX spelling"):
        tex("数字")
