"""Scaling the weights of a decoder leaves its function unchanged."""

import numpy as np
import onnx_ir as ir
import pytest

from conftest import Twin, relative
from omni_export.build import build
from omni_export.checkpoint import Checkpoint
from omni_export.equalize import equalize, factors
from omni_export.networks import networks
from omni_export.reference_decoder import HEADS, ReferenceDecoder
from omni_export.source import DecoderSource, read_config
from omni_quantize.weight_stream import columns_of
from omni_runtime.bundle.contracts import contracts
from omni_runtime.bundle.store import Bundle


def decoder(twin: Twin, name: str) -> tuple[ir.Model, DecoderSource]:
    source, checkpoint = read_config(twin.folder), Checkpoint(twin.folder)
    network = next(one for one in networks(source, checkpoint) if one.name == name)
    assert source.speech is not None
    config = source.text if name == "thinker" else source.speech.talker
    return build(network, contracts(Bundle(twin.bundle).manifest.model)[name], checkpoint), config


@pytest.mark.parametrize("name", ["thinker", "talker"])
def test_the_function_stays_the_same(twin: Twin, name: str) -> None:
    model, config = decoder(twin, name)
    random = np.random.default_rng(0)
    spread = np.exp(random.normal(size=config.hidden_size)).astype(np.float32)
    rows = random.normal(size=(40, config.hidden_size)).astype(np.float32) * spread
    before = ReferenceDecoder(model, config)
    wanted, inputs = before.layers(rows), dict(before.steps(rows))
    equalize(model, config, rows)
    after = ReferenceDecoder(model, config)
    assert relative(after.layers(rows), wanted) < 1e-4
    for weight, found in after.steps(rows):
        if weight in HEADS:  # the final norm is not scaled
            continue
        ratio = inputs[weight].abs().mean(0) / found.abs().mean(0)
        assert ratio.max() / ratio.min() > 1.2, weight
        tensor = model.graph.initializers[weight].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy()[:, 3:9], columns_of(tensor)(3, 9))


def test_factors() -> None:
    found = factors(np.array([0.0, 1e-3, 1.0, 1e3], np.float32))
    assert (np.diff(found) > 0).all() and found[0] * found[-1] == pytest.approx(1)
    np.testing.assert_allclose(factors(np.full(3, 7, np.float32)), 1, rtol=1e-6)
