"""What the house tests share: the modules of a source tree, parsed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = "aiolit"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        target: Dotted name; for ``from a import b`` that is ``a.b``, which may be a name inside
            ``a``.
        line: Where.
        local: Whether inside a function.
        typing: Whether for the type checker only.
    """

    target: str
    line: int
    local: bool
    typing: bool


@dataclass
class Module:
    """One parsed file."""

    name: str
    path: str
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")

    def qualified(self, node: ast.expr) -> str:
        """Spell an expression as a dotted name, with imported names in full: ``a.b.c``."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.qualified(node.value)}.{node.attr}"
        if isinstance(node, ast.Call):
            return f"{self.qualified(node.func)}()"
        return "?"


class _Collector(ast.NodeVisitor):
    def __init__(self, module: Module) -> None:
        self.module = module
        self.depth = 0
        self.typing = 0

    def _add(self, target: str, line: int) -> None:
        self.module.imports.append(Import(target, line, self.depth > 0, self.typing > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)
            name = alias.asname or alias.name.partition(".")[0]
            self.module.names[name] = alias.name if alias.asname else name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = node.module or ""
        if node.level:
            drop = node.level - (1 if self.module.is_package else 0)
            parts = self.module.name.split(".")
            source = ".".join([*parts[: len(parts) - drop], *filter(None, [source])])
        for alias in node.names:
            self._add(f"{source}.{alias.name}", node.lineno)
            self.module.names[alias.asname or alias.name] = f"{source}.{alias.name}"

    def visit_If(self, node: ast.If) -> None:
        typing = self.module.qualified(node.test).endswith("TYPE_CHECKING")
        self.typing += typing
        for child in node.body:
            self.visit(child)
        self.typing -= typing
        for child in node.orelse:
            self.visit(child)

    def _inside(self, node: ast.AST) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _inside  # noqa: N815


Tree = dict[str, Module]


def parse(files: Mapping[str, str]) -> Tree:
    """Parse sources by their path below the root (``aiolit/format/index.py``)."""
    tree: Tree = {}
    for path, source in files.items():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = tree[name] = Module(name, path, ast.parse(source, path))
        _Collector(module).visit(module.tree)
    return tree


def _sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


@pytest.fixture(scope="session")
def source_tree() -> Tree:
    """Give the package's own modules."""
    tree = parse(dict(_sources()))
    assert len(tree) > 10  # an empty walk would let everything pass
    return tree


@pytest.fixture(scope="session")
def parse_tree() -> Callable[[Mapping[str, str]], Tree]:
    """Give the function that parses sources, for seeded violations."""
    return parse
