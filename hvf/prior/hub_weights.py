"""Weights that drawing takes from the Hub: which are missing here, how large they are, and how they are fetched.

They lie in the Hub client's own cache, where everything that loads them looks. Importing this loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf import presets
from hvf.config import Config, HvfError
from hvf.data.datasets import Source
from hvf.data.download.catalogue import check_room, list_hub, literal, retried
from hvf.vision.backbones.vae import VAE_FILES, VAE_HUB
from hvf.vision.specs import parse_spec
from hvf.vision.weights import MINI_WEIGHTS

if TYPE_CHECKING:
    from hvf.data.download.transfer import RemoteFile

HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
PRIOR_FILES = ("*.json", "*.safetensors", "*/*.json", "*/*.safetensors")  # names differ between formats
BRAIN_HIVE_PARTS = ("fusion_encoder", "proj", "attn_adapter")  # folders of a prior in Brain-HIVE's format
BRAIN_HIVE_ENCODERS = {  # what they are called there -> FeatureSpec; its VAE latents are those of a 128 px image
    "CLIP-ViT-H-14-laion2B-s32B-b79K": "openclip:ViT-H-14/laion2b_s32b_b79k",
    "CLIP-ViT-B-32-laion2B-s34B-b79K": "openclip:ViT-B-32/laion2b_s34b_b79k",
    "RN50": "openclip:RN50/openai",
    "vae": "vae:sdxl",
}
MODEL = "model.safetensors"
PIPELINE_FILES = (  # of SDXL, as StableDiffusionXLPipeline reads it
    *("model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{VAE_FILES[1]}"),
    *(f"vae/{name}" for name in VAE_FILES),
    *(f"text_encoder{n}/{name}" for n in ("", "_2") for name in ("config.json", MODEL)),
    *(f"tokenizer{n}/{name}" for n in ("", "_2") for name in ("merges.txt", "vocab.json")),
    *(f"tokenizer{n}/{name}.json" for n in ("", "_2") for name in ("special_tokens_map", "tokenizer_config")),
)
CLIPS = {  # what open_clip's pretrained tags stand for on the Hub: asking it would load torch
    "openclip:ViT-H-14/laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "openclip:ViT-B-32/laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
}
CLIP_FILE = "open_clip_model.safetensors"
GIGABYTES = {  # of the files that are taken, about: the Hub says it exactly, when it is asked
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 3.9,
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": 0.6,
    "stabilityai/stable-diffusion-xl-base-1.0": 13.9,
    "stabilityai/sdxl-turbo": 13.9,
    "fakekungfu/Fusion-Prior-H14_B32_VAE": 1.5,
    "fakekungfu/Fusion-Prior-SynCLR_B32_VAE": 1.5,
}
VAE_GIGABYTES = {"sdxl": 0.3, "taesdxl": 0.01}


@dataclass(frozen=True)
class HubWeights:
    """Files of a repository on the Hub that one part of a decoder is read from."""

    what: str  # the part, for messages
    repository: str  # owner/name
    files: tuple[str, ...]  # names, or patterns of names
    gigabytes: float | None = None  # about; None: not known

    @property
    def command(self) -> str:
        """The command line that fetches them."""
        names = [] if any("*" in name for name in self.files) else self.files
        return " ".join(["hf download", self.repository, *names])

    def has(self, path: str) -> bool:
        """Whether a file of the repository is among these; weights may come in shards with an index."""
        stems = [name.removesuffix(".safetensors") for name in self.files if name.endswith(".safetensors")]
        sharded = any(
            re.fullmatch(rf"{re.escape(stem)}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", path) for stem in stems
        )
        return sharded or any(fnmatchcase(path, pattern) for pattern in self.files)


def required(config: Config) -> list[HubWeights]:
    """All that drawing with a configuration takes from the Hub; folders, and what ships with hvf, are left out.

    Which encoders a prior fuses its own settings say: of one that is neither the preset's nor here they are not known.
    """
    prior, pipeline = config.prior.path, config.prior.pipeline
    own = prior == presets.get(config.name).prior.path
    specs = config.targets.specs if own else _specs_of_prior(prior)
    needed = [weights for spec in specs if (weights := _of_encoder(spec))]
    if _on_hub(pipeline):
        needed.append(HubWeights("SDXL pipeline", pipeline, PIPELINE_FILES, GIGABYTES.get(pipeline)))
    if _on_hub(prior):
        needed.append(HubWeights("Fusion Prior", prior, PRIOR_FILES, GIGABYTES.get(prior)))
    return needed


def fused_specs(config: Config) -> tuple[str, ...]:
    """FeatureSpecs of the encoders that a run's embeddings are fused from: where a prior draws, those of the prior.

    They are `targets.specs` where the prior is not on this machine any more.
    """
    drawn = config.align.mode == "reconstruction"
    return (_specs_of_prior(config.prior.path) if drawn else ()) or config.targets.specs


def _specs_of_prior(name: str) -> tuple[str, ...]:
    """What a prior's own config says that it fuses, of a folder or in the cache; () where it is not here."""
    folder = MINI_WEIGHTS / "prior" if name == "mini" else Path(name).expanduser()
    place = folder if folder.is_dir() else folder_of(name, PRIOR_FILES)
    if place is None:
        return ()
    ours, theirs = place / "config.json", place / BRAIN_HIVE_PARTS[0] / "config.json"
    if theirs.is_file():
        names: list[str] = list(_of_json(theirs).get("proj_meta", {}))
        return tuple(BRAIN_HIVE_ENCODERS.get(name, name) for name in names)
    return tuple(_of_json(ours).get("specs", ())) if ours.is_file() else ()


