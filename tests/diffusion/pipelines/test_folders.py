"""Folders of images and the prompts beside them."""

import pytest
from PIL import Image

from diffusion.pipelines.images import gather, read_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_pictures_by_name_without_prompts(folder):
    images, prompts = read_folder(folder, "data")
    assert [path.name for path in images] == ["a.jpg", "b.png"]
    assert prompts is None
    assert gather([folder, folder / "b.png"], "data", "a dog")[1] == ["a dog"] * 3
    assert gather([folder], "data", None)[1] == ["", ""]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_prompts_of_a_table(folder, table):
    rows = {
        "metadata.jsonl": '{"file_name": "b.png", "text": "two, dogs"}\n\n{"file_name": "a.jpg", "text": "a cat"}\n',
        "metadata.csv": 'file_name,text\nb.png,"two, dogs"\na.jpg,a cat\n',
    }
    (folder / table).write_text(rows[table])
    assert read_folder(folder, "data")[1] == ["a cat", "two, dogs"]
    with pytest.raises(ValueError, match="prompts of its own"):
        gather([folder], "image", "a dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "b.png", "text": "x"}', "no row .* 'a.jpg'"),
        ('{"file_name": "b.png"}', "rows with file_name and text"),
        ("[1]", "rows with file_name and text"),
        ("{", "rows with file_name and text"),
    ],
)
def test_tables_that_cannot_work(folder, text, message):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(folder, "data")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"image .*none.* neither a file nor a folder"):
        read_folder(tmp_path / "none", "image")
    with pytest.raises(ValueError, match=r"held-out folder .* holds no images"):
        read_folder(tmp_path, "held-out")
