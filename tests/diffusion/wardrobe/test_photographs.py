"""Photographs: read from IDX files, wherever they lie; some ship; files that are no such data are refused."""

import gzip
import struct

import numpy as np
import pytest

from diffusion.wardrobe import OBJECTS, load_photographs, shipped_photographs
from diffusion.wardrobe import photographs as module


def write(folder, split="train", labels=(0, 4, 1, 9), count=None, cut=0, kind=8):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(len(labels) if count is None else count, 28, 28), dtype=np.uint8)
    content = struct.pack(">BBBBIII", 0, 0, kind, 3, len(images), 28, 28) + images.tobytes()
    (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content[: len(content) - cut]))
    said = struct.pack(">BBBBI", 0, 0, 8, 1, len(labels)) + bytes(labels)
    (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(said))
    return images


def test_eight_of_ten_classes_are_read_and_numbered_anew(tmp_path):
    images = write(tmp_path, labels=range(10))
    found = load_photographs("train", tmp_path)
    np.testing.assert_array_equal(found.objects, np.arange(8))
    np.testing.assert_array_equal(found.images, images[[0, 1, 2, 3, 5, 7, 8, 9]])
    assert len(found[:3]) == 3
    assert OBJECTS[found.objects[-1]] == "boot"


def test_the_folder_may_be_named_by_the_environment(tmp_path, monkeypatch):
    write(tmp_path, "t10k")
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    assert len(load_photographs("held-out")) == 3
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path / "elsewhere"))
    assert len(load_photographs("held-out", tmp_path)) == 3  # an argument goes first


def test_missing_data_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("FASHION_MNIST", raising=False)
    monkeypatch.setattr(module, "DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(FileNotFoundError, match=r"debian.*dataset-fashion-mnist.*FASHION_MNIST"):
        load_photographs("train")


@pytest.mark.parametrize("fault", [{"cut": 1}, {"kind": 9}, {"count": 3}])
def test_files_that_do_not_fit_are_refused(tmp_path, fault):
    write(tmp_path, **fault)
    with pytest.raises(ValueError, match=r"should hold|no IDX file|do not go with"):
        load_photographs("train", tmp_path)


def test_a_file_that_is_not_compressed_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"labels")
    with pytest.raises(ValueError, match="no gzip file"):
        load_photographs("train", tmp_path)


@pytest.mark.parametrize("load", [load_photographs, shipped_photographs])
def test_another_split_is_refused(load):
    with pytest.raises(ValueError, match="split must be 'train' or 'held-out', got 'test'"):
        load("test")


def test_a_few_hundred_photographs_ship_equally_many_of_each_object_none_twice():
    splits = [shipped_photographs(split) for split in ("train", "held-out")]
    for data, count in zip(splits, (40, 20), strict=True):
        np.testing.assert_array_equal(np.bincount(data.objects, minlength=len(OBJECTS)), count)
        assert data.images.shape == (8 * count, 28, 28)
        assert data.images.dtype == np.uint8
    together = np.concatenate([data.images.reshape(len(data), -1) for data in splits])
    assert len(np.unique(together, axis=0)) == len(together)


def test_their_licence_lies_beside_them():
    text = module.SHIPPED.with_name("FASHION_MNIST_LICENSE.txt").read_text(encoding="utf-8")
    assert "Zalando SE" in text
    assert "WITHOUT WARRANTY OF ANY KIND" in text
