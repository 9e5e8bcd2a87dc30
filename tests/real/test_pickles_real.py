"""The field's own files through the restricted door: equal to what numpy and torch read when they are trusted."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from hvf.pickles import loading
from tests.pickles.written import assert_same

FILES = [
    "golden/things_eeg2_raw/image_metadata.npy",
    "golden/things_eeg2_raw/raw_data/sub-01/ses-01/raw_eeg_training.npy",
    "golden/things_eeg2_raw/raw_data/sub-01/ses-02/raw_eeg_test.npy",
    "golden/things_eeg2_raw/preprocessed_data/sub-01/preprocessed_eeg_training.npy",
    "golden/things_eeg2_raw/preprocessed_data/sub-01/preprocessed_eeg_test.npy",
    "golden/nice_250hz/Preprocessed_data_250Hz/sub-01/preprocessed_eeg_training.npy",
    "golden/nice_250hz/Preprocessed_data_250Hz/sub-01/preprocessed_eeg_test.npy",
    "golden/ubp_whiten/Preprocessed_data_250Hz_whiten/sub-01/train.pt",
    "golden/ubp_whiten/Preprocessed_data_250Hz_whiten/sub-01/test.pt",
    "golden/things_meg/ubp/Preprocessed_data/sub-01/train.pt",
    "golden/things_meg/neurobridge/preprocessed_meg/sub-01/test.npy",
    "golden/brain_hive_brain/brain_hive/loader/data/sub-01/test.pt",
    "things_eeg2/ATM_S_eeg_features_sub-08_test.pt",
    "things_eeg2/ViT-H-14_features_test.pt",
]


def trusted(path):
    """What a user gets who trusts the file; these are ours."""
    if path.suffix == ".pt":
        x = torch.load(path, weights_only=False)
        return torch.utils._pytree.tree_map(lambda t: t.numpy() if isinstance(t, torch.Tensor) else t, x)
    x = np.load(path, allow_pickle=True)
    return x.item() if isinstance(x, np.ndarray) and x.dtype == object else x


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mmap", [False, True])
def test_equals_the_trusted_way(shared_data, name, mmap):
    path = shared_data / name
    assert_same(loading.load(path, mmap=mmap), trusted(path))


def test_weights_only_agrees_where_it_reads_and_refuses_ubp(shared_data):
    path = shared_data / "things_eeg2" / "ViT-H-14_features_test.pt"
    tensors = torch.load(path, weights_only=True)
    assert_same(loading.load(path), {name: tensor.numpy() for name, tensor in tensors.items()})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(shared_data / FILES[7], weights_only=True)
    assert loading.load(shared_data / FILES[7])["eeg"].dtype == np.float16
