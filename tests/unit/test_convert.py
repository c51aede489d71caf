"""Data in other forms: how samples are found in it, and what is damaged is named."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from aiolit.cli.convert.detect import Found, Kind, Place, find, split_place
from aiolit.cli.convert.images import classes_line, find_classes, image_problem
from aiolit.cli.convert.leaves import IMAGE, Stored, StoredSerializer, number_leaf
from aiolit.cli.convert.names import expand_braces
from aiolit.cli.convert.parquet import Columns, sample_maker
from aiolit.cli.convert.webdataset import TarSamples, split_name
from aiolit.errors import ConfigError, DatasetError
from aiolit.format.serializers import SerializerRegistry
from aiolit.store.local import LocalStore

# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("x{08..10}.tar", ["x08.tar", "x09.tar", "x10.tar"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{one}", ["one"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["{3..1}", "{0..99999999}", "{a", "a}", "{a{b}}"])
def test_braces_that_mean_nothing(pattern: str) -> None:
    with pytest.raises(ConfigError):
        expand_braces(pattern)


def test_names_of_samples() -> None:
    """As WebDataset splits them."""
    assert split_name("dir.x/sub/0001.seg.PNG") == ("dir.x/sub/0001", "seg.png")
    assert split_name("0001.jpg") == ("0001", "jpg")
    for name in ("README", "dir.x/README", ".hidden", "dir/.hidden.jpg", "name."):
        assert split_name(name) is None


def test_places(tmp_path: Path) -> None:
    assert split_place("s3://b/shards/") == Place("s3://b/shards/", None)
    assert split_place("s3://b/shards/a-{0..9}.tar") == Place("s3://b/shards", "a-{0..9}.tar")
    assert split_place("*.parquet") == Place(".", "*.parquet")
    assert split_place("/a.tar.gz") == Place("/", "a.tar.gz")
    folder = tmp_path / "my.tar"
    folder.mkdir()
    assert split_place(str(folder)) == Place(str(folder), None)


def test_classes() -> None:
    keys = ["dog/1.jpg", "cat/deep/2.jpg", "dog/3.jpg"]
    assert find_classes(keys) == {"cat": 0, "dog": 1}
    assert find_classes([*keys, "4.jpg"]) == {}
    assert find_classes(["4.jpg"]) == {}


# ---- what is there -------------------------------------------------------------------------------


async def look(folder: Path, names: Iterable[str], kind: Kind | None = None) -> Found:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    return await find(LocalStore(folder), Place(str(folder), None), kind)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["b.tar", "a.tar", "README.md", ".cache/x.parquet"], "webdataset"),
        (["train/0.PARQUET".lower(), "x.json"], "parquet"),
        (["a/1.JPG", "b/2.png", "labels.csv"], "images"),
    ],
)
async def test_what_a_folder_holds(tmp_path: Path, names: list[str], kind: Kind) -> None:
    found = await look(tmp_path, names)
    assert found.kind == kind
    assert found.keys == sorted(found.keys)
    assert not any("cache" in key or "README" in key for key in found.keys)


async def test_an_index_tells_first(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"shards": [], "version": 2}))
    assert (await look(tmp_path, ["0.tar"])).kind == "mds"
    index.write_text(json.dumps({"config": {"item_loader": "ParquetLoader"}, "chunks": []}))
    assert await look(tmp_path, ["0.parquet"]) == Found("parquet", ["0.parquet"])
    index.write_text(json.dumps({"config": {"item_loader": None}, "chunks": []}))
    with pytest.raises(ConfigError, match="is a data set already"):
        await look(tmp_path, [])
    index.write_text("{")
    with pytest.raises(ConfigError, match=r"index\.json is no JSON"):
        await look(tmp_path, [])
    assert (await look(tmp_path, [], "webdataset")).keys == ["0.tar"]


async def test_the_folder_above_mds_shards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"convert the folders in it, such as .*train$"):
        await look(tmp_path, ["train/index.json", "train/shard.00000.mds", "val/index.json"])


async def test_splits_that_would_be_mixed_are_noted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="files of test and of train: all of them become one"):
        await look(tmp_path, ["train-0.tar", "x/test-0.tar"])


# ---- WebDataset ----------------------------------------------------------------------------------


def test_the_classes_are_said() -> None:
    def said(*keys: str) -> str:
        return classes_line(keys, find_classes(keys))

    assert said("dog/1.jpg", "cat/2.jpg", "cat/deep/3.jpg") == "2 classes: cat (2), dog (1)"
    assert said("train/cat/1.jpg", "train/dog/2.jpg") == "1 class: train (2)"
    assert said("1.jpg", "cat/2.jpg") == "no classes: not all images lie in folders"
    many = said(*(f"{number:02}/1.jpg" for number in range(12)))
    assert many.startswith("12 classes: 00 (1), ")
    assert many.endswith(", 09 (1) and 2 more")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_images_are_known_by_their_first_bytes(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(file, kind)
    data = file.getvalue()
    assert image_problem(data) == image_problem(data, decode=True) == ""
    assert "is no image" in image_problem(data[1:])
    assert image_problem(data[: len(data) // 3]) == ""
    if kind != "TIFF":  # which warns first
        assert "cannot be decoded: " in image_problem(data[:20], decode=True)


def test_what_is_no_image() -> None:
    assert image_problem(b"") == "is empty, and no image"
    assert "it begins with b'<html>'" in image_problem(b"<html>")


def tar_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


WHOLE = tar_bytes((f"{name}.txt", b"t" * 3000) for name in "abc")


def read(folder: Path, data: bytes, **options: Any) -> list[dict[str, Any]]:
    (folder / "0.tar").write_bytes(data)
    return list(TarSamples(LocalStore(folder), **options)("0.tar"))


def test_files_of_a_tar(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.link")
    link.type = tarfile.SYMTYPE
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("README"))
        tar.addfile(link)
    files = [("a.cls", b" 3\n"), ("a.x.JPG", b"j"), ("long/" * 60 + "b.cls", b"4")]
    head = target.getvalue()[:1024]
    samples = read(tmp_path, head + tar_bytes(files), columns=("cls",))
    assert samples == [{"__key__": "a", "cls": 3}, {"__key__": "long/" * 60 + "b", "cls": 4}]
    (sample,) = read(tmp_path, tar_bytes(files[:2]))
    assert sample == {"__key__": "a", "cls": 3, "x.jpg": Stored(IMAGE, b"j")}


def test_a_large_tar_is_read_in_blocks(tmp_path: Path) -> None:
    files = [(f"{n:04d}.bin", bytes([n % 256]) * 300_000) for n in range(60)]
    samples = read(tmp_path, tar_bytes(files))
    assert [sample["bin"][:1] for sample in samples] == [bytes([n]) for n in range(60)]


def test_a_reader_that_stops_early(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes((f"{n}.bin", bytes(2 << 20)) for n in range(20)))
    samples = iter(TarSamples(LocalStore(tmp_path))("0.tar"))
    assert next(samples)["__key__"] == "0"
    samples.close()  # type: ignore[attr-defined]


def cut(data: bytes) -> bytes:
    return data[:5000]


def garbled(data: bytes) -> bytes:
    """A header in the middle is overwritten: tarfile itself would take it for the end."""
    place = data.index(b"b.txt")
    return data[:place] + b"\xff" * 512 + data[place + 512 :]


def unclosed(data: bytes) -> bytes:
    """It ends behind a whole sample, without the blocks that end a tar."""
    return data[: data.index(b"c.txt")]


def crossed(data: bytes) -> bytes:
    return tar_bytes([("a.txt", b"1"), ("b.json", b"{}")])


def doubled(data: bytes) -> bytes:
    return tar_bytes([("a.txt", b"1"), ("a.txt", b"2")])


def bad_json(data: bytes) -> bytes:
    return tar_bytes([("a.json", b"{")])


def bad_class(data: bytes) -> bytes:
    return tar_bytes([("a.cls", b"cat")])


def no_tar(data: bytes) -> bytes:
    return b"<html>not found</html>" * 50


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cut off or damaged in b.txt"),
        (garbled, "damaged or cut off"),
        (unclosed, "damaged or cut off"),
        (no_tar, "is no tar"),
        (crossed, "'b' has the files json, and 'a' has txt"),
        (doubled, "'a' has two files .txt"),
        (bad_json, "no JSON"),
        (bad_class, "invalid literal"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, damage(WHOLE))
    assert says in str(caught.value)
    assert str(tmp_path / "0.tar") in str(caught.value)


# ---- leaves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.float32(0.1),
        np.float16(7),
        np.int64(5),
        np.bool_(True),
    ],
)
def test_numbers_keep_value_and_type(value: Any) -> None:
    leaf = number_leaf(value)
    registry = SerializerRegistry({"stored": StoredSerializer()})
    encoder = registry.choose(leaf, "n")
    back = SerializerRegistry().decoder(encoder.format_name)(memoryview(encoder.encode(leaf)))
    assert back == value
    assert np.asarray(back).dtype == value.dtype


def make(kind: Any, value: Any, *, empty: bool = False, feature: str = "") -> Any:
    columns = Columns(
        pa.schema([("c", kind)]),
        frozenset("c" if empty else ""),
        {"c": feature} if feature else {},
    )
    return sample_maker(columns, ["c"], undecoded=False, source="0.parquet")({"c": value})["c"]


def test_columns() -> None:
    assert make(pa.int8(), 3) == 3
    assert make(pa.dictionary(pa.int8(), pa.string()), "x") == "x"
    assert make(pa.int8(), None, empty=True) == Stored("json", b"null")
    assert make(pa.list_(pa.string()), ["x"]) == Stored("json", b'["x"]')
    assert make(pa.list_(pa.list_(pa.int8())), [[1], []]) == Stored("json", b"[[1], []]")
    array = make(pa.list_(pa.bool_(), 2), [True, False])
    assert (array.dtype, array.tolist()) == (np.bool_, [True, False])
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    row = {"bytes": b"x", "path": None}
    assert make(file, row, empty=True, feature="Image") == Stored(IMAGE, b"x")
    assert make(file, row, empty=True) == b"x"
    with pytest.raises(DatasetError, match="column 'c' has a row without a file's bytes"):
        make(file, {"bytes": None, "path": "x.jpg"}, empty=True)
    for kind, empty in ((pa.binary(), True), (pa.list_(pa.binary()), False)):
        with pytest.raises(ConfigError, match=r"column 'c' is .*--columns"):
            make(kind, None, empty=empty)
