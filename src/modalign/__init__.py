"""The benchmark of methods that align medical images of different modalities."""

__version__ = "0.1.0"
