"""The direction of imports: hardsight core <- datasets, predictors <- nas <- experiments, cli."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("datasets", "predictors", "nas", "experiments")

# Modules at the top of hardsight/ that open the door to everything else; the rest is core.
DOORS = {
    "hardsight",
    "hardsight.api",
    "hardsight.comparison",
    "hardsight.explanation",
    "hardsight.int8_gain",
    "hardsight.jobs",
    "hardsight.pyfunc",
    "hardsight.serialize",
    "hardsight.tracking",
}
# Layer to the layers it may import, itself included.
ALLOWED = {
    "core": {"core"},
    "datasets": {"core", "datasets"},
    "predictors": {"core", "datasets", "predictors"},
    "nas": {"core", "datasets", "predictors", "nas"},
    "door": {"core", "datasets", "predictors", "nas", "door"},
    "cli": {"core", "datasets", "predictors", "nas", "door", "cli"},
    "experiments": {"core", "datasets", "predictors", "nas", "door", "cli", "experiments"},
}


def layer(module: str) -> str:
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in (*TOP, "cli"):
        return parts[1]
    if module == "hardsight.__main__":
        return "cli"
    return "door" if module in DOORS else "core"


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in {
        "hardsight": ROOT / "hardsight",
        **{f"hardsight.{t}": ROOT / t for t in TOP},
    }.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "hardsight" and parts[0] in TOP:
                continue
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def imported(path: Path) -> set[str]:
    """Modules of hardsight that a file imports anywhere; names for the type checker alone do not count."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return {name for name in found if name.split(".")[0] == "hardsight"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_inwards(module: str) -> None:
    known = modules()
    for target in imported(known[module]) & known.keys():
        if target == "hardsight":
            continue  # the package itself loads lazily; only its version is read from below
        assert layer(target) in ALLOWED[layer(module)], f"{module} imports {target}"


def test_datasets_and_predictors_meet_in_the_table() -> None:
    for module, path in modules().items():
        if layer(module) == "datasets":
            assert not {t for t in imported(path) if layer(t) in ("predictors", "nas")}, module


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import hardsight",
        "from hardsight.cli import main; assert main(['--help']) == 0",
        "from hardsight.cli import main; assert main(['--version']) == 0",
        "from hardsight.cli import main; assert main(['search', '--help']) == 0",
        "from hardsight.cli import main; assert main(['devices']) == 0",
    ],
)
def test_light_doors_load_nothing_heavy(code: str) -> None:
    heavy = {
        "torch",
        "mlflow",
        "pandas",
        "sklearn",
        "onnx",
        "onnxruntime",
        "optuna",
        "matplotlib",
        "brevitas",
    }
    assert loaded_by(code) & heavy == set()


def test_public_names_resolve() -> None:
    import hardsight

    assert sorted(hardsight.__all__) == sorted(name for names in hardsight._HOME.values() for name in names)
    for name in hardsight.__all__:
        assert getattr(hardsight, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        hardsight.nonsense  # noqa: B018
