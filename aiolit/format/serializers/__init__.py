"""Leaves to bytes and back, one module for each family of types."""

from aiolit.format.serializers.base import BytesLike, Decode, Encode, LeafEncoder, Serializer
from aiolit.format.serializers.registry import SerializerRegistry, fixed_nbytes
from aiolit.format.serializers.scalars import BytesSerializer

__all__ = [
    "BytesLike",
    "BytesSerializer",
    "Decode",
    "Encode",
    "LeafEncoder",
    "Serializer",
    "SerializerRegistry",
    "fixed_nbytes",
]
