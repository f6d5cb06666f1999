"""Checks of exercises and figures: what a learner sees, and that nothing stops the notebook."""

import pytest
from matplotlib import pyplot

from mathsft import exercise, show_figure

pytestmark = pytest.mark.same_everywhere


def test_a_passing_check_says_solved(capsys: pytest.CaptureFixture[str]) -> None:
    with exercise(1):
        assert True
    assert capsys.readouterr().out == "Exercise 1: solved\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [(AssertionError("seven are needed"), "seven are needed"), (KeyError("a"), "KeyError: 'a'")],
)
def test_a_failing_check_says_what_is_missing_and_does_not_stop(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with exercise("2b"):
        raise error
    assert capsys.readouterr().out == f"Exercise 2b: not solved yet: {told}\n"


def test_ctrl_c_still_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), exercise(1):
        raise KeyboardInterrupt


def test_the_page_escapes_what_the_learner_wrote_and_folds_the_traceback() -> None:
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", shown.append)
        with exercise(1):
            raise ValueError("<b>no</b>")
    page = shown[0]._repr_html_()
    assert "<b>no</b>" not in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "<details>" in page


def test_a_figure_is_shown_once_with_its_alternative_text() -> None:
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", shown.append)
        pyplot.figure().gca().plot([1, 2])
        show_figure("A line that rises.")
    data, metadata = shown[0]._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "A line that rises."
    assert "image/png" in data
    assert not pyplot.get_fignums()
    with pytest.raises(ValueError, match="draw one first"):
        show_figure("Nothing.")
    with pytest.raises(ValueError, match="say in a sentence"):
        show_figure(" ")
