"""What belongs to an estimator: its parameters, what is fitted, the estimators and the backbones in it.

`StateMixin.save` and `skdpq.load` call it. Each estimator says by `_check_fitted` whether its fitted attributes go
together, so a file in which they do not is refused whoever made it.
"""

import copy
import json
import platform
from importlib import import_module

import joblib
import numpy as np
import scipy
import sklearn
from sklearn.frozen import FrozenEstimator
from sklearn.utils._metadata_requests import MetadataRequest

from .. import __version__
from .._atomic import StateMixin
from .._names import Names
from .._search.index import CodeIndex
from .._search.restore import index_of
from .codec import Decoder, Encoder
from .container import FileFormatError, parse_json

FORMAT_VERSION = 1
_MODULES = {
    "DPQClassifier": "classifier",
    "DPQNeighbors": "neighbors",
    "DPQTransformer": "transformer",
    "ProductQuantizer": "product_quantizer",
}
_SETTINGS = ("_sklearn_output_config", "_metadata_request")  # of set_output, and of set_fit_request and its like
_CALLBACKS = "_skl_callbacks"
_SAME = "quantizer", "quantizer_"  # a frozen quantizer is both


def describe(estimator, leave_out):
    """Return what is written of an estimator.

    Parameters
    ----------
    estimator : StateMixin
        The estimator.
    leave_out : iterable of str
        Parameters, of any estimator in it, that are not written; ``"callbacks"`` for those.

    Returns
    -------
    metadata : dict of str to str
        For the header.
    arrays : dict of str to ndarray
        By their names.

    Raises
    ------
    TypeError
        If a file cannot hold a parameter or an attribute, which it names.
    ValueError
        If a parameter is out of range, what is to be left out is none of the parameters, or the quantizer of a
        database was fitted again.
    """
    writer = _Writer(leave_out)
    writer.add(_consistent(estimator))
    unknown = writer.leave_out - writer.parameters - {"callbacks"}
    if unknown:
        raise ValueError(f"Expected leave_out among {sorted(writer.parameters)}, got {sorted(unknown)}.")
    packages = {module.__name__: module.__version__ for module in (np, scipy, sklearn, joblib)}
    versions = {"skdpq": __version__, "python": platform.python_version()} | packages
    metadata = {"format": "skdpq", "format_version": FORMAT_VERSION, "class": type(estimator).__name__}
    metadata |= {"versions": versions, "estimators": writer.estimators}
    return {name: v if isinstance(v, str) else _json(v) for name, v in metadata.items()}, writer.encoder.arrays


def _json(value):
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _consistent(estimator):
    """Return a snapshot in which what is one object in the estimator is one, too."""
    parameter, fitted = (vars(estimator).get(name) for name in _SAME)
    taken = copy.copy(estimator)
    if parameter is not None and parameter is fitted:
        setattr(taken, _SAME[0], getattr(taken, _SAME[1]))
    return taken


