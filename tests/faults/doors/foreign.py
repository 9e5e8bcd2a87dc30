"""Doors of what other programs wrote: recordings and matrices, pictures and archives of them, pickles."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import mne
import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from hvf.data.images.image_set import open_images
from hvf.data.images.sources import open_image_source
from hvf.data.recordings.raw import data_channels, open_recording
from hvf.data.recordings.raw import load as load_values
from hvf.data.trials.epochs import open_epochs
from hvf.pickles.loading import load
from hvf.vision.embedding_files import read_content
from tests.faults.door import Door

N_CHANS, N_TIMES = 3, 600
PICTURES = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")


def write_vhdr(folder: Path, x_CN: np.ndarray) -> None:
    head = "Brain Vision Data Exchange {} File{} Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=v.eeg\n"
    header = head.format("Header", "") + "MarkerFile=v.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
    header += f"NumberOfChannels={N_CHANS}\nSamplingInterval=10000\n\n[Binary Infos]\nBinaryFormat=INT_16\n"
    header += "\n[Channel Infos]\n" + "".join(f"Ch{i + 1}=O{i},,0.5,µV\n" for i in range(N_CHANS))
    marks = "[Marker Infos]\nMk1=New Segment,,1,1,0\nMk2=Stimulus,S  1,100,1,0\n"
    (folder / "v.vhdr").write_text(header, encoding="utf-8")
    (folder / "v.vmrk").write_text(head.format("Marker", ",") + "\n" + marks, encoding="utf-8")
    (folder / "v.eeg").write_bytes(x_CN.T.astype("<i2").tobytes())


def write_edf(path: Path, x_CN: np.ndarray, rate: int = 100) -> None:
    """European Data Format: records of a second, all channels one after the other in each; .bdf has 24 bits."""
    bits, n_records = 24 if path.suffix == ".bdf" else 16, x_CN.shape[1] // rate
    start = b"\xffBIOSEMI" if bits == 24 else b"0".ljust(8)
    most = str(2 ** (bits - 1) - 1)
    words = [("X", 80), ("X", 80), ("01.01.20", 8), ("00.00.00", 8), (str(256 * (1 + len(x_CN))), 8)]
    words += [("24BIT" if bits == 24 else "", 44), (str(n_records), 8), ("1", 8), (str(len(x_CN)), 4)]
    names = [f"EEG O{i}" for i in range(len(x_CN))]
    fields = [(names, 16), ("", 80), ("uV", 8), ("-3000", 8), ("3000", 8), (f"-{most}", 8), (most, 8), ("", 80)]
    for one, width in [*fields, (str(rate), 8), ("", 32)]:
        words += [(name, width) for name in ([one] * len(x_CN) if isinstance(one, str) else one)]
    x_RCn = x_CN[:, : n_records * rate].reshape(len(x_CN), n_records, rate).swapaxes(0, 1)
    values = x_RCn.astype("<i4").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    path.write_bytes(start + b"".join(word.encode().ljust(width) for word, width in words) + values)


def write_eeglab(folder: Path, x_CN: np.ndarray) -> None:
    """With its values inside, and in a file beside it."""
    places = np.array([(f"O{i}", 0.1, 0.2, 0.3) for i in range(N_CHANS)], [(k, "O") for k in ("labels", "X", "Y", "Z")])
    eeg = {"setname": "s", "nbchan": N_CHANS, "trials": 1, "pnts": N_TIMES, "srate": 100.0, "xmin": 0.0, "xmax": 6.0}
    eeg |= {"chanlocs": places, "event": [], "ref": "common", "data": x_CN.astype(np.float32)}
    savemat(folder / "q.set", {"EEG": eeg}, appendmat=False)
    savemat(folder / "f.set", {"EEG": eeg | {"data": "f.fdt"}}, appendmat=False)
    (folder / "f.fdt").write_bytes(x_CN.T.astype("<f4").tobytes())


def write_recordings(folder: Path) -> None:
    x_CN = np.round(np.random.default_rng(3).standard_normal((N_CHANS, N_TIMES)) * 100)
    info = mne.create_info([f"O{i}" for i in range(N_CHANS)], 100.0, "eeg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne.io.RawArray(x_CN * 1e-6, info, verbose="error").save(folder / "a_raw.fif", verbose="error")
        epochs = mne.EpochsArray(x_CN.reshape(N_CHANS, 10, 60).swapaxes(0, 1) * 1e-6, info, verbose="error")
        epochs.save(folder / "a-epo.fif", verbose="error")
    write_vhdr(folder, x_CN)
    write_edf(folder / "e.edf", x_CN)
    write_edf(folder / "b.bdf", x_CN)
    write_eeglab(folder, x_CN)
    savemat(folder / "m.mat", {"x": x_CN, "names": np.array(["a", "b"], object)})
    try:
        import h5py
    except ImportError:
        return
    with h5py.File(folder / "h.h5", "w") as file:
        file.create_dataset("x", data=x_CN, compression="gzip")
        file["names"] = ["a", "b"]


def read_recorded(folder: Path, name: str) -> Any:
    path = folder / {".vmrk": "v.vhdr", ".eeg": "v.vhdr", ".fdt": "f.set"}.get(Path(name).suffix, name)
    if path.suffix in (".mat", ".h5"):
        return read_content(path, None).entries
    if path.name.endswith("-epo.fif"):
        epochs = open_epochs(path)
        return [epochs.get_data(verbose="error"), epochs.ch_names]
    raw = open_recording(path)
    names = data_channels(raw, None, path)[0]
    return [load_values(raw, names, path).get_data(), names, list(raw.annotations.onset)]


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for ending in PICTURES:
        (folder / ending).mkdir()
        for i in range(2):
            image = Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
            image.save(folder / ending / f"{i}.{ending}")
    alpha = Image.fromarray(rng.integers(0, 255, (24, 20, 4), dtype=np.uint8))
    alpha.save(folder / "png" / "1.png", exif=Image.Exif().tobytes(), dpi=(72, 72))


def write_archives(folder: Path) -> None:
    (folder / "pictures").mkdir()
    write_pictures(folder / "pictures")
    files = sorted((folder / "pictures").rglob("*.*"))
    with zipfile.ZipFile(folder / "i.zip", "w") as stored, zipfile.ZipFile(folder / "d.zip", "w", 8) as packed:
        for file in files:
            stored.write(file, f"c/{file.parent.name}_{file.name}")
            packed.write(file, f"é/{file.parent.name}_{file.name}")
    with tarfile.open(folder / "i.tar", "w") as tar:
        for file in files:
            tar.add(file, f"c/{file.parent.name}_{file.name}")


def read_pictures(path: Path) -> list[str]:
    """The contents without their names, which no checksum guards."""
    images, _ = open_image_source(path)
    return sorted(images.content_hashes())


def write_pickles(folder: Path) -> None:
    z_ND = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    torch.save({"eeg": z_ND, "img": ["a/b.jpg"] * 6, "label": torch.arange(6)}, folder / "u.pt")
    np.save(folder / "o.npy", np.array({"x": z_ND.numpy(), "names": ["a", "b"], "t": (1, None)}, dtype=object))
    np.savez_compressed(buffer := io.BytesIO(), x=z_ND.numpy())
    (folder / "z.npz").write_bytes(buffer.getvalue())


def read_pickle(folder: Path, name: str) -> str:
    return repr(read_content(folder / name, None).entries if name.endswith(".npz") else load(folder / name))


Door("recordings", write_recordings, ["*"], read_recorded)
Door("pictures", write_pictures, ["*/0.*", "png/1.png"],
     lambda p, name: open_images((p / name).parent).content_hashes())  # fmt: skip
Door("archives", write_archives, ["i.zip", "d.zip", "i.tar"], lambda p, name: read_pictures(p / name))
Door("pickles", write_pickles, ["*"], read_pickle)
