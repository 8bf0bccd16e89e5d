"""The fast training step."""

from .step import RecordedStep

__all__ = ["RecordedStep"]
