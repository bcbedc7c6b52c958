"""Every test runs with JAX's strictest settings, on 8 CPU devices, and compiles quickly and once.

`TESTS_ON_ACCELERATOR=1 pytest tests/test_devices.py` uses JAX's default device beside the CPU.
"""

import atexit
import gc
import os
import shutil
import tempfile

import hypothesis
import jax

if "TESTS_ON_ACCELERATOR" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("untimed", deadline=None)  # compiling may be slow
hypothesis.settings.load_profile("untimed")

# The tests spend most of their time in compiling. XLA reads its flags before the first program.
AS_USERS_DO = "TESTS_COMPILE_AS_USERS_DO"
if AS_USERS_DO not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):  # the flags of later versions differ
        flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

# JAX compiles a program again for each function that it is from. So all processes of a run share
# what they compile, and all runs that find this variable set (.ci/run).
PROGRAMS = "TESTS_PROGRAMS"
if PROGRAMS not in os.environ:
    os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="programs-")
    atexit.register(shutil.rmtree, os.environ[PROGRAMS], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_collection_finish():
    """Collects garbage seldom, and never visits what the imports made: it took 1 second in 20."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
