"""Images as files, in as many channels as the pipeline has."""

import io

import numpy as np
import pytest
from PIL import Image

from diffusion.reports.figures import Pairs, bars, save_each, save_images, save_pairs, sheet


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_of_one_channel_are_grey(tmp_path, channels, mode):
    images = np.linspace(-1, 1, 2 * channels * 4 * 5, dtype=np.float32).reshape(2, channels, 4, 5)
    save_each(tmp_path, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.png", "00001.png"]
    read = Image.open(tmp_path / "00001.png")
    assert read.mode == mode
    values = np.asarray(read).reshape(4, 5, channels).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(values, images[1], atol=0.5 / 127.5 + 1e-6)  # half a grey level
    assert sheet(images, 2).shape == (4 + 4, 2 * (5 + 2) + 2, 3)


def grey(value, n=4, size=6):
    return np.full((n, 3, size, size), value, np.float32)


def test_pairs_are_above_each_other_under_their_prompt(tmp_path, monkeypatch):
    """Before in the upper row, after in the lower one, the prompt as the title, whatever is in it."""
    from matplotlib.axes import Axes

    shown, titles = [], []
    monkeypatch.setattr(Axes, "imshow", lambda self, image, **_: shown.append(image))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **more: titles.append((text, more["parse_math"])))
    prompt = "costs $5_{a}$ | <b>"
    save_pairs(tmp_path / "pairs.png", [Pairs(prompt, grey(-1.0), grey(0.99)), Pairs("b", grey(0.0), grey(0.0))])
    (first, _), height = shown, shown[0].shape[0]
    assert (first[2 : height // 2 - 2, 2:8] == 0).all()
    assert (first[height // 2 + 2 : -2, 2:8] == 254).all()
    assert titles == [(prompt, False), ("b", False)]
    with pytest.raises(ValueError, match="'b' has shapes"):
        save_pairs(tmp_path / "pairs.png", [Pairs("b", grey(0.0), grey(0.0, 3))])


def test_prompts_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    save_pairs(tmp_path / "a.png", [Pairs("$x_$ and $", grey(0.0), grey(0.0))])
    save_images(tmp_path / "b.png", [("$x_$ and $", grey(0.0))], columns=2)
    assert all((tmp_path / name).stat().st_size > 500 for name in ("a.png", "b.png"))


def test_the_legend_of_the_bars_covers_none():
    """Bars as high as they get: no legend's pixel lies within the axes, where its frame would be over them."""
    from matplotlib.figure import Figure

    figures = []
    draw = Figure.savefig

    def kept(self, *arguments, **more):
        figures.append(self)
        return draw(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", kept)
        png = bars({"before": [0.5] * 10, "guided": [0.5] * 10, "LoRA": [0.5] * 10}, [str(k) for k in range(10)])
    (figure,) = figures
    ((legend,), (axes,)) = figure.legends, figure.axes
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert Image.open(io.BytesIO(png)).width > 500
