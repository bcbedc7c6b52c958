"""Imports go in one direction; a second test shows that the first can fail."""

import ast
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "flax_spatialdrop"

# Each row may import the rows above it. Inside of a folder, any import is allowed.
ORDER = [
    {"_typing", "_compat", "_docs"},
    {"_checks", "_summary"},
    {"_noise_shape", "_rates"},
    {"_random", "_scaling"},
    {"_apply", "_drop_in", "_insert", "schedules"},
    {"_ops", "_recurrent", "_tools"},
    {"_attention", "_host"},
    {"linen", "nnx"},
    {"experiments"},
]
FORBIDDEN = {  # other imports that are not allowed
    "_noise_shape": {"jax", "numpy"},
    "linen": {"flax.nnx"},
    "nnx": {"flax.linen"},
}
HOSTS = {"linen", "nnx", "experiments"}
"""The parts that may import Flax."""


def imports(path, *, lazy=True):
    """Returns the names that a file imports. If `lazy`, also inside of functions and conditions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else tree.body
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def is_within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def part_of(path):
    """Returns the entry of ORDER for a file: a file or folder of the package, or "experiments"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "experiments" else parts[1]


def sources():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    return [path for path in files if path != PACKAGE / "__init__.py"]


def violations(order, forbidden, hosts):
    """Returns each import that is not allowed, as "file imports module"."""
    level = {name: i for i, names in enumerate(order) for name in names}
    found = []
    for path in sources():
        part = part_of(path)
        banned = forbidden.get(part, set()) | ({"flax"} if part not in hosts else set())
        for name in imports(path):
            ours = part_named_by(name)
            if part == "experiments":  # experiments use public names only
                wrong = name.startswith("flax_spatialdrop") and "._" in name
            else:
                wrong = ours not in (None, part) and level[ours] >= level[part]
            if wrong or is_within(name, banned):
                found.append(f"{part} imports {name}")
        if part != "experiments" and any(
            is_within(name, {"matplotlib"}) for name in imports(path, lazy=False)
        ):
            found.append(f"{part} imports matplotlib")
    return found


def part_named_by(name):
    parts = name.split(".")
    if parts[0] == "flax_spatialdrop" and len(parts) > 1:
        return parts[1]
    return "experiments" if parts[0] == "experiments" else None


def test_only_one_file_draws_masks_and_one_noise():
    assert files_with("random.bernoulli") == {"mask"}
    assert files_with("random.normal") == files_with("random.uniform") == {"noise"}
    assert files_with("random.randint") == {"cutout", "spans"}
    assert files_with("jax.random.bits, ") == {"subset"}
    assert files_with("random_bits") == {"noise", "redraw", "threefry"}
    assert files_with("hash_words(") == {"groups", "kernel_draws", "threefry"}
    assert files_with("hash_in_loop(") == {"groups", "threefry"}
    assert files_with("draws_of_groups(") == {"groups", "kernel"}


def test_only_one_file_knows_versions_and_what_is_not_public():
    gates = "version_info", "hasattr(jax", "hasattr(lax", "hasattr(nn", "_src"
    assert set().union(*map(files_with, gates)) == {"_compat"}
    hidden = {"jax.extend", "jax.experimental", "jax._src", "flax.linen.dtypes", "flax.nnx.nn"}
    found = {p.stem for p in PACKAGE.rglob("*.py") if any(is_within(n, hidden) for n in imports(p))}
    assert found == {"_compat"}


def files_with(code):
    return {path.stem for path in PACKAGE.rglob("*.py") if code in code_of(path)}


def code_of(path):
    """Returns the code of a file without docstrings and comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant("")
    return ast.unparse(tree)


def test_every_part_has_its_row():
    assert {part_of(path) for path in sources()} == set().union(*ORDER)


def test_imports_go_one_way():
    assert violations(ORDER, FORBIDDEN, HOSTS) == []


def test_the_test_above_can_fail():
    upside_down = violations(ORDER[::-1], FORBIDDEN, HOSTS)
    assert "_ops imports flax_spatialdrop._apply.Recipe" in upside_down
    stricter = {"_noise_shape": {"collections"}, "linen": {"flax.errors"}, "_random": {"jax"}}
    found = violations(ORDER, stricter, {"nnx", "experiments"})
    assert "_noise_shape imports collections.abc.Sequence" in found
    assert "linen imports flax.linen" in found
    assert "_random imports jax" in found


def test_top_level_holds_nothing_else():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows which files are the project's")
    done = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    top = {line.split("/")[0] for line in done.stdout.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    files = "pyproject.toml README.md LICENSE CHANGELOG.md CONTRIBUTING.md CITATION.cff SECURITY.md"
    folders = "flax_spatialdrop tests experiments configs docs"
    assert visible <= {*files.split(), *folders.split()}
