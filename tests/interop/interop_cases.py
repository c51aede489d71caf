"""The data sets of the interoperability matrix, and the form in which their samples are compared.

Imported on both sides: by the tests, and by `peer_side.py` inside a peer's environment, where there
is neither aiolit nor pytest. It needs numpy, torch and Pillow only.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

OLD = "0.2.58"
NEW = "0.2.76"
ARROW = "0.2.76+pyarrow"
PEERS = (OLD, NEW, ARROW)
AIOLIT = "aiolit"
PASSWORD = "a password for tests"
COUNT = 10
CHUNK_ITEMS = 4

_BOTH_DTYPES = ["float16", "float32", "float64", "complex64", "complex128", "uint8", "int8"]
_BOTH_DTYPES += ["int16", "int32", "int64", "bool", "uint16"]
NUMPY_DTYPES = [*_BOTH_DTYPES, "uint32", "uint64"]
TORCH_DTYPES = _BOTH_DTYPES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One data set: what its samples are, how it is stored, and who can write and read it."""

    name: str
    make: Callable[[Path], list[Any]]
    """The samples, from a folder in which it may put the files they need."""
    expect: Callable[[Path, str, str], list[Any]] | None = None
    """(folder, writer, reader) -> what the reader gives, where that is not the samples."""
    writers: tuple[str, ...] = (*PEERS, AIOLIT)
    readers: tuple[str, ...] = PEERS
    """The peers that can read it when aiolit wrote it (aiolit reads what anyone wrote)."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of `optimize`, over the default of `chunk_size=4`."""
    encryption: str | None = None
    """The level at which Fernet encrypts it."""
    block_size: int | None = None
    """Set for tokens."""
    pickles: bool = False
    """A leaf is stored as a pickle, of which aiolit's writer warns."""
    refused_by: tuple[str, ...] = ()
    """Peers that write it and then cannot read it back themselves (format.md, section 11)."""

    def expected(self, folder: Path, writer: str, reader: str) -> list[Any]:
        """What `reader` has to give of what `writer` wrote, in canonical form."""
        samples = self.expect(folder, writer, reader) if self.expect else self.make(folder)
        return [canonical(sample) for sample in samples]


def canonical(value: Any) -> Any:
    """The value as JSON that is equal if and only if the values are.

    Python's and numpy's 64-bit numbers count as the same: LitData gives the one or the other by
    version. So do the types that hold bytes.
    """
    if isinstance(value, bool | str):
        return [type(value).__name__, value]
    if isinstance(value, int | np.int64):
        return ["int", int(value)]
    if isinstance(value, float | np.float64):
        return ["float", float(value).hex()]
    if isinstance(value, bytes | bytearray | memoryview):
        return ["bytes", _digest(bytes(value))]
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.str, list(value.shape), _digest(value.tobytes())]
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ["tensor", str(value.dtype), list(value.shape), _digest(raw)]
    if isinstance(value, Image.Image):
        return ["image", value.mode, list(value.size), _digest(value.tobytes())]
    if isinstance(value, dict):
        pairs = [[canonical(key), canonical(item)] for key, item in value.items()]
        return [type(value).__name__, pairs]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [canonical(item) for item in value]]
    if isinstance(value, deque):
        return ["deque", value.maxlen, [canonical(item) for item in value]]
    return [type(value).__name__, repr(value)]


def _digest(data: bytes) -> str:
    """The bytes as text: themselves where they are few, so that a difference can be read."""
    return data.hex() if len(data) <= 64 else f"{len(data)}:{hashlib.sha256(data).hexdigest()}"


def _each(make: Callable[[int], Any]) -> Callable[[Path], list[Any]]:
    return lambda folder: [make(i) for i in range(COUNT)]


def _random(*key: int) -> np.random.Generator:
    return np.random.default_rng([7, *key])


def _array(dtype: str, shape: tuple[int, ...], *key: int) -> np.ndarray[Any, Any]:
    raw = _random(*key, len(dtype), len(shape)).integers(0, 120, size=shape)
    return raw.astype(np.dtype(dtype)) if dtype != "bool" else raw > 60


def _tensor(dtype: str, shape: tuple[int, ...], *key: int) -> torch.Tensor:
    raw = np.asarray(_random(*key, len(dtype), len(shape)).integers(0, 120, size=shape))
    plain = torch.from_numpy(raw)
    return plain.to(getattr(torch, dtype)) if dtype != "bool" else plain > 60


