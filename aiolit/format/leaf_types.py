"""What a value is, asked without importing the library its type comes from."""

from __future__ import annotations

import sys
from typing import Any


def is_instance(value: Any, module: str, name: str) -> bool:
    """Return whether ``value`` is a ``module.name``, without importing the module.

    While the module is not loaded nobody can hold an instance of its class.
    """
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def is_pil_image(value: Any) -> bool:
    """Return whether ``value`` is a PIL image."""
    return is_instance(value, "PIL.Image", "Image")


def is_jpeg(value: Any) -> bool:
    """Return whether ``value`` is a PIL image that was opened from JPEG data."""
    return is_instance(value, "PIL.JpegImagePlugin", "JpegImageFile")


def is_jpeg_sequence(value: Any) -> bool:
    """Return whether ``value`` is a list or tuple of PIL JPEG images, which is stored as a leaf."""
    return type(value) in (list, tuple) and len(value) > 0 and all(map(is_jpeg, value))


def is_tensor(value: Any) -> bool:
    """Return whether ``value`` is a torch tensor."""
    return is_instance(value, "torch", "Tensor")


def describe(value: Any) -> str:
    """Return what a value is, without its content: its type, and dtype and shape if it has any."""
    cls = type(value)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or not hasattr(value, "dtype"):
        return name
    return f"{name} of {value.dtype}, shape {tuple(shape)}"
