"""LitData reads what aiolit writes, aiolit reads what LitData writes, value for value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.aiolit_side import read
from tests.interop.conftest import APPENDED, IN_PLACE, Exchange
from tests.interop.interop_cases import AIOLIT, ARROW, CASES, NEW, OLD, PEERS, Case, canonical

# The first test to run waits for all peers, and each of them imports torch.
pytestmark = pytest.mark.timeout(900)

Record = Callable[[str, object], None]

PEER_WRITTEN = [
    pytest.param(peer, name, id=f"{peer}-{name}")
    for name, case in CASES.items()
    for peer in case.writers
    if peer != AIOLIT
]
PEER_READ = [
    pytest.param(peer, name, id=f"{peer}-{name}")
    for name, case in CASES.items()
    if AIOLIT in case.writers
    for peer in case.readers
]


@pytest.mark.parametrize(("peer", "name"), PEER_WRITTEN)
def test_aiolit_reads_what_a_peer_wrote(
    exchange: Exchange, peer: str, name: str, record_property: Record
) -> None:
    record_property("interop", (name, f"{peer} > aiolit"))
    case = CASES[name]
    expected = _json(case.expected(exchange.files, peer, AIOLIT))
    assert _read(case, exchange.dataset(peer, name)) == expected


@pytest.mark.parametrize(("peer", "name"), PEER_WRITTEN)
def test_peer_reads_what_it_wrote(exchange: Exchange, peer: str, name: str) -> None:
    """Guards the expectations: where this fails, the other tests prove nothing."""
    outcome = exchange.outcome(peer, "written", name)
    if peer in CASES[name].refused_by:
        assert "error" in outcome
    else:
        assert outcome.get("error") is None
        assert outcome["samples"] == _json(CASES[name].expected(exchange.files, peer, peer))


@pytest.mark.parametrize(("peer", "name"), PEER_READ)
def test_peer_reads_what_aiolit_wrote(
    exchange: Exchange, peer: str, name: str, record_property: Record
) -> None:
    record_property("interop", (name, f"aiolit > {peer}"))
    assert exchange.ours[name] is None
    outcome = exchange.outcome(peer, "read", name)
    assert outcome.get("error") is None
    assert outcome["samples"] == _json(CASES[name].expected(exchange.files, AIOLIT, peer))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if AIOLIT in case.writers])
def test_aiolit_reads_what_it_wrote(exchange: Exchange, name: str, record_property: Record) -> None:
    record_property("interop", (name, "aiolit > aiolit"))
    assert exchange.ours[name] is None
    case = CASES[name]
    expected = _json(case.expected(exchange.files, AIOLIT, AIOLIT))
    assert _read(case, exchange.dataset(AIOLIT, name)) == expected


@pytest.mark.parametrize("name", APPENDED)
@pytest.mark.parametrize("peer", PEERS)
def test_peer_appends_to_what_aiolit_wrote(
    exchange: Exchange, peer: str, name: str, record_property: Record
) -> None:
    record_property("interop", (f"{name}, appended to", f"aiolit > {peer}"))
    assert exchange.ours[name] is None
    outcome = exchange.outcome(peer, "appended", name)
    case = CASES[name]
    assert outcome.get("error") is None
    assert outcome["samples"] == _json(2 * case.expected(exchange.files, AIOLIT, peer))
    assert _read(case, exchange.dataset(f"appended/{peer}", name)) == outcome["samples"]


@pytest.mark.parametrize("peer", PEERS)
def test_chunks_that_a_peer_decompressed_in_place(exchange: Exchange, peer: str) -> None:
    """LitData 0.2.70 and later replace `chunk-0-0.zstd.bin` while the index goes on naming it."""
    case = CASES[IN_PLACE]
    expected = _json(case.expected(exchange.files, AIOLIT, peer))
    assert exchange.outcome(peer, "in_place", IN_PLACE).get("samples") == expected
    folder = exchange.dataset("in-place", peer)
    assert (folder / "chunk-0-0.bin").exists()
    assert (folder / "chunk-0-0.zstd.bin").exists() == (peer == OLD)
    assert _read(case, folder) == _json(case.expected(exchange.files, AIOLIT, AIOLIT))


def test_hybrid_chunks(exchange: Exchange, tmp_path: Path) -> None:
    """Items of the one, and the Arrow rows of the other, in one chunk, read by aiolit."""
    items, rows = (exchange.dataset(peer, "dict") for peer in (OLD, ARROW))
    hybrid = tmp_path / "hybrid"
    shutil.copytree(items, hybrid)
    index = json.loads((hybrid / "index.json").read_text())
    for chunk in index["chunks"]:
        table = (rows / chunk["filename"]).read_bytes()
        with (hybrid / chunk["filename"]).open("ab") as out:
            out.write(table[table.index(b"ARROW1\0\0") :])
        chunk["chunk_bytes"] = (hybrid / chunk["filename"]).stat().st_size
    (hybrid / "index.json").write_text(json.dumps(index))
    assert _read(CASES["dict"], hybrid) == _json(
        CASES["dict"].expected(exchange.files, OLD, AIOLIT)
    )


def test_mixed_data_set_has_both_kinds_of_chunk(exchange: Exchange) -> None:
    chunks = sorted(exchange.dataset(ARROW, "dict-mixed").glob("chunk-*.bin"))
    assert {chunk.read_bytes()[-8:] == b"LDARW01\0" for chunk in chunks} == {True, False}


def test_arrow_only_chunks_were_there(exchange: Exchange) -> None:
    for peer, expected in ((ARROW, True), (NEW, False)):
        chunks = exchange.dataset(peer, "dict").glob("chunk-*.bin")
        assert {chunk.read_bytes()[-8:] == b"LDARW01\0" for chunk in chunks} == {expected}


def _read(case: Case, dataset: Path) -> Any:
    return _json([canonical(sample) for sample in read(case, dataset)])


def _json(value: Any) -> Any:
    """The value as JSON brings it back, with lists for tuples."""
    return json.loads(json.dumps(value))
