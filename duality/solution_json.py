"""Solutions as text: strict JSON out, and nothing believed on the way in."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NoReturn

import numpy as np

from duality._arrays import frozen
from duality.forward_kl import ForwardKL
from duality.joint import Joint
from duality.keep import Keep
from duality.likelihood import Likelihood
from duality.problems import Problem
from duality.renyi import Renyi
from duality.reverse_kl import ReverseKL
from duality.solution import Solution, Status
from duality.tail import TailLikelihood

BUILT_IN: tuple[type[Problem], ...] = (ReverseKL, ForwardKL, Likelihood, Keep, Joint, Renyi, TailLikelihood)
SCHEMA_VERSION = 1  # grows when a name or a meaning changes
WRITTEN = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def to_json(solution: Solution) -> str:
    """See `Solution.to_json`."""
    problem = _described(solution.problem)
    names = (each.name for each in dataclasses.fields(solution) if each.name not in ("problem", "status"))
    fields = {name: _plain(getattr(solution, name)) for name in names}
    head = {"schema_version": SCHEMA_VERSION, "problem": problem, "status": solution.status.name}
    return json.dumps(head | fields, allow_nan=False)


def from_json(text: str) -> Solution:
    """See `Solution.from_json`."""
    data = _parsed(text)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        _refuse(f"schema_version: {_shown(version)} given, {SCHEMA_VERSION} is needed; another release wrote this")
    problem = _problem(data.get("problem"))
    m = problem.levels.size
    status = data.get("status")
    if not isinstance(status, str) or status not in Status.__members__:
        _refuse(f"status: {_shown(status)} given, one of {', '.join(Status.__members__)} is needed")
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(Solution):
        name = each.name
        if name in ("problem", "status"):
            continue
        if name not in data:
            _refuse(f"{name}: missing")
        given, kind = data[name], str(each.type)  # as it is annotated
        if kind == "float":
            fields[name] = _number(name, given)
        elif kind == "int":
            if isinstance(given, bool) or not isinstance(given, int) or given < 0:
                _refuse(f"{name}: {_shown(given)} given, a whole number ≥ 0 is needed")
            fields[name] = given
        elif given is None and kind.endswith("| None"):
            fields[name] = None
        else:  # one entry for each constraint, or for each node
            fields[name] = _vector(name, given, None if name == "log_weights" else m)
    if not (fields["multipliers"] >= 0).all():
        _refuse("multipliers: numbers ≥ 0 are needed")
    return Solution(problem=problem, status=Status[status], **fields)


def _parsed(text: str) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not strict JSON")

    def number(digits: str) -> float:
        value = float(digits)
        if not np.isfinite(value):
            raise ValueError(f"{digits:.20} is beyond the range of a double")
        return value

    try:
        data = json.loads(text, parse_constant=constant, parse_float=number)
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(f"{type(error).__name__}: {error}", error)
    if not isinstance(data, dict):
        _refuse(f"an object is needed, got a {type(data).__name__}")
    return data


def _problem(given: Any) -> Problem:
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        _refuse("problem: an object with a type is needed")
    kind = _kind(given["type"])
    arguments = {name: _field(name, value) for name, value in given.items() if name != "type"}
    try:
        problem = kind(**arguments)
    except (TypeError, ValueError) as error:
        _refuse(f"problem: {error}", error)
    priors = getattr(problem, "priors", None)
    if isinstance(priors, np.ndarray) and priors.size != problem.levels.size:
        _refuse(f"priors: {priors.size} given for {problem.levels.size} levels")
    return problem


def _field(name: str, value: Any) -> Any:
    """An argument of a problem: text and truth values as they are, all else as numbers."""
    if isinstance(value, list):
        if value and isinstance(value[0], dict):  # the parts of a Joint
            return [_problem(each) for each in value]
        if value and isinstance(value[0], list):  # their columns
            return [_vector(name, each, None) for each in value]
        return _vector(name, value, None)
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value not in WRITTEN):
        return value
    return _number(name, value)


def _vector(name: str, given: Any, size: int | None) -> np.ndarray:
    if not isinstance(given, list) or not given:
        _refuse(f"{name}: {_shown(given)} given, a list of numbers is needed")
    if size is not None and len(given) != size:
        _refuse(f"{name}: {len(given)} numbers given for {size} constraints")
    return frozen(np.array([_number(name, each) for each in given]))


def _number(name: str, given: Any) -> Any:
    if isinstance(given, str) and given in WRITTEN:
        return WRITTEN[given]
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        _refuse(f"{name}: {_shown(given)} given, a number is needed")
    try:
        float(given)
    except OverflowError as error:
        _refuse(f"{name}: a whole number of {len(str(given))} digits is beyond the range of a double", error)
    return given


def _refuse(reason: str, cause: BaseException | None = None) -> NoReturn:
    raise ValueError(f"text: not the JSON of a Solution ({reason})") from cause


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _name(kind: type[Problem]) -> str:
    """Plain for the problems of this package, with its module for one of yours: two may share a name."""
    return kind.__name__ if kind in BUILT_IN else f"{kind.__module__}.{kind.__qualname__}"


def _kind(name: str) -> type[Problem]:
    known = {_name(kind): kind for kind in (*_descendants(Problem), *BUILT_IN)}
    if name not in known:
        raise ValueError(
            f"text: not the JSON of a Solution of a problem known here: its problem is of class {_shown(name)}; import"
            " the module that defines this class before reading"
        )
    return known[name]


def _descendants(kind: type[Any]) -> list[type[Problem]]:
    return [each for child in kind.__subclasses__() for each in (child, *_descendants(child))]


def _described(problem: Problem) -> dict[str, Any]:
    """A problem by its type and fields; parts of a Joint likewise."""
    described: dict[str, Any] = {"type": _name(type(problem))}
    for each in dataclasses.fields(problem):
        if each.init:
            value = getattr(problem, each.name)
            if isinstance(value, tuple) and all(isinstance(part, Problem) for part in value):
                described[each.name] = [_described(part) for part in value]
            elif isinstance(value, tuple):
                described[each.name] = [_stored(each.name, part) for part in value]
            else:
                described[each.name] = _stored(each.name, value)
    return described


def _plain(value: Any) -> Any:
    """Plain JSON data. Python writes a double with the digits that restore it; non-finite ones become strings."""
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else [_plain(float(v)) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _stored(name: str, value: Any) -> Any:
    plain = _plain(value)
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"problem: its field {name!r} is a {type(value).__name__}, which JSON cannot hold; numbers, text and arrays"
            " of numbers are needed (or store the parts of the solution yourself)"
        ) from None
    return plain
