import pytest
import torch
from safetensors.torch import save_file

from diffusion.runtime.cache import Cache
from diffusion.runtime.output_folder import OutputFolder
from diffusion.runtime.tensor_files import DamagedError, digest_of, read_tensors, write_tensors


def test_kept_once_and_taken_from_there(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"values": torch.arange(3.0)}

    for _ in range(2):
        got = Cache(tmp_path, "model").get("ratios", {"seed": 1}, make)
        assert torch.equal(got["values"], torch.arange(3.0))
    assert len(calls) == 1
    Cache(tmp_path, "another model").get("ratios", {"seed": 1}, make)
    Cache(tmp_path, "model").get("ratios", {"seed": 2}, make)
    assert len(calls) == 3


def never():
    raise AssertionError("computed again")


def flip(path, at):
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"not safetensors"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: flip(path, -1), "does not match its digest"),
        (lambda path: save_file({"values": torch.zeros(3)}, path, metadata={"request": "?"}), "carries no digest"),
        (lambda path: write_tensors(path, {"values": torch.zeros(3)}, {"request": "another"}), "made for another"),
    ],
    ids=["no tensors", "cut short", "empty", "one bit", "no digest", "another request"],
)
def test_a_file_that_fails_is_named_and_computed_again(tmp_path, capsys, damage, words):
    cache = Cache(tmp_path, "model")
    cache.get("ratios", {"seed": 1}, lambda: {"values": torch.arange(3.0)})
    (path,) = tmp_path.iterdir()
    damage(path)
    again = cache.get("ratios", {"seed": 1}, lambda: {"values": torch.ones(3)})["values"]
    assert torch.equal(again, torch.ones(3))
    said = capsys.readouterr().err
    assert str(path) in said
    assert words in said
    assert torch.equal(cache.get("ratios", {"seed": 1}, never)["values"], again)


@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x[None], lambda x: x.flip(0)])
def test_the_digest_sees_types_shapes_and_values(change):
    some = torch.arange(3.0)
    assert digest_of({"x": some}, {}) == digest_of({"x": some.clone()}, {})
    assert digest_of({"x": some}, {}) != digest_of({"x": change(some)}, {})
    assert digest_of({"x": some}, {}) != digest_of({"y": some}, {})
    assert digest_of({"x": some}, {}) != digest_of({"x": some}, {"done": "1"})


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".ratios-0123.safetensors.77-0.partial").write_bytes(b"half")
    (tmp_path / "ratios-0123.safetensors").write_bytes(b"whole")
    Cache(tmp_path, "model")
    assert [path.name for path in tmp_path.iterdir()] == ["ratios-0123.safetensors"]


def test_a_folder_that_cannot_be_used_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(OSError, match=r"cache folder .* cannot be used"):
            Cache(place, "model")
    Cache(tmp_path / "a" / "b", "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path / "cache", "model").get("ratios", {}, make)
    assert not list((tmp_path / "cache").glob("*"))


def test_output_is_whole_or_absent(tmp_path):
    place = tmp_path / "out"
    with pytest.raises(RuntimeError), OutputFolder(place) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with OutputFolder(place) as folder:
        (folder / "first").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        OutputFolder(place)
    with pytest.raises(RuntimeError), OutputFolder(place, overwrite=True) as folder:
        raise RuntimeError
    assert sorted(path.name for path in place.iterdir()) == ["first", "manifest.json"]
    with OutputFolder(place, overwrite=True) as folder:
        (folder / "second").write_text("x")
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        OutputFolder(tmp_path / "file")


def test_the_same_content_gives_the_same_bytes(tmp_path):
    """In processes of their own: the order of a hash map differs between them, and between maps of one."""
    metadata = {name: name for name in ("request", "done", "losses", "state", "since")}
    for number in range(8):
        write_tensors(tmp_path / str(number), {"b": torch.arange(3.0), "a": torch.zeros(2)}, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_every_bit_of_the_header_is_guarded(tmp_path):
    """A bit that falls on the description instead of the numbers: damaged, or read as what was written."""
    path = tmp_path / "file"
    write_tensors(path, {"values": torch.arange(3.0)}, {"request": "this"})
    kept = path.read_bytes()
    for at in range(len(kept)):
        flip(path, at)
        try:
            tensors, metadata = read_tensors(path)
        except DamagedError:
            pass
        else:
            assert metadata == {"request": "this"}
            assert torch.equal(tensors["values"], torch.arange(3.0))
        path.write_bytes(kept)
