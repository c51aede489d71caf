"""The default layout: a sample's leaves one after the other, behind a header of their sizes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from aiolit.errors import ChunkFormatError, IndexFormatError
from aiolit.format.dataset_info import Index, is_mds
from aiolit.format.encryption_base import Encryption, check_level, encrypt
from aiolit.format.loader_base import (
    BoundLoader,
    Decode,
    EncodedItem,
    ItemLoader,
    ItemsBound,
    SampleEncoder,
    check_item_size,
    check_name,
    locate,
    needs_first_sample,
)
from aiolit.format.mds import compile_mds_decoder
from aiolit.format.serializers import BytesLike, SerializerRegistry
from aiolit.format.serializers.scalars import decode_bool, decode_float, decode_int
from aiolit.format.tree import TreeSpec, compile_unflatten, flatten, flatten_like

# Leaves that struct reads as fast as anything can, by their decoder.
_STRUCT_CODES: dict[Any, str] = {decode_int: "q", decode_float: "d", decode_bool: "?"}


class PyTreeLoader(ItemLoader):
    """Samples of any shape: dicts, lists, tuples of numbers, texts, arrays, images and so on."""

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Make the loader ready for a data set: one of LitData, of aiolit, or of MDS shards."""
        config = index.config
        check_name(self, index, source)
        if is_mds(config):
            return ItemsBound(config, compile_mds_decoder(index, registry, source), encryption)
        spec = _parse_spec(index, source)
        decoders = [registry.decoder(name) for name in config.data_format]
        return ItemsBound(config, compile_decoder(spec, decoders), encryption)

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Make an encoder for one writer."""
        return PyTreeEncoder(registry, encryption)


def _parse_spec(index: Index, source: str) -> TreeSpec:
    config = index.config
    if config.data_spec is None:
        if index.chunks:
            raise IndexFormatError(f"{source}: field 'config.data_spec' is null")
        return flatten({})[1]  # a data set to which nothing was written
    spec = TreeSpec.from_json(config.data_spec, source=source)
    if spec.num_leaves != len(config.data_format):
        raise IndexFormatError(
            f"{source}: field 'config.data_format' has {len(config.data_format)} formats, and the "
            f"tree in 'config.data_spec' {spec.num_leaves} leaves"
        )
    return spec


def compile_decoder(spec: TreeSpec, decoders: Sequence[Decode]) -> Decode:
    """Return the function that turns an item's bytes into a sample.

    Args:
        spec: The tree of a sample.
        decoders: A function for each leaf, in order.
    """
    unflatten = compile_unflatten(spec)
    if not decoders:
        return lambda data: unflatten(())
    if all(decoder in _STRUCT_CODES for decoder in decoders):
        return _compile_fixed(spec, decoders, unflatten)
    return _compile_general(spec, decoders, unflatten)


def _compile_general(
    spec: TreeSpec, decoders: Sequence[Decode], unflatten: Callable[[Sequence[Any]], Any]
) -> Decode:
    unpack = struct.Struct(f"<{len(decoders)}I").unpack_from
    head = 4 * len(decoders)
    paths = spec.leaf_paths()

    def decode(data: memoryview) -> Any:
        if len(data) < head:
            raise ChunkFormatError(f"{len(data)} bytes are less than the sizes of its leaves")
        sizes = unpack(data)
        if head + sum(sizes) != len(data):
            raise ChunkFormatError(
                f"its leaves are said to take {sum(sizes)} bytes, and there are {len(data) - head}"
            )
        stop = head
        leaves: list[Any] = []
        try:
            for size, decode_leaf in zip(sizes, decoders, strict=True):
                start = stop
                stop += size
                leaves.append(decode_leaf(data[start:stop]))
        except Exception as error:
            locate(error, f"leaf '{paths[len(leaves)]}'")
            raise
        return unflatten(leaves)

    return decode


def _compile_fixed(
    spec: TreeSpec, decoders: Sequence[Decode], unflatten: Callable[[Sequence[Any]], Any]
) -> Decode:
    """Samples of numbers and flags only: one call of struct reads sizes and values."""
    count = len(decoders)
    codes = "".join(_STRUCT_CODES[decoder] for decoder in decoders)
    layout = struct.Struct(f"<{count}I{codes}")
    unpack, nbytes = layout.unpack, layout.size
    expected = tuple(struct.calcsize(code) for code in codes)
    general = _compile_general(spec, decoders, unflatten)

    def decode(data: memoryview) -> Any:
        if len(data) != nbytes:
            return general(data)  # raises, and says what is wrong
        fields = unpack(data)
        if fields[:count] != expected:
            return general(data)
        return unflatten(fields[count:])

    return decode


class PyTreeEncoder(SampleEncoder):
    """Encodes samples of one tree.

    Args:
        registry: The serializers.
        encryption: Encrypts each item where its level is ``"sample"``.
    """

    def __init__(self, registry: SerializerRegistry, encryption: Encryption | None) -> None:
        self._registry = registry
        of_samples = encryption is not None and check_level(encryption.level) == "sample"
        self._encryption = encryption if of_samples else None
        self._spec: TreeSpec | None = None
        self._formats: list[str] = []
        self._encoders: list[Callable[[Any], BytesLike]] = []
        self._pack = struct.Struct("").pack

    def encode(self, sample: Any) -> EncodedItem:
        """Encode one sample."""
        if self._spec is None:
            leaves = self._choose(sample)
        else:
            leaves = flatten_like(sample, self._spec)
        payload = [encode(leaf) for encode, leaf in zip(self._encoders, leaves, strict=True)]
        sizes = [len(part) if type(part) is bytes else memoryview(part).nbytes for part in payload]
        nbytes = 4 * len(sizes) + sum(sizes)
        check_item_size(nbytes)
        parts: list[BytesLike] = [self._pack(*sizes), *payload] if sizes else []
        if self._encryption is not None:
            token = encrypt(self._encryption, b"".join(parts))
            check_item_size(len(token))
            return EncodedItem([token], len(token), None)
        return EncodedItem(parts, nbytes, None)

    def _choose(self, sample: Any) -> list[Any]:
        leaves, spec = flatten(sample)
        chosen = [
            self._registry.choose(leaf, path)
            for leaf, path in zip(leaves, spec.leaf_paths(), strict=True)
        ]
        self._spec = spec
        self._formats = [leaf.format_name for leaf in chosen]
        self._encoders = [leaf.encode for leaf in chosen]
        self._pack = struct.Struct(f"<{len(chosen)}I").pack
        return leaves

    @property
    def data_format(self) -> list[str]:
        """The format of each leaf."""
        if self._spec is None:
            raise needs_first_sample()
        return list(self._formats)

    @property
    def data_spec(self) -> str:
        """The tree of a sample as JSON text."""
        if self._spec is None:
            raise needs_first_sample()
        return self._spec.to_json()

    @property
    def pickled_leaves(self) -> tuple[str, ...]:
        """Where in a sample there are leaves that only pickle can store."""
        if self._spec is None:
            raise needs_first_sample()
        paths = zip(self._spec.leaf_paths(), self._formats, strict=True)
        return tuple(path for path, name in paths if name == "pickle")
