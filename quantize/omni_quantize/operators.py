"""Operators of the domain pocket_omni: ONNX functions, for which the runtime may have a kernel."""

from collections.abc import Sequence

import onnx_ir as ir

from omni_runtime.bundle.contracts import DOMAIN, OPSET

MICROSOFT = "com.microsoft"


def forwarded(*names: str) -> list[ir.Attr]:
    """Return integer attributes of a node that refer to those of the enclosing function."""
    return [ir.RefAttr(name, name, ir.AttributeType.INT) for name in names]


def function(
    name: str, inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], attributes: Sequence[str]
) -> ir.Function:
    """Return a function that computes `nodes` in order. Its outputs are those of the last node."""
    opsets = {"": OPSET, MICROSOFT: 1}
    return ir.Function(
        DOMAIN,
        name,
        graph=ir.Graph(inputs, nodes[-1].outputs, nodes=nodes, opset_imports=opsets),
        attributes=[ir.Attr(one, ir.AttributeType.INT, None) for one in attributes],
    )
