"""BigGAN as published and R3GAN train under every scheme and in every reading, and their published settings are configurations."""
from dataclasses import fields

import pytest
import torch

from nats_companion import networks, training
from nats_companion.nest import READINGS
from nats_companion.shelf import biggan, r3gan
from nats_companion.training import SCHEMES, Config, Trainer

LOSS = {"biggan-full": dict(loss="hinge", spectral_norm=True), "r3gan": dict(loss="rsgan", regulariser="r1+r2", strength=0.1, spectral_norm=False)}
LOSS["r3gan-conditional"] = LOSS["r3gan"]
FEW = dict(size=8, width=8, latent=8, batch=8, pool=16, epochs=1, samples=10, evaluations=1, lr_d=1e-3, lr_g=1e-3)


def configured(network: str, scheme: str, reading: str, **others) -> Config:
    "Two nests of a scheme, in a reading."
    nest = 1 if scheme == "CTS" else 2
    return Config(**FEW | LOSS[network] | SCHEMES[scheme] | dict(network=network, nest=nest, steps=2*nest, reading=reading) | others)


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    "Of both networks and the average."
    return {f"{name}.{k}": p.detach().clone() for name, module in trainer.modules.items() for k, p in module.named_parameters()}


@pytest.mark.parametrize("scheme", ["CTS", "NTS", "NATS"])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("network", LOSS)
def test_trains_under_every_scheme_and_reading(network, reading, scheme):
    "Every parameter moves within two nests, those too that begin behind a weight of 0."
    trainer = Trainer(configured(network, scheme, reading))
    before = parameters(trainer)
    records = [*trainer]
    assert len(records) == 2 and all(value.isfinite() for record in records for value in record[3:])
    after = parameters(trainer)
    assert all(p.isfinite().all() for p in after.values())
    assert not [name for name, p in after.items() if p.equal(before[name])]
    assert trainer.sample(10).isfinite().all()


@pytest.mark.parametrize("reading", READINGS)
def test_the_large_kind_trains_too(reading):
    "From 64 pixels on BigGAN has attention, one embedding and a latent in parts."
    trainer = Trainer(configured("biggan-full", "NATS", reading, size=64, width=4))
    before = parameters(trainer)
    assert any(name.endswith("gamma") for name in before)
    [*trainer]
    after = parameters(trainer)
    assert all(p.isfinite().all() for p in after.values()) and not [name for name, p in after.items() if p.equal(before[name]) and ".looks." not in name]
    assert not after["generator.looks.3.gamma"].equal(before["generator.looks.3.gamma"])  # the layers behind it wait for it


@pytest.mark.parametrize("network, others", [("biggan-full", {}), ("biggan-full", dict(size=64, width=4)), ("r3gan", {}), ("r3gan-conditional", {})])
def test_goes_on_from_its_checkpoint(network, others, tmp_path):
    "Bit for bit."
    config = configured(network, "NATS", "flow", **others)
    whole, cut, rest = (Trainer(config) for _ in range(3))
    [*whole]
    next(iter(cut))
    training.checkpoint(tmp_path/"checkpoint.safetensors", cut, [], dict(cpu_seconds=1.0))
    training.resume(tmp_path/"checkpoint.safetensors", rest)
    [*rest]
    expected, found = whole.state()[0], rest.state()[0]
    assert expected.keys() == found.keys() and all(found[name].equal(tensor) for name, tensor in expected.items())
    assert any(not tensor.equal(expected[name]) for name, tensor in cut.state()[0].items())


SOON = {"augment", "ema_start", "micro_batches", "orthogonal"}  # fields of the public settings that Config may not have yet
PUBLISHED = [*biggan.PUBLISHED.values(), *r3gan.PUBLISHED.values(), *r3gan.PUBLISHED_IMAGENET.values()]


@pytest.mark.parametrize("setting", PUBLISHED, ids=lambda s: f"{s['network']}-{s['dataset']}-{s['size']}")
def test_published_settings_are_configurations(setting):
    "All but their data, which nobody need have, can be asked for by name."
    known = {f.name for f in fields(Config)}
    assert set(setting) - known <= SOON
    config = Config(**{name: value for name, value in setting.items() if name in known} | dict(dataset="fashion-mnist-compact")).check()
    assert config.network in networks.NETWORKS and config.scheme.startswith("CTS")
    assert config.conditional == (setting["dataset"] != "ffhq")
