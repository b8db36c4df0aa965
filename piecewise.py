"""A discriminator that is linear between its kinks: its loss and its penalty in one backward pass.

R1 is of D's gradient at the examples: D is passed forward and back for it, and its own gradient,
for the parameters, goes through both again. Of one example, let d be the cotangents of a layer's
outputs (from 1 at the logit), a the layer's inputs, l the loss's slope at the logit, and v the
tangents of the layer's inputs in the direction of the penalty's slope at the gradient. Where D is
linear but for the kinks of its ReLUs, the layer's kernel has the gradient

    a (l d)' + v d' = (l a + v) d'

so the loss needs no backward pass and no kernel gradients of its own; and l a + v is what one
forward pass makes of l x + v, if what is added on the way (biases) counts l times. That is four
passes instead of six. XLA sees that both passes that find d are the same, and makes one.

Which networks are such is read from their trace, operation by operation. What is not known here, or
mixes the examples of a batch, is refused: smooth activations, batch statistics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from layers import conv, transposed_conv

KINKS = ("gt", "ge", "lt", "le")  # what they say changes at a kink alone
AFFINE = ("add", "sub", "concatenate", "select_n")
RELUS = ("max", "custom_jvp_call")  # in JAX a ReLU is either
MAPS = (conv.bwd, transposed_conv.bwd)  # whose derivatives are such maps

Axis = int | None  # that of the batch; None in what does not depend on the examples


class NotPiecewiseLinear(ValueError):
    """An operation that is not linear between kinks, or mixes examples, or is not known here."""


class _Mixed(NamedTuple):
    """What depends on the examples.

    Attributes:
      value: in the forward pass.
      mixed: l times that, plus its tangent.
      axis: of the batch: of its size, or of a multiple, where an example's places are neighbours.
    """

    value: jax.Array
    mixed: jax.Array
    axis: int


def logits_and_gradients(
    look: Callable[[Any, jax.Array], jax.Array], params: Any, examples: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """D's logits [B], and of each the gradient for its own example [B, ...].

    Both differentiate for `params` and `examples`, in reverse mode.

    Args:
      look: D, of parameters and examples, a logit of each example alone. Nothing else in it may
        depend on what is differentiated for.
      params: a pytree of arrays.
      examples: [B, ...].
    Raises:
      NotPiecewiseLinear: D is not.
    """
    traced = jax.make_jaxpr(look)(params, examples)
    leaves = jax.tree.leaves(params)
    if not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise NotPiecewiseLinear("parameters that are no numbers to differentiate for")
    if _check(traced, [None] * len(leaves) + [0], len(examples)) != [0]:
        raise NotPiecewiseLinear("logits of no example")
    return _both(traced.jaxpr, traced.consts, leaves, examples)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _both(jaxpr: Any, consts: list, params: list, examples: jax.Array) -> tuple:
    def look(examples: jax.Array) -> jax.Array:
        return jax.core.eval_jaxpr(jaxpr, consts, *params, examples)[0]

    logits, pull = jax.vjp(look, examples)
    return logits, pull(jnp.ones_like(logits))[0]


def _both_forward(jaxpr: Any, consts: list, params: list, examples: jax.Array) -> tuple:
    logits, gradients = _both(jaxpr, consts, params, examples)
    return (logits, gradients), (consts, params, examples, gradients)


def _both_backward(jaxpr: Any, saved: tuple, slopes: tuple[jax.Array, jax.Array]) -> tuple:
    consts, params, examples, gradients = saved
    weights, direction = slopes
    each = weights.reshape(-1, *[1] * (examples.ndim - 1))

    def total(params: list) -> jax.Array:
        start = (each * examples + direction).astype(examples.dtype)
        mixed = _Mixed(examples, start, 0)
        return _mix(jaxpr, consts, [*params, mixed], weights)[0].mixed.sum()

    return None, jax.grad(total)(params), (each * gradients).astype(examples.dtype)


_both.defvjp(_both_forward, _both_backward)


def _mix(jaxpr: Any, consts: list, inputs: list, weights: jax.Array) -> list:
    """The outputs of what was traced, of inputs among which are `_Mixed`; l of each example [B]."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    for eqn in jaxpr.eqns:
        outputs = _mix_one(eqn, [_read(known, atom) for atom in eqn.invars], weights)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [_read(known, atom) for atom in jaxpr.outvars]


def _mix_one(eqn: Any, inputs: list, weights: jax.Array) -> list:
    """`_mix` of one operation."""
    values = [x.value if isinstance(x, _Mixed) else x for x in inputs]
    axes = [x.axis if isinstance(x, _Mixed) else None for x in inputs]
    after = _axes_after(eqn, axes, len(weights))
    if all(axis is None for axis in after):
        return _again(eqn, values)
    if eqn.primitive.name == "jit":
        traced = eqn.params["jaxpr"]
        return _mix(traced.jaxpr, traced.consts, inputs, weights)
    mixed = [x.mixed if isinstance(x, _Mixed) else x for x in inputs]
    which = next(i for i, axis in enumerate(axes) if axis is not None)
    if eqn.primitive.name in RELUS:
        value, tangent = values[which], mixed[which]
        below: Any = 0  # chosen, as 0 times an infinity is none
        if eqn.primitive.name == "max":  # of two that are equal it takes the mean
            below = jnp.where(value == 0, tangent / 2, 0)
        found = [jnp.where(value > 0, tangent, below)]
    else:
        for i in _added(eqn, axes):
            mixed[i] = _weighted(mixed[i], weights, values[which].shape, inputs[which].axis)
        found = _again(eqn, mixed)
    return list(map(_Mixed, _again(eqn, values), found, cast("list[int]", after)))


