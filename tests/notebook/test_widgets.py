"""Widgets draw what the numbers say, redraw when a slider moves, and stand still where nobody watches."""

import builtins
import contextlib
import json
import queue

import nbformat
import pytest

from oefsmc_lib import progress
from oefsmc_lib.notebook import sliders as widgets

SETTINGS = [(10, 10, 100, 10), (100, 10, 10, 40), (7, 3, 1, 0), (200, 100, 100, 200)]


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def seen(figure):
    """What a picture shows: bars, titles and the words above them."""
    return [(heights(ax), ax.get_title(), [text.get_text() for text in ax.texts]) for ax in figure.axes]


@pytest.mark.parametrize("num, classes, ratio, m", SETTINGS)
def test_bars_are_counts_rates_and_mixture(num, classes, ratio, m):
    from oefsmc_lib.images import elsewhere as ood
    from oefsmc_lib.images import fewshot
    counts, rates, mixture = widgets.draw_prior(num, classes, ratio, m).axes
    m_j = fewshot.long_tailed_counts(num, classes, ratio)
    import torch
    gamma = ood.rates(torch.tensor(m_j).double() / num)
    assert heights(counts) == m_j
    assert heights(rates) == pytest.approx(gamma.tolist())
    bars = heights(mixture)
    few, elsewhere = bars[:classes], bars[classes:]
    assert few == pytest.approx([count / (num + m) for count in m_j])
    assert elsewhere == pytest.approx((m * gamma / (num + m)).tolist())
    assert sum(bars) == pytest.approx(1)
    assert [bar.get_y() for bar in mixture.patches[classes:]] == pytest.approx(few), "the second bars stand on the first"


def test_second_scales_are_shares_and_class_weights():
    figure = widgets.draw_prior(10, 10, 100, 10)
    figure.draw_without_rendering()                        # a second scale follows the first when it is drawn
    counts, rates, _ = figure.axes
    for ax, factor, label in ((counts, 1 / 10, r"share $\beta_j$"), (rates, 10, r"weight $\gamma_j$")):
        (second,) = ax.child_axes
        assert second.get_ylabel() == label
        assert second.get_ylim() == pytest.approx([factor * limit for limit in ax.get_ylim()])


def test_numbers_of_the_papers_smallest_case():
    found = widgets.prior(10, 10, 100, 10)
    assert found.counts == [4, 2, 2, 1, 1, 0, 0, 0, 0, 0]
    assert found.rates[0] == 0 and found.spread == pytest.approx(3) and found.balance == pytest.approx(30)
    assert widgets.prior(10, 10, 100, 30).spread == pytest.approx(1)
    assert widgets.prior(10, 10, 100, 0).spread == float("inf")


def test_titles_say_what_the_bars_show():
    titles = [ax.get_title() for ax in widgets.draw_prior(10, 10, 100, 30).axes]
    assert titles[0] == "5 of 10 classes are empty" and "0.00" in titles[1] and titles[2] == "mixture: even"
    assert widgets.draw_prior(10, 10, 100, 0).axes[2].get_title() == "mixture: some classes stay empty"
    assert widgets.draw_prior(10, 10, 1, 0).axes[0].get_title() == "no class is empty"


def test_the_panel_holds_a_row_a_setting():
    panel = widgets.prior_panel()
    assert len(panel.axes) == 3 * len(widgets.TELLING)
    for place, (num, classes, ratio, m) in enumerate(widgets.TELLING):
        found = widgets.prior(num, classes, ratio, m)
        counts, rates, mixture = panel.axes[3 * place:3 * place + 3]
        assert heights(counts) == found.counts and heights(rates) == found.rates
        bars = heights(mixture)
        assert [few + aux for few, aux in zip(bars[:classes], bars[classes:])] == pytest.approx(found.mixed)


def test_drawing_leaves_no_open_figure():
    import matplotlib.pyplot as plt
    before = plt.get_fignums()
    widgets.draw_prior()
    widgets.prior_panel()
    assert plt.get_fignums() == before, "Jupyter would show an open figure a second time"


def test_a_moved_slider_draws_again():
    box = widgets.prior_explorer()
    by_name = {slider.description: slider for slider in box.children[:-1]}
    assert set(by_name) == {"ratio", "classes", "num", "m"}
    drawn = seen(box.result)
    assert drawn == seen(widgets.draw_prior()), "the first picture is that of the sliders' first values"
    for slider in by_name.values():
        assert not slider.continuous_update
        slider.value += 20
        now = widgets.draw_prior(**{name: slider.value for name, slider in by_name.items()})
        before, drawn = drawn, seen(box.result)
        assert drawn == seen(now) and drawn != before, slider.description


