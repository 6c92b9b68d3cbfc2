"""What real training loops do inside a nest, in each of its three readings, on digits."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nats_companion import annealing, data
from nats_companion.cfg import gradient_field
from nats_companion.core import rng, seeded
from nats_companion.nest import READINGS, Nest, descent

READING = pytest.mark.parametrize("reading", READINGS)
BATCH, POOL = 16, 48


class Generator(nn.Module):
    "z (B, 4), and optionally one-hot classes (B, 10) -> images (B, 64)."
    def __init__(self, norm=False):
        super().__init__()
        self.start = nn.Linear(14, 24)
        self.norm = nn.BatchNorm1d(24) if norm else nn.Identity()
        self.end = nn.Linear(24, 64)

    def forward(self, z, onehot=None):
        onehot = z.new_zeros(len(z), 10) if onehot is None else onehot
        return self.end(self.norm(self.start(torch.cat([z, onehot], 1))).relu()).tanh()


class Game:
    "A plain GAN on digits: networks, optimizers and the two closures."
    def __init__(self, norm_g=False, norm_d=False, seed=0):
        self.real = data.load("digits", split="train", size=8).images.double().flatten(1)/127.5 - 1
        with seeded(seed, "init"):
            self.G = Generator(norm_g).double()
            inner = nn.BatchNorm1d(16) if norm_d else nn.Identity()
            self.D = nn.Sequential(nn.Linear(64, 16), inner, nn.LeakyReLU(0.2), nn.Linear(16, 1),
                                   nn.Flatten(0)).double()
        self.opt_g = torch.optim.Adam(self.G.parameters(), 1e-2, betas=(0.5, 0.99))
        self.opt_d = torch.optim.Adam(self.D.parameters(), 1e-2, betas=(0.5, 0.99))
        self.chance, self.noise, self.order = rng(seed, "real"), rng(seed, "z"), rng(seed, "order")

    def latents(self, n): return torch.randn(n, 4, generator=self.noise, dtype=torch.float64)

    def sample(self, n): return self.real[torch.randint(len(self.real), (n,), generator=self.chance)]

    def discriminator_step(self, fake, *_):
        loss = F.softplus(-self.D(self.sample(len(fake)))).mean() + F.softplus(self.D(fake)).mean()
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()

    def generator_loss(self, fake, *_): return F.softplus(-self.D(fake)).mean()

    def nest(self, reading, **settings):
        default = dict(weights=annealing.geometric(3), batch=BATCH, pool=POOL, eta=0.5, epochs=2,
                       rng=self.order, latents=self.latents, generator=self.G, optimizer=self.opt_g)
        return Nest(reading=reading, **default | settings)

    def play(self, reading, nests=2, discriminator_step=None, generator_loss=None, **settings):
        nest = self.nest(reading, **settings)
        for _ in range(nests):
            nest(discriminator_step or self.discriminator_step, generator_loss or self.generator_loss)
        return self

    @property
    def state(self): return torch.cat([p.detach().flatten() for m in (self.G, self.D) for p in m.parameters()])


def played(reading, **settings): return Game().play(reading, **settings).state


def differ(a, b): return (a - b).abs().max().item()


# 1. Conditions travel

def labels_of(drawn): return drawn.argmax(1)

TREES = {"tensor": (lambda y, o: (o,), lambda c: c[0]),
         "several": (lambda y, o: (o, y), lambda c: c[0]),
         "tuple": (lambda y, o: ((o, y),), lambda c: c[0][0]),
         "dictionary": (lambda y, o: (dict(onehot=o, deep=[y, None]),), lambda c: c[0]["onehot"])}


@READING
@pytest.mark.parametrize("tree", TREES)
def test_conditions_stay_with_their_samples(reading, tree):
    pack, unpack = TREES[tree]
    game, known, seen = Game(), {}, dict(d=0, g=0, fit=0)
    def latents(n):
        z = game.latents(n)
        labels = torch.randint(10, (n,), generator=game.noise)
        known.update({row.numpy().tobytes(): y for row, y in zip(z, labels.tolist())})
        return z, *pack(labels, F.one_hot(labels, 10).double())
    def generator(z, *conditions):
        onehot = unpack(conditions)
        assert [known[row.numpy().tobytes()] for row in z] == labels_of(onehot).tolist()
        seen["fit"] += 1
        marked = game.G(z, onehot)
        return torch.cat([marked[:, :-1], labels_of(onehot).double()[:, None]], 1)  # named in the sample
    def step(fake, *conditions):
        assert fake[:, -1].round().long().tolist() == labels_of(unpack(conditions)).tolist()
        seen["d"] += 1
        game.discriminator_step(fake)
    def loss(fake, *conditions):
        assert fake[:, -1].round().long().tolist() == labels_of(unpack(conditions)).tolist()
        seen["g"] += 1
        return game.generator_loss(fake)
    before = game.state
    game.play(reading, nests=1, discriminator_step=step, generator_loss=loss, latents=latents,
              generator=generator, eta=1e-3)
    assert seen["d"] == 3 and seen["g"] >= 3 and seen["fit"] > 3
    assert differ(game.state, before) > 1e-3


@READING
@pytest.mark.parametrize("wrap, pick", [(lambda x: (x, 0*x), lambda out: out[0]),
                                        (lambda x: dict(image=x), lambda out: out["image"])])
def test_generators_that_return_a_tree_are_refused_alike_and_served_by_a_function(reading, wrap, pick):
    game = Game()
    with pytest.raises(ValueError, match="samples must be one tensor"):
        game.play(reading, generator=lambda z: wrap(game.G(z)))
    game = Game()
    game.play(reading, generator=lambda z: pick(wrap(game.G(z))))
    assert torch.equal(game.state, played(reading))


# 2. What real loops do

def plain_update(game, before_step=lambda: None, after_step=lambda: None, scaler=None):
    "A generator step as people write it; with a gradient scaler if given."
    def update(losses):
        game.opt_g.zero_grad()
        for loss in losses: (scaler.scale(loss) if scaler else loss).backward()
        if scaler: scaler.unscale_(game.opt_g)
        before_step()
        if scaler:
            scaler.step(game.opt_g)
            scaler.update()
        else: game.opt_g.step()
        after_step()
    return update


@READING
def test_an_update_of_ones_own_is_the_step_of_the_nest(reading):
    game = Game()
    assert torch.equal(game.play(reading, update=plain_update(game)).state, played(reading))


@READING
def test_a_gradient_scaler_changes_nothing_and_skips_what_overflows(reading):
    game, scaler = Game(), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    assert differ(game.play(reading, update=plain_update(game, scaler=scaler)).state,
                  played(reading)) < 1e-12
    game, scaler = Game(), torch.amp.GradScaler("cpu")
    def overflow():
        for p in game.G.parameters(): p.grad.fill_(float("inf"))
    def infinite(losses):
        game.opt_g.zero_grad()
        for loss in losses: scaler.scale(loss).backward()
        overflow()
        scaler.step(game.opt_g)
        scaler.update()
    before = [p.clone() for p in game.G.parameters()]
    game.play(reading, nests=1, update=infinite)
    assert all(torch.equal(p, q) for p, q in zip(game.G.parameters(), before))
    assert scaler.get_scale() < 2.0**16


@READING
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_same_step(reading, parts):
    assert differ(played(reading, micro_batches=parts), played(reading)) < 1e-9
    sizes = []
    def loss(fake):
        if fake.grad_fn is not None: sizes.append(len(fake))
        return game.generator_loss(fake)
    game = Game()
    game.play(reading, micro_batches=parts, generator_loss=loss)
    assert max(sizes, default=0) <= -(-BATCH//parts)


@READING
@pytest.mark.parametrize("way", ["update", "hook"])
def test_regularisers_that_write_gradients_and_clipping(reading, way):
    def pulled(strength):
        game = Game()
        def orthogonal(*_):                        # BigGAN's, on the matrices alone
            for p in game.G.parameters():
                if p.ndim > 1: p.grad += strength*2*(p @ p.T*(1 - torch.eye(len(p)))) @ p
        if way == "hook":
            game.opt_g.register_step_pre_hook(orthogonal)
            return game.play(reading).state
        return game.play(reading, update=plain_update(game, before_step=orthogonal)).state
    assert differ(pulled(0.0), played(reading)) < 1e-12 < 1e-3 < differ(pulled(1.0), played(reading))


@READING
def test_clipping_bounds_the_step(reading):
    def length(bound):
        game = Game()
        optimizer = torch.optim.SGD(game.G.parameters(), 1.0)
        def clip(*_): torch.nn.utils.clip_grad_norm_(game.G.parameters(), bound)
        optimizer.register_step_pre_hook(clip)
        start = torch.cat([p.detach().flatten().clone() for p in game.G.parameters()])
        game.play(reading, nests=1, optimizer=optimizer, weights=[1.0], epochs=1, pool=BATCH)
        return (torch.cat([p.detach().flatten() for p in game.G.parameters()]) - start).norm().item()
    assert length(1e-3) == pytest.approx(1e-3, rel=1e-3) and length(1e9) > 2e-3


@READING
def test_schedulers_and_averages_follow_every_step(reading):
    game = Game()
    schedule = torch.optim.lr_scheduler.ExponentialLR(game.opt_g, 0.9)
    average = torch.optim.swa_utils.AveragedModel(game.G, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    steps = dict(accumulate=2*1, sequential=2*3, flow=2*2*POOL//BATCH)[reading]
    def after():
        schedule.step()
        average.update_parameters(game.G)
    game.play(reading, update=plain_update(game, after_step=after))
    assert average.n_averaged == steps
    assert game.opt_g.param_groups[0]["lr"] == pytest.approx(1e-2*0.9**steps)
    assert differ(average.module.end.bias.detach(), game.G.end.bias.detach()) > 1e-6


@READING
def test_requires_grad_may_be_toggled_inside_the_steps(reading):
    game = Game()
    def toggle(module, on):
        for p in module.parameters(): p.requires_grad_(on)
    def step(fake):
        toggle(game.G, False); toggle(game.D, True)
        game.discriminator_step(fake)
    def loss(fake):
        toggle(game.D, False)
        return game.generator_loss(fake)
    assert torch.equal(game.play(reading, discriminator_step=step, generator_loss=loss).state, played(reading))


@READING
def test_an_update_may_put_the_generator_to_sleep(reading):
    "As loops do whose average switches `requires_grad` off, and whose next generator step switches it on."
    game = Game()
    asleep = plain_update(game, after_step=lambda: game.G.requires_grad_(False))
    assert torch.equal(game.play(reading, update=asleep).state, played(reading))
    assert all(p.requires_grad for p in game.G.parameters())          # as before each step
    game.G.requires_grad_(False)                                    # outside of the nest: nothing would train
    with pytest.raises(ValueError, match="requires_grad_"): game.play(reading, update=asleep)


@READING
@pytest.mark.parametrize("to_none", [True, False])
def test_a_discriminator_step_that_clears_or_leaves_generator_gradients_is_harmless(reading, to_none):
    game = Game()
    def step(fake):
        game.opt_g.zero_grad(set_to_none=to_none)
        game.G(game.latents_of_their_own).sum().backward()          # and leaks some, too
        game.discriminator_step(fake)
    game.latents_of_their_own = torch.ones(2, 4, dtype=torch.float64)
    assert torch.equal(game.play(reading, discriminator_step=step).state, played(reading))


@READING
def test_a_partly_frozen_generator_trains_the_rest(reading):
    game = Game()
    game.G.start.requires_grad_(False)
    start, end = game.G.start.weight.clone(), game.G.end.weight.detach().clone()
    game.play(reading)
    assert torch.equal(game.G.start.weight, start) and differ(game.G.end.weight, end) > 1e-3
    game.G.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad_"): game.play(reading)


@READING
def test_parameter_groups_added_later_are_trained(reading):
    game = Game()
    optimizer = torch.optim.Adam(game.G.end.parameters(), 1e-2)
    nest = game.nest(reading, optimizer=optimizer)
    start = game.G.start.weight.detach().clone()
    nest(game.discriminator_step, game.generator_loss)
    assert torch.equal(game.G.start.weight, start)
    optimizer.add_param_group(dict(params=game.G.start.parameters()))
    nest(game.discriminator_step, game.generator_loss)
    assert differ(game.G.start.weight, start) > 1e-3


@READING
def test_a_relativistic_loss_draws_as_many_real_samples_as_there_are_fakes(reading):
    game, sizes = Game(), []
    def loss(fake):
        sizes.append(len(fake))
        return F.softplus(game.D(game.sample(len(fake))) - game.D(fake)).mean()
    before = game.state
    game.play(reading, generator_loss=loss)
    assert set(sizes) <= {BATCH, BATCH//2} and BATCH in sizes      # never a whole pool
    assert differ(game.state, before) > 1e-3


@READING
@pytest.mark.parametrize("pool", [POOL, POOL + 1])
def test_batch_norm_in_the_generator(reading, pool):
    game = Game(norm_g=True)
    before = game.G.norm.running_mean.clone()
    game.play(reading, pool=pool)                                  # a last part of one would raise
    assert differ(game.G.norm.running_mean, before) > 1e-4


@READING
def test_modes_are_those_of_the_loop_and_a_field_that_of_a_minibatch(reading):
    game, seen = Game(norm_g=True, norm_d=True), []
    def loss(fake):
        assert game.D.training and game.G.training
        seen.append(len(fake))
        return game.generator_loss(fake)
    before = game.D[1].running_mean.clone()
    game.play(reading, generator_loss=loss)
    assert set(seen) <= {BATCH, BATCH//2}            # the trial of half a batch is the only other size
    assert game.D.training and game.G.training and differ(game.D[1].running_mean, before) > 1e-4
    game.D.eval(), game.G.eval()
    game.play(reading)
    assert not game.D.training and not game.G.training


def test_a_field_depends_on_its_minibatch_only_where_the_discriminator_mixes_samples():
    for norm, training, mixes in ((True, True, True), (True, False, False), (False, True, False)):
        game = Game(norm_d=norm)
        game.D.train(training)
        x = game.sample(2*BATCH)
        for field in (descent(game.generator_loss), gradient_field(game.D)):
            alone = field(x[:BATCH])
            assert (differ(field(x)[:BATCH], alone) > 1e-3*alone.abs().max().item()) is mixes


# 3. Misuse speaks, before anything is trained

@READING
@pytest.mark.parametrize("words, settings", [
    ("holds none of the generator's", dict(optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1))),
    ("weights='geometric'", dict(weights="geometric")), ("weights=3", dict(weights=3)),
    ("rng=0", dict(rng=0)), ("function of the number", dict(latents=torch.zeros(64, 4))),
    ("latents\\(16\\) gave shape|latents\\(48\\) gave shape", dict(latents=lambda n: torch.zeros(5, 4, dtype=torch.float64)))])
def test_what_cannot_work_is_refused(reading, words, settings):
    game = Game()
    before = copy.deepcopy(game.G.state_dict())
    with pytest.raises(ValueError, match=words): game.play(reading, **settings)
    for name, value in game.G.state_dict().items(): assert torch.equal(value, before[name])


@READING
@pytest.mark.parametrize("words, loss", [("returned None", lambda game, fake: None),
                                         ("the mean over the batch", lambda game, fake: game.D(fake)),
                                         ("does not depend on the fakes", lambda game, fake: fake.detach().mean())])
def test_losses_that_are_none_are_refused(reading, words, loss):
    game = Game()
    with pytest.raises(ValueError, match=words): game.play(reading, generator_loss=lambda fake: loss(game, fake))


@READING
def test_a_loss_that_forgets_its_fakes_is_refused_though_the_discriminator_has_a_graph(reading):
    game = Game()
    with pytest.raises(ValueError, match="depend"):
        game.play(reading, generator_loss=lambda fake: game.generator_loss(fake.detach()))


def test_flow_refuses_a_sum_and_a_small_pool_and_says_what_failed_on_a_pool():
    game = Game()
    with pytest.raises(ValueError, match="is a sum over its batch"):
        game.play("flow", generator_loss=lambda fake: F.softplus(-game.D(fake)).sum())
    with pytest.raises(ValueError, match="pool=8 is smaller than batch=16"): game.play("flow", pool=8)
    ones = torch.ones(BATCH, dtype=torch.float64)
    def fixed(fake): return F.binary_cross_entropy_with_logits(game.D(fake), ones)
    before = game.state
    game.play("flow", generator_loss=fixed)                        # parts of one batch: served
    assert differ(game.state, before) > 1e-3
    with pytest.raises(ValueError, match="failed on 48 fakes"): game.play("flow", generator_loss=fixed, push=POOL)


@READING
def test_an_update_that_skips_losses_is_refused(reading):
    game = Game()
    with pytest.raises(ValueError, match="did not go through all"): game.play(reading, update=lambda losses: None)
