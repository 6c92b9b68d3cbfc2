"""Published sets in their real formats, tiny and made here: STL-10's binary files, CelebA as torchvision lists it, LSUN's databases, ImageNet; each from its files to a training step."""
import builtins
import io
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from nats_companion import data, large, metrics
from nats_companion.core import rng
from nats_companion.training import Config, Trainer

SPLITS = ("train", "validation", "test")


def picture(i: int, width: int = 40, height: int = 48) -> Image.Image:
    "A smooth picture that no other number has: it survives JPEG to a few grey levels."
    corners = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.BILINEAR)


def encoded(i: int, kind: str) -> bytes:
    picture(i).save(file := io.BytesIO(), kind, quality=95)
    return file.getvalue()


def far(found: torch.Tensor, i: int, size: int) -> int:
    "The largest difference in grey levels from picture `i` as it was drawn."
    return int(np.abs(found.numpy().astype(int) - large.square(picture(i), size)).max())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NATS_COMPANION_DATA", str(tmp_path))
    return tmp_path/"cache"


def make_stl10(cache):
    folder = cache/"stl10_binary"
    folder.mkdir(parents=True)
    made = {}
    for name, count in (("train", 20), ("unlabeled", 80), ("test", 10)):
        made[name] = np.random.default_rng(count).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        made[name].transpose(0, 1, 3, 2).tofile(folder/f"{name}_X.bin")  # stored column by column
        if name != "unlabeled": (np.arange(count)%10 + 1).astype(np.uint8).tofile(folder/f"{name}_y.bin")
    return made


def make_celeba(cache, parts=(0,)*20 + (1,)*4 + (2,)*5):
    folder = cache/"celeba"
    (folder/"img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(parts))]
    for i, name in enumerate(names): (folder/"img_align_celeba"/name).write_bytes(encoded(i, "jpeg"))
    def table(name: str, head: list, row):
        (folder/name).write_text("\n".join(head + [f"{n} {row(i)}" for i, n in enumerate(names)]) + "\n")
    count = str(len(names))
    table("list_eval_partition.txt", [], lambda i: parts[i])
    table("identity_CelebA.txt", [], lambda i: i)
    table("list_bbox_celeba.txt", [count, "image_id x_1 y_1 width height"], lambda i: " 95  71 226 313")
    table("list_landmarks_align_celeba.txt", [count, "lefteye_x lefteye_y"], lambda i: "69  109")
    table("list_attr_celeba.txt", [count, "Smiling Young"], lambda i: "-1  1")


def make_lsun(cache, category: str = "church_outdoor", count: int = 30, more: dict = {}):
    import lmdb
    folder = cache/"lsun"/f"{category}_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as base, base.begin(write=True) as writing:
        for i in range(count): writing.put(f"{i:040x}".encode(), encoded(i, "webp"))  # keys are SHA-1, values WebP
        for key, value in more.items(): writing.put(key, value)


def make_imagenet(cache, train=("n01440764", "n01443537"), val=("n01440764", "n01443537")):
    for part, classes, count in (("train", train, 20), ("val", val, 3)):
        for c in classes:
            (cache/"imagenet"/part/c).mkdir(parents=True)
            for i in range(count): (cache/"imagenet"/part/c/f"{c}_{i:05d}.JPEG").write_bytes(encoded(i, "jpeg"))


def whole(dataset):
    "torchvision's check of the published MD5 sums, which tiny files cannot pass, answers yes."
    return mock.patch(f"torchvision.datasets.{dataset}._check_integrity", lambda self: True)


def test_stl10(cache):
    made = make_stl10(cache)
    with pytest.raises(ValueError, match="stl10_binary is incomplete or damaged"): data.load("stl10")  # its sums are checked
    with whole("STL10"): sets = {split: data.load("stl10", split, size=96) for split in SPLITS}
    assert [len(s) for s in sets.values()] == [90, 10, 10]
    everything = np.concatenate([made["train"], made["unlabeled"]])
    for name, expected in (("train", everything[:90]), ("validation", everything[90:]), ("test", made["test"])):
        assert np.array_equal(torch.cat([*sets[name].parts(64)]).numpy(), expected)  # at its own size to the byte
    assert sets["train"].classes == ("images",) and sets["train"].source == "STL-10, train+unlabeled"
    with whole("STL10"): assert data.load("stl10").shape == data.shape_of("stl10") == (3, 48, 48)


def test_celeba(cache):
    make_celeba(cache)
    with pytest.raises(ValueError, match="celeba/img_align_celeba is incomplete or damaged"): data.load("celeba")
    with whole("CelebA"): sets = {split: data.load("celeba", split, size=16) for split in SPLITS}
    assert [len(s) for s in sets.values()] == [20, 4, 5]               # the publisher's own
    for name, first in (("train", 0), ("validation", 20), ("test", 24)):
        assert far(sets[name].at(torch.tensor([0]))[0], first, 16) < 8 < far(sets[name].at(torch.tensor([0]))[0], first + 1, 16)
    (cache/"celeba"/"img_align_celeba"/"000007.jpg").write_bytes(b"damaged")
    with whole("CelebA"), pytest.raises(ValueError, match="1 of 20 images cannot be read, the first: .*000007.jpg"): data.load("celeba", size=24)
    assert data.load("celeba", size=16).sample(3, rng(0)).shape == (3, 3, 16, 16)  # mapped before


def test_lsun(cache, tmp_path, monkeypatch):
    make_lsun(cache)
    monkeypatch.chdir(tmp_path)
    sets = {split: data.load("lsun-church_outdoor", split, size=16) for split in SPLITS}
    assert [len(s) for s in sets.values()] == [22, 2, 6]
    assert far(sets["train"].at(torch.tensor([5]))[0], 5, 16) < 12 < far(sets["train"].at(torch.tensor([5]))[0], 6, 16)
    assert data.load("lsun-church_outdoor", size=24).shape == (3, 24, 24)  # the database was closed: it opens again
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]               # no pickle in the working folder
    make_lsun(cache, "tower", 5, {b"broken": b"not a picture"})
    with pytest.raises(ValueError, match="1 of 6 images cannot be read, the first: broken in .*tower_train_lmdb"): data.load("lsun-tower", size=16)
    (cache/"lsun"/"bridge_train_lmdb").mkdir()
    with pytest.raises(ValueError, match="bridge_train_lmdb is incomplete or damaged"): data.load("lsun-bridge", size=16)
    with pytest.raises(ValueError, match=r"Did you mean .*lsun-church_outdoor"): data.load("lsun-church")


