"""StyleGAN2 trains in every reading under every scheme, goes on from a checkpoint, and its discriminator is never asked about real and generated samples at once."""
import dataclasses

import pytest
import torch

from nats_companion import fingerprints
from nats_companion.core import load_tensors, rng, save_tensors, seeded
from nats_companion.nest import READINGS
from nats_companion.networks import NETWORKS, build
from nats_companion.shelf import stylegan2
from nats_companion.training import SCHEMES, Config, Trainer

NAMES = "stylegan2", "stylegan2-conditional"
TINY = Config(network="stylegan2", size=16, latent=8, width=4, spectral_norm=False, nest=3, batch=8, pool=16, epochs=1, samples=20, evaluations=1)


def two_nests(reading: str, scheme: str, **settings) -> Config:
    c = dataclasses.replace(TINY, **SCHEMES[scheme] | dict(reading=reading) | settings)
    return dataclasses.replace(c, steps=2*c.steps_per_nest)


def weights(module: torch.nn.Module) -> list[torch.Tensor]: return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("network", NAMES)
def test_trains(network, reading, scheme):
    trainer = Trainer(two_nests(reading, scheme, network=network))
    before = {name: weights(module) for name, module in trainer.modules.items()}
    *_, last = trainer
    assert last.iteration == 2 and all(value.isfinite() for value in last[3:])
    for name, module in trainer.modules.items():
        assert all(p.isfinite().all() for p in weights(module))
        assert any(not p.equal(q) for p, q in zip(weights(module), before[name])), name
    assert trainer.sample(20).shape == (20, 1, 16, 16) and trainer.sample(20).isfinite().all()


@pytest.mark.parametrize("network", NAMES)
@pytest.mark.parametrize("settings", [dict(regulariser="r1", strength=0.1, loss="gan"), dict(spectral_norm=True, loss="rasgan"), dict(regulariser="wgan-gp", strength=1.0, loss="hinge")],
                         ids=lambda s: s["loss"])
def test_goes_on_from_a_checkpoint_bit_for_bit(network, settings, tmp_path):
    config = two_nests("flow", "NATS", network=network, **settings)
    whole, first, second = (Trainer(config) for _ in range(3))
    for _ in whole: pass
    next(iter(first))
    tensors, counts = first.state()
    second.restore(*load_tensors(save_tensors(tmp_path/"c.safetensors", tensors, **counts)))
    for _ in second: pass
    end, again = whole.state()[0], second.state()[0]
    assert end.keys() == again.keys() and all(again[name].equal(tensor) for name, tensor in end.items())
    assert any(not tensors[name].equal(tensor) for name, tensor in end.items())


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_real_and_generated_samples_are_of_one_batch_only_where_no_network_mixes(network, reading):
    trainer = Trainer(two_nests(reading, "NTS", network=network, size=16, pool=24))
    images, seen, forward = {x.numpy().tobytes() for x in trainer.real.images}, [], trainer.forward_d

    def watched(x, *labels):
        pixels = x.detach().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        exact = (pixels.float()/127.5 - 1 - x.detach()).abs().amax((1, 2, 3)) < 1e-6
        seen.append([bool(e) and p.numpy().tobytes() in images for e, p in zip(exact, pixels)])
        return forward(x, *labels)

    trainer.forward_d = watched
    next(iter(trainer))
    both = [any(real) and not all(real) for real in seen]
    mixes = NETWORKS[network].mixes
    assert sum(both) == (0 if mixes else 3)                                  # of each step of the discriminator one pass, or two apart
    assert any(all(real) for real in seen) == mixes
    largest = {len(real) for real in seen}
    assert largest == ({8} if mixes else {8, 16} if reading != "flow" else {16, 24})  # a batch at most, even of a pool


def test_groups_are_formed_in_each_side_alone():
    "A logit of a real sample does not move with the fakes beside it, nor the other way round; one of its own side moves it."
    trainer = Trainer(TINY)
    real, fake, other = torch.randn(3, 8, 1, 16, 16, generator=rng(0, "x")).unbind()
    of_real, of_fake = trainer.both_logits(real, fake)
    assert trainer.both_logits(real, other)[0].equal(of_real) and trainer.both_logits(other, fake)[1].equal(of_fake)
    mixed = torch.cat([real[:7], other[:1]])
    assert (trainer.both_logits(mixed, fake)[0] - of_real)[:7].abs().min() > 1e-6


@pytest.mark.parametrize("network", NETWORKS)
def test_desk_says_which_networks_mix(network):
    "Whether a logit moves with the other samples of its batch, held against what the desk says of it."
    classes = 3*NETWORKS[network].conditional
    with seeded(0, "init"): _, discriminator = build(network, (1, 16, 16), 8, 4, spectral_norm=False, classes=classes)
    x, others = torch.randn(2, 8, 1, 16, 16, generator=rng(0, "x")).unbind()
    told = (torch.arange(8) % classes,) if classes else ()
    moved = (discriminator(torch.cat([x[:1], others[1:]]), *told) - discriminator(x, *told))[0].abs()
    assert (moved > 1e-5) == NETWORKS[network].mixes


def test_published_settings_are_configurations():
    fields = {f.name for f in dataclasses.fields(Config)}
    for settings in stylegan2.PUBLISHED.values():
        assert settings.keys() - fields <= {"lazy"}                          # a part of its own
        config = Config(dataset="cifar10", **{name: value for name, value in settings.items() if name in fields}).check()
        assert config.scheme == "CTS"


def test_fingerprint_is_a_pure_function_of_the_configuration():
    once = fingerprints.fingerprint(TINY)
    fingerprints.fingerprint.cache_clear()
    assert fingerprints.fingerprint(TINY) == once and fingerprints.fingerprint(dataclasses.replace(TINY, network="stylegan2-conditional")) != once
