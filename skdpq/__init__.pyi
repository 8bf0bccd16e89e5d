from . import metrics
from .classifier import DPQClassifier
from .displays import CodebookUsageDisplay, LossCurveDisplay, RetrievalCurveDisplay, RetrievalDisplay
from .exchange import from_faiss, to_faiss
from .files import FileFormatError, load
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer
from .transformer import DPQTransformer

__all__ = [
    "CodebookUsageDisplay",
    "DPQClassifier",
    "DPQNeighbors",
    "DPQTransformer",
    "FileFormatError",
    "LossCurveDisplay",
    "ProductQuantizer",
    "RetrievalCurveDisplay",
    "RetrievalDisplay",
    "from_faiss",
    "load",
    "metrics",
    "to_faiss",
]

__version__: str