def test_lsun_without_its_package(cache):
    make_lsun(cache)
    real = builtins.__import__
    def without(name, *rest):
        if name == "lmdb": raise ImportError(name)
        return real(name, *rest)
    with mock.patch.dict(sys.modules), mock.patch("builtins.__import__", without):
        with pytest.raises(ValueError, match=r"pip install nats-companion\[lsun\]"): data.load("lsun-church_outdoor", size=16)


def test_imagenet_in_all_its_modes(cache):
    "The published set holds a PNG called JPEG and pictures in CMYK and grey; all become the same three channels."
    make_imagenet(cache)
    folder = cache/"imagenet"/"train"/"n01440764"
    picture(0).save(folder/"n01440764_00000.JPEG", "png")
    picture(1).convert("CMYK").save(folder/"n01440764_00001.JPEG", "jpeg", quality=95)
    picture(2).convert("L").save(folder/"n01440764_00002.JPEG", "jpeg", quality=95)
    sets = {split: data.load("imagenet", split, size=16) for split in SPLITS}
    assert [len(s) for s in sets.values()] == [36, 4, 6] and sets["train"].classes == ("n01440764", "n01443537")
    png, cmyk, grey = sets["train"].at(torch.arange(3))
    assert far(png, 0, 16) == 0 and far(cmyk, 1, 16) < 12 and (grey[0] == grey[2]).all()
    assert sets["train"].labels.tolist() == [0]*18 + [1]*18


def test_imagenet_unpacked_flat_is_refused(cache):
    make_imagenet(cache, val=())
    (cache/"imagenet"/"val").mkdir()
    (cache/"imagenet"/"val"/"ILSVRC2012_val_00000001.JPEG").write_bytes(encoded(0, "jpeg"))
    with pytest.raises(ValueError, match="'images', which are not the 2 of .*torchvision.datasets.ImageNet"): data.load("imagenet", "test", size=16)
    assert len(data.load("imagenet", "train", size=16)) == 36


