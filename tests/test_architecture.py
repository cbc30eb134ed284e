"""The layers of ARCHITECTURE.md: imports point one way, in .py, .pyx and .pxd alike; files keep to their budget."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastmq

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastmq"

CHAIN = """
__main__ > cli > app | supervisor
> broker | store | fabric | auth | rules | bridges | gateways | api | testing | client | loadgen
> plugins > contracts | metrics | logs | sockets | notify > config
> _hub > _remote | _sink | _moving > _turn | _state > _conn > _protocol | _restore > _fabric | _subscribe
> _branch | _session | _tap > _items > _share | _wait > _link > _router > _codec > _inflight > _retain
> _trie | _fold | _access | _terms | _user > _message > _journal | _records
> _stamps > _table | _wheel | _meter | _wire | _linux | packets > topics > errors > reasons
"""
LAYERS = [[room.strip() for room in layer.split("|")] for layer in CHAIN.split(">")]
HEIGHT = {room: -depth for depth, layer in enumerate(LAYERS) for room in layer}

SIDEWAYS = {("testing", "broker")}
"""Rooms of one layer do not import one another; who may nevertheless, whom."""

BUDGET = {".py": 400, ".pyi": 400, ".pxd": 400, ".pyx": 800}
"""Lines per file. Past it, a file is split by meaning."""

NOT_IN_THE_ENGINE = {"asyncio", "logging", "os", "selectors", "socket", "time", "uvloop"}
"""The engine takes bytes, events and `now`; only _conn, _turn and _hub know sockets."""

ALLOWED = {("_wire", "os")}
"""_wire asks once, when imported, for a random secret: without it a client could choose topics whose hashes collide."""

FACADE = "fastmq"
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in BUDGET)
ENGINE = [path for path in SOURCES if path.suffix in (".pyx", ".pxd") and path.stem not in ("_conn", "_turn", "_hub")]

_CYTHON = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^#\n]*)|c?import\s+([\w.]+))", re.MULTILINE)


def name_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, package: Path = PACKAGE, *, at_start_only: bool = False) -> Iterator[str]:
    """The modules, as dotted names, that `path` imports; a name imported from a package counts as what it is."""
    if path.suffix in (".pyx", ".pxd"):
        for match in _CYTHON.finditer(path.read_text()):
            listed = re.sub(r"#.*", "", match[2] or "").strip("() \\")
            names = [name.split()[0] for name in listed.split(",") if name.split()]
            yield from _from(match[1], names, package) if match[1] else [match[3]]
        return
    tree = ast.parse(path.read_text())
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name: from fastmq... import ..."
            yield from _from(str(node.module), [alias.name for alias in node.names], package)


def _from(module: str, names: list[str], package: Path) -> Iterator[str]:
    folder = package.parent.joinpath(*module.split("."))
    for name in names:
        if any((folder / name).with_suffix(suffix).exists() for suffix in BUDGET) or (folder / name).is_dir():
            yield f"{module}.{name}"
        else:
            yield fastmq._HOMES.get(name, module) if module == FACADE else module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else FACADE


def violations(path: Path, package: Path = PACKAGE) -> list[str]:
    mine = room_of(name_of(path, package))
    found = []
    for module in imports(path, package):
        theirs = room_of(module)
        if module.split(".")[0] != FACADE or theirs in (mine, FACADE) or mine == FACADE:
            continue
        if theirs not in HEIGHT:
            found.append(f"{path.name} imports {module}, which is in no layer")
        elif HEIGHT[mine] <= HEIGHT[theirs] and (mine, theirs) not in SIDEWAYS:
            found.append(f"{path.name} ({mine}) imports {module}, which is not below it")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_in_a_layer_and_imports_only_downwards(path: Path) -> None:
    assert room_of(name_of(path)) in {*HEIGHT, FACADE}
    assert violations(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_keeps_to_its_budget(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= BUDGET[path.suffix]


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.name)
def test_the_engine_knows_no_clock_socket_or_log(path: Path) -> None:
    known = {module.split(".")[0] for module in imports(path)}
    assert known & NOT_IN_THE_ENGINE - {module for file, module in ALLOWED if file == path.stem} == set()


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if path.suffix != ".pyi":
            mine = graph.setdefault(name_of(path), set())
            mine |= {module for module in imports(path, at_start_only=True) if module != name_of(path)}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_trie.pyx", "cdef int x\nfrom fastmq._router cimport Router  # upwards\n"),
        ("_trie.pyx", "from fastmq cimport _router\n"),
        ("_trie.pxd", "cimport fastmq._session\n"),
        ("_codec.pyx", "def f():\n    from fastmq.config import (\n        Config)\n"),
        ("_wire.pyi", "from fastmq.packets import Packet\n"),
        ("topics.py", "def f():\n    import fastmq.logs\n"),
        ("broker/worker.py", "from fastmq.auth import chain\n"),
        ("broker/worker.py", "from fastmq.nowhere import anything\n"),
    ],
)
def test_a_planted_violation_is_seen(tmp_path: Path, file: str, text: str) -> None:
    package = tmp_path / "fastmq"
    path = package / file
    path.parent.mkdir(parents=True)
    (package / "_router.pxd").touch()
    path.write_text(text)
    assert len(violations(path, package)) == 1
