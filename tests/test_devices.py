"""The same on every device: nests at the full size of the networks, agreement with the CPU, options, checkpoints. Where torch sees no GPU, the CPU's half runs alone."""
import itertools, json

import pytest
import torch
from conftest import NBS, command

from nats_companion import metrics, training
from nats_companion.losses import LOSSES
from nats_companion.nest import READINGS
from nats_companion.regularisers import REGULARISERS
from nats_companion.training import Config, Trainer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
FULL = dict(mlp=dict(size=28, width=512), dcgan=dict(size=32, width=64), biggan=dict(size=32, width=64))  # what the items use at scale gpu
FEW = dict(nest=2, pool=32, epochs=1, batch=16, steps=4, samples=100, evaluations=1)


@pytest.fixture
def full_precision():
    "float32 convolutions, and the same ones each time, where the default on a GPU is TF32 and whatever is fastest."
    with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True, benchmark=False): yield


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("network", FULL)
def test_nest_at_full_size(network, reading, device):
    trainer = Trainer(Config(network=network, reading=reading, **FULL[network], **FEW), device)
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in trainer.modules.items()}
    record = next(iter(trainer))
    assert record.step == 2 and record.generator_steps == {"accumulate": 1, "sequential": 2, "flow": 2}[reading]
    assert all(torch.isfinite(value) for value in record[3:]) and {value.device.type for value in record[3:]} == {device}
    for name in ("generator", "discriminator", "average"):
        after = list(trainer.modules[name].parameters())
        assert {p.device.type for p in after} == {device} and any(not p.equal(b) for p, b in zip(after, before[name]))
    size = FULL[network]["size"]
    assert trainer.sample(20).shape == (20, 1, size, size) and trainer.sample(20).device.type == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_regulariser(loss, device):
    "Each loss beside one regulariser, so that all of both are met; on points, where steps are cheap."
    regularisers = dict(zip(LOSSES, itertools.cycle(REGULARISERS)))
    assert set(regularisers.values()) == set(REGULARISERS)
    name = regularisers[loss]
    config = Config(dataset="ring", size=0, latent=2, width=32, loss=loss, regulariser=name, strength=0.1 if name != "none" else 0.0, entropy=0.01, **FEW)
    *_, last = Trainer(config, device)
    assert last.step == 4 and all(torch.isfinite(value) for value in last[3:])


def step_of(network: str, device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    "(loss, gradients) of a discriminator step on `device`, then the generator's, on data that do not depend on the device."
    trainer = Trainer(Config(network=network, regulariser="r1", strength=1.0, **FULL[network], **FEW), device)
    image = (1, *trainer.sample(1).shape[2:])
    uniform = lambda seed: 2*torch.rand(16, *image, generator=torch.Generator().manual_seed(seed)) - 1
    plane = lambda x: torch.cat([x, torch.arange(16).remainder(10).float()[:, None, None, None].expand(16, 1, *image[1:])], 1) if trainer.classes else x
    trainer.real_beside = lambda fake: plane(uniform(0)).to(device)
    trainer.discriminator_step(plane(uniform(1)).to(device))
    fake = trainer.forward_g(trainer_latents(trainer).to(device))
    loss = trainer.generator_loss(fake)
    gradients = [p.grad for p in trainer.discriminator.parameters()] + list(torch.autograd.grad(loss, [p for p in trainer.generator.parameters() if p.requires_grad]))
    return trainer.last[0].cpu(), [g.cpu() for g in gradients]


def trainer_latents(trainer: Trainer) -> torch.Tensor:
    z = torch.randn(16, trainer.config.latent, generator=torch.Generator().manual_seed(2))
    return torch.cat([z, torch.arange(16).remainder(10).float()[:, None]], 1) if trainer.classes else z


@gpu
@pytest.mark.parametrize("network", FULL)
def test_cuda_agrees_with_the_cpu(network, full_precision):
    "The same step has the same loss and gradients on both."
    (loss, gradients), (expected, theirs) = step_of(network, "cuda"), step_of(network, "cpu")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    flat = [torch.cat([g.flatten() for g in each]) for each in (gradients, theirs)]
    assert (flat[0] - flat[1]).norm() < 2e-3*flat[1].norm() and flat[1].norm() > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("option, tolerance", [(dict(amp=True), 0.05), (dict(channels_last=True), 0.005), (dict(compile=""), 0.005)], ids=["amp", "channels_last", "compile"])
@pytest.mark.parametrize("network", ["dcgan", "biggan"])
def test_options_change_speed_alone(network, option, tolerance, device):
    "The first step's losses with an option are those without it, up to rounding; a GPU compiles for good, the CPU only traces."
    if "compile" in option: option = dict(compile="inductor" if device == "cuda" else "eager")
    base = dict(network=network, **FULL[network], **FEW)
    plain, other = (next(iter(Trainer(Config(**base | more), device))) for more in ({}, option))
    torch.testing.assert_close(torch.stack(other[3:5]), torch.stack(plain[3:5]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", ["mlp", "biggan"])
def test_a_run_goes_on_from_its_checkpoint(network, device, tmp_path, full_precision):
    "A run that was cut after its first nest ends as one that was not, as nearly as two that were not; random streams, Adam's moments and the average go on too."
    config = Config(network=network, size=16, width=8, latent=8, **FEW)
    whole, same, cut, rest = (Trainer(config, device) for _ in range(4))
    for trainer in (whole, same): [*trainer]
    next(iter(cut))
    training.checkpoint(tmp_path/"checkpoint.safetensors", cut, [], dict(cpu_seconds=1.0))
    assert training.resume(tmp_path/"checkpoint.safetensors", rest) == ([], dict(cpu_seconds=1.0)) and rest.step == 2
    [*rest]
    flat = lambda trainer: torch.cat([v.flatten() for _, v in sorted(trainer.state()[0].items()) if v.is_floating_point()])
    noise, lost, learnt = ((flat(trainer) - flat(whole)).norm() for trainer in (same, rest, cut))
    assert lost <= 5*noise + 1e-6*learnt and (noise == 0 or device == "cuda") and learnt > 0  # sums on a GPU may change their order
    assert all(a.get_state().equal(b.get_state()) for a, b in zip(rest.streams.values(), whole.streams.values()))


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_says_where_it_was_trained_and_loads_on_a_cpu(device, tmp_path, full_precision):
    config = Config(network="dcgan", size=16, width=8, latent=8, **FEW)
    result = training.run(config, tmp_path, device, progress=False)
    assert result["provenance"]["device"] == device and result["cost"]["steps"] == 4 and result["metrics"][result["headline"]] > 0
    stored = training.load_tensors(tmp_path/"samples.safetensors")[0]["samples"].float()
    torch.testing.assert_close(training.load(tmp_path, "cpu").sample(64), stored, rtol=0, atol=0.02)
    target = metrics.reference(config.dataset, split=config.split, size=config.size)
    again = metrics.evaluate(training.load(tmp_path, device).sample(100).cpu(), target)
    assert again[target.label] == pytest.approx(result["metrics"][target.label], rel=1e-3)


@gpu
def test_jobs_share_a_gpu(tmp_path):
    "More jobs than GPUs were asked for: they train on the same one, at once."
    process = command("reproduce", "tab_cfg", "--scale", "smoke", "--device", "cuda", "--jobs", "3", "--out", tmp_path, "--notebooks", NBS)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    results = [json.loads(path.read_text()) for path in (tmp_path/"runs").glob("*/result.json")]
    assert results and {r["provenance"]["device"] for r in results} == {"cuda"}
