"""Bytes to samples and back: indexes, chunks, trees, serializers, item loaders. Pure: no I/O."""