def missing(config: Config) -> list[HubWeights]:
    """What of `required` is not in the Hub client's cache, whole."""
    return [weights for weights in required(config) if not _is_here(weights)]


def folder_of(name: str, files: tuple[str, ...]) -> Path | None:
    """Where a repository's `PIPELINE_FILES` or `PRIOR_FILES` lie in the cache, whole; None where they do not."""
    weights = HubWeights("", name, files)
    return snapshot(name) if _on_hub(name) and _is_here(weights) else None


def not_here(config: Config, lacking: Sequence[HubWeights]) -> tuple[list[str], str]:
    """A line for each of the weights that are missing, and one about all of them."""
    lines = [f"{one.what}, {_size(one.gigabytes)}: {one.command}{_or_path(one.repository)}" for one in lacking]
    known = [one.gigabytes for one in lacking if one.gigabytes is not None]
    of_preset = required(presets.get(config.name))
    whole = all(one in of_preset for one in lacking)
    how = f"all at once: hvf data download weights --preset {config.name}" if whole else "the commands stand above"
    more = "" if len(known) == len(lacking) else " and more"
    size = f", about {sum(known):.1f} GB{more}" if known else ""
    return lines, f"weights are missing on this machine{size}; {how}"


def _or_path(name: str) -> str:
    """What to say of a name that looks like a path: its folder is here, and it is not."""
    folder = Path(name).parent
    return f" (there is no {name} on this machine, but a folder {folder})" if folder.name and folder.is_dir() else ""


def _size(gigabytes: float | None) -> str:
    return "of a size that is not known here" if gigabytes is None else f"about {gigabytes} GB"


