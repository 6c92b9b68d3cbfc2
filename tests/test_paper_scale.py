"""What scale `paper` asks for is what was published: networks of the published size, their public settings, and a step of each at full size."""
import pytest
import torch

from nats_companion import demand, items, networks
from nats_companion.core import rng, seeded

ITEMS = items.find_items()
SIZES = {"fig3": ("stylegan2", 256, 24_767_458, 24_001_089), "fig4": ("sngan", 32, 4_276_739, 1_053_825), "fig5": ("biggan-full", 32, 4_304_387, 4_207_361)}


def paper(name: str) -> list:
    "The configurations of item `name` at scale paper."
    return [config for config, _ in items.plan(ITEMS[name], items.settle(ITEMS[name], "paper") | dict(device="cpu"))]


@pytest.mark.parametrize("name", SIZES)
def test_networks_are_of_the_published_size_under_their_public_settings(name):
    network, size, generator, discriminator = SIZES[name]
    configs, (shared, scheme) = paper(name), networks.published(network, size)
    asked = {(d.generator, d.discriminator) for d in map(demand.demand, configs)}
    assert asked == {(generator, discriminator)}
    kept = {field: value for field, value in shared.items() if field not in ("loss", "steps", "dataset")}  # which the item is about
    for config in configs: assert {field: getattr(config, field) for field in kept} == kept
    assert {config.nest for config in configs if config.reading == "flow"} <= {5, 10, 15, 20}
    if name == "fig5": assert {(c.nest, c.schedule, c.lr_d, c.lr_g) for c in configs if c.reading != "flow"} == {(scheme["nest"], scheme["schedule"], scheme["lr_d"], scheme["lr_g"])}
    if name == "fig3": assert {(c.dataset, c.nest, c.first, c.last) for c in configs} == {("lsun-church_outdoor", 15, 20.0, 1.0)}
    if name == "fig4": assert {c.loss for c in configs} == {"gan", "lsgan", "wgan", "hinge"} and {c.nest for c in configs} == {5, 10, 15, 20}


@pytest.mark.parametrize("name", SIZES)
def test_one_step_at_full_size(name):
    "Batch 2: both networks take a finite gradient, the discriminator's by way of the penalty too where there is one."
    config = paper(name)[0]
    classes = demand.classes_of(config)
    with seeded(0, "init"): G, D = networks.build(config.network, (3, config.size, config.size), latent=config.latent, width=config.width, spectral_norm=config.spectral_norm, classes=classes)
    told = (torch.arange(2),)*bool(classes)
    x = G(torch.randn(2, config.latent, generator=rng(0, "z")), *told)
    assert x.shape == (2, 3, config.size, config.size)
    torch.nn.functional.softplus(-D(x, *told)).mean().backward()
    for module in (G, D):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert len(grads) > 10 and all(g.isfinite().all() for g in grads) and any(g.abs().max() > 0 for g in grads)
