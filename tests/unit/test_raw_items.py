"""The table of items and the index file: what goes in comes out, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest
import zstandard

from aiolit.errors import ConfigError, IndexFormatError
from aiolit.raw.index_file import INDEX_FILE, RawIndex, dump_raw_index, parse_raw_index
from aiolit.raw.indexer import FileIndexer, FileMetadata
from aiolit.raw.items import ItemTable

ROOT = "s3://bucket/files"


def file(key: str, size: int = 1) -> FileMetadata:
    return FileMetadata(f"{ROOT}/{key}", size)


def packed(value: object) -> bytes:
    return zstandard.ZstdCompressor().compress(json.dumps(value).encode())


def parse(data: bytes) -> RawIndex:
    return parse_raw_index(data, root=ROOT, source="the index")


def test_items_come_out_as_they_went_in() -> None:
    items: list[Any] = [file("a", 3), [file("b/ä", 4), file("b/c", 5)], [file("d", 0)], []]
    table = ItemTable(ROOT, items)
    assert list(table) == items
    assert table[1:3] == items[1:3]
    assert table[-2] == [file("d", 0)]
    assert table.nbytes.tolist() == [3, 9, 0, 0]
    assert table.files(1) == [("b/ä", 4), ("b/c", 5)]
    assert list(pickle.loads(pickle.dumps(table))) == items
    with pytest.raises(IndexError):
        table[4]


def test_an_empty_table() -> None:
    table = ItemTable(ROOT, [])
    assert list(table) == []
    assert len(table.nbytes) == 0


def test_a_table_is_small() -> None:
    count = 20_000
    table = ItemTable(ROOT, [file(f"folder-{n // 1000:03}/{n:08}.jpg", n) for n in range(count)])
    assert len(pickle.dumps(table)) < 70 * count


def test_digests_tell_names_sizes_and_groups_apart() -> None:
    variants: list[list[Any]] = [
        [file("a", 1), file("b", 2)],
        [file("a", 1), file("b", 3)],
        [file("ab", 1), file("c", 2)],
        [[file("a", 1), file("b", 2)]],
        [[file("a", 1)], [file("b", 2)]],
    ]
    assert len({ItemTable(ROOT, items).digest() for items in variants}) == len(variants)
    moved = [FileMetadata("/elsewhere/a", 1), FileMetadata("/elsewhere/b", 2)]
    assert ItemTable("/elsewhere", moved).digest() == ItemTable(ROOT, variants[0]).digest()


@pytest.mark.parametrize("item", ["a.txt", None, [None], [["a"]], FileMetadata("/etc/passwd", 1)])
def test_what_is_no_item_is_refused(item: object) -> None:
    with pytest.raises(ConfigError, match="setup"):
        ItemTable(ROOT, [item])


def test_metadata_as_plain_values() -> None:
    assert FileMetadata.from_dict(file("a", 7).to_dict()) == file("a", 7)


def test_an_index_comes_out_as_it_went_in() -> None:
    index = RawIndex([file("a/ü.png", 2**40), file("b", 0)], 12.5, {".": 17})
    assert parse(dump_raw_index(ROOT, index)) == index


def test_the_index_has_litdatas_layout() -> None:
    data = dump_raw_index(ROOT, RawIndex([file("x/1.txt", 1)], 1795383310.5))
    assert zstandard.frame_content_size(data) > 0
    text = zstandard.ZstdDecompressor().decompress(data).decode()
    assert text == (
        '{"source": "s3://bucket/files", "files": [{"path": "s3://bucket/files/x/1.txt", '
        '"size": 1}], "created_at": 1795383310.5}'
    )


def test_an_index_of_litdata_is_read_sorted_and_without_itself() -> None:
    paths = ["b", "a", INDEX_FILE]
    files = [{"path": f"{ROOT}/{path}", "size": 1} for path in paths]
    found = parse(packed({"source": f"{ROOT}/", "files": files, "created_at": 1.0}))
    assert found.files == [file("a"), file("b")]
    assert found.folders is None


def test_an_index_whose_time_no_clock_shows() -> None:
    files = [{"path": f"{ROOT}/a", "size": 1}]
    assert parse(packed({"files": files, "created_at": 10**400})).created_at == 0.0


def bomb(declared: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(declared)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "zstd"),
        (b"no zstd at all", "zstd"),
        (packed([]), "object"),
        (packed({"source": ROOT}), "files"),
        (packed({"files": [{"path": f"{ROOT}/a"}]}), "size"),
        (packed({"files": [{"path": f"{ROOT}/a", "size": -1}]}), "size"),
        (packed({"files": [{"path": f"{ROOT}/a", "size": "1"}]}), "size"),
        (packed({"files": [{"path": 1, "size": 1}]}), "path"),
        (packed({"files": [{"path": "/etc/passwd", "size": 1}]}), "below"),
        (packed({"files": [{"path": f"{ROOT}/../secret", "size": 1}]}), "out of"),
        (packed({"files": [{"path": f"{ROOT}/a/../../b", "size": 1}]}), "out of"),
        (packed({"files": [{"path": f"{ROOT}/a\0b", "size": 1}]}), "out of"),
        (packed({"files": [{"path": f"{ROOT}/", "size": 1}]}), "below"),
        (packed({"files": [{"path": f"{ROOT}/\ud800", "size": 1}]}), "no text"),
        (bomb(b" " * (64 << 20)), "hold"),
        (dump_raw_index(ROOT, RawIndex([file("a" * 500)], 0.0))[:-9], "the index"),
    ],
)
def test_hostile_indexes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(IndexFormatError, match=message):
        parse(data)


def test_a_frame_that_does_not_say_its_length_is_refused() -> None:
    out = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as writer:
        writer.write(b'{"files": []}')
    with pytest.raises(IndexFormatError, match="hold"):
        parse(out.getvalue())


def test_an_indexer_chooses_by_extension_and_depth() -> None:
    files = [file("a.JPG"), file("b.png"), file("x/c.jpg"), file("x/y/d.jpg")]
    assert FileIndexer().choose(ROOT, files) == files
    assert FileIndexer(extensions=[".jpg"]).choose(ROOT, files) == [files[0], *files[2:]]
    assert FileIndexer(max_depth=1).choose(ROOT, files) == files[:2]
    assert FileIndexer(2, [".jpg"]).choose(ROOT, files) == [files[0], files[2]]


@pytest.mark.parametrize("arguments", [(0,), (-1,), (True,), (None, ".jpg")])
def test_options_of_an_indexer_are_checked(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        FileIndexer(*arguments)
