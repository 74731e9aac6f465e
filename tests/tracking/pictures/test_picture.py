import matplotlib.image
import numpy
import pytest

from tests.tracking.study import OBJECTIVES, make_trial
from ttq_plugin.errors import InputError
from ttq_plugin.tracking import plot_front
from ttq_plugin.tracking.pictures.front import title_of


def share(pixels, colour):
    """The share of pixels close to an RGB colour."""
    return (abs(pixels[..., :3] * 255 - numpy.array(colour)).max(axis=-1) < 12).mean()


@pytest.mark.parametrize("count", [2, 3])
def test_the_picture_shows_the_front_in_red(records, tmp_path, count):
    path = plot_front(records, OBJECTIVES[:count], tmp_path / "new" / "front.png", "a study")
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] > pixels.shape[0]
    assert share(pixels, (214, 39, 40)) > 1e-3
    assert share(pixels, (255, 255, 255)) > 0.5
    assert [file.name for file in path.parent.iterdir()] == ["front.png"]  # no temporary file stays


def test_a_study_without_complete_trials_has_a_picture_without_red(tmp_path):
    path = plot_front([make_trial(0, state="failed")], OBJECTIVES, tmp_path / "front.png")
    assert share(matplotlib.image.imread(path), (214, 39, 40)) == 0


def test_an_outlier_does_not_squeeze_the_front(records, tmp_path):
    alone = matplotlib.image.imread(plot_front(records, OBJECTIVES, tmp_path / "a.png"))
    far = make_trial(99, dict.fromkeys(OBJECTIVES, -5.0))
    both = matplotlib.image.imread(plot_front([*records, far], OBJECTIVES, tmp_path / "b.png"))

    def spread(pixels):
        red = abs(pixels[..., :3] * 255 - numpy.array((214, 39, 40))).max(axis=-1) < 12
        return numpy.ptp(numpy.nonzero(red.any(axis=1))[0])

    assert spread(both) > 0.25 * both.shape[0]
    assert spread(alone) > 0.25 * alone.shape[0]


def test_one_objective_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least two objectives"):
        plot_front([], ["mcc"], tmp_path / "front.png")


def test_a_title_names_the_task_once():
    assert title_of("first", "mnist-cnn", 21, 8) == "mnist-cnn, first: 21 complete trials, 8 on the front"
    assert title_of("mnist-cnn-1", "mnist-cnn", 1, 1) == "mnist-cnn-1: 1 complete trials, 1 on the front"