def test_a_moved_slider_shows_the_new_picture_in_a_notebook():
    from nbclient import NotebookClient
    sources = ["from oefsmc_lib.notebook import sliders\nbox = sliders.prior_explorer()\nbox",
               "box.children[0].value = 50", "sliders.draw_prior(num=50)"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(book, kernel_name="python3", timeout=120)

    def ask_often(**_):
        """nbclient sends the widget's state through the socket that it waits on, and may then see its reply only when the
        timeout is over (jupyter/nbclient, issue 312)."""
        channel = client.kc.shell_channel
        waiting = channel.get_msg

        async def get_msg(timeout):
            for _ in range(int(timeout)):
                with contextlib.suppress(queue.Empty):
                    return await waiting(timeout=1)
            raise queue.Empty
        channel.get_msg = get_msg
    client.on_notebook_start = ask_often
    client.execute()
    (shown,) = [state["outputs"] for state in client.widget_state.values() if "outputs" in state]
    assert [output["output_type"] for output in shown] == ["display_data"], "one picture, and no error"
    assert shown[0]["data"]["image/png"].strip() == book.cells[2].outputs[0]["data"]["image/png"].strip()


def test_every_end_of_every_slider_has_numbers():
    import itertools
    sliders = widgets.prior_explorer().children[:-1]
    names = [slider.description for slider in sliders]
    for ends in itertools.product(*((slider.min, slider.max) for slider in sliders)):
        found = widgets.prior(**dict(zip(names, ends)))
        assert sum(found.mixed) == pytest.approx(1) and min(found.rates) > -1e-12


def test_sliders_over_rows_go_through_what_the_rows_have():
    """One compressor, size and variant, and one value, at a time; what the panel shows of it is what is drawn."""
    from made_rows import plausible, rows_of
    table2, swept = rows_of(plausible, "table2"), rows_of(plausible, "fig3c")
    box = widgets.classes_explorer(table2)
    method, num, variant = box.children[:-1]
    assert set(method.options) == {row.method for row in table2} and list(num.options) == sorted({row.num for row in table2})
    variant.value = "ours"
    shown = widgets.classes_panel(table2, method.value, num.value, ["ours"])
    assert heights(box.result.axes[0]) == heights(shown.axes[0]) != [] and "OE-FSMC" in box.result.axes[0].get_title(loc="left")
    (value,) = widgets.sweep_explorer(swept, "lam").children[:-1]
    assert list(value.options) == sorted({row.switches["lam"] for row in swept})
    panel = widgets.sweep_panel(swept, "lam")
    assert [ax.get_title(loc="left") for ax in panel.axes] == ["FSKD, λ = 0", "FSKD, λ = 0.5", "FSKD, λ = 1"]
    first = [row for row in swept if row.switches["lam"] == 0]
    means = [sum(found) / len(found) for num in sorted({row.num for row in first})
             if (found := [row.top1 for row in first if row.num == num and row.method == "fskd"])]
    marks = [container.lines[0].get_ydata()[0] for container in panel.axes[0].containers]
    assert marks[:len(means)] == pytest.approx(means), "the first marks are top-1"
    assert len(marks) == 4 * len(means) and len({c.lines[0].get_color() for c in panel.axes[0].containers}) == 4


def test_many_classes_stand_in_ten_bins():
    from made_rows import rows_of
    rows = rows_of(lambda e: (60.0, [99.0 - 0.5 * r for r in range(100)]), "table2", "cifar100", lambda e: e.method == "fskd", classes=100)
    (ax,) = widgets.classes_panel(rows, "fskd", 100, ["ours"]).axes
    assert heights(ax) == pytest.approx([99 - 0.5 * (10 * part + 4.5) for part in range(10)])
    assert [tick.get_text() for tick in ax.get_xticklabels()][::9] == ["1–10", "91–100"]


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, without a notebook."""
    import IPython.display
    found = []
    monkeypatch.setattr(IPython.display, "display", found.append)
    return found


def test_batch_gets_the_static_twin_alone(shown, monkeypatch):
    monkeypatch.setattr(widgets, "has_frontend", lambda: False)
    widgets.show("static", lambda: pytest.fail("nobody can move these"))
    assert shown == ["static"]


def test_a_watched_notebook_gets_both(shown, monkeypatch):
    monkeypatch.setattr(widgets, "has_frontend", lambda: True)
    widgets.show("static", lambda: "live")
    assert shown == ["static", "live"]


def test_without_ipywidgets_the_static_twin_is_shown_and_the_way_out_said(shown, monkeypatch, capsys):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.partition(".")[0] == "ipywidgets":
            raise ModuleNotFoundError("No module named 'ipywidgets'", name="ipywidgets")
        return real(name, *rest)
    monkeypatch.setattr(widgets, "has_frontend", lambda: True)
    monkeypatch.setattr(builtins, "__import__", refuse)
    picture = widgets.draw_prior()
    widgets.show(picture, widgets.prior_explorer)
    assert shown == [picture] and "pip install ipywidgets" in capsys.readouterr().out


def test_a_fault_in_the_sliders_is_not_taken_for_a_missing_package(shown, monkeypatch):
    monkeypatch.setattr(widgets, "has_frontend", lambda: True)

    def broken():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    with pytest.raises(ModuleNotFoundError, match="torch"):
        widgets.show("static", broken)


def test_a_terminal_is_no_frontend():
    assert not progress.has_frontend()


def test_batch_and_jupyter_are_told_apart(monkeypatch):
    """A real kernel, once asked as batch runners ask, once as Jupyter asks, and once told to be quiet."""
    from jupyter_client.manager import start_new_kernel
    monkeypatch.delenv("OEFSMC_QUIET", raising=False)
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        said = []
        # A bar is what was passed where nobody watches.
        ask = ("import json, os; from oefsmc_lib.progress import bar, has_frontend; "
               "print(json.dumps([has_frontend(), isinstance(bar('abc', 'runs'), str)]))")
        for code, watched in ((ask, False), (ask, True), ("os.environ['OEFSMC_QUIET'] = '1'; " + ask, True)):
            client.execute_interactive(code, allow_stdin=watched, timeout=60, output_hook=lambda message:
                                       said.append(message["content"]) if message["msg_type"] == "stream" else None)
        assert [json.loads(content["text"]) for content in said if content["name"] == "stdout"] == [
            [False, True], [True, False], [False, True]]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_nbconvert_keeps_the_panel_and_no_dead_sliders(tmp_path):
    from nbclient import NotebookClient
    source = ("from oefsmc_lib.notebook import sliders as widgets\n"
              "widgets.show(widgets.draw_prior(), widgets.prior_explorer)")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [kind for output in book.cells[0].outputs for kind in output.get("data", {})]
    assert outputs.count("image/png") == 1 and not [kind for kind in outputs if "widget" in kind]
