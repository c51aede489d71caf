"""Lists, dicts and graphs that later LitData versions store as one leaf; only read."""

from __future__ import annotations

from functools import partial

from aiolit.format.graph_leaf import decode_graph
from aiolit.format.json_leaf import decode_json
from aiolit.format.serializers.base import Decode, LeafKind
from aiolit.format.serializers.pickles import load_pickle, load_plain_pickle
from aiolit.format.serializers.tensors import decode_tensor


class JsonKind(LeafKind):
    """A list or dict of plain values."""

    name = "json"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_json


class GraphKind(LeafKind):
    """Named tensors and the tree they fill."""

    name = "graph"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return partial(
            decode_graph,
            decode_tensor=decode_tensor,
            # The tree of a graph is pickled too, but holds nothing that runs code.
            load_pickle=load_pickle if allow_pickle else load_plain_pickle,
        )
