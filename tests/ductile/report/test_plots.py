from dataclasses import replace

import numpy as np
import pytest

from ductile.report.canvas import Grid
from ductile.report.curves import branch_curves, continual, learning_curves
from ductile.report.plots import DRAWINGS, write_plots
from ductile.report.records import PhaseBand, ReportContext
from ductile.report.retained import drift_against_retention, format_shares, retention_map


@pytest.fixture
def grid(record):
    records = tuple(
        record(variant, plan, seed, 0.9, 0.2 + 0.1 * seed)
        for plan in ("guessable", "honest")
        for variant in ("parameter_only", "proxy")
        for seed in range(3)
    )
    return Grid(records, ("guessable", "honest"), ("parameter_only", "proxy"))


def test_learning_curve_is_the_mean_over_seeds(grid):
    figure = learning_curves(grid)
    assert len(figure.axes) == 4 * 2  # four metrics, two plans
    prior = figure.axes[6].lines[0]  # last row, first plan, first variant: 0.9, 0.6 and the mean of 0.2, 0.3, 0.4
    assert list(prior.get_xdata()) == [0, 5, 10]
    assert list(prior.get_ydata()) == pytest.approx([0.9, 0.6, 0.3])


def test_interval_is_drawn_from_three_seeds_and_two_are_drawn_themselves(record):
    two = Grid(tuple(record(seed=seed) for seed in range(2)), ("guessable",), ("parameter_only",))
    three = Grid(tuple(record(seed=seed) for seed in range(3)), ("guessable",), ("parameter_only",))
    panel_of_two, panel_of_three = learning_curves(two).axes[0], learning_curves(three).axes[0]
    assert (len(panel_of_two.lines), len(panel_of_two.collections)) == (3, 0)
    assert (len(panel_of_three.lines), len(panel_of_three.collections)) == (1, 1)


def test_phases_are_shaded_and_named(record):
    run = replace(record(), phases=(PhaseBand("hard", 0, 6), PhaseBand("easy", 6, 10)))
    panel = learning_curves(Grid((run,), ("guessable",), ("parameter_only",))).axes[0]
    assert [text.get_text() for text in panel.texts] == ["hard", "easy"]
    assert [(patch.get_x(), patch.get_width()) for patch in panel.patches] == [(0, 6), (6, 4)]


def test_retention_map_holds_the_mean_of_each_cell_and_boundary(grid):
    image = retention_map(grid).axes[0].images[0]
    assert np.asarray(image.get_array()) == pytest.approx(np.array([[0.9, 0.3]]))


def test_a_plan_without_finished_runs_of_a_variant_is_said(grid, record):
    records = (record("parameter_only"), record("proxy", "honest"))
    axes = retention_map(Grid(records, grid.plans, grid.variants)).axes
    assert [text.get_text() for text in axes[1].texts] == ["no finished run"]
    assert [text.get_text() for text in axes[2].texts] == ["no finished run"]
    assert axes[2].get_ylabel() == "proxy"  # its row is named all the same


def test_continual_figure_has_a_panel_for_each_variant_and_plan_and_a_line_for_each_task(sequence, alone):
    records = (sequence(), sequence(seed=1), sequence("proxy", gain=0.4), alone())
    figure = continual(Grid(records, ("sequence", "alone"), ("parameter_only", "proxy")))
    assert len(figure.axes) == 2  # the plan of one phase has none
    lines = [[line for line in panel.lines if len(line.get_xdata()) == 5] for panel in figure.axes]
    assert [len(each) for each in lines] == [2, 2]
    assert list(lines[1][0].get_ydata()) == pytest.approx([0, 25, 50, 37.5, 25])  # of the other variant's 0.1 -> 0.9
    assert list(lines[1][1].get_ydata()) == pytest.approx([0, 0, 0, 200 / 3, 100])


def test_every_run_is_a_point_of_drift_and_retention(grid):
    panel = drift_against_retention(grid).axes[0]
    points = sorted((line.get_xdata()[0], round(float(line.get_ydata()[0]), 6)) for line in panel.lines)
    assert points == [(0.2, y) for y in (0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4)]


def test_drift_over_orders_of_magnitude_gets_a_logarithmic_axis(record):
    runs = [record(seed=seed) for seed in range(2)]
    runs[0].boundaries[1]["metrics"] |= {"drift/kl_forward_base/prior": 0.001, "drift/kl_reverse_base/prior": 0.001}
    figure = drift_against_retention(Grid(tuple(runs), ("guessable",), ("parameter_only",)))
    assert [panel.get_xscale() for panel in figure.axes] == ["log", "log"]


def test_format_bars_stack_to_one_with_the_base_first(grid):
    panel = format_shares(grid).axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["before", "parameter_only", "proxy"]
    heights = np.array([bar.get_height() for bar in panel.patches]).reshape(2, 3)
    assert heights.tolist() == [[0.75] * 3, [0.25] * 3]


def test_branch_curves_start_from_the_fresh_base_and_from_the_end(grid):
    panel = branch_curves(grid).axes[0]
    assert [line.get_linestyle() for line in panel.lines] == [":", "-", ":", "--"]
    assert list(panel.lines[0].get_ydata()) == pytest.approx([0.1, 0.6])


@pytest.mark.parametrize("draw", [drawing[3] for drawing in DRAWINGS])
def test_nothing_to_draw_is_no_figure(draw, record, boundary):
    untrained = replace(record(plan="none"), boundaries=[boundary(0, 0, 0.9)], phases=(), metrics={})
    assert draw(Grid((), (), ())) is None
    assert draw(Grid((untrained,), ("none",), ("parameter_only",))) is None


def test_failed_runs_are_not_drawn(record, tmp_path):
    assert write_plots([record(status="FAILED"), record(status="RUNNING", seed=1)], tmp_path, ReportContext("t")) == []
