"""Published schemas are those of the code, say what is written, and every document is on the page that lists them."""

import json
import re
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from diffusion.digits.planted_study import PlantedStudy
from diffusion.digits.quality import DigitsQuality
from diffusion.reports.schemas import DOCUMENTS, main, schemas
from diffusion.runtime.documents import Document, json_schema
from diffusion.wardrobe.quality import WardrobeQuality

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs" / "reference" / "schemas"
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def test_published_schemas_are_up_to_date():
    written = {path.name: path.read_text(encoding="utf-8") for path in PUBLISHED.glob("*.json")}
    assert written == schemas(), "run: python -m diffusion.reports.schemas --output docs/reference/schemas"


def test_the_command_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["schemas", "--output", str(tmp_path / "new")])
    main()
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()} == schemas()


@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda kind: kind.title)
def test_every_document_has_a_version_and_plain_names(kind):
    schema = json.loads(json_schema(kind))
    assert "schema_version" in schema["required"]
    assert isinstance(schema["properties"]["schema_version"]["const"], int)
    for name, part in {kind.__name__: schema, **schema.get("$defs", {})}.items():
        assert part.get("additionalProperties", False) is False, name
        for key in part.get("properties", {}):
            assert IDENTIFIER.fullmatch(key), f"{name}.{key}"
    page = (PUBLISHED.parent / "files.md").read_text(encoding="utf-8")
    assert f"(schemas/{kind.title}.json)" in page


def test_titles_differ():
    assert len({kind.title for kind in DOCUMENTS}) == len(DOCUMENTS)


class Numbers(Document):
    title: ClassVar[str] = "numbers"
    schema_version: Literal[1] = 1
    values: tuple[float, ...]


def test_numbers_that_json_has_none_for_are_in_the_schema():
    text = Numbers(values=(1.0, float("nan"), float("-inf"))).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["values"] == [1.0, "NaN", "-Infinity"]
    items = json.loads(json_schema(Numbers))["properties"]["values"]["items"]
    assert items == {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    assert Numbers.model_validate_json(text).to_json() == text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("docs/images/planted.json", PlantedStudy),
        ("diffusion/digits/quality.json", DigitsQuality),
        ("diffusion/wardrobe/quality.json", WardrobeQuality),
    ],
)
def test_files_of_the_project_are_what_their_models_write(path, kind):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert kind.model_validate_json(text, strict=True).to_json() == text


def test_a_file_that_is_not_quite_one_is_refused():
    text = (ROOT / "docs" / "images" / "planted.json").read_text(encoding="utf-8")
    data = json.loads(text)
    for spoiled in (data | {"more": 1}, data | {"schema_version": 2}, {k: v for k, v in data.items() if k != "fits"}):
        with pytest.raises(ValueError, match="validation error"):
            PlantedStudy.model_validate_json(json.dumps(spoiled))
