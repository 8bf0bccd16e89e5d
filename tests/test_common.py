"""scikit-learn's own checks on all estimators: the whole suite, and what it leaves out. None may skip."""

import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer

# As their users construct them; others learn for fewer epochs, of batches that hold all samples, as by default.
ESTIMATORS = [DPQTransformer(), DPQClassifier(), ProductQuantizer(), DPQNeighbors()]
LESS_SUPERVISED = [DPQTransformer(supervision=s, max_iter=20, batch_size=256) for s in (0.5, 0)]
QUANTIZERS = ESTIMATORS[:3]
# The defaults have more dimensions than the data of the checks have features. Of these, the first have fewer than
# features and more than samples, the second fewer than either.
NARROW = {"M": 2, "K": 4, "hidden_layer_sizes": (8,), "part_layer_sizes": (), "max_iter": 3, "batch_size": 256}
NARROWER = [DPQTransformer(**NARROW, D=12, supervision=0.5), DPQTransformer(**NARROW, D=2, supervision=0)]


@parametrize_with_checks(ESTIMATORS + LESS_SUPERVISED + NARROWER)
def test_scikit_learn_suite(estimator, check):
    check(estimator)


EXTRA_CHECKS = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
]
# A neighbours graph is sparse, which scikit-learn refuses to put into a data frame (as for KNeighborsTransformer).
DENSE_CHECKS = [
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
]


@pytest.mark.parametrize("name", EXTRA_CHECKS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_checks_that_the_suite_leaves_out(estimator, name):
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


# These checks fit on frames and transform arrays, and the other way round, on purpose.
@pytest.mark.filterwarnings("ignore:X (has feature names|does not have valid feature names)")
@pytest.mark.parametrize("output", ["soft", "hard", "codes"])
@pytest.mark.parametrize("name", DENSE_CHECKS)
@pytest.mark.parametrize("estimator", QUANTIZERS, ids=lambda e: type(e).__name__)
def test_data_frame_output(estimator, name, output):
    small = clone(estimator).set_params(M=2, K=4, output=output)
    if "max_iter" in small.get_params():  # frames are the same after two epochs
        small.set_params(max_iter=2)
    getattr(estimator_checks, name)(type(estimator).__name__, small)
