"""The kernels of attention compile for TPUs, and are used where XLA need not partition them."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
START = """
    import jax, jax.numpy as jnp
    jax.config.update("jax_platforms", "cpu")
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
    from experiments.tpu import hlo, topologies
    from flax_spatialdrop import fast_key
    from flax_spatialdrop.linen import blockwise_attention

    def program(chips, kind, dtype, shape, options, arrays={}, make_key=fast_key):
        def loss(q, k, v, key, arrays):
            given = dict(dropout_rate=0.1, broadcast_dropout=False, deterministic=False) | options
            y = blockwise_attention(q, k, v, dropout_rng=make_key(key), **given, **arrays)
            return y.astype(jnp.float32).sum()
        mesh = Mesh(chips, ("data",), axis_types=(kind,))
        def placed(shape, dtype, *spec):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))
        x = placed(shape, dtype, "data")
        key = placed((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
        arrays = {name: placed(*array) for name, array in arrays.items()}
        with jax.set_mesh(mesh):
            compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, key, arrays).compile()
        text = compiled.as_text()
        names = [n for n in ("attention_forward", "attention_backward") if n in text]
        print(*names, sum(hlo.collectives(text).values()), sep=",")
"""


def printed(code):
    """Runs code in its own process, since libtpu takes control of the process."""
    command = [sys.executable, "-c", textwrap.dedent(START) + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


KERNELS = "attention_forward,attention_backward,0"


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_one_chip_runs_the_kernels(topology):
    """The largest tiles fit into the vector memory of each generation."""
    code = f"""
        chips = topologies.mesh("{topology}").devices.ravel()[:1]
        auto, length = AxisType.Auto, 2**14
        most = {{
            "segment_ids": ((1, length), jnp.int32),
            "mask": ((1, 1, length, length), jnp.bool_),
        }}
        for make_key in (fast_key, lambda key: key):
            program(chips, auto, jnp.float32, (1, length, 1, 256), {{}}, make_key=make_key)
        program(chips, auto, jnp.float32, (1, length, 1, 256), dict(deterministic=True))
        options = dict(soft_cap=50.0)
        program(chips, auto, jnp.float32, (1, length, 2, 256), options, most)
        options = dict(is_causal=True, soft_cap=50.0, window=(1000, None))
        most |= {{"bias": ((1, 1, length, length), jnp.float32)}}
        program(chips, auto, jnp.float32, (1, length, 2, 256), options, most)
        long_table = dict(deterministic=True)
        bias = {{"bias": ((1, 1, 1, 2**17), jnp.float32)}}
        program(chips, auto, jnp.float32, (1, 2**17, 1, 64), long_table, bias)
        arrays = {{
            "bias": ((1, 1, 1024, 1024), jnp.bfloat16),
            "mask": ((1, 1, 1024, 1), jnp.bool_),
        }}
        program(chips, auto, jnp.float32, (1, 1024, 2, 64), {{}}, arrays)
        bias = {{"bias": ((1, 1, 1024, 1), jnp.float32)}}
        program(chips, auto, jnp.float32, (1, 1024, 2, 64), {{}}, bias)
        program(chips, auto, jnp.bfloat16, (1, 2048, 2, 128), {{}})
        program(chips, auto, jnp.float32, (1, 384, 2, 64), dict(precision="highest"))
        program(chips, auto, jnp.bfloat16, (1, 384, 2, 64), dict(precision="highest"))
        program(chips, auto, jnp.bfloat16, (1, 1000, 2, 64), {{}}, make_key=lambda key: key)
        program(chips, auto, jnp.bfloat16, (1, 1000, 2, 64), dict(deterministic=True))
        program(chips, auto, jnp.bfloat16, (1, 2048, 2, 128), dict(span=8))
        options = dict(span=128, is_causal=True)
        program(chips, auto, jnp.float32, (1, 1000, 2, 64), options, make_key=lambda key: key)
        program(chips, auto, jnp.bfloat16, (1, 2**16, 1, 128), dict(window=1000))
    """
    assert printed(code) == [KERNELS] * 16


def test_several_chips_run_the_kernels_only_on_explicit_axes():
    code = """
        chips = topologies.mesh("v5e:2x2").devices.ravel()
        for kind in (AxisType.Explicit, AxisType.Auto):
            program(chips, kind, jnp.bfloat16, (8, 1024, 2, 64), {})
    """
    assert printed(code) == [KERNELS, "0"]
