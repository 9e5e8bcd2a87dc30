"""Download of public sources by name: which files, from where, and whether the disk has room for them.

Addresses and checksums of files come from the services (OSF's API, OpenNeuro's GraphQL, the Hub). OSF's files come
through pooch, OpenNeuro's through openneuro-py, the Hub's through huggingface_hub.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hvf.config import HvfError, did_you_mean
from hvf.data.datasets import Source
from hvf.data.download.transfer import RemoteFile, fetch, partial, read_json, size_of, wait
from hvf.registry import DATASETS
from hvf.runs import check_writable, track

SERVICES = {  # where each service answers; `download(api=...)` names another
    "osf": "https://api.osf.io/v2",
    "openneuro": "https://openneuro.org/crn/graphql",
    "hub": "https://huggingface.co",
}
_SPARE = 2**26  # bytes to leave free on the disk


OF_NO_DATASET = {
    "things-images": Source("all THINGS images (the zips' password stands on the page)", "osf", "jum2f"),
    "brain-hive-embeddings": Source(
        "Brain-HIVE's features of the THINGS images", "hub", "fakekungfu/Brain-HIVE_Visual_Embeddings"
    ),
    "fusion-prior": Source(
        "Brain-HIVE's Fusion Prior (ViT-H-14, ViT-B-32, VAE)",
        "hub",
        "fakekungfu/Fusion-Prior-H14_B32_VAE",
        kind="model",
    ),
}


def sources() -> dict[str, Source]:
    """Every public source by name: those of the registered data sets, then `OF_NO_DATASET`."""
    return {name: source for key in DATASETS for name, source in DATASETS[key].sources.items()} | OF_NO_DATASET


def download(
    name: str,
    out: str | Path,
    subjects: Sequence[int] | None = None,
    *,
    api: str | None = None,
    attempts: int = 6,
    backoff: float = 1.0,
) -> list[Path]:
    """Download a public source; files that are there and whole are kept, partial ones continued.

    Parameters
    ----------
    name : str
        A key of `sources()`.
    out : path-like
        Folder to download into.
    subjects : sequence of int, optional
        Only these people's files, and what belongs to all. Default: everyone.
    api : str, optional
        Address of the service. Default: that in `SERVICES`.
    attempts, backoff
        As of `hvf.data.download.transfer.fetch`.

    Returns
    -------
    list of Path
        All files of the source, each verified by size, and by checksum if the service gives one.

    Raises
    ------
    HvfError
        The source or a subject is unknown, the disk has too little room (before the first byte), another file of the
        same name is in the way, or the service fails. Only whole files are under their names then.
    """
    known = sources()
    if name not in known:
        raise HvfError(f"unknown source {name!r}{did_you_mean(name, known)}")
    source, out = known[name], Path(out)
    address = (api or SERVICES[source.service]).rstrip("/")
    _check_subjects(name, source, subjects)
    check_writable(out)
    list_files = {"osf": _list_osf, "openneuro": _list_openneuro, "hub": list_hub}[source.service]
    revision, files = list_files(source, address, attempts, backoff)
    files = _chosen(name, source, files, subjects)
    missing = []
    for file in track(files, "checking what is there"):
        path = out / file.path
        if not file.is_at(path):
            if path.exists():
                raise HvfError(f"{path} is not the file that {source.page} offers: move it away, then download again")
            missing.append(file)
    if missing:
        needed = sum(max((file.size or 0) - size_of(partial(out / file.path)), 0) for file in missing)
        check_room(name, out, needed, "choose another --out or fewer --subjects")
    if source.service == "osf":
        _from_osf(name, missing, out, attempts, backoff)
    elif missing:
        transfer = _hub_transfer if source.service == "hub" else _openneuro_transfer
        _staged(name, missing, out, transfer(source, address, revision), attempts, backoff)
    return [out / file.path for file in files]


def _check_subjects(name: str, source: Source, subjects: Sequence[int] | None) -> None:
    if subjects is None:
        return
    if not source.subjects:
        raise HvfError(f"{name} is not divided by subject: leave out the subjects")
    for subject in subjects:
        if not 1 <= subject <= source.subjects:
            raise HvfError(f"subject {subject} does not exist: {name} has subjects 1 to {source.subjects}")


def _chosen(name: str, source: Source, files: list[RemoteFile], subjects: Sequence[int] | None) -> list[RemoteFile]:
    """The files to download, under their paths in the output folder, each path once."""
    chosen: dict[str, RemoteFile] = {}
    with_files = set()
    for file in files:
        if not any(fnmatch.fnmatchcase(file.path, pattern) for pattern in source.patterns):
            continue
        match = re.search(source.subject, file.path) if source.subjects else None
        if match and subjects is not None:
            if int(match[1]) not in subjects:
                continue
            with_files.add(int(match[1]))
        path = f"{source.folder}/{file.path}".lstrip("/")
        chosen.setdefault(path, RemoteFile(path, file.size, file.checksum, file.url))
    missing = sorted(set(subjects or ()) - with_files)
    if missing:
        raise HvfError(f"{name}: {source.page} lists no file of subject {missing[0]}; see there whether it moved")
    if not chosen:
        raise HvfError(f"{name}: {source.page} lists no file; see there whether they moved")
    return list(chosen.values())


def check_room(name: str, out: Path, needed: int, remedy: str) -> None:
    """Raise HvfError, which ends in `remedy`, where the disk of a folder has less room than so many bytes."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise HvfError(f"{name} needs {needed / 1e9:.2f} GB more and {folder} has {free / 1e9:.2f} GB free: {remedy}")


