"""Formulas survive the way to MathML: the places where the converter would misread TeX."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

EXTENSION = Path(__file__).parents[2] / "docs" / "_ext" / "mathml.py"


@pytest.fixture(scope="module")
def mathml() -> ModuleType:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("docs_mathml", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("tex", "made"),
    [
        (r"\tfrac12 \lambda^2", r"<mfrac[^>]*><mn>1</mn><mn>2</mn></mfrac><msup>"),
        (r"\frac pq \,\mathrm d\mu", r"<mfrac><mi>p</mi><mi>q</mi></mfrac>"),
        (r"\frac b\pi", r"<mfrac><mi>b</mi><mi>π</mi></mfrac>"),
        (r"\bar\alpha_t", r"<msub>.*<mover><mi>α</mi><mo[^>]*>ˉ</mo></mover>.*<mi>t</mi></msub>"),
        (r"\mathbb E_p|\rho_i| < 1", r'<mo lspace="0" rspace="0" stretchy="false">\|</mo><msub>'),
        (r"\mathrm{KL}(p\,\|\,q)", r"‖"),
        (r"\operatorname{ess\,inf} \lambda", "<m[io][^>]*>ess\N{NO-BREAK SPACE}inf</m[io]>.*<mspace"),
        (r"1, \dots, m", r"…"),
        (r"R_i := 2", "<mo>≔</mo>"),
        (r"f''", "<mo[^>]*>′</mo><mo[^>]*>′</mo>"),
    ],
)
def test_converted(mathml: ModuleType, tex: str, made: str) -> None:
    class Page:
        encode = staticmethod(str)

    from docutils import nodes

    found = re.sub(r"\n\s*", "", mathml.convert(Page(), nodes.math("", tex), block=False))
    assert re.search(made, found), found


def test_a_formula_is_left_as_it_is_where_nothing_is_to_be_done(mathml: ModuleType) -> None:
    for tex in (r"x_{\max}", r"\mathrm{KL}(p\,\|\,q)", r"\lambda^\star \in \Lambda", r"\sum_i a_i \rho_i"):
        assert mathml.prepared(tex) == tex