class _Writer:
    """Describes estimators, each once."""

    def __init__(self, leave_out):
        self.leave_out = {leave_out} if isinstance(leave_out, str) else set(leave_out)
        self.encoder, self.estimators, self.parameters = Encoder(), [], set()
        self._numbers = {}

    def add(self, estimator):
        """Describe an estimator; return its number."""
        if id(estimator) in self._numbers:
            return self._numbers[id(estimator)]
        name = type(estimator).__name__
        if type(estimator) is not FrozenEstimator and type(estimator).__module__ != f"skdpq.{_MODULES.get(name)}":
            raise TypeError(f"Expected estimators of skdpq, got a {name}.")
        number = self._numbers[id(estimator)] = len(self.estimators)
        self.estimators.append({})
        parameters = estimator.get_params(deep=False)
        if isinstance(estimator, StateMixin):
            estimator._validate_params()
            self.parameters |= parameters.keys()
        left_out = sorted(self.leave_out & parameters.keys())
        described = {
            "class": name,
            "parameters": self._values(number, {n: v for n, v in parameters.items() if n not in left_out}),
            "left_out": left_out,
        }
        if isinstance(estimator, StateMixin):
            described |= self._state(number, estimator, parameters)
        self.estimators[number] = described
        return number

    def _state(self, number, estimator, parameters):
        """Return what is fitted and what is set otherwise."""
        attributes = {name: value for name, value in vars(estimator).items() if name not in parameters}
        if attributes.pop(_CALLBACKS, None) and "callbacks" not in self.leave_out:
            raise TypeError('Expected what a file can hold, got callbacks: leave them out by leave_out=["callbacks"].')
        output, requests = (attributes.pop(name, None) for name in _SETTINGS)
        unknown = attributes.keys() - set(estimator._fitted_attributes)
        if unknown:
            raise TypeError(f"Expected attributes of {type(estimator).__name__} alone, got {sorted(unknown)} too.")
        if attributes:
            estimator._check_fitted(thorough=False)
        return {
            "fitted": self._values(number, attributes),
            "output": output,
            "requests": None if requests is None else _requests_of(requests),
        }

    def _values(self, number, values):
        return {name: self._value(value, f"{number}.{name}", name) for name, value in values.items()}

    def _value(self, value, path, name):
        if isinstance(value, StateMixin | FrozenEstimator):
            return {"estimator": self.add(value)}
        if isinstance(value, Names):
            return {
                "names": {field: self.encoder.add(array, f"{path}.{field}") for field, array in value._asdict().items()}
            }
        if isinstance(value, CodeIndex):
            return {"index": self._index(value, path)}
        if name in ("backbone", "backbone_") and value is not None:
            return {"backbone": self._backbone(value, path)}
        try:
            return self.encoder.encode(value, path)
        except TypeError as error:
            raise TypeError(
                f"Expected parameters and attributes that a file can hold, got {name}={value!r:.200}. Parameters can "
                f"be left out: leave_out=[{name!r}]."
            ) from error

    def _index(self, index, path):
        segments = [
            {name: self.encoder.add(array, f"{path}.{i}.{name}") for name, array in segment.stored().items()}
            for i, segment in enumerate(index.segments)
        ]
        return {"next_id": index.next_id, "segments": segments}

    def _backbone(self, module, path):
        from .._learning.user_code import state_arrays

        arrays, frozen = state_arrays(module)
        state = [[name, dtype, self.encoder.add(array, f"{path}.{name}")] for name, dtype, array in arrays]
        return {"class": type(module).__qualname__, "state": state, "frozen": frozen}


def _requests_of(requests):
    """Return the metadata requests of each method that has some."""
    simple = (
        (name, getattr(requests, name)) for name in vars(requests) if hasattr(getattr(requests, name), "requests")
    )
    return {name: method.requests for name, method in simple if method.requests}


def restore(reader, *, mapped, thorough, backbone, device):
    """Return the estimator of a file.

    Parameters
    ----------
    reader : container.Reader
        The file.
    mapped : bool
        Whether codes, ids and labels stay in the file.
    thorough : bool
        Whether to check all of them.
    backbone : Module or None
        Gets the state of a backbone.
    device : str, torch.device or None
        The parameter `device` of each estimator; None for that of the file.

    Returns
    -------
    estimator : StateMixin
        The estimator.

    Raises
    ------
    FileFormatError
        If the file does not hold one.
    ValueError
        If `backbone` is not what the file needs.
    """
    metadata = reader.metadata
    if metadata.get("format") != "skdpq":
        raise FileFormatError(f"expected the format skdpq, got {metadata.get('format')!r:.50}.")
    version = parse_json(metadata.get("format_version", ""))
    if type(version) is not int or version < 1:
        raise FileFormatError(f"expected the number of a version of the format, got {version!r:.50}.")
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"expected a version of the format up to {FORMAT_VERSION}, got {version}: a newer skdpq wrote it."
        )
    described = parse_json(metadata.get("estimators", ""))
    restorer = _Restorer(reader, described, mapped, thorough, backbone, device)
    estimator = restorer.take(0)
    if type(estimator).__name__ != metadata.get("class"):
        raise FileFormatError(f"expected a {metadata.get('class')!r:.50}, got a {type(estimator).__name__}.")
    restorer.check_all_taken()
    return estimator