@pytest.mark.parametrize("name", large.SETS)
def test_what_is_missing_is_named(cache, name):
    with pytest.raises(ValueError) as told: data.load(name, size=16)
    entry = large.SETS[name]
    for word in (str(cache/entry.where.format(part=entry.parts["train"])), "is not there", "NATS_COMPANION_DATA", entry.licence): assert word in str(told.value)
    assert not list(cache.glob("*.npy")) and "DATA/" not in str(told.value).replace("_DATA", "")
    assert Config(dataset=name, size=64).check().dataset == name           # a plan can be made without it
    assert name in data.DATASETS and data.shape_of(name, 64) == (3, 64, 64)


def test_a_damaged_file_is_refused(cache):
    make_imagenet(cache)
    data.load("imagenet", size=16)
    place = cache/"imagenet-train-16px.npy"
    content = place.read_bytes()
    place.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="imagenet-train-16px.npy is damaged .*delete it"): data.load("imagenet", size=16)
    place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    large.published("imagenet", size=16)
    with pytest.raises(ValueError, match="SHA-256"): large.published("imagenet", size=16, verify=True)
    place.unlink()
    large.published("imagenet", size=16, verify=True)                      # made again
    assert place.read_bytes() == content


@pytest.mark.parametrize("size, label", [(32, "FD-CIFAR10-classifier"), (16, "FD-pixels")])
def test_distances(cache, size, label):
    make_imagenet(cache)
    measure = metrics.reference.__wrapped__                                # not what another folder gave
    target = measure("imagenet", split="train", size=size)
    assert (target.label, target.shape, target.count) == (label, (3, size, size), 36)
    same = data.load("imagenet", size=size)
    again = measure(data.ImageSet(torch.cat([*same.parts(36)]), same.labels, same.classes, "held", "here", same.features), split="train")
    assert torch.equal(target.features, again.features)                    # seen as images in memory are
    assert measure("imagenet", split="train", size=size, limit=10).count == 10
    with pytest.raises(ValueError, match="are not shrunk again"): measure(same, size=8)


@pytest.mark.parametrize("name, network", [("imagenet", "biggan"), ("lsun-church_outdoor", "dcgan")])
def test_training_is_that_of_the_same_images_in_memory(cache, name, network):
    make_imagenet(cache)
    make_lsun(cache)
    config = Config(dataset=name, size=16, network=network, latent=4, width=4, nest=2, steps=2, batch=4, pool=8, loss="gan")
    def trained(change=lambda real: real):
        with mock.patch("nats_companion.data.load", lambda *a, load=data.load, **k: change(load(*a, **k))): trainer = Trainer(config)
        for _ in trainer: pass
        return trainer
    def held(real): return data.ImageSet(torch.cat([*real.parts(64)]), real.labels, real.classes, real.name, real.source, real.features)
    mapped, memory = trained(), trained(held)
    assert (type(mapped.real).__name__, type(memory.real).__name__) == ("MappedSet", "ImageSet")
    other = trained(lambda real: real.take(torch.arange(len(real) - 4)))
    first, second, third = ([*trainer.generator.state_dict().values()] for trainer in (mapped, memory, other))
    assert all(map(torch.equal, first, second)) and not all(map(torch.equal, first, third))


def test_a_conditional_network_on_unlabelled_images_is_refused(cache):
    make_lsun(cache)
    config = Config(dataset="lsun-church_outdoor", size=16, network="biggan", width=4, steps=15)
    with pytest.raises(ValueError, match="has no labels"): Trainer(config)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))])
def test_batches_go_where_they_are_asked_for(cache, device):
    make_imagenet(cache)
    here, there = data.load("imagenet", size=16), data.load("imagenet", size=16, device=device)
    batches = large.prefetched(there, 6, rng(0, "x"))
    chance = rng(0, "x")
    for _ in range(5):
        x = next(batches)
        assert x.device.type == device and torch.equal(x.cpu(), here.sample(6, chance))
    batches.close()
    labels = torch.tensor([0, 1, 1], device=device)
    assert torch.equal(there.sample_of(labels, rng(0)).cpu(), here.sample_of(labels.cpu(), rng(0)))
