"""Embeddings from files: what is read, and what is refused."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import scipy.io
import torch
from safetensors.numpy import save_file

from hvf.files.tensors import write_tensors
from hvf.registry import FEATURES, HvfError
from hvf.vision.embeddings import load_embeddings, read_embeddings, read_gallery, read_scores


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
def test_embedding_files(tmp_path, suffix):
    z_ND = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    path = tmp_path / f"z{suffix}"
    if suffix == ".npy":
        np.save(path, z_ND)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(z_ND), path)
    else:
        save_file({"z": z_ND}, path)
    np.testing.assert_array_equal(load_embeddings(path), z_ND)


def test_a_file_of_several_embeddings_needs_a_key(tmp_path):
    path = tmp_path / "features.pt"
    torch.save({"text": torch.zeros(3, 2), "image": torch.ones(3, 2)}, path)
    with pytest.raises(HvfError, match="holds text, image: say which, as features.pt#KEY"):
        load_embeddings(path)
    with pytest.raises(HvfError, match="holds text, image, not imge"):
        load_embeddings(path, "imge")
    assert load_embeddings(f"{path}#image").tolist() == np.ones((3, 2)).tolist()


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was executed')",)


def test_embedding_files_are_never_executed(tmp_path):
    for suffix in (".pt", ".npy"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(pickle.dumps(Malicious()))
        with pytest.raises(HvfError, match="cannot be read as plain numbers"):
            load_embeddings(path)
    torch.save(Malicious(), tmp_path / "zipped.pt")
    with pytest.raises(HvfError, match="cannot be read as plain numbers"):
        load_embeddings(tmp_path / "zipped.pt")


@pytest.mark.parametrize("name", ["absent.pt", "z.csv", "empty.npy", "damaged.safetensors"])
def test_files_that_are_no_embeddings(tmp_path, name):
    if name != "absent.pt":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(HvfError, match=name):
        load_embeddings(tmp_path / name)


def test_bfloat16_and_axes_of_one(tmp_path):
    z_ND = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    safetensors.torch.save_file({"x": z_ND}, tmp_path / "z.safetensors")
    torch.save(z_ND[:, None], tmp_path / "z.PT")
    torch.save(z_ND[:, :, None, None], tmp_path / "maps.pt")
    for name in ("z.safetensors", "z.PT", "maps.pt"):
        np.testing.assert_array_equal(load_embeddings(tmp_path / name), z_ND.float().numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_arrays_of_numpy_inside_a_file_of_torch(tmp_path, dtype):
    z_ND = np.arange(12).reshape(3, 4).astype(dtype)
    torch.save({"features": z_ND}, tmp_path / "z.pt")
    np.testing.assert_array_equal(load_embeddings(tmp_path / "z.pt"), z_ND)


NAMES = ["cat/cat_2.jpg", "dog/dog_1.jpg", "cat/cat_1.jpg", "owl/owl_1.jpg"]
X_ND = np.arange(12, dtype=np.float32).reshape(4, 3)


def parquet(path, names, x_ND):
    emb = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.reshape(-1)), x_ND.shape[1])
    pq.write_table(pa.table({"image_id": names, "emb": emb}), path)


def written(kind, folder):
    """Files as other programs write them, each with the same names and numbers; what is to be read."""
    half = X_ND.astype(np.float16)
    path = folder / f"z.{kind.partition(' ')[0]}"
    if kind == "npz":
        np.savez(path, image=X_ND, other=half[:, :2], names=np.array(NAMES))
        return f"{path}#image"
    if kind == "npz objects":
        np.savez(path, z=half, image_ids=np.array(NAMES, dtype=object), labels=np.array(["a", "a", "b", "b"]))
    elif kind == "npz keys":
        np.savez(path, **{name.rpartition("/")[2]: row for name, row in zip(NAMES, X_ND, strict=True)})
    elif kind == "pt":
        torch.save({"features": torch.from_numpy(X_ND)[:, None].bfloat16(), "file_names": NAMES}, path)
    elif kind == "pth numpy":
        torch.save({"z": X_ND, "img": np.array(NAMES), "label": np.arange(4)}, path, pickle_protocol=5)
    elif kind == "pth keys":
        torch.save({name: torch.from_numpy(row) for name, row in zip(NAMES, X_ND, strict=True)}, path)
    elif kind == "safetensors":
        save_file({"z": half}, path, {"image_ids": json.dumps(NAMES)})
    elif kind == "safetensors beside":
        save_file({"z": X_ND}, path)
        (folder / "z.json").write_text(json.dumps([{"path": name, "label": "x"} for name in NAMES]))
    elif kind.startswith("npy"):
        np.save(path, X_ND if kind != "npy dict" else np.array({"z": X_ND, "paths": NAMES}, dtype=object))
        beside = {
            "npy txt": ("z.txt", "\n".join(NAMES)),
            "npy csv": ("z.csv", "number,image\n" + "".join(f"{i},{name}\n" for i, name in enumerate(NAMES))),
            "npy column": ("z.csv", "\r\n".join(NAMES)),
            "npy json": ("z.json", json.dumps({name: i for i, name in enumerate(NAMES)})),
        }
        if kind in beside:
            (folder / beside[kind][0]).write_text(beside[kind][1], encoding="utf-8-sig")
    elif kind == "parquet":
        parquet(path, NAMES, half)
    elif kind == "parquet index":
        pd.DataFrame({"emb": list(X_ND)}, index=NAMES).to_parquet(path)
    elif kind == "mat":
        scipy.io.savemat(path, {"z": X_ND, "files": np.array(NAMES, dtype=object)})
    elif kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["layer/z"], file["names"] = X_ND, NAMES
    return path


KINDS = [
    "npz", "npz objects", "npz keys", "pt", "pth numpy", "pth keys", "safetensors", "safetensors beside", "npy txt",
    "npy csv", "npy column", "npy json", "npy dict", "parquet", "parquet index", "mat", "hdf5",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_numbers_of_every_format(tmp_path, kind):
    table = read_embeddings(written(kind, tmp_path))
    assert [name.rpartition("/")[2] for name in table.names] == [name.rpartition("/")[2] for name in NAMES]
    assert table.x_ND.dtype == np.float32
    np.testing.assert_array_equal(table.x_ND, X_ND)
    asked = ["dog_1", "owl_1.jpg", "dog_1"]  # in another order than the file's, and repeated
    np.testing.assert_array_equal(table.rows_of(asked), X_ND[[1, 3, 1]])
    with pytest.raises(HvfError, match=r"1 of the 2 images named in the images is not in .*: cow_1"):
        table.rows_of(["dog_1", "cow_1"])


def matlab73(path, cells=None, **arrays):
    """A `.mat` of version 7.3 as MATLAB writes it: HDF5 behind a header, axes reversed, cells as references."""
    h5py = pytest.importorskip("h5py")

    def put(file, name, x, kind):
        item = file.create_dataset(name, data=x)
        item.attrs["MATLAB_class"] = np.bytes_(kind)
        return item.ref

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, x in arrays.items():
            x = np.asarray(x)
            texts = x.dtype.kind == "U"
            x = np.array([list(map(ord, text.ljust(x.itemsize // 4))) for text in x], np.uint16) if texts else x
            put(file, name, x.T, "char" if texts else "double")
        for name, texts in (cells or {}).items():
            codes = [np.array([[ord(letter)] for letter in text], np.uint16) for text in texts]
            references = [put(file, f"#refs#/{name}{i}", one, "char") for i, one in enumerate(codes)]
            put(file, name, np.array([references], h5py.ref_dtype), "cell")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def test_matlab_of_version_7_3_has_its_axes_the_other_way_round(tmp_path):
    table = read_embeddings(matlab73(tmp_path / "a.mat", {"files": NAMES}, z=X_ND))
    np.testing.assert_array_equal(table.x_ND, X_ND)
    assert list(table.names) == list(NAMES)
    table = read_embeddings(matlab73(tmp_path / "b.mat", z=X_ND, files=np.array(NAMES)))
    np.testing.assert_array_equal(table.x_ND, X_ND)
    assert list(table.names) == list(NAMES)
    scores = np.arange(16.0).reshape(4, 4)  # square: nothing else would tell
    np.testing.assert_array_equal(read_scores(matlab73(tmp_path / "c.mat", scores=scores)).x_ND, scores)


@pytest.mark.parametrize(
    "change", [lambda x: x.to_sparse(), lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)]
)
def test_tensors_that_are_not_dense_are_refused(tmp_path, change):
    torch.save(change(torch.from_numpy(X_ND)), tmp_path / "a.pt")
    with pytest.raises(HvfError, match="a sparse or quantised tensor"):
        read_embeddings(tmp_path / "a.pt")
    torch.save(torch._neg_view(torch.from_numpy(X_ND).double()), tmp_path / "b.pt")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "b.pt").x_ND, -X_ND)


def hdf5(path, x_ND):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["features"] = x_ND


@pytest.mark.parametrize("ending", ["npy", "pt", "mat", "txt", "hdf5"])
def test_folders_of_thingsvision(tmp_path, ending):
    (tmp_path / "file_names.txt").write_text("".join(f"/data/set/{name}\n" for name in NAMES))
    save = {
        "npy": lambda path, x: np.save(path, x),
        "pt": lambda path, x: torch.save(torch.from_numpy(x), path),
        "mat": lambda path, x: scipy.io.savemat(path, {n[:-4]: row for n, row in zip(NAMES, x, strict=True)}),
        "txt": np.savetxt,
        "hdf5": lambda path, x: (
            pytest.importorskip("h5py").File(path, "w").create_dataset("features", data=x).file.close()
        ),
    }[ending]
    save(tmp_path / f"features.{ending}", X_ND)
    for source in (f"features:{tmp_path}", tmp_path / f"features.{ending}"):
        if ending != "txt" or source != tmp_path / "features.txt":
            np.testing.assert_array_equal(read_embeddings(source).rows_of(["owl_1", "cat_1"]), X_ND[[3, 2]])
    (tmp_path / f"features.{ending}").unlink()
    if ending in ("npy", "pt", "txt"):  # too large for one file
        for i in range(4):
            save(tmp_path / f"features_{i + 1:02d}.{ending}", X_ND[i : i + 1])
        np.testing.assert_array_equal(read_embeddings(f"features:{tmp_path}").rows_of(["owl_1", "cat_1"]), X_ND[[3, 2]])
        (tmp_path / f"features_02.{ending}").unlink()
        with pytest.raises(HvfError, match="lacks features_02"):
            read_embeddings(f"features:{tmp_path}")


def test_a_folder_as_brain_hive_publishes_it(tmp_path):
    for split, rows in (("train", [0, 1]), ("test", [2, 3])):
        for encoder, scale in (("RN50", 1), ("CLIP-ViT-B-32-laion2B", 2)):
            for part, row in enumerate(rows):  # the number at the end is that of the last part
                name = f"things_{split}_{encoder}-part-{part:05d}-of-00001.parquet"
                parquet(tmp_path / name, [NAMES[row]], scale * X_ND[row : row + 1])
    np.testing.assert_array_equal(read_embeddings(f"{FEATURES}{tmp_path}#RN50").rows_of(NAMES), X_ND)
    np.testing.assert_array_equal(read_embeddings(tmp_path, "CLIP-ViT-B-32-laion2B").rows_of(NAMES), 2 * X_ND)
    one_split = read_embeddings(tmp_path / "things_train_RN50-part-00001-of-00001.parquet")
    assert one_split.names == tuple(NAMES[:2])
    with pytest.raises(HvfError, match="holds CLIP-ViT-B-32-laion2B, RN50: say which"):
        read_embeddings(tmp_path)
    gallery = read_gallery(f"{FEATURES}{tmp_path}")
    assert list(gallery) == ["CLIP-ViT-B-32-laion2B", "RN50"]
    (tmp_path / "things_test_RN50-part-00000-of-00001.parquet").unlink()
    with pytest.raises(HvfError, match="one of 2 parts and part 0 is not beside it"):
        read_embeddings(tmp_path, "RN50")


def test_parts_as_the_hub_numbers_them(tmp_path):
    for i in range(2):
        parquet(tmp_path / f"train-{i:05d}-of-00002.parquet", [NAMES[i]], X_ND[i : i + 1])
    np.testing.assert_array_equal(load_embeddings(tmp_path / "train-00000-of-00002.parquet"), X_ND[:2])


def test_one_image_twice(tmp_path):
    np.savez(tmp_path / "same.npz", z=X_ND[[0, 1, 0]], names=["a.png", "b.png", "a.PNG"])
    np.testing.assert_array_equal(read_embeddings(tmp_path / "same.npz").rows_of(["b", "a"]), X_ND[[1, 0]])
    np.savez(tmp_path / "differ.npz", z=X_ND[:3], names=["a.png", "b.png", "a.PNG"])
    with pytest.raises(HvfError, match=r"differ.npz names 'a.PNG' twice \(rows 0 and 2\), with different features"):
        read_embeddings(tmp_path / "differ.npz").rows_of(["b"])


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("a\nb\nc", "z.txt has 3 names, z.npy 4 rows"),
        ("a\nb\n\nd", "z.txt has no name for row 2 of 4"),
        (None, "names no images, so"),
    ],
)
def test_rows_whose_names_are_not_known(tmp_path, names, why):
    np.save(tmp_path / "z.npy", X_ND)
    if names is not None:
        (tmp_path / "z.txt").write_text(names)
    table = read_embeddings(tmp_path / "z.npy")
    assert table.names is None
    with pytest.raises(HvfError, match=re.escape(why)):
        table.rows_of(["a"])
    np.testing.assert_array_equal(table.rows_of(table.ids[::-1]), X_ND[::-1])  # its own rows are known all the same


def test_a_row_without_a_name(tmp_path):
    parquet(tmp_path / "z.parquet", [*NAMES[:3], None], X_ND)
    with pytest.raises(HvfError, match=r"z.parquet names no images \(z.parquet itself has no name for row 3 of 4\)"):
        read_embeddings(tmp_path / "z.parquet").rows_of(["cat_1"])


def test_two_files_of_names_that_differ(tmp_path):
    np.save(tmp_path / "z.npy", X_ND)
    (tmp_path / "z.txt").write_text("\n".join(NAMES))
    (tmp_path / "z.json").write_text(json.dumps(NAMES))
    assert read_embeddings(tmp_path / "z.npy").names == tuple(NAMES)
    (tmp_path / "z.json").write_text(json.dumps(NAMES[::-1]))
    with pytest.raises(HvfError, match=r"z.txt and z.json name the rows of .*z.npy differently"):
        read_embeddings(tmp_path / "z.npy")


def test_a_file_that_changed_is_read_again(tmp_path):
    np.save(tmp_path / "z.npy", X_ND)
    (tmp_path / "z.txt").write_text("\n".join(NAMES))
    before = read_embeddings(tmp_path / "z.npy").digest
    np.save(tmp_path / "z.npy", 2 * X_ND[:, :2])
    after = read_embeddings(tmp_path / "z.npy")
    assert after.x_ND.shape == (4, 2)
    assert after.digest != before


def test_lists_of_several_lengths_and_no_numbers(tmp_path):
    pq.write_table(pa.table({"image_id": NAMES[:2], "emb": [[1.0, 2.0], [1.0]]}), tmp_path / "z.parquet")
    with pytest.raises(HvfError, match=r"the rows of 'emb' in .* are not of one width: 2, 1"):
        load_embeddings(tmp_path / "z.parquet")
    pq.write_table(pa.table({"image_id": NAMES[:2], "emb": [[1.0, 2.0], None]}), tmp_path / "z.parquet")
    with pytest.raises(HvfError, match="not of one width: 2, None"):
        load_embeddings(tmp_path / "z.parquet")
    np.save(tmp_path / "pixels.npy", np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(HvfError, match=r"should be an array \(items, width\), not \(4, 8, 8, 3\)"):
        read_embeddings(tmp_path / "pixels.npy")
    np.save(tmp_path / "z.npy", X_ND)
    with pytest.raises(HvfError, match="holds one array, without a name: leave #image out"):
        load_embeddings(tmp_path / "z.npy", "image")


def test_files_without_an_array_of_features(tmp_path):
    pd.DataFrame({"image_id": NAMES, "d0": [1.0, 2, 3, 4], "d1": [1.0, 2, 3, 4]}).to_parquet(tmp_path / "z.parquet")
    np.savez(tmp_path / "z.npz", names=NAMES)
    with pytest.raises(HvfError, match="z.parquet holds no array of numbers, in parquet a column of lists"):
        read_embeddings(tmp_path / "z.parquet")
    with pytest.raises(HvfError, match="the embeddings in .*z.npz are not an array of numbers"):
        read_embeddings(tmp_path / "z.npz")
    torch.save({"model": "ViT", "a.png": torch.ones(2), "b.png": torch.zeros(2)}, tmp_path / "z.pt")
    assert read_embeddings(tmp_path / "z.pt").names == ("a.png", "b.png")


def test_pickled_names_are_never_executed(tmp_path):
    np.savez(tmp_path / "z.npz", z=X_ND, names=np.array([Malicious()] * 4, dtype=object))
    with pytest.raises(HvfError, match="cannot be read as plain numbers"):
        read_embeddings(tmp_path / "z.npz")


def test_names_that_hvf_wrote_beside_its_own(tmp_path):
    """They stand in the table of what is said of the arrays, not each under a key of its own."""
    write_tensors(tmp_path / "z.safetensors", {"z": X_ND}, {"image_ids": list(NAMES), "other": 3})
    assert read_embeddings(tmp_path / "z.safetensors").names == tuple(NAMES)