class _Restorer:
    """Makes estimators of what `_Writer` described."""

    def __init__(self, reader, described, mapped, thorough, backbone, device):
        if not isinstance(described, list) or not described:
            raise FileFormatError("expected a list of estimators, got none.")
        self._decoder, self._described, self._made = Decoder(reader), described, {}
        self._mapped, self._thorough, self._backbone, self._device = mapped, thorough, backbone, device
        self._has_backbone = False

    def take(self, number):
        """Return an estimator by its number."""
        if number in self._made:
            if self._made[number] is None:
                raise FileFormatError("expected estimators that do not hold themselves, got one that does.")
            return self._made[number]
        self._made[number] = None
        described = self._described[number]
        if not isinstance(described, dict):
            raise FileFormatError("expected an object for each estimator, got others.")
        name = described.get("class")
        make = self._frozen if name == "FrozenEstimator" else self._estimator
        self._made[number] = make(described, name)
        return self._made[number]

    def check_all_taken(self):
        """Raise an error if something of the file, or of the caller, was for nothing."""
        if self._decoder.left or len(self._made) != len(self._described):
            raise FileFormatError(f"expected arrays of the estimator alone, got {sorted(self._decoder.left)[:5]} too.")
        if self._backbone is not None and not self._has_backbone:
            raise ValueError("Expected backbone=None, as the file has none, got one.")

    def _frozen(self, described, _):
        parameters = described.get("parameters")
        right = described.keys() == {"class", "parameters", "left_out"} and isinstance(parameters, dict)
        estimator = (
            self._value(parameters["estimator"], "estimator") if right and list(parameters) == ["estimator"] else None
        )
        if not isinstance(estimator, StateMixin):
            raise FileFormatError("expected an estimator that is frozen, got others.")
        return FrozenEstimator(estimator)

    def _estimator(self, described, name):
        if not isinstance(name, str) or name not in _MODULES:
            raise FileFormatError(f"expected an estimator among {', '.join(_MODULES)}, got {name!r:.50}.")
        if described.keys() != {"class", "parameters", "left_out", "fitted", "output", "requests"}:
            raise FileFormatError(f"expected what belongs to an estimator, got {list(described)!r:.100}.")
        cls = getattr(import_module(f"..{_MODULES[name]}", __package__), name)
        estimator = cls(**self._parameters(cls, described["parameters"], described["left_out"]))
        self._decode_settings(estimator, described["output"], described["requests"])
        try:
            estimator._validate_params()
        except ValueError as error:
            raise FileFormatError(str(error)) from error
        fitted = described["fitted"]
        if fitted:
            self._fit(estimator, fitted)
        if self._device is not None and "device" in estimator.get_params(deep=False):
            estimator.set_params(device=self._device)
        return estimator

    def _parameters(self, cls, parameters, left_out):
        names = set(cls._get_param_names())
        if not isinstance(parameters, dict) or not isinstance(left_out, list):
            raise FileFormatError("expected parameters and names of those left out, got others.")
        if not all(isinstance(name, str) for name in left_out) or parameters.keys() ^ set(left_out) != names:
            raise FileFormatError(f"expected the parameters of {cls.__name__}, got {parameters!r:.300}.")
        return {name: self._value(value, name) for name, value in parameters.items()}

    def _fit(self, estimator, fitted):
        """Set what is fitted."""
        names = estimator._fitted_attributes
        required = {name for name, optional in names.items() if not optional}
        if not isinstance(fitted, dict) or not required <= fitted.keys() <= names.keys():
            raise FileFormatError(f"expected the attributes of {type(estimator).__name__}, got {fitted!r:.300}.")
        values = {name: self._value(value, name) for name, value in fitted.items() if name != "index_"}
        vars(estimator).update(values)
        _check_names(estimator)
        try:
            if "index_" in fitted:
                estimator.index_ = self._index(fitted["index_"], estimator)
            estimator._check_fitted(thorough=self._thorough)
        except FileFormatError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise FileFormatError(f"expected attributes of {type(estimator).__name__} that fit: {error}") from error

    def _value(self, value, name):
        """Return a parameter or an attribute."""
        if not isinstance(value, dict):
            return self._decoder.decode(value)
        if value.keys() == {"estimator"}:
            number = value["estimator"]
            if type(number) is not int or not 0 < number < len(self._described):
                raise FileFormatError(f"expected the number of an estimator, got {number!r:.50}.")
            return self.take(number)
        if value.keys() == {"backbone"} and name in ("backbone", "backbone_"):
            return self._module(value["backbone"])
        if name == "names_" and value.keys() == {"names"}:
            return self._names(value["names"])
        if self._mapped and name == "labels_" and value.keys() == {"array"}:
            return self._decoder.array(value["array"], mapped=True)
        return self._decoder.decode(value)

    def _names(self, arrays):
        if not isinstance(arrays, dict) or arrays.keys() != set(Names._fields):
            raise FileFormatError(f"expected the arrays of names, got {arrays!r:.200}.")
        return Names(*(self._decoder.array(arrays[field], mapped=self._mapped) for field in Names._fields))

    def _index(self, value, estimator):
        index = value.get("index") if isinstance(value, dict) else None
        if not isinstance(index, dict) or index.keys() != {"next_id", "segments"}:
            raise FileFormatError("expected an index, got others.")
        segments = index["segments"]
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise FileFormatError("expected a list of segments, got others.")
        codebooks = estimator._stored_codebooks()
        return index_of(codebooks, segments, index["next_id"], self._decoder.array, self._mapped, self._thorough)

    def _module(self, described):
        """Return a copy of the caller's backbone with the state of the file's."""
        from .._learning.user_code import with_state

        if not isinstance(described, dict) or described.keys() != {"class", "state", "frozen"}:
            raise FileFormatError("expected the class and the state of a backbone, got others.")
        name, state, frozen = (described[key] for key in ("class", "state", "frozen"))
        if not isinstance(name, str) or not isinstance(state, list) or not isinstance(frozen, list):
            raise FileFormatError("expected the class and the state of a backbone, got others.")
        if not all(isinstance(item, list) and len(item) == 3 for item in state):
            raise FileFormatError("expected name, type and array of each tensor of a backbone, got others.")
        arrays = [(key, dtype, self._decoder.array(array)) for key, dtype, array in state]
        self._has_backbone = True
        if self._backbone is None:
            raise ValueError(f"Expected backbone=<a {name:.100}>, as the file holds the state of one, got None.")
        if type(self._backbone).__qualname__ != name:
            raise ValueError(f"Expected a backbone of the class {name:.100}, got {type(self._backbone).__qualname__}.")
        try:
            return with_state(self._backbone, arrays, frozen)
        except TypeError as error:
            raise FileFormatError(str(error)) from error

    @staticmethod
    def _decode_settings(estimator, output, requests):
        """Set what set_output and set_fit_request did."""
        try:
            if output is not None:
                estimator.set_output(**output)
            if requests is not None:
                estimator._metadata_request = _request_again(estimator, requests)
        except (TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"expected settings of {type(estimator).__name__}, got others: {error}") from error


def _check_names(estimator):
    """Raise an error unless features have as many names as there are features."""
    names, n_features = (getattr(estimator, name, None) for name in ("feature_names_in_", "n_features_in_"))
    if n_features is not None and (type(n_features) is not int or n_features < 1):
        raise FileFormatError(f"expected a number of features, got {n_features!r:.50}.")
    if names is None:
        return
    right = isinstance(names, np.ndarray) and names.dtype == object and names.shape == (n_features,)
    if not right or not all(isinstance(name, str) for name in names):
        raise FileFormatError(f"expected names of {n_features} features, got {names!r:.100}.")


def _request_again(estimator, requests):
    """Return metadata requests of an estimator."""
    metadata = MetadataRequest(owner=estimator)
    for method, params in requests.items():
        for param, alias in params.items():
            if not (alias is None or isinstance(alias, bool | str)):
                raise TypeError(f"requests are true, false, none or a name, not {alias!r:.50}")
            getattr(metadata, method).add_request(param=param, alias=alias)
    return metadata
