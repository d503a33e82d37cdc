import pytest
import torch

from diffusion.pipelines.fingerprint import fingerprint
from diffusion.runtime.cache import Cache
from diffusion.runtime.files import OutputFolder


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


def test_a_file_made_for_something_else_is_refused(tmp_path):
    cache = Cache(tmp_path, "model")
    cache.get("ratios", {"seed": 1}, lambda: {"values": torch.zeros(1)})
    (path,) = tmp_path.iterdir()
    from safetensors.torch import save_file

    save_file({"values": torch.ones(1)}, path, metadata={"request": "another"})
    with pytest.raises(ValueError, match="was made for another"):
        cache.get("ratios", {"seed": 1}, lambda: {})
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        cache.get("ratios", {"seed": 1}, lambda: {})


def test_an_interrupt_leaves_nothing_half_written(tmp_path):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path / "cache", "model").get("ratios", {}, make)
    assert not list((tmp_path / "cache").glob("*"))


def test_fingerprint_sees_weights_and_sampler(denoiser):
    before = fingerprint(denoiser.pipeline)
    assert before == fingerprint(denoiser.pipeline)
    with torch.no_grad():
        next(denoiser.network.parameters()).flatten()[0] += 1
    assert fingerprint(denoiser.pipeline) != before


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
    assert [path.name for path in place.iterdir()] == ["first"]
    with OutputFolder(place, overwrite=True) as folder:
        (folder / "second").write_text("x")
    assert [path.name for path in place.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        OutputFolder(tmp_path / "file")