def fetch_all(needed: Sequence[HubWeights], api: str | None = None, attempts: int = 6, backoff: float = 1.0) -> int:
    """Download weights into the Hub client's cache, going on where an earlier download broke off.

    Parameters
    ----------
    needed : sequence of HubWeights
        As `required` gives them.
    api : str, optional
        Address of the Hub. Default: the client's own ($HF_ENDPOINT).
    attempts, backoff
        As of `hvf.data.download.transfer.fetch`.

    Returns
    -------
    int
        How many bytes all of them take.

    Raises
    ------
    HvfError
        A repository cannot be listed or lacks a file, the disk has too little room (before the first byte), or the Hub
        keeps failing or sends something else than it lists.
    """
    from huggingface_hub import constants

    address, cache = (api or constants.ENDPOINT).rstrip("/"), Path(constants.HF_HUB_CACHE)
    listed: list[tuple[HubWeights, list[RemoteFile]]] = []
    for weights in needed:
        _, files = list_hub(_source(weights), address, attempts, backoff)
        files = [file for file in files if weights.has(file.path)]
        absent = [n for n in weights.files if "*" not in n and not any(_stands_for(f.path, n) for f in files)]
        if absent or not files:
            raise HvfError(
                f"{weights.repository} at {address} has no {(absent or weights.files)[0]}: see whether it moved"
            )
        listed.append((weights, files))
    lacking = [(w, [f for f in files if not _is_whole(cache, w, f)]) for w, files in listed]
    room = sum((f.size or 0) - _partial(cache, w, f) for w, files in lacking for f in files)
    if any(files for _, files in lacking):
        check_room("the weights", cache, room, "make room, or let $HF_HOME name another disk")
    for weights, files in lacking:
        _fetch(weights, files, cache, address, attempts, backoff)
    return sum(file.size or 0 for _, files in listed for file in files)


def push_folder(
    folder: str | Path,
    repo_id: str,
    what: str,
    patterns: Sequence[str] | None = None,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a folder to a repository of models, made if it is not there; the commit's address.

    Parameters
    ----------
    folder : path
        What is uploaded.
    repo_id : str
        owner/name.
    what : str
        For messages.
    patterns : sequence of str, optional
        Which files. Default: all.
    private, token
        Of a new repository, and of the Hub.

    Raises
    ------
    HvfError
        With what the Hub said; or, nothing uploaded, if it shall be private and the repository is public already.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and api.model_info(repo_id).private is False:  # it was there, and stays what it was
            raise HvfError(f"{repo_id} is public, and private was asked for: choose another name, or make it private")
        allowed = None if patterns is None else list(patterns)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=allowed))
    except HvfError:
        raise
    except Exception as error:  # the client's errors share no base class with those of its transport
        reason = " ".join(str(error).split())[:200]
        raise HvfError(f"the {what} was not uploaded to {repo_id} (the Hub said: {reason})") from error


def _fetch(weights: HubWeights, files: list[RemoteFile], cache: Path, api: str, attempts: int, backoff: float) -> None:
    """Fetch files of a repository; what comes is held to the checksums that the Hub lists, which its client is not."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    def get(lacking: list[RemoteFile]) -> None:
        wanted = [literal(file.path) for file in lacking]
        snapshot_download(weights.repository, cache_dir=cache, endpoint=api, allow_patterns=wanted)

    def still_missing(lacking: list[RemoteFile]) -> list[RemoteFile]:
        left = []
        for file in lacking:
            path = try_to_load_from_cache(weights.repository, file.path, cache)
            if isinstance(path, str) and file.is_at(Path(path)):
                continue
            left.append(file)
            if isinstance(path, str):  # wrong, hence nothing to keep
                Path(path).resolve().unlink(missing_ok=True)
                Path(path).unlink(missing_ok=True)
        return left

    if files:
        retried(get, still_missing, files, weights.repository, attempts, backoff)


def _of_encoder(text: str) -> HubWeights | None:
    """What a feature spec reads from the Hub; None where only its library could say, or it needs nothing."""
    try:
        spec = parse_spec(text)
    except HvfError:  # of Brain-HIVE's, by a name that is none here: it is refused when the prior is read
        return None
    name = f"{spec.kind}:{spec.name}" + (f"/{spec.weights}" if spec.weights else "")
    if name in CLIPS:
        what = f"encoder CLIP {spec.name}"
        return HubWeights(what, CLIPS[name], (CLIP_FILE,), GIGABYTES[CLIPS[name]])
    if spec.kind != "vae" or (spec.name not in VAE_HUB and not _on_hub(spec.name)):
        return None
    repository, subfolder = VAE_HUB.get(spec.name, (spec.name, ""))
    files = tuple(f"{subfolder}/{file}".lstrip("/") for file in VAE_FILES)
    return HubWeights(f"encoder VAE {spec.name}", repository, files, VAE_GIGABYTES.get(spec.name))


def _on_hub(name: str) -> bool:
    """Whether a name can only be a repository's."""
    return re.fullmatch(HUB_ID, name) is not None and not Path(name).expanduser().exists()


