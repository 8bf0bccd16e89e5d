"""What the annotations of public methods need; nothing here does anything when it runs."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Method = TypeVar("_Method", bound=Callable[..., Any])

Codes: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Floats: TypeAlias = NDArray[np.floating[Any]]  # float32 or float64
Queries: TypeAlias = ArrayLike | None
Among: TypeAlias = ArrayLike | None
Ids: TypeAlias = NDArray[Any]  # int64, or str where the ids are strings
Found: TypeAlias = tuple[NDArray[np.float64], Ids]
FoundWithin: TypeAlias = tuple[NDArray[np.object_], NDArray[np.object_]]
Device: TypeAlias = "str | torch.device"  # type: ignore[name-defined]  # noqa: F821


def typed(decorator: Any) -> Callable[[_Method], _Method]:
    """Return a decorator of a library without types: what it decorates keeps those that it is written with."""
    return decorator
