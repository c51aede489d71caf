"""Graph leaves: named tensors, and the tree they fill."""

import pickle
import struct
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChunkFormatError, MissingDependencyError, UntrustedDataError
from aiolit.format.graph_leaf import Graph
from aiolit.format.serializers import SerializerRegistry

X = bytes.fromhex("00000012 00000001 00000002 0100000000000000 0200000000000000")  # tensor([1, 2])
MARK = "__ldgr_t__"


def stored(version: int, fields: dict[str, tuple[int, bytes]]) -> bytes:
    number = ">H" if version == 3 else ">B"
    out = b"LDGR" + bytes([version]) + struct.pack(number, len(fields))
    for name, (kind, payload) in fields.items():
        raw = name.encode()
        out += struct.pack(number, len(raw)) + raw
        out += b"" if version == 1 else bytes([kind])
        out += struct.pack(">I", len(payload)) + payload
    return out


def meta(**changes: Any) -> tuple[int, bytes]:
    whole = {
        "_cls": "hetero",
        "_tree": {"paper": {"x": MARK, "n": 3}, ("a", "to", "b"): {"edge_index": MARK}},
        "_paths": [("paper", "x"), (("a", "to", "b"), "edge_index")],
        "_fields": ["paper.x", "a__to__b.edge_index"],
    }
    return 1, pickle.dumps({k: v for k, v in (whole | changes).items() if v is not None})


def version_3(**changes: Any) -> bytes:
    fields = {"paper.x": (0, X), "a__to__b.edge_index": (0, X), "_meta": meta(**changes)}
    return stored(3, fields)


def decode(data: bytes, *, allow_pickle: bool = False) -> Any:
    return SerializerRegistry(allow_pickle=allow_pickle).decoder("graph")(memoryview(data))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_tree_is_rebuilt_without_trust(allow_pickle: bool) -> None:
    graph = decode(version_3(), allow_pickle=allow_pickle)
    assert graph.kind == "hetero"
    assert list(graph.fields) == ["paper", ("a", "to", "b")]
    assert graph.fields["paper"]["n"] == 3
    for tensor in (graph.fields["paper"]["x"], graph.fields["a", "to", "b"]["edge_index"]):
        assert torch.equal(tensor, torch.tensor([1, 2]))


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_tree_the_tensors_are_the_fields(version: int) -> None:
    graph = decode(stored(version, {"x": (0, X), "y": (0, X)}))
    assert graph.kind == "data"
    assert list(graph.fields) == ["x", "y"]
    assert torch.equal(graph.fields["y"], torch.tensor([1, 2]))


def test_a_pickled_graph() -> None:
    assert decode(pickle.dumps({"x": [1]})) == {"x": [1]}
    assert decode(pickle.dumps({"x": 1j}), allow_pickle=True) == {"x": 1j}
    with pytest.raises(UntrustedDataError):
        decode(pickle.dumps({"x": 1j}))
    with pytest.raises(UntrustedDataError):
        decode(version_3(_tree={"x": 1j}))


V3 = version_3()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "pickled part"),
        (b"LDGR", "cut off"),
        (b"LDGR\x04", "unknown version 4"),
        (b"LDGR\x03\x00", "cut off"),
        (b"LDGR\x03\x00\x01", "cut off"),
        (b"LDGR\x03\x00\x01\x00\x01\xff\x00", "cut off"),
        (b"LDGR\x03\x00\x01\x00\x01x", "cut off"),
        (b"LDGR\x03\x00\x01\x00\x01x\x00\xff\xff\xff\xff", "claims 4294967295 for the field 'x'"),
        (b"LDGR\x03\x00\x01\x00\x01x\x02\x00\x00\x00\x00", "'x' of unknown kind 2"),
        (V3 + b"\x00", "ends after"),
        (version_3(_cls="other"), "class 'other'"),
        (version_3(_cls=None), "does not fit"),
        (version_3(_tree=[]), "does not fit"),
        (version_3(_paths=None), "does not fit"),
        (version_3(_paths=[("paper", "x")]), "does not fit"),
        (version_3(_paths=[("paper", "n"), ("paper", "x")]), "no tensor at"),
        (version_3(_paths=[("paper", "x"), ("paper", "x")]), "no tensor at"),
        (version_3(_paths=[("paper", "x"), ()]), "does not fit"),
        (version_3(_paths=[("paper", "x"), 5]), "does not fit"),
        (version_3(_fields=["paper.x", "other"]), "does not fit"),
        (stored(3, {"_meta": (1, pickle.dumps(5))}), "does not fit"),
        (stored(3, {"x": (0, b"")}), "tensor leaf of 0 bytes"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(ChunkFormatError, match=message):
        decode(data)


@given(st.data())
def test_bytes_cut_off_or_changed(data: st.DataObject) -> None:
    changed = bytearray(V3)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(4, len(V3) - 1))] = data.draw(st.integers(0, 255))
    del changed[data.draw(st.integers(4, len(V3))) :]
    with suppress(ChunkFormatError, UntrustedDataError):
        decode(bytes(changed))


def test_to_pyg_needs_its_library() -> None:
    with pytest.raises(MissingDependencyError, match="pip install 'torch_geometric'"):
        Graph("data", {}).to_pyg()


def test_to_pyg(monkeypatch: pytest.MonkeyPatch) -> None:
    class Data:
        @classmethod
        def from_dict(cls, fields: dict[str, Any]) -> tuple[type, dict[str, Any]]:
            return cls, fields

    class HeteroData(Data):
        pass

    library = ModuleType("torch_geometric.data")
    vars(library).update(Data=Data, HeteroData=HeteroData)
    monkeypatch.setitem(sys.modules, "torch_geometric", ModuleType("torch_geometric"))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", library)
    assert Graph("data", {"x": 1}).to_pyg() == (Data, {"x": 1})
    assert Graph("hetero", {"x": {}}).to_pyg() == (HeteroData, {"x": {}})
