"""Every test runs with JAX's strictest settings, on 8 CPU devices, and compiles quickly."""

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized():
    """For a test that asks two programs for the same bits: compiled as a user's are.

    Without optimizations a product and a sum that follows are rounded once in one program, and
    twice in another.
    """
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()
