"""The house: arrows point one way, nothing goes in a circle, and no folder is too full. Read from the source alone."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "ttq_plugin"

LEVELS = (
    {"errors"},
    {"support", "methods", "native", "fronts"},
    {"core"},
    {"measures"},
    {"tasks", "nni_adapter", "curvature"},
    {"statistics"},
    {"deploy"},
    {"trial", "tracking"},
    {"api"},
    {"search", "reproduce"},
    {"objective"},
    {"commands"},
    {"studies", "cli"},
    {"__main__"},
)
"""From the ground up: what stands in one set may import what stands in the sets before it, and nothing else."""

MOST_MODULES = 14


@cache
def sources() -> dict[str, Path]:
    """Module -> file; the package itself is left out, whose public names are imported on first use, by name."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del files["ttq_plugin"]
    return files


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports anywhere, for type checking alone too."""
    return {name: imported(name, path) - {name} for name, path in sources().items()}


def imported(name: str, path: Path) -> set[str]:
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {module for alias in node.names if (module := known(alias.name))}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(home.split(".")[: len(home.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            found |= {module for alias in node.names if (module := known(f"{base}.{alias.name}"))}
    return found


def known(name: str) -> str | None:
    """The longest part of a dotted name that is a module here."""
    while name and name not in sources():
        name = name.rpartition(".")[0]
    return name or None


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def room(name: str) -> str:
    """The folder, or the module of the first floor, that a module stands in."""
    return name.split(".")[1]


def arrows() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name, others in imports().items():
        for other in others:
            if room(name) != room(other):
                found.setdefault((room(name), room(other)), []).append(f"{name} imports {other}")
    return found


ENCODERS = ("html", "shlex", "rich.markup", "xml.sax.saxutils", "markupsafe")


def test_names_are_encoded_by_one_module():
    """No other escapes HTML, quotes for a shell, or makes a name out of another by replacing what does not fit."""
    found = []
    for name, path in sources().items():
        for node in nodes(path):
            used = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            used += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.sub" and len(node.args) > 1:
                used += ["re.sub"] if ast.unparse(node.args[1]) in {"'_'", "'-'", "''"} else []
            found += [(name, each) for each in used if each in {*ENCODERS, "re.sub"}]
    assert {name for name, _ in found} == {"ttq_plugin.support.names"}, found


LOWERING = "ttq_plugin.deploy.program."
"""What reads a model for deployment: the runtime, the C code and the integer networks are made from what it found."""


def used(path: Path) -> set[str]:
    """The dotted names that a module uses, in whole and from each dot on."""
    dotted = {ast.unparse(node) for node in nodes(path) if isinstance(node, ast.Attribute)}
    return {name.split(".", start)[-1] for name in dotted for start in range(name.count(".") + 1)}


def test_models_are_traced_by_one_module():
    """C code, runtime, integer networks and ONNX begin with graphs that are made in one place."""
    tracers = {"fx.Tracer", "symbolic_trace", "export.export"}
    assert {name for name, path in sources().items() if used(path) & tracers} == {LOWERING + "graphs"}


def test_a_norm_is_folded_in_one_place():
    """But for NNI's own folding, which is repeated to the last bit."""
    statistics = {"running_mean", "running_var"}
    written = {
        name
        for name, path in sources().items()
        for node in nodes(path)
        if (isinstance(node, ast.Constant) and node.value in statistics)
        or (isinstance(node, ast.Attribute) and node.attr in statistics)
    }
    assert written == {LOWERING + "folding", "ttq_plugin.nni_adapter.layers.folding"}


def test_what_a_module_does_stands_in_one_table():
    """Nothing else that deploys a model asks for the classes of its activations, norms, poolings and dropouts."""
    words = ("ReLU", "BatchNorm", "MaxPool", "AvgPool", "Dropout", "Identity", "Sigmoid", "SiLU", "GELU", "Tanh")
    found = {
        name
        for name, path in sources().items()
        if name.startswith("ttq_plugin.deploy.")
        and any(part.startswith("nn.") and any(word in part for word in words) for part in used(path))
    }
    assert found == {LOWERING + "operators"}


def test_the_search_for_circles_finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]


def test_the_graph_sees_every_kind_of_import():
    assert "ttq_plugin.core.ternarizer" in imports()["ttq_plugin.core.steps"] | imports()["ttq_plugin.core.methods"]
    assert "ttq_plugin.commands.search" in imports()["ttq_plugin.commands.wiring.searching"], "imports inside functions"
    assert len(imports()) > 200 and sum(map(len, imports().values())) > 500


def test_no_module_is_part_of_a_circle():
    assert circles(imports()) == []


def test_arrows_between_folders_point_one_way():
    level = {name: height for height, names in enumerate(LEVELS) for name in names}
    rooms = {room(name) for name in sources()}
    assert rooms <= level.keys(), f"say in LEVELS where these stand: {sorted(rooms - level.keys())}"
    wrong = [why for (above, below), why in arrows().items() if level[above] <= level[below]]
    assert wrong == []


def too_full(top: Path, pattern: str) -> dict[str, int]:
    folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
    sizes = {folder: len([p for p in folder.glob(pattern) if p.name != "__init__.py"]) for folder in folders}
    return {str(folder.relative_to(ROOT)): size for folder, size in sizes.items() if size > MOST_MODULES}


def test_no_folder_is_too_full():
    assert too_full(PACKAGE, "*.py") == {}, f"no folder may have more than {MOST_MODULES} modules"
    assert too_full(ROOT / "tests", "test_*.py") == {}, f"no folder may have more than {MOST_MODULES} files of tests"
