"""The list of packages, the declared dependencies and the pins match the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = ("datasets", "predictors", "nas", "experiments")
FOLDERS = {"hardsight": ROOT / "hardsight", **{f"hardsight.{name}": ROOT / name for name in TOP}}

# Import name where it differs from the distribution's.
DISTRIBUTIONS = {
    "_tools": "MNN",
    "ethosu": "ethos-u-vela",
    "zigzag": "zigzag-dse",
    "PIL": "pillow",
    "cpuinfo": "py-cpuinfo",
    "google": "protobuf",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "yaml": "PyYAML",
}


def python_files() -> list[tuple[str, Path]]:
    """Dotted package and path of every module, found without following the symlinks."""
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if not any((folder / p).is_symlink() for p in [*inner.parents, inner] if str(p) != "."):
                found.append((".".join([package, *inner.parts[:-1]]), path))
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(text: str) -> str:
    return normalised(re.split(r"[<>=!~\[; ]", text)[0])


def test_every_package_is_listed() -> None:
    tree = {package for package, _ in python_files()}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == tree


def test_every_package_has_an_init() -> None:
    assert [
        path for path in {p.parent for _, p in python_files()} if not (path / "__init__.py").exists()
    ] == []


@pytest.mark.parametrize("name", TOP)
def test_symlinks_are_relative(name: str) -> None:
    assert (ROOT / "hardsight" / name).readlink() == Path("..") / name


def imported() -> set[str]:
    """Distributions that the package imports anywhere."""
    found = set()
    for _, path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    outside = found - sys.stdlib_module_names - {"hardsight"}
    return {normalised(DISTRIBUTIONS.get(name, name)) for name in outside}


def test_imports_and_declared_dependencies_agree() -> None:
    core = {requirement_name(text) for text in PROJECT["project"]["dependencies"]}
    extras = {
        requirement_name(text) for e in PROJECT["project"]["optional-dependencies"].values() for text in e
    }
    assert imported() - core - extras == set(), "imported but not declared"
    assert core - imported() == set(), "declared but not imported"


def test_every_dependency_is_pinned_inside_its_range() -> None:
    from packaging.requirements import Requirement

    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {normalised(line.split("==")[0]): line.split("==")[1] for line in lines if line}
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(t for e in project["optional-dependencies"].values() for t in e)]
    for requirement in map(Requirement, texts):
        if requirement.name == "hardsight":  # an extra made of extras
            continue
        assert requirement.specifier.contains(pins[normalised(requirement.name)]), requirement


def test_make_installs_the_pinned_torch() -> None:
    (pin,) = re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.M)
    assert f"-c constraints.txt {pin}\n" in (ROOT / "Makefile").read_text()


def test_version_is_in_the_changelog() -> None:
    import hardsight

    assert f"## {hardsight.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_wheel_holds_everything(tmp_path: Path) -> None:
    """Builds the wheel (needs setuptools from an index) and compares it with the tree."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{package.replace('.', '/')}/{path.name}" for package, path in python_files()}
    assert expected <= names
    assert "hardsight/py.typed" in names
    for folder in ("datasets/shipped", "predictors/shipped", "hardsight/devices"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                inside = str(path.relative_to(ROOT))
                assert (inside if inside.startswith("hardsight/") else f"hardsight/{inside}") in names
