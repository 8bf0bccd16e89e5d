"""What the displays draw: the data of their artists."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import (
    CodebookUsageDisplay,
    DPQClassifier,
    DPQNeighbors,
    DPQTransformer,
    LossCurveDisplay,
    ProductQuantizer,
    RetrievalCurveDisplay,
    RetrievalDisplay,
)
from skdpq.metrics import precision_at_k, recall_at_k, score_neighbors

GREEN, RED = to_rgba("tab:green"), to_rgba("tab:red")


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def names(digits):
    """Digits whose labels are strings, and a database of a quarter of them."""
    X, X_query, y, y_query = digits
    y, y_query = (np.array([f"digit {label}" for label in labels]) for labels in (y, y_query))
    neighbors = DPQNeighbors(3, quantizer=ProductQuantizer(M=4, K=8, random_state=0)).fit(X[:300], y[:300])
    return neighbors, X[:300], y[:300], X_query, y_query


def picture(ax):
    return ax.images[0].get_array()


def frame(ax):
    """Return the colour of a frame, None where there is none."""
    colors = {spine.get_edgecolor() if spine.get_visible() else None for spine in ax.spines.values()}
    (color,) = colors
    return color


def test_neighbours_are_drawn_in_order_and_hits_are_framed(names):
    neighbors, X, y, X_query, y_query = names
    display = RetrievalDisplay.from_estimator(neighbors, X_query[:6], y_query[:6], items=X)
    ids = neighbors.kneighbors(X_query[:6], return_distance=False)
    hits = y[ids] == y_query[:6, None]
    assert display.axes_.shape == (6, 4)
    assert 0 < hits.sum() < hits.size
    assert_array_equal(display.hits, hits)
    for i, row in enumerate(display.axes_):
        assert_array_equal(picture(row[0]), X_query[i].reshape(8, 8))
        assert frame(row[0]) is None
        for ax, item, hit in zip(row[1:], ids[i], hits[i], strict=True):
            assert_array_equal(picture(ax), X[item].reshape(8, 8))
            assert frame(ax) == (GREEN if hit else RED)
            assert {spine.get_linestyle() == "solid" for spine in ax.spines.values()} == {bool(hit)}
    assert display.figure_ is display.ax_.figure


def test_queries_stand_at_the_left_of_their_neighbours_and_above_the_next(names):
    neighbors, X, _, X_query, _ = names
    display = RetrievalDisplay.from_estimator(neighbors, X_query[:3], items=X)
    display.figure_.canvas.draw()
    left = np.vectorize(lambda ax: ax.get_position().x0)(display.axes_)
    bottom = np.vectorize(lambda ax: ax.get_position().y0)(display.axes_)
    assert (np.diff(left, axis=1) > 0).all()
    assert (np.diff(bottom, axis=0) < 0).all()
    assert {frame(ax) for ax in display.axes_.flat} == {None}  # nobody said what is a hit


def test_labels_of_items_may_be_given_as_for_nearest_neighbors(names):
    _, X, y, X_query, y_query = names
    exact = NearestNeighbors(n_neighbors=2).fit(X)
    display = RetrievalDisplay.from_estimator(exact, X_query[:5], y_query[:5], items=X, y_items=y)
    assert_array_equal(display.hits, y[exact.kneighbors(X_query[:5], return_distance=False)] == y_query[:5, None])
    with pytest.raises(TypeError, match="Expected y_items with y, as a NearestNeighbors"):
        RetrievalDisplay.from_estimator(exact, X_query[:5], y_query[:5], items=X)


def test_items_may_be_found_by_name_and_drawn_by_any_artist(names):
    neighbors, X, y, X_query, _ = names
    ids = [f"{i}.png" for i in range(len(X))]
    named = DPQNeighbors(2, quantizer=FrozenEstimator(neighbors.quantizer_)).fit(X, y, ids=ids)
    display = RetrievalDisplay.from_estimator(
        named,
        X_query[:1],
        items={name: name for name in ids},
        queries=["the query"],
        draw=lambda ax, text: ax.text(0, 0, text),
    )
    found = named.kneighbors(X_query[:1], return_distance=False)[0]
    assert [ax.texts[0].get_text() for ax in display.axes_[0]] == ["the query", *found]


def test_pictures_may_have_colours_and_frames_any_style():
    rng = np.random.default_rng(0)
    queries, neighbors = rng.random((2, 4, 5, 3)), rng.random((2, 3, 4, 5, 3))
    display = RetrievalDisplay.from_predictions(queries, neighbors, [0, 1], [[0, 1, 0], [1, 1, 0]])
    fig, ax = plt.subplots()
    assert display.plot(ax=ax, hit_kwargs={"color": "blue"}, miss_kwargs={"visible": False}) is display
    assert display.ax_ is ax
    assert display.figure_ is fig
    assert_array_equal(picture(display.axes_[1, 3]), neighbors[1, 2])
    blue = to_rgba("blue")
    assert [[frame(ax) for ax in row[1:]] for row in display.axes_] == [[blue, None, blue], [blue, blue, None]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0] * 6], [[[0] * 4]]), r"got \(6,\)\. Say by draw"),
        (([[0] * 4], [[[0] * 4]], [1]), "Expected y and y_neighbors, or neither"),
        (([[0] * 4], [[[0] * 4]], [1], [["a"]]), "of one kind"),
        (([[0] * 4], [[[0] * 4]], [1], [[1, 2]]), r"of shape \(n_queries, 1\), got \(1,\) and \(1, 2\)"),
        (([], []), "Expected a query or more"),
        (([[0] * 4] * 2, [[[0] * 4], []]), "equally many neighbours"),
        (([[0] * 4], []), "inconsistent numbers of samples"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalDisplay.from_predictions(*arguments)


def test_curves_are_precision_and_recall_at_each_rank_ties_included(names):
    neighbors, _, _, X_query, y_query = names
    display = RetrievalCurveDisplay.from_estimator(neighbors, X_query, y_query)
    assert display.ranks[0] == 1
    assert display.ranks[-1] == 300
    assert len(np.unique(neighbors.codes_, axis=0)) < 300  # so there are ties
    for line, name in [(display.precision_line_, "precision_at_k"), (display.recall_line_, "recall_at_k")]:
        ranks, values = line.get_data()
        expected = [score_neighbors(neighbors, X_query, y_query, name, k=k) for k in ranks.tolist()]
        assert_allclose(values, expected, rtol=1e-12)
        assert line.get_label() == f"DPQNeighbors: {name[:-5]}"


@pytest.mark.parametrize("labels", [[0, 1], ["cat", "dog"]])
def test_curves_of_distances_are_precision_and_recall_ties_included(labels):
    rng = np.random.default_rng(0)
    y, y_database = rng.choice(labels, 7), rng.choice(labels, 30)
    y[0] = labels[0] * 2 if isinstance(labels[0], str) else 9  # a label that no item has
    distances = rng.integers(0, 4, (7, 30))
    display = RetrievalCurveDisplay.from_predictions(y, y_database, distances, k=20)
    assert_array_equal(display.ranks, np.arange(1, 21))
    assert_allclose(display.precision, [precision_at_k(y, y_database, distances, k) for k in range(1, 21)])
    assert_allclose(display.recall, [recall_at_k(y, y_database, distances, k) for k in range(1, 21)])


def test_several_searchers_share_the_axes(names):
    neighbors, X, y, X_query, y_query = names
    display = RetrievalCurveDisplay.from_estimator(neighbors, X_query, y_query, name="PQ")
    other = RetrievalCurveDisplay.from_predictions(
        y_query, y, pairwise_distances(X_query, X), name="exact", ax=display.ax_
    )
    assert other.ax_ is display.ax_
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["PQ: precision", "PQ: recall", "exact: precision", "exact: recall"]
    assert display.precision_line_.get_color() == display.recall_line_.get_color() != other.recall_line_.get_color()
    assert other.plot(color="black").recall_line_.get_color() == "black"


def test_a_pipeline_has_curves_too(names):
    _, X, y, X_query, y_query = names
    scaled = make_pipeline(StandardScaler(), DPQNeighbors(quantizer=ProductQuantizer(M=2, K=8, random_state=0)))
    display = RetrievalCurveDisplay.from_estimator(scaled.fit(X, y), X_query, y_query, k=50)
    assert display.precision[-1] == pytest.approx(score_neighbors(scaled, X_query, y_query, "precision_at_k", k=50))


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (301, ValueError), (2.5, TypeError)])
def test_ranks_that_are_not_there_are_refused(names, k, error):
    neighbors, _, _, X_query, y_query = names
    with pytest.raises(error, match="k"):
        RetrievalCurveDisplay.from_estimator(neighbors, X_query, y_query, k=k)


def test_perplexity_is_k_for_even_use_and_one_for_a_single_codeword():
    codes = np.array([[0, 3, 0], [1, 3, 0], [2, 3, 1], [3, 3, 1]])
    display = CodebookUsageDisplay.from_predictions(codes, K=4)
    assert_allclose(display.perplexity, [4, 1, 2])
    assert_array_equal(display.usage, [[0.25] * 4, [0, 0, 0, 1], [0.5, 0.5, 0, 0]])
    assert_array_equal(display.image_.get_array(), [[1, 1, 1, 1], [4, 0, 0, 0], [2, 2, 0, 0]])
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["0: 4.0", "1: 1.0", "2: 2.0"]
    assert CodebookUsageDisplay.from_predictions(codes[:2]).usage.shape == (3, 4)  # K is the largest code plus one


def test_usage_is_that_of_the_samples_or_of_the_database(names):
    neighbors, X, _, X_query, _ = names
    quantizer = neighbors.quantizer_
    of_database = CodebookUsageDisplay.from_estimator(neighbors)
    assert of_database.usage.shape == (4, 8)
    assert_array_equal(of_database.usage, CodebookUsageDisplay.from_estimator(quantizer, X).usage)
    of_queries = CodebookUsageDisplay.from_estimator(neighbors, X_query)
    assert_array_equal(of_queries.usage[2] * len(X_query), np.bincount(quantizer.encode(X_query)[:, 2], minlength=8))
    with pytest.raises(ValueError, match="Expected samples with a ProductQuantizer"):
        CodebookUsageDisplay.from_estimator(quantizer)


@pytest.mark.parametrize(
    ("codes", "K", "error"), [([[0, 4]], 4, ValueError), ([[0.5]], None, ValueError), ([[1]], 2.5, TypeError)]
)
def test_codes_that_are_none_are_refused(codes, K, error):
    with pytest.raises(error):
        CodebookUsageDisplay.from_predictions(codes, K=K)


def test_loss_curves_are_those_of_the_fit(digits):
    X, X_val, y, y_val = digits
    clf = DPQClassifier(M=2, K=4, max_iter=3, random_state=0).fit(X[:200], y[:200], X_val=X_val, y_val=y_val)
    display = LossCurveDisplay.from_estimator(clf)
    curves = {term: values for term, values in clf.loss_curve_.items() if term != "preservation"}
    assert "preservation" in clf.loss_curve_  # left out, as it is zero throughout
    for term, values in {**curves, "validation": clf.validation_scores_}.items():
        assert_array_equal(display.lines_[term].get_xydata(), np.stack([[1, 2, 3], values], axis=1))
    assert set(display.lines_) == {*curves, "validation"}
    assert display.lines_["validation"].axes is display.ax_validation_
    assert display.lines_["loss"].axes is display.ax_ is not display.ax_validation_


def test_loss_curves_without_validation_have_one_scale(digits):
    X = digits[0][:200]
    transformer = DPQTransformer(M=2, K=4, max_iter=2, random_state=0).fit(X)
    _, ax = plt.subplots()
    display = LossCurveDisplay.from_estimator(transformer, ax=ax)
    assert display.ax_ is ax
    assert display.ax_validation_ is None
    assert set(display.lines_) == {"loss", "preservation", "gini_batch", "gini_sample"}


def test_only_networks_have_loss_curves(names):
    with pytest.raises(TypeError, match="Expected a DPQTransformer or DPQClassifier, got ProductQuantizer"):
        LossCurveDisplay.from_estimator(names[0].quantizer_)


WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
import skdpq
try:
    skdpq.{call}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "call",
    [
        "RetrievalDisplay.from_predictions([[0]], [[[0]]])",
        "RetrievalCurveDisplay.from_estimator(None, None, None)",
        "CodebookUsageDisplay.from_predictions([[0]])",
        "LossCurveDisplay({'loss': [1.0]}).plot()",
    ],
)
def test_without_matplotlib_each_display_says_what_it_needs(call):
    code = WITHOUT_MATPLOTLIB.format(call=call)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, _, method = call.partition("(")[0].partition(".") if "plot" not in call else ("LossCurveDisplay", "", "plot")
    assert f"{name}.{method} requires matplotlib" in result.stdout


def test_importing_the_displays_does_not_import_matplotlib():
    code = "import sys, skdpq; skdpq.RetrievalDisplay([], []); print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
