"""The inputs that weigh the search of 4-bit blocks are those of the reference's layers."""

import numpy as np
import pytest
import torch

from conftest import Twin, relative
from omni_export import reference_decoder, second_moments
from omni_export.build import build
from omni_export.checkpoint import Checkpoint
from omni_export.networks import networks
from omni_export.source import read_config
from omni_quantize import blocks
from omni_quantize.moments import DAMPING, Moments
from omni_runtime.bundle.contracts import contracts
from omni_runtime.bundle.store import Bundle

SKEWED = (-32, -26, -21, -16, -12, -9, -6, -2, 0, 3, 6, 10, 13, 17, 22, 28)
PARTS = {
    "self_attn.qk_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.v_proj",
    "self_attn.o_proj": "self_attn.o_proj",
    "mlp.gate_up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}


def test_mean_squares(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_decoder, "SEQUENCE", 8)
    source, checkpoint = read_config(twin.folder), Checkpoint(twin.folder)
    network = next(one for one in networks(source, checkpoint) if one.name == "thinker")
    contract = contracts(Bundle(twin.bundle).manifest.model)["thinker"]
    graph = build(network, contract, checkpoint)
    text = twin.reference.thinker.model
    ids = torch.arange(10, 30)
    names = [f"model.layers.{n}.{part}.weight" for n in range(len(text.layers)) for part in PARTS]
    names.append("lm_head.weight")
    measure = second_moments.InOrder(
        graph, source.text, text.embed_tokens(ids).numpy(), wanted=set(names)
    )
    found = {name: measure(name) for name in names}

    wanted: dict[str, list[torch.Tensor]] = {}
    for index, layer in enumerate(text.layers):
        for ours, theirs in PARTS.items():

            def note(_: object, inputs: tuple[torch.Tensor], name: str = "") -> None:
                wanted.setdefault(name, []).append(inputs[0][0])

            name = f"model.layers.{index}.{ours}.weight"
            module = layer.get_submodule(theirs)
            module.register_forward_pre_hook(lambda m, i, note=note, name=name: note(m, i, name))
    for part in ids.split(8):
        hidden = text(input_ids=part[None]).last_hidden_state
        wanted.setdefault("lm_head.weight", []).append(hidden[0])
    for layer in text.layers:
        for theirs in PARTS.values():
            layer.get_submodule(theirs)._forward_pre_hooks.clear()
    assert found.keys() == wanted.keys()
    for name, moments in found.items():
        inputs = torch.cat(wanted[name])
        assert relative(moments.mean_squares, inputs.square().mean(0).numpy()) < 1e-4, name
        (factor,) = moments.factors
        products = (inputs.T @ inputs / len(ids)).double().numpy()
        products += DAMPING * np.diag(products.diagonal())
        assert np.abs(factor.T @ factor @ products - np.eye(len(products))).max() < 1e-2, name
        assert np.array_equal(factor, np.triu(factor))
    again = names[1]  # asked for out of order, and once more
    assert np.array_equal(measure(again).mean_squares, found[again].mean_squares)


def _restored(parts: dict[str, np.ndarray], levels: tuple[int, ...]) -> np.ndarray:
    packed = parts["packed"]
    indices = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), packed.shape[1], -1)
    return (np.array(levels)[indices] * parts["scales"][..., None]).reshape(len(packed), -1).T


@pytest.mark.parametrize("size", [32, 64])
def test_levels_and_importance_lower_the_error(size: int) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((256, 96)).astype(np.float32)
    importance = np.exp(random.normal(0, 1.5, 256)).astype(np.float32)

    def error(levels: tuple[int, ...], used: np.ndarray | None) -> tuple[float, float]:
        moments = None if used is None else Moments(used)
        parts = blocks.quantize(weights, size, levels, moments)
        squares = np.square(_restored(parts, levels) - weights)
        return float(squares.mean()), float((squares * importance[:, None]).mean())

    uniform, skewed = error(blocks.UNIFORM, None), error(SKEWED, None)
    weighted = error(SKEWED, importance)
    assert skewed[0] < 0.9 * uniform[0]
    assert weighted[1] < 0.8 * skewed[1]
    assert weighted[0] > skewed[0]


@pytest.mark.parametrize("inner", [256, 240])
@pytest.mark.parametrize("levels", [blocks.UNIFORM, SKEWED])
def test_errors_are_carried_on(
    inner: int, levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Correlated inputs: what one weight loses, others make up for, also across segments."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((inner, 48)).astype(np.float32)
    mixed = random.standard_normal((20, inner)) * np.exp(random.normal(0, 1, inner))
    inputs = (
        random.standard_normal((400, 20)) @ mixed + random.standard_normal((400, inner))
    ).astype(np.float32)

    def error(moments: Moments) -> float:
        parts = blocks.quantize(weights, 32, levels, moments)
        return float(np.square(inputs @ (_restored(parts, levels)[:inner] - weights)).mean())

    whole = Moments.of(inputs)
    monkeypatch.setattr("omni_quantize.moments.SEGMENT", 96)
    parted = Moments.of(inputs)
    assert [len(factor) for factor in parted.factors][:2] == [96, 96]
    weighed = error(Moments(whole.mean_squares))
    assert error(whole) < 0.5 * weighed
    assert error(whole) < error(parted) < 0.8 * weighed


def test_inputs_that_are_always_zero() -> None:
    inputs = np.zeros((50, 64), np.float32)
    weights = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    parts = blocks.quantize(weights, 32, SKEWED, Moments.of(inputs))
    assert np.isfinite(parts["scales"]).all()


def test_levels_are_chosen_exactly() -> None:
    """Each index is that of the nearest level, also between distant levels."""
    weights = np.random.default_rng(1).standard_normal((64, 50)).astype(np.float32)
    parts = blocks.quantize(weights, 32, SKEWED)
    scales = np.repeat(parts["scales"], 32, 1).T
    nearest = np.abs(weights[..., None] - scales[..., None] * np.array(SKEWED)).min(-1)
    assert np.allclose(np.abs(_restored(parts, SKEWED) - weights), nearest, atol=1e-6)
