"""SNGAN with and without classes, and SAGAN: trained in every reading under every scheme, continued bit for bit, and configured as published."""
import pytest
import torch

from nats_companion import networks
from nats_companion.nest import READINGS
from nats_companion.shelf import sagan, sngan
from nats_companion.training import SCHEMES, Config, Trainer

FAMILIES = ("sngan", "sngan-projection", "sagan")
NESTS = 2
SMALL = dict(dataset="fashion-mnist-compact", size=16, latent=8, width=16, loss="hinge", batch=8, pool=16, epochs=1, nest=2, samples=16, evaluations=1)


def small(network: str, scheme: str, reading: str, nests: int = NESTS) -> Config:
    "As many nests of a tiny run."
    settings = SMALL | SCHEMES[scheme] | dict(network=network, reading=reading)
    return Config(**settings, steps=nests*settings["nest"])


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    "Copies of all trainable numbers of both networks."
    pair = dict(generator=trainer.generator, discriminator=trainer.discriminator)
    return {f"{role}.{name}": p.detach().clone() for role, net in pair.items() for name, p in net.named_parameters()}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("scheme", ["CTS", "NTS", "NATS"])
@pytest.mark.parametrize("network", FAMILIES)
def test_trains_in_every_reading_under_every_scheme(network, scheme, reading):
    trainer = Trainer(small(network, scheme, reading))
    before = weights(trainer)
    records = list(trainer)
    assert [r.iteration for r in records] == list(range(1, NESTS + 1)) and records[-1].step == trainer.config.steps
    after = weights(trainer)
    assert all(p.isfinite().all() for p in after.values())
    stuck = [name for name, p in after.items() if p.ndim != 1 and torch.equal(p, before[name])]  # a bias that a norm follows may be
    assert not stuck
    x = trainer.sample(4)
    assert x.shape == (4, 1, 16, 16) and x.isfinite().all() and x.abs().max() <= 1


@pytest.mark.parametrize("network, reading", list(zip(FAMILIES, READINGS, strict=True)))
def test_goes_on_bit_for_bit(network, reading):
    whole, first, second = (Trainer(small(network, "NATS", reading, nests=3)) for _ in range(3))
    for _ in whole: pass
    next(iter(first))
    tensors, counts = first.state()
    second.restore({k: v.clone() for k, v in tensors.items()}, counts)
    end = whole.state()[0]
    assert any(not torch.equal(v, end[k]) for k, v in second.state()[0].items())
    for _ in second: pass
    assert second.step == whole.step and all(torch.equal(v, end[k]) for k, v in second.state()[0].items())


PUBLISHED = {(s["network"], size): s for table in (sngan.PUBLISHED, sngan.PUBLISHED_PROJECTION, sagan.PUBLISHED) for size, s in table.items()}


@pytest.mark.parametrize("network, size", PUBLISHED)
def test_published_settings_are_a_configuration(network, size):
    config = Config(**PUBLISHED[network, size]).check()
    assert config.size == size and config.scheme == ("CTS" if network == "sagan" else "CTS-5")
    assert config.steps % config.steps_per_nest == 0
    assert Config(**PUBLISHED[network, size] | SCHEMES["NATS"] | dict(nest=15, reading="accumulate")).check().scheme == "NATS"  # and another scheme is laid over it
    with torch.device("meta"):
        G, D = networks.build(network, (3, size, size), config.latent, config.width, spectral_norm=False, classes=10 if config.conditional else 0)
    assert (G.shape, G.latent) == ((3, size, size), 128) and D.shape == G.shape
