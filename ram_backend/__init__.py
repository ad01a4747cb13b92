"""Label Studio ML backend around the Recognize Anything Model."""

__version__ = "0.1.0"
