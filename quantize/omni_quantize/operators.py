"""Operators of our own domain: functions that stand in the graph, for which the runtime may have a
kernel of the same name."""

from collections.abc import Sequence

import onnx_ir as ir

from omni_runtime.bundle.contracts import DOMAIN, OPSET

MICROSOFT = "com.microsoft"


def passed(*names: str) -> list[ir.Attr]:
    """Attributes of a node inside a function: the function's own of these names, integers."""
    return [ir.RefAttr(name, name, ir.AttributeType.INT) for name in names]


def function(
    name: str, inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], attributes: Sequence[str]
) -> ir.Function:
    """The operator that computes `nodes`, in order; its outputs are those of the last."""
    opsets = {"": OPSET, MICROSOFT: 1}
    return ir.Function(
        DOMAIN,
        name,
        graph=ir.Graph(inputs, nodes[-1].outputs, nodes=nodes, opset_imports=opsets),
        attributes=[ir.Attr(one, ir.AttributeType.INT, None) for one in attributes],
    )
