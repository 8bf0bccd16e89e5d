"""A small program of a user, which `mypy --strict` checks: the public face has types. `test_annotations` runs it."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from skdpq import (
    CodebookUsageDisplay,
    DPQClassifier,
    DPQNeighbors,
    DPQTransformer,
    LossCurveDisplay,
    ProductQuantizer,
    RetrievalCurveDisplay,
    RetrievalDisplay,
    __version__,
    from_faiss,
    metrics,
    to_faiss,
)

X: NDArray[np.float64] = np.random.default_rng(0).normal(size=(60, 6))
y: list[str] = ["even", "odd"] * 30

clf = assert_type(DPQClassifier(M=2, K=4, max_iter=1, random_state=0).fit(X, y), DPQClassifier)
assert_type(clf.partial_fit(X, y), DPQClassifier)
assert_type(clf.soft(X), NDArray[np.float32])
assert_type(clf.encode(X), NDArray[np.unsignedinteger[Any]])
assert_type(clf.decode(clf.encode(X)), NDArray[np.float32])
assert_type(clf.pack_codes(clf.encode(X)), NDArray[np.uint8])
assert_type(clf.predict_proba(X), NDArray[np.floating[Any]])
assert_type(clf.predict_proba_soft(X), NDArray[np.float32])
assert_type(clf.predict(X), NDArray[Any])
assert_type(clf.codebooks_, NDArray[np.float32])
assert_type(clf.class_vectors_, NDArray[np.float32])
assert_type(clf.loss_curve_, dict[str, list[float]])
assert_type(clf.set_params(intra_norm=True), DPQClassifier)

dpq = assert_type(DPQTransformer(M=2, K=4, D=None, max_iter=1, output="codes").fit(X.tolist()), DPQTransformer)
assert_type(dpq.transform(X), NDArray[Any])
assert_type(dpq.compression_ratio_, float)
pq = assert_type(ProductQuantizer(M=2, K=4, rotation="opq").fit(X), ProductQuantizer)
assert_type(pq.unpack_codes(pq.pack_codes(pq.encode(X))), NDArray[np.unsignedinteger[Any]])

neighbors = assert_type(DPQNeighbors(3, quantizer=pq, search="symmetric", device="cpu").fit(X, y), DPQNeighbors)
distances, ids = neighbors.kneighbors(X)
assert_type(distances, NDArray[np.float64])
assert_type(ids, NDArray[Any])
assert_type(neighbors.kneighbors(X, 2, return_distance=False), NDArray[Any])
assert_type(neighbors.kneighbors_codes(neighbors.codes_)[1], NDArray[Any])
assert_type(neighbors.kneighbors(X, 2, return_distance=False, among=[0, 1, 2]), NDArray[Any])
assert_type(neighbors.radius_neighbors(X, among=neighbors.ids_ < 9)[1], NDArray[np.object_])
assert_type(neighbors.radius_neighbors(X, return_distance=False), NDArray[np.object_])
assert_type(neighbors.labels_of(ids), NDArray[Any])
assert_type(neighbors.add(X, y).remove([0]), DPQNeighbors)
assert_type(neighbors.n_samples_fit_, int)
assert_type(len(neighbors), int)
assert_type(0 in neighbors, bool)
assert_type(neighbors.reconstruct(neighbors.ids_[:2]), NDArray[Any])
assert_type(neighbors.score(X, y), float)
assert_type(metrics.mean_average_precision(y[:2], y, np.ones((2, 60)), k=3), float)
assert_type(from_faiss(to_faiss(neighbors.set_params(search="asymmetric"))), DPQNeighbors)
assert_type(ProductQuantizer.from_codebooks(pq.codebooks_, np.eye(6)), ProductQuantizer)
usage = assert_type(CodebookUsageDisplay.from_estimator(neighbors), CodebookUsageDisplay)
assert_type(usage.perplexity, NDArray[np.float64])
assert_type(LossCurveDisplay.from_estimator(clf), LossCurveDisplay)
assert_type(RetrievalCurveDisplay.from_estimator(neighbors, X, y), RetrievalCurveDisplay)
write = lambda ax, item: ax.text(0, 0, str(item))  # noqa: E731
numbers = dict(enumerate(range(120)))
assert_type(RetrievalDisplay.from_estimator(neighbors, X[:2], items=numbers, draw=write), RetrievalDisplay)
assert_type(__version__, str)

# What mypy has to refuse: --strict complains of an ignore that is not needed.
if not __version__:
    DPQClassifier(M="two")  # type: ignore[arg-type]
    DPQTransformer(output="packed")  # type: ignore[arg-type]
    clf.predict()  # type: ignore[call-arg]
    neighbors.kneighbors(X, n_neighbors="five")  # type: ignore[call-overload]
    neighbors.add(X, y, [0])  # type: ignore[call-arg]
    ProductQuantizer.from_codebooks(pq.codebooks_, np.eye(6), 6)  # type: ignore[call-arg]
    clf.soft(X).no_such_method()  # type: ignore[attr-defined]
