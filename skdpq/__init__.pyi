from . import metrics
from .classifier import DPQClassifier
from .files import FileFormatError, load
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer
from .transformer import DPQTransformer

__all__ = ["DPQClassifier", "DPQNeighbors", "DPQTransformer", "FileFormatError", "ProductQuantizer", "load", "metrics"]

__version__: str
