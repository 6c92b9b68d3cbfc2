"""Make data/fashion-mnist/{train,test}.xz from the four files of Debian's package dataset-fashion-mnist.

usage: python data/make_fashion_mnist.py [FOLDER]      (default: where the package puts them)

train.xz holds the first 2,500 training images of each class, in file order; test.xz holds the whole test set. Nothing is lost: an image is 28 x 28 bytes as published.
A file is, before compression, N bytes of labels followed by N images. The labels stand in file order; the images are sorted by class (stably) and stored column by
column, because LZMA packs them 5 % smaller so: clothes change less downwards than across. The sorted order follows from the labels, so nothing else need be stored.
"""
import gzip, hashlib, lzma, sys
from pathlib import Path
import numpy as np

PER_CLASS = 2500
FILTERS = [dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, lc=4, lp=0, pb=2)]  # the smallest of the settings tried

def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    "Images (N, 784) and labels (N,) of `part` ('train' or 't10k') as uint8."
    def raw(kind, header): return np.frombuffer(gzip.decompress((folder/f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=header)
    return raw("images-idx3", 16).reshape(-1, 784), raw("labels-idx1", 8)

def pack(images: np.ndarray, labels: np.ndarray) -> bytes:
    "Labels in file order, then images sorted by class, each transposed."
    return labels.tobytes() + images[np.argsort(labels, kind="stable")].reshape(-1, 28, 28).transpose(0, 2, 1).tobytes()

def main(folder="/usr/share/datasets/fashion-mnist"):
    target = Path(__file__).resolve().parent/"fashion-mnist"
    target.mkdir(exist_ok=True)
    images, labels = read(Path(folder), "train")
    first = np.sort(np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(10)]))
    for name, packed in (("train", pack(images[first], labels[first])), ("test", pack(*read(Path(folder), "t10k")))):
        path = target/f"{name}.xz"
        path.write_bytes(lzma.compress(packed, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS))
        print(f"{path.name}: {len(packed)//785} images, {path.stat().st_size/1e6:.2f} MB, sha256 of the content {hashlib.sha256(packed).hexdigest()}")

if __name__ == "__main__": main(*sys.argv[1:2])