def _again(eqn: Any, operands: list) -> list:
    """The outputs of an operation of other operands."""
    found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return found if eqn.primitive.multiple_results else [found]


def _weighted(added: Any, weights: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """What is added to what has that shape, as many times as each example's l says."""
    added = jnp.broadcast_to(added, shape) if jnp.ndim(added) == 0 else added
    weights = jnp.repeat(weights, shape[axis] // len(weights)).astype(added.dtype)
    return added * weights.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _check(traced: Any, inputs: list[Axis], batch: int) -> list[Axis]:
    """The batch's axes in the outputs of what was traced.

    Args:
      traced: a jaxpr with its constants.
      inputs: the batch's axes in its inputs.
      batch: how many examples.
    Raises:
      NotPiecewiseLinear: as it says.
    """
    known = dict(zip(traced.jaxpr.invars, inputs, strict=True))

    def axis_of(atom: Any) -> Axis:
        return None if isinstance(atom, Literal) else known.get(atom)

    for eqn in traced.jaxpr.eqns:
        axes = [axis_of(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _axes_after(eqn, axes, batch), strict=True))
    return [axis_of(atom) for atom in traced.jaxpr.outvars]


def _axes_after(eqn: Any, axes: list[Axis], batch: int) -> list[Axis]:
    """`_check` of one operation."""
    name, params = eqn.primitive.name, eqn.params
    dependent = [i for i, axis in enumerate(axes) if axis is not None]
    if not dependent or name in KINKS:
        return [None] * len(eqn.outvars)
    if name == "jit":
        return _check(params["jaxpr"], axes, batch)
    axis = axes[dependent[0]]
    if name in AFFINE:
        known = set(axes) <= {axis, None} and params.get("dimension") != axis
    elif name == "custom_jvp_call":
        known = _source(params["call_jaxpr"]) == _relu_source()
    elif name == "custom_vjp_call":
        known = getattr(params["bwd"], "f", None) in MAPS and dependent == [0] and axis == 0
    else:
        alone = len(dependent) == 1 and len(eqn.outvars) > 0
        axis = _linear_axis(eqn, dependent[0], cast("int", axis), batch) if alone else None
        known = axis is not None
    if not known:
        raise NotPiecewiseLinear(name)
    return [axis] * len(eqn.outvars)


def _linear_axis(eqn: Any, which: int, axis: int, batch: int) -> Axis:
    """The batch's axis after an operation that is linear, or a ReLU, in one operand; None: others.

    Args:
      eqn: the operation.
      which: of its operands depends on the examples.
      axis: of the batch in it.
      batch: how many examples.
    """
    params, shape = eqn.params, eqn.invars[which].aval.shape
    after = eqn.outvars[0].aval.shape
    match eqn.primitive.name:
        case "neg" | "mul":
            return axis
        case "convert_element_type" if jnp.issubdtype(params["new_dtype"], jnp.floating):
            return axis
        case "div" if which == 0:
            return axis
        case "max" if _is_zero(eqn.invars[1 - which]):
            return axis
        case "split" if axis != params["axis"]:
            return axis
        case "slice" if shape[axis] == after[axis]:
            return axis
        case "pad" if _is_zero(eqn.invars[1]) and not any(params["padding_config"][axis]):
            return axis
        case "reshape" if shape[:axis] == after[:axis] and len(after) > axis:
            return axis if after[axis] % batch == 0 else None
        case "transpose":
            return params["permutation"].index(axis)
        case "broadcast_in_dim" if shape[axis] == after[params["broadcast_dimensions"][axis]]:
            return params["broadcast_dimensions"][axis]
        case "squeeze" if axis not in params["dimensions"]:
            return axis - sum(i < axis for i in params["dimensions"])
        case "reduce_sum" if axis not in params["axes"]:
            return axis - sum(i < axis for i in params["axes"])
        case "conv_general_dilated" if which == 0 and params["batch_group_count"] == 1:
            numbers = params["dimension_numbers"]
            return numbers.out_spec[0] if axis == numbers.lhs_spec[0] else None
        case "dot_general":
            contracted, batched = params["dimension_numbers"]
            free = [i for i in range(len(shape)) if i not in (*contracted[which], *batched[which])]
            if axis not in free:
                return None
            first = len(after) - len(free) if which else len(batched[0])
            return first + free.index(axis)
    return None


def _added(eqn: Any, axes: list[Axis]) -> list[int]:
    """Which operands are added to others that depend on the examples, and do not themselves."""
    if eqn.primitive.name not in AFFINE:
        return []
    first = 1 if eqn.primitive.name == "select_n" else 0  # after what it chooses by
    return [i for i in range(first, len(axes)) if axes[i] is None]


@functools.cache
def _relu_source() -> str:
    """Where JAX has its ReLU, whose derivative is a rule of its own."""
    traced = jax.make_jaxpr(jax.nn.relu)(jnp.float32(0))
    calls = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "custom_jvp_call"]
    return _source(calls[0].params["call_jaxpr"])


def _source(traced: Any) -> str:
    return traced.jaxpr.debug_info.func_src_info


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, Literal) and bool(atom.val == 0)


def _read(known: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else known[atom]
