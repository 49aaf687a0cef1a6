"""Asking for memory ahead of its use, from compiled kernels.

A look-up or a gather over a large array waits for memory most of its time. The processor fetches
several lines at once if it is told early enough which ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic


def _prefetch(typing_context: Any, array: Any, at: Any) -> Any:
    if not isinstance(array, types.Array) or not isinstance(at, types.Integer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(
            builder.gep(held.data, [arguments[1]]), ir.PointerType(ir.IntType(8))
        )
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        module, name = builder.module, "llvm.prefetch.p0"
        fetch = cgutils.get_or_insert_function(module, kind, name)  # type: ignore[no-untyped-call]
        # For reading, to be kept in every cache, data.
        builder.call(fetch, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, at), codegen


# Kernels that run as plain Python fetch nothing ahead.
_plain = config.DISABLE_JIT  # type: ignore[attr-defined]
prefetch: Callable[..., None] = (lambda *_: None) if _plain else intrinsic(_prefetch)
"""``prefetch(array, at)`` begins to fetch the line that holds element ``at`` of a C-contiguous
array. ``at`` counts elements from the first, whatever the number of dimensions. Nothing is read: an
index out of bounds does no harm.
"""