def _source(weights: HubWeights) -> Source:
    return Source(weights.what, "hub", weights.repository, kind="model")


def _stands_for(path: str, name: str) -> bool:
    """Whether a file is the one of that name, or, of weights, the index of its shards."""
    return path in (name, f"{name}.index.json")


def _is_here(weights: HubWeights) -> bool:
    folder = snapshot(weights.repository)
    if folder is None:
        return False
    if weights.files == PRIOR_FILES:
        parts = [folder] if (folder / "config.json").is_file() else [folder / part for part in BRAIN_HIVE_PARTS]
        return all((part / "config.json").is_file() and _has_weights(part) for part in parts)
    if weights.files == PIPELINE_FILES:
        return _is_pipeline(folder)
    return all((folder / name).is_file() or _has_shards(folder / f"{name}.index.json") for name in weights.files)


def _is_pipeline(folder: Path) -> bool:
    """Whether every part that model_index.json lists is there, of models with their config and all their weights."""
    if not (folder / "model_index.json").is_file():
        return False
    index = _of_json(folder / "model_index.json")
    parts = [folder / name for name, of in index.items() if isinstance(of, list) and any(of)]
    return all(_is_part(part) for part in parts)


def _is_part(part: Path) -> bool:
    """Whether a part of a pipeline is whole: a model, or a scheduler or a tokenizer, which have no weights."""
    if (part / "config.json").is_file():
        return _has_weights(part)
    return part.is_dir() and not any(path.suffix in (".safetensors", ".bin") for path in part.iterdir())


def _has_weights(part: Path) -> bool:
    """Whether a model's weights are there, as they are read by default: not a variant (model.fp16.safetensors) alone.

    In one file, or in shards with their index, all of them.
    """
    names = [path.name for path in part.iterdir()]
    whole = any(re.fullmatch(r"[^.]+\.(safetensors|bin)", n) and not re.search(r"-\d+-of-\d+\.", n) for n in names)
    return whole or any(_has_shards(path) for path in part.glob("*.index.json"))


def _has_shards(index: Path) -> bool:
    """Whether there is an index of shards, with all that it lists beside it."""
    shards = set(_of_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    return bool(shards) and all((index.parent / Path(name).name).is_file() for name in shards)


def _of_json(path: Path) -> dict[str, Any]:
    from hvf.schema.reading import read_json

    return read_json(path)


def snapshot(repository: str) -> Path | None:
    """The folder of a repository in the Hub client's cache."""
    from huggingface_hub import constants

    # The client's own function wants every file of a repository there, used or not.
    place = _in_cache(Path(constants.HF_HUB_CACHE), repository)
    ref = place / "refs" / constants.DEFAULT_REVISION
    folder = place / "snapshots" / (ref.read_text(encoding="utf-8").strip() if ref.is_file() else "none")
    return folder if folder.is_dir() else None


def _in_cache(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def _is_whole(cache: Path, weights: HubWeights, file: RemoteFile) -> bool:
    """Whether a file is in the cache, with its size; it was held to its checksum when it came."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(weights.repository, file.path, cache)
    return isinstance(path, str) and Path(path).is_file() and Path(path).stat().st_size == file.size


def _partial(cache: Path, weights: HubWeights, file: RemoteFile) -> int:
    """Bytes of a file that an earlier download left."""
    name = (file.checksum or "").partition(":")[2]
    blobs = _in_cache(cache, weights.repository) / "blobs"
    return max((path.stat().st_size for path in blobs.glob(f"{name}*.incomplete")), default=0) if name else 0
