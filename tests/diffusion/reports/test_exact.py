"""Solutions and the explorer's numbers are what their models say, and a file of another version is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pydantic")

import duality as du
from diffusion.reports.exact import Explored, SolutionDocument, SolutionNumbers
from duality.solution import Status
from toy.explorer.compute import Engine
from toy.explorer.export import numbers
from toy.explorer.links import from_example, from_link

WORKED = from_example("worked")


def solutions():
    ratios = du.LogRatios([[-np.inf, 0.3], [0.1, -0.5], [0.2, 0.1]], np.log([0.2, 0.3, 0.5])).normalise()
    draws = du.LogRatios(np.random.default_rng(0).normal(size=(2000, 1)) - 0.5, priors=0.1)
    yield du.solve(du.ReverseKL([3.0, 0.2]), ratios)
    yield du.solve(du.ForwardKL(0.6), draws)
    yield du.solve(du.Likelihood(0.05), draws)
    yield du.solve(du.Joint([du.Likelihood(0.05), du.ForwardKL(0.6)], columns=[[0], [0]]), draws)


def test_a_solution_is_a_document_that_is_read_back_bit_for_bit():
    for solution in solutions():
        text = solution.to_json()
        document = SolutionDocument.model_validate_json(text)
        assert json.loads(document.to_json()) == json.loads(text)
        assert du.Solution.from_json(document.to_json()).to_json() == text


def test_a_document_names_every_status():
    assert set(SolutionNumbers.model_json_schema()["properties"]["status"]["enum"]) == set(Status.__members__)


@pytest.mark.parametrize(
    "state",
    [
        WORKED,
        replace(WORKED, problem="FU").with_levels((19.5,)),
        WORKED.with_levels((-1.0,)),
        WORKED.with_mode(1, keep=0.3),
        replace(from_example("several"), problem="RU"),
    ],
    ids=["worked", "not attained", "refused", "keeping", "several"],
)
def test_the_numbers_of_the_explorer_are_a_document(state):
    text = numbers(Engine().view(state))
    document = Explored.model_validate_json(text)
    assert json.loads(document.model_dump_json(exclude_unset=True)) == json.loads(text)
    assert from_link(document.link) == state
    assert (document.solution is None) == bool(document.errors) == (document.grid is None)


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_version_is_refused(version):
    solved = du.solve(du.Likelihood(0.08), du.LogRatios([[0.0], [1.0]], np.log([0.6, 0.4]), priors=0.1).normalise())
    for kind, text in ((SolutionDocument, solved.to_json()), (Explored, numbers(Engine().view(WORKED)))):
        data = json.loads(text)
        assert data["schema_version"] == 1
        with pytest.raises(ValueError, match=r"schema_version\n.*Input should be 1"):
            kind.model_validate_json(json.dumps(data | {"schema_version": version}))
