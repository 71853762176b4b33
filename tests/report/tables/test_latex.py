import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_parts import COMMON, SHEETS, seeded

from reals.experiment.spelling import tex
from reals.report.tables.build import build
from reals.report.tables.latex import latex


@pytest.mark.process
@pytest.mark.extra
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-extra)")
@pytest.mark.parametrize("name", SHEETS)
def test_latex_of_every_table_compiles(name, tmp_path):
    rows = {(SHEETS[name].source, r.source) for r in SHEETS[name].rows}
    results = {key: seeded(key[1], 20.0, 21.0, kind=key[0]) for key in rows if key[0] != "settings"}
    settings = {key: dict.fromkeys(SHEETS[name].metrics, "1e-4") for key in ("autoencoder", "transformer")}
    source = latex(build(SHEETS[name], results, replace(COMMON, settings=settings)))
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,adjustbox,xcolor}"
    document = tmp_path / "table.tex"
    document.write_text(rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}" + "\n" + source + r"\end{document}")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull" not in made.stdout


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_escapes_any_ascii(text):
    escaped = tex(text)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")
    bare = escaped.replace(r"\textbackslash{}", "").replace(r"\textasciitilde{}", "").replace(r"\textasciicircum{}", "")
    assert not re.search(r"(?<!\\)[#_%&~^]", bare)


def test_latex_refuses_a_character_without_a_spelling():
    assert tex("Łukasz, 7×7, ≤ 3 %") == r"Łukasz, 7$\times$7, $\leq$ 3 \%"
    with pytest.raises(ValueError, match=r"U\+6570"):
        tex("数字")
