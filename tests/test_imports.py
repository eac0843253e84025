"""Imports run downwards only, and `import halonet` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package may import from those of a lower rank and from itself; two of one rank never meet.
RANKS = {
    "files": -1,
    "processes": -1,
    "ops": 0,
    "layers": 1,
    "models": 2,
    "data": 2,
    "detection": 3,
    "stereo": 3,
    "analysis": 4,
    "training": 5,
    "studies": 6,
    "export": 6,
    "explore": 6,
    "report": 7,
    "cli": 8,
    "__main__": 9,
}
FACE_RANK = RANKS["models"]  # `from halonet import create_model`: the face stands on models
COMPILERS = {"triton", "numba", "llvmlite"}
OPTIONAL = {"lightning", "matplotlib", "sklearn", "torchmetrics", "tensorboard", "jsonargparse", "rich"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "halonet").rglob("*.py"))}


def rank_of(module: str) -> int:
    parts = module.split(".")
    return RANKS[parts[1]] if len(parts) > 1 else FACE_RANK


def is_lazy(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """True inside a function, or where only type checkers look."""
    while node in parents:
        node = parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return True
    return False


def imports(source: str) -> Iterator[tuple[str, bool, int]]:
    """(dotted name, lazy, line) of everything a module imports; `from a import b` gives a.b."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, is_lazy(node, parents), node.lineno


def is_kernel_file(module: str) -> bool:
    """Kernels import their compiler at their top; others reach them inside functions only.

    They have a folder triton_* or numba_*, with an `operator` that anyone may import, and `constants`.
    """
    folders = pairwise(module.split("."))
    return any(a.startswith(("triton_", "numba_")) and b not in {"operator", "constants"} for a, b in folders)


def violations(module: str, source: str) -> list[str]:
    """What a module imports and may not, one sentence each."""
    found = []
    package = module.split(".")[1] if "." in module else ""
    for name, lazy, line in imports(source):
        top = name.split(".")[0]
        where = f"{module}:{line} imports {name}"
        if top == "halonet":
            target = name if name.count(".") and name.split(".")[1] in RANKS else "halonet"
            if name == "halonet.__version__" or target.split(".")[1:2] == [package]:
                pass
            elif rank_of(target) > rank_of(module) or (package and rank_of(target) == rank_of(module)):
                found.append(f"{where}: not downwards")
            if not lazy and is_kernel_file(name) and not is_kernel_file(module):
                found.append(f"{where}: kernels are reached inside functions only")
        elif top in {"lightning", "pytorch_lightning"} and package != "training":
            found.append(f"{where}: Lightning belongs to halonet.training")
        elif top in {"fastapi", "starlette", "uvicorn"} and package != "explore":
            found.append(f"{where}: web servers belong to halonet.explore")
        elif top in COMPILERS:
            if not lazy and not is_kernel_file(module):
                found.append(f"{where}: compilers are imported inside functions only")
        elif top in OPTIONAL and not lazy and package in {"", "ops", "layers", "models", "cli"}:
            found.append(f"{where}: an optional library at import time")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("halonet.ops.x", "from halonet.layers import HaloAttention", "not downwards"),
        ("halonet.layers.x", "def f():\n    import halonet.models.zoo", "not downwards"),
        ("halonet.layers.x", "from halonet import create_model", "not downwards"),
        ("halonet.models.x", "from halonet.data import digits", "not downwards"),
        ("halonet.stereo.x", "from halonet.detection import boxes", "not downwards"),
        ("halonet", "from halonet import training", "not downwards"),
        ("halonet.analysis.x", "def f():\n    import lightning", "Lightning belongs"),
        ("halonet.cli.x", "def f():\n    import uvicorn", "belong to halonet.explore"),
        ("halonet.ops.x", "import triton", "inside functions only"),
        ("halonet.ops.x", "from halonet.ops.triton_gpu import forward", "inside functions only"),
        ("halonet.ops.x", "from halonet.ops.numba_cpu.forward import forward", "inside functions only"),
        ("halonet.models.x", "import matplotlib.pyplot", "optional library"),
    ],
)
def test_the_rules_bite(module: str, source: str, complaint: str) -> None:
    assert any(complaint in found for found in violations(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("halonet.layers.x", "from halonet.ops import local_attention"),
        ("halonet.layers.x", "from halonet import ops"),
        ("halonet.training.x", "import lightning\nfrom halonet import create_model, data"),
        ("halonet.ops.x", "def f():\n    import triton\n    from halonet.ops.triton_gpu import kernels"),
        ("halonet.ops.triton_gpu.forward", "import triton"),
        ("halonet.ops.x", "from halonet.ops.numba_cpu.operator import run"),
        ("halonet.models.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import matplotlib"),
        ("halonet", "from halonet import ops\nfrom halonet.models import create_model"),
    ],
)
def test_the_rules_allow_what_is_right(module: str, source: str) -> None:
    assert violations(module, source) == []


def run_blocked(code: str, blocked: set[str]) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process in which the named libraries cannot be imported."""
    # None in sys.modules: the import fails, and importlib.util.find_spec says "not installed".
    script = f"import sys\nsys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_import_needs_no_optional_library() -> None:
    code = """
import torch, halonet
from halonet.ops import local_attention
x = torch.randn(1, 5, 6, 2, 4)
print(tuple(local_attention(x, x, x, block_size=4, halo_size=1).shape), len(halonet.list_models("halonet_h*")) > 7)
"""
    result = run_blocked(code, OPTIONAL | COMPILERS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(1, 5, 6, 2, 4) True"


def test_help_needs_no_lightning() -> None:
    code = """
from halonet.cli import main
sys.argv = ["halonet", "--help"]
try:
    main()
except SystemExit as end:
    sys.exit(end.code)
"""
    result = run_blocked(code, {"lightning", "pytorch_lightning", "torchmetrics"})
    assert result.returncode == 0, result.stderr
    assert "fit" in result.stdout
