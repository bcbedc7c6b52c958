"""Gradients with respect to the parameters of a model that also holds streams and statistics."""

from flax import nnx


def value_and_grad(loss, **options):
    """As nnx.value_and_grad(loss), which in tree mode needs all variables to be floating."""

    def run(model, *args):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def pure(params, rest):
            return loss(nnx.merge(graph, params, rest), *args)

        return nnx.value_and_grad(pure, **options)(params, rest)

    return run