def _image(mode: str, i: int, size: tuple[int, int] = (19, 13)) -> Image.Image:
    width, height = size
    channels = 4 if mode in ("RGBA", "CMYK") else 3
    low = _random(i, channels).integers(0, 255, size=(3, 3, channels), dtype=np.uint8)
    smooth = Image.fromarray(low[:, :, :3]).resize((width, height), Image.Resampling.BICUBIC)
    return smooth.convert(mode)


def _jpeg_bytes(i: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    _image(mode, i, (48, 40)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _jpeg_files(folder: Path, mode: str = "RGB") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{mode}-{i}.jpg" for i in range(COUNT)]
    for i, path in enumerate(paths):
        if not path.exists():  # several processes share these, and must not see half a file
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(_jpeg_bytes(i, mode))
            partial.rename(path)
    return paths


def decoded(data: bytes, *, rgb: bool = False) -> torch.Tensor:
    """A JPEG file as a uint8 tensor of channels, height and width."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB") if rgb else image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def _opened(folder: Path, mode: str) -> list[Any]:
    images = [Image.open(path) for path in _jpeg_files(folder, mode)]
    for image in images:
        image.load()  # closes the file
    return list(images)


def _jpegs(mode: str) -> Callable[[Path], list[Any]]:
    return lambda folder: [
        {"image": image, "i": i} for i, image in enumerate(_opened(folder, mode))
    ]


def _jpegs_back(mode: str) -> Callable[[Path, str, str], list[Any]]:
    def expect(folder: Path, writer: str, reader: str) -> list[Any]:
        rgb = reader in (NEW, ARROW)  # these convert what they decode
        return [{"image": decoded(_jpeg_bytes(i, mode), rgb=rgb), "i": i} for i in range(COUNT)]

    return expect


def _jpeg_lists(folder: Path) -> list[Any]:
    images = _opened(folder, "RGB")
    return [{"images": [images[i], images[-1 - i]], "i": i} for i in range(COUNT)]


def _jpeg_lists_back(folder: Path, writer: str, reader: str) -> list[Any]:
    images = [decoded(_jpeg_bytes(i)) for i in range(COUNT)]
    return [{"images": [images[i], images[-1 - i]], "i": i} for i in range(COUNT)]


def _jpeg_paths(folder: Path) -> list[Any]:
    return [{"path": str(path), "i": i} for i, path in enumerate(_jpeg_files(folder))]


def _jpeg_paths_back(folder: Path, writer: str, reader: str) -> list[Any]:
    if writer in (OLD, AIOLIT):  # these store the text of the path
        return _jpeg_paths(folder)
    return [{"path": decoded(_jpeg_bytes(i)), "i": i} for i in range(COUNT)]


def _record(i: int) -> dict[str, Any]:
    """The kind of sample most data sets have."""
    return {
        "image": _jpeg_bytes(i),
        "label": i,
        "caption": f"picture {i} of é",
        "embedding": _array("float32", (8,), i),
        "boxes": _tensor("int64", (i % 3 + 1, 4), i),
        "meta": {"score": i / 7, "flags": (bool(i % 2), i * i), "tags": ["a", "b" * i]},
    }


def _row(i: int) -> dict[str, Any]:
    """Plain data: an Arrow row where pyarrow is installed."""
    return {"id": i, "text": "t" * i, "weight": i / 3, "odd": i % 2 == 1, "raw": b"\0\xff" * i}


def _ordered(i: int) -> Any:
    return OrderedDict(b=i, a=str(i))


def _ordered_back(folder: Path, writer: str, reader: str) -> list[Any]:
    samples = _each(_ordered)(folder)
    return [dict(sample) for sample in samples] if writer in (NEW, ARROW) else samples


def _tokens(kind: str, dtype: str) -> Callable[[Path], list[Any]]:
    build = _array if kind == "array" else _tensor
    return lambda folder: [build(dtype, (5 + 3 * i,), i) for i in range(COUNT)]


def _blocks(case_make: Callable[[Path], list[Any]]) -> Callable[[Path, str, str], list[Any]]:
    """Blocks of 4 of chunks that hold 40 tokens at most: the tail of each chunk is dropped."""

    def expect(folder: Path, writer: str, reader: str) -> list[Any]:
        chunks: list[list[Any]] = [[]]
        for item in case_make(folder):
            if chunks[-1] and sum(map(len, chunks[-1])) + len(item) > 40:
                chunks.append([])
            chunks[-1].append(item)
        blocks = []
        for chunk in chunks:
            joined: Any = (
                np.concatenate(chunk) if isinstance(chunk[0], np.ndarray) else torch.cat(chunk)
            )
            blocks += [joined[at : at + 4] for at in range(0, len(joined) // 4 * 4, 4)]
        return blocks

    return expect


def _dtypes(names: list[str], shape: tuple[int, ...], make: Any) -> Callable[[Path], list[Any]]:
    return _each(lambda i: {name: make(name, shape, i) for name in names})


def _numbers(i: int) -> dict[str, Any]:
    return {name: np.array([i]).astype(name)[0] for name in NUMPY_DTYPES}


def _numbers_back(folder: Path, writer: str, reader: str) -> list[Any]:
    """Those of 64 bits, and flags, are as Python's; LitData pickles the others."""
    samples = _each(_numbers)(folder)
    own = ("int64", "float64", "bool")
    for sample in samples if writer == AIOLIT else ():
        sample |= {n: v.item() if n in own else np.asarray(v) for n, v in sample.items()}
    return samples


def _images(folder: Path) -> list[Any]:
    modes = ("RGB", "L", "RGBA", "1", "I", "F", "CMYK")
    return _each(lambda i: {mode: _image(mode, i) for mode in modes})(folder)


def _plain_cases() -> list[Case]:
    cases = [
        Case(name="int", make=_each(lambda i: (-1) ** i * 10**i)),
        Case(name="float", make=_each(lambda i: i / 3)),
        Case(name="bool", make=_each(lambda i: i % 2 == 0)),
        Case(name="str", make=_each(lambda i: "é" * i)),
        Case(name="bytes", make=_each(lambda i: bytes(range(i)) * 50)),
        Case(name="list", make=_each(lambda i: [i, i / 2, str(i), b"x" * i])),
        Case(name="tuple", make=_each(lambda i: (i, (str(i), [i, i + 1])))),
        Case(name="dict", make=_each(_row)),
        Case(name="dict-int-keys", make=_each(lambda i: {1: np.arange(i), 2: str(i)})),
        Case(name="dict-nested", make=_each(lambda i: {"a": {"b": i, "c": {"d": str(i)}}, "e": i})),
        Case(name="dict-of-list", make=_each(lambda i: {"xs": [i, i + 1], "ys": ["a", str(i)]})),
        Case(name="ordered-dict", make=_each(_ordered), expect=_ordered_back),
        Case(name="deque", make=_each(lambda i: (deque([i, str(i)], maxlen=3), i))),
        Case(name="empty-containers", make=_each(lambda i: (i, [], {}, ()))),
        Case(name="record", make=_each(_record)),
        Case(name="array-1d", make=_dtypes(NUMPY_DTYPES, (5,), _array)),
        Case(name="array-nd", make=_dtypes(NUMPY_DTYPES, (2, 3, 2), _array)),
        Case(name="array-empty", make=_each(lambda i: (np.zeros((0, 3)), np.zeros(0), i))),
        Case(name="array-ragged", make=_each(lambda i: [np.arange(i), np.ones((i, 2), "f4")])),
        Case(name="tensor-0d", make=_dtypes(TORCH_DTYPES, (), _tensor)),
        Case(name="tensor-1d", make=_dtypes(TORCH_DTYPES, (5,), _tensor)),
        Case(name="tensor-nd", make=_dtypes(TORCH_DTYPES, (2, 3, 2), _tensor)),
        Case(name="tensor-empty", make=_each(lambda i: (torch.zeros(0, 3), torch.zeros(0), i))),
        Case(
            name="tensor-bfloat16",  # LitData reads it, and cannot write it
            make=_each(lambda i: [torch.arange(i).bfloat16(), torch.ones(2, 2).bfloat16() * i]),
            writers=(AIOLIT,),
        ),
        Case(name="image", make=_images),
        Case(name="jpeg", make=_jpegs("RGB"), expect=_jpegs_back("RGB")),
        Case(name="jpeg-grey", make=_jpegs("L"), expect=_jpegs_back("L")),
        Case(name="jpeg-list", make=_jpeg_lists, expect=_jpeg_lists_back),
        Case(name="jpeg-path", make=_jpeg_paths, expect=_jpeg_paths_back),
        Case(
            name="pickle",
            make=_each(lambda i: (complex(i, 1), {i}, datetime.date(2026, 1, 1 + i))),
            pickles=True,
        ),
        Case(name="numpy-numbers", make=_each(_numbers), expect=_numbers_back),
        Case(
            name="array-0d",
            make=_dtypes(NUMPY_DTYPES, (), lambda *key: np.asarray(_array(*key))),
            writers=(AIOLIT,),  # LitData pickles them
        ),
        Case(
            name="dict-of-list-ragged",  # a "json" leaf, or an Arrow row
            make=_each(lambda i: {"xs": list(range(i)), "rows": [{"k": str(i)}] * (i % 3)}),
            writers=(NEW, ARROW),
        ),
        Case(
            name="dict-600-rows",  # more than two record batches of Arrow
            make=lambda folder: [_row(i % 50) | {"id": i} for i in range(600)],
            options={"chunk_size": 600},
        ),
        Case(
            name="two-workers",  # chunks of two ranks, in the order of the index
            make=_each(lambda i: [i, str(i)]),
            writers=PEERS,
            options={"num_workers": 2, "keep_data_ordered": True, "chunk_size": 2},
        ),
        Case(
            name="dict-mixed",  # Arrow while a column has one type, classic once it has two
            make=_each(lambda i: {"id": i, "v": [i] if i < 6 else {"k": [i]}}),
            writers=(NEW, ARROW),
        ),
    ]
    for kind, dtype in (
        ("tensor", "int64"),
        ("tensor", "int32"),
        ("tensor", "uint16"),
        ("array", "int32"),
    ):
        make = _tokens(kind, dtype)
        options = {"chunk_size": 40}
        name = f"tokens-{kind}-{dtype}"
        cases.append(
            Case(name=name, make=make, expect=_blocks(make), block_size=4, options=options)
        )
    return cases


def _stored_cases() -> list[Case]:
    """The ways to store, each with a dict of plain values, arrays only, and a mixture."""
    rows, record = _each(_row), _each(_record)
    numbers = _each(lambda i: [i, i / 2])
    arrays = _each(lambda i: [_array("float32", (3, 4), i), _tensor("int64", (4,), i)])
    kinds = (("dict", rows), ("record", record), ("arrays", arrays), ("numbers", numbers))
    new = (NEW, ARROW)
    # 0.2.76 leaves these uncompressed and says in the index that they are compressed.
    mislabelled = {"dict": (NEW,), "numbers": new}
    cases = []
    for name, make in kinds:
        for level in ("zstd", "zstd:7"):
            whole = {"compression": level}
            label = level.replace(":", "-")
            cases.append(
                Case(
                    name=f"{name}-whole-{label}",
                    make=make,
                    options=whole,
                    writers=(OLD, AIOLIT),
                )
            )
        cases += [
            Case(
                name=f"{name}-chunk-zstd",
                make=make,
                options={"compression": "zstd", "compression_level": "chunk"},
                writers=new,
            ),
            Case(
                name=f"{name}-framed-zstd",
                make=make,
                options={
                    "compression": "zstd",
                    "compression_level": "batch",
                    "compression_batch_size": 3,
                },
                writers=(*new, AIOLIT),
                readers=new,
                refused_by=mislabelled.get(name, ()),
            ),
            Case(
                name=f"{name}-sample-zstd",
                make=make,
                options={"compression": "zstd", "compression_level": "sample"},
                writers=new,
                refused_by=mislabelled.get(name, ()),
            ),
        ]
        for level in ("sample", "chunk"):
            cases.append(
                Case(
                    name=f"{name}-fernet-{level}",
                    make=make,
                    encryption=level,
                    refused_by=(ARROW,) if name == "dict" else (),
                )
            )
        cases.append(
            Case(
                name=f"{name}-fernet-zstd",
                make=make,
                encryption="sample",
                options={"compression": "zstd"},
                writers=(OLD, AIOLIT),
            )
        )
    cases.append(
        Case(
            name="dict-default-zstd",
            make=rows,
            options={"compression": "zstd"},
            writers=new,
            refused_by=(NEW,),
        )
    )
    tokens = _tokens("tensor", "int64")
    cases.append(
        Case(
            name="tokens-whole-zstd",
            make=tokens,
            expect=_blocks(tokens),
            block_size=4,
            options={"chunk_size": 40, "compression": "zstd"},
            writers=(OLD, AIOLIT),
        )
    )
    return cases


CASES: Mapping[str, Case] = {case.name: case for case in (*_plain_cases(), *_stored_cases())}