def _list_osf(source: Source, api: str, attempts: int, backoff: float) -> tuple[str, list[RemoteFile]]:
    """All files of an OSF project, of each of its storage providers (THINGS-EEG2's raw data lie on an add-on)."""
    pages, files, read = [f"{api}/nodes/{source.id}/files/"], [], set()
    while pages:
        url = pages.pop(0)
        if url in read:
            continue
        read.add(url)
        answer = read_json(url, attempts=attempts, backoff=backoff)
        try:
            for item in answer["data"]:
                attributes = item["attributes"]
                if attributes["kind"] == "folder":
                    related = item["relationships"]["files"]["links"]["related"]
                    pages.append(related["href"] if isinstance(related, dict) else related)
                    continue
                path = str(attributes.get("materialized_path") or attributes["name"]).removeprefix("/")
                hashes = (attributes.get("extra") or {}).get("hashes") or {}
                checksum = next((f"{kind}:{hashes[kind]}" for kind in ("sha256", "md5") if hashes.get(kind)), None)
                files.append(RemoteFile(path, _size(attributes.get("size")), checksum, item["links"]["download"]))
            following = (answer.get("links") or {}).get("next")
        except (KeyError, TypeError, AttributeError) as error:
            raise HvfError(f"the list of files at {url} has another form than OSF's: {error!r}") from error
        if following:
            pages.insert(0, following)
    return "", files


def _from_osf(name: str, missing: list[RemoteFile], out: Path, attempts: int, backoff: float) -> None:
    with track(sum(file.size or 0 for file in missing), f"downloading {name}") as bar:
        for file in missing:
            path = out / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            bar.advance(size_of(partial(path)))
            fetch(file, path, attempts=attempts, backoff=backoff, advance=bar.advance)


def _list_openneuro(source: Source, api: str, attempts: int, backoff: float) -> tuple[str, list[RemoteFile]]:
    """The files of a dataset's latest snapshot, and its tag. OpenNeuro publishes no checksums."""
    query = f'query {{dataset(id: "{source.id}") {{latestSnapshot {{id files(recursive: true) {{filename size}}}}}}}}'
    answer = read_json(api, attempts=attempts, backoff=backoff, query=query)
    try:
        snapshot = answer["data"]["dataset"]["latestSnapshot"]
        files = [RemoteFile(item["filename"], _size(item["size"])) for item in snapshot["files"]]
        return snapshot["id"].partition(":")[2], files
    except (KeyError, TypeError, AttributeError) as error:
        raise HvfError(f"{api} does not list the files of {source.id}: {error!r}") from error


