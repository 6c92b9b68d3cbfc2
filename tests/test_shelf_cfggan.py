"""The CFG authors' networks train in every reading under every scheme, and are what the desk says of them."""
import pytest
import torch

from nats_companion import networks
from nats_companion.core import load_tensors, rng, save_tensors, seeded
from nats_companion.nest import READINGS
from nats_companion.shelf import cfggan
from nats_companion.training import Config, Trainer

FAMILIES = {"cfg-dcgan": True, "cfg-dcgan-plain": False,
            "cfg-resnet": True, "cfg-resnet-plain": False}  # does the discriminator mix samples?
SCHEMES = {"CTS": dict(nest=1, schedule="constant"), "NTS": dict(nest=2, schedule="constant"), "NATS": dict(nest=2)}
TINY = dict(dataset="digits", size=16, latent=8, width=4, spectral_norm=False, batch=8, pool=16, epochs=2)


def tiny(network: str, reading: str, scheme: str) -> Config:
    "Two nests of a small pair."
    settings = SCHEMES[scheme]
    return Config(network=network, reading=reading, steps=2*settings["nest"], **settings, **TINY)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {f"{kind}.{name}": p.detach().clone() for kind in ("generator", "discriminator")
            for name, p in getattr(trainer, kind).named_parameters()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("network", FAMILIES)
def test_trains_in_every_reading_under_every_scheme(network, reading, scheme):
    trainer = Trainer(tiny(network, reading, scheme))
    before, records = weights(trainer), list(trainer)
    assert len(records) == 2 and trainer.step == trainer.config.steps
    for name, after in weights(trainer).items():
        assert after.isfinite().all(), name
        assert after.ndim == 1 or not after.equal(before[name]), name


@pytest.mark.parametrize("network", ["cfg-dcgan", "cfg-resnet"])
def test_goes_on_from_a_checkpoint_bit_for_bit(network, tmp_path):
    whole, first, second = (Trainer(tiny(network, "flow", "NATS")) for _ in range(3))
    for _ in whole: pass
    next(iter(first))
    tensors, counts = first.state()
    second.restore(*load_tensors(save_tensors(tmp_path/"c.safetensors", tensors, **counts)))
    end = whole.state()[0]
    assert any(not v.equal(end[k]) for k, v in second.state()[0].items())  # it is not there yet
    for _ in second: pass
    assert all(v.equal(end[k]) for k, v in second.state()[0].items())


@pytest.mark.parametrize("network, mixes", FAMILIES.items())
def test_the_desk_says_whether_samples_mix(network, mixes):
    with seeded(0, "init"): _, D = networks.build(network, (1, 16, 16), latent=8, width=16)
    x = torch.randn(8, 1, 16, 16, generator=rng(0, "x"))
    logits, among_others = D(x), D(torch.cat([x[:1], 5*x[1:].flip(0)]))
    apart = (logits[0] - among_others[0]).abs() / logits.abs().max()
    assert (apart.item() > 1e-2) is networks.NETWORKS[network].mixes is mixes
    assert not networks.NETWORKS[network].conditional


@pytest.mark.parametrize("images, network", cfggan.BY_IMAGES)
def test_published_settings_make_a_run(images, network):
    config = Config(**cfggan.published(images, network)).check()
    assert config.scheme == "CFG" and config.steps_per_nest == 15
    assert config.steps == 10_000*config.steps_per_nest
    shape = (1 if images == "mnist" else 3, config.size, config.size)
    with torch.device("meta"): G, D = networks.build(network, shape, config.latent, config.width)
    assert G.shape == D.shape == shape
