"""Imports go one way; a second test shows that the first can fail."""

import ast
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "flax_spatialdrop"

# Each file of the core may import those in the rows above its own.
LAYERS = [
    {"_compat", "_typing"},
    {"_sharding"},
    {"_checks"},
    {"_attention_input", "_cut", "_noise_shape", "_rates", "_recurrent_directions", "_threefry"},
    {"_block_shape"},
    {"_mask", "_summary"},
    {"_apply", "_fast_key", "_monte_carlo", "_noise", "_recorder"},
    {"_choices", "_mask_block", "_weights_mask", "_recurrent_step", "_recurrent_arguments"},
    {"_block_mask", "_weights_block", "_dropout", "_drop_path", "_patch_dropout", "_tokens"},
    {
        "_alpha",
        "_attend",
        "_cutout",
        "_drop_block",
        "_gaussian",
        "_embedding_dropout",
        "_spatial_dropout",
        "_explain",
        "_drop_connect",
    },
    {"_module_call", "_recurrent", "_recurrent_masks", "_query_shards", "_weights_dropout"},
    {"_attention"},
    {"_blockwise_attention"},
    {"_recurrent_cells", "_recurrent_scan", "_recurrent_any_cell"},
    {"_recurrent_layer"},
]
FORBIDDEN = {  # what a part of the project must not import
    "core": {"flax", "experiments"},
    "_block_shape": {"jax", "numpy"},
    "_noise_shape": {"jax", "numpy"},
    "linen": {"flax.nnx", "flax_spatialdrop.nnx", "experiments"},
    "nnx": {"flax.linen", "flax_spatialdrop.linen", "experiments"},
}


def imports(path, *, lazy=True):
    """The modules a file imports, dotted; those inside functions and TYPE_CHECKING if `lazy`."""
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


def violations(layers, forbidden):
    """Every import that goes against the one way, as "file imports module"."""
    level = {name: i for i, names in enumerate(layers) for name in names}
    found = []
    for path in PACKAGE.glob("*.py"):
        if path.stem == "__init__":
            continue
        banned = forbidden["core"] | forbidden.get(path.stem, set())
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "flax_spatialdrop" and level[parts[1]] >= level[path.stem]:
                found.append(f"{path.stem} imports {parts[1]}")
            elif is_within(name, banned):
                found.append(f"{path.stem} imports {name}")
        if any(is_within(name, {"matplotlib"}) for name in imports(path, lazy=False)):
            found.append(f"{path.stem} imports matplotlib")
    for face in ("linen", "nnx"):
        for path in (PACKAGE / face).glob("*.py"):
            for name in imports(path):
                if is_within(name, forbidden[face]):
                    found.append(f"{face}/{path.stem} imports {name}")
    for path in (ROOT / "experiments").rglob("*.py"):
        for name in imports(path):
            if name.startswith("flax_spatialdrop") and "._" in name:
                found.append(f"experiments/{path.stem} imports {name}")
    return found


def test_only_one_file_draws_masks_and_one_noise():
    assert files_with("random.bernoulli(") == {"_mask"}
    assert files_with("random.normal(") == {"_noise"}
    assert files_with("random.randint(") == {"_cutout"}
    assert files_with("lots = jax.random.bits(") == {"_patch_dropout"}
    assert files_with("random_bits") == {"_mask", "_noise", "_threefry"}


def test_only_one_file_knows_versions_and_what_is_not_public():
    gates = "version_info", "hasattr(jax", "hasattr(lax", "hasattr(nn", "_src"
    assert set().union(*map(files_with, gates)) == {"_compat"}
    hidden = {"jax.extend", "jax.experimental", "jax._src", "flax.linen.dtypes", "flax.nnx.nn"}
    found = {p.stem for p in PACKAGE.rglob("*.py") if any(is_within(n, hidden) for n in imports(p))}
    assert found == {"_compat"}


def files_with(code):
    return {path.stem for path in PACKAGE.rglob("*.py") if code in code_of(path)}


def code_of(path):
    """The code of a file, without its docstrings and comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant("")
    return ast.unparse(tree)


def test_every_file_has_its_layer():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == set().union(*LAYERS)


def test_imports_go_one_way():
    assert violations(LAYERS, FORBIDDEN) == []


def test_the_test_above_can_fail():
    upside_down = violations(LAYERS[::-1], FORBIDDEN)
    assert "_dropout imports _choices" in upside_down
    stricter = {
        "core": {"jax"},
        "_noise_shape": {"collections"},
        "linen": {"flax.linen"},
        "nnx": {"flax.nnx"},
    }
    found = violations(LAYERS, stricter)
    assert "_mask imports jax" in found
    assert "_noise_shape imports collections.abc.Sequence" in found
    assert "linen/_dropout imports flax.linen" in found
    assert "nnx/_dropout imports flax.nnx" in found


@pytest.mark.parametrize("folder", ["flax_spatialdrop", "experiments"])
def test_files_stay_short(folder):
    lines = {p: len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert lines
    assert max(lines.values()) <= 300


def test_top_level_holds_nothing_else():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows which files are the project's")
    done = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    top = {line.split("/")[0] for line in done.stdout.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    assert visible == {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} | {
        "flax_spatialdrop",
        "tests",
        "experiments",
        "configs",
    }