def list_hub(source: Source, api: str, attempts: int, backoff: float) -> tuple[str, list[RemoteFile]]:
    """The files of a repository on the Hub, and its commit."""
    from huggingface_hub import HfApi

    for failures in range(1, attempts + 1):
        try:
            info = HfApi(api).repo_info(source.id, repo_type=source.kind, files_metadata=True)
            break
        except Exception as error:  # each version of huggingface_hub has network errors of its own
            if failures == attempts or _is_final(error):
                raise HvfError(f"cannot list the files of {source.id} at {api}: {_line(error)}") from error
        wait(failures, backoff)
    files = []
    for item in getattr(info, "siblings", None) or ():
        checksum = f"sha256:{item.lfs.sha256}" if item.lfs else f"git:{item.blob_id}" if item.blob_id else None
        files.append(RemoteFile(item.rfilename, item.size, checksum))
    return str(info.sha), files


Transfer = Callable[[list[RemoteFile], Path], None]


def _hub_transfer(source: Source, api: str, revision: str) -> Transfer:
    from huggingface_hub import snapshot_download

    def transfer(files: list[RemoteFile], folder: Path) -> None:
        names = [literal(file.path) for file in files]
        snapshot_download(
            source.id, repo_type=source.kind, revision=revision, endpoint=api, local_dir=folder, allow_patterns=names
        )

    return transfer


def _openneuro_transfer(source: Source, api: str, revision: str) -> Transfer:
    try:
        import openneuro
    except ImportError as error:
        raise HvfError("OpenNeuro's files come through openneuro-py: pip install openneuro-py") from error

    def transfer(files: list[RemoteFile], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = [literal(file.path) for file in files]
        openneuro.download(dataset=source.id, tag=revision, target_dir=folder, include=names)

    return transfer


def _staged(name: str, missing: list[RemoteFile], out: Path, transfer: Transfer, attempts: int, backoff: float) -> None:
    """Download with a library into a hidden folder, and move whole files to their place.

    openneuro-py writes under the final names, and the Hub's library does not compare checksums.
    """
    folder = out / f".{name}.part"
    retried(
        lambda lacking: transfer(lacking, folder),
        lambda lacking: list(_move(lacking, folder, out)),
        missing,
        name,
        attempts,
        backoff,
    )
    shutil.rmtree(folder, ignore_errors=True)


def retried(
    get: Callable[[list[RemoteFile]], object],
    still_missing: Callable[[list[RemoteFile]], list[RemoteFile]],
    missing: list[RemoteFile],
    name: str,
    attempts: int,
    backoff: float,
) -> None:
    """Let a library download files until none is missing.

    Parameters
    ----------
    get : callable
        Downloads files.
    still_missing : callable
        Those of them that are not whole afterwards; also where `get` raised.
    missing : list of RemoteFile
        The files to begin with.
    name : str
        What they belong to, for messages.
    attempts, backoff
        As of `hvf.data.download.transfer.fetch`.

    Raises
    ------
    HvfError
        The service refuses, or a file is missing after so many attempts.
    """
    for failures in range(1, attempts + 1):
        reason = "what came is not what the service lists (size or checksum)"
        error = None
        try:
            get(missing)
        except Exception as caught:  # the libraries have network errors of their own
            error, reason = caught, _line(caught)
        before = len(missing)
        missing = still_missing(missing)
        if not missing:
            return
        if failures == attempts or (error and _is_final(error)):
            raise HvfError(
                f"cannot download {missing[0].path} of {name}: {reason}; run the same command again to go on"
            ) from error
        wait(1 if len(missing) < before else failures, backoff)


def _move(files: list[RemoteFile], folder: Path, out: Path) -> Iterator[RemoteFile]:
    """Move each whole file to its place; yield those that are not whole."""
    for file in files:
        staged, path = folder / file.path, out / file.path
        if file.is_at(staged):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, path)
            continue
        if file.size is not None and size_of(staged) >= file.size:
            staged.unlink(missing_ok=True)  # wrong, hence nothing to go on from
        yield file


def _is_final(error: BaseException) -> bool:
    """Whether the server refused (HTTP 4xx), or may not be asked (HF_HUB_OFFLINE)."""
    if type(error).__name__ == "OfflineModeIsEnabled":  # its module has moved between versions of the client
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (408, 425, 429)


def literal(path: str) -> str:
    """A pattern that only `path` matches."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else int(value) if str(value).isdigit() else None


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
