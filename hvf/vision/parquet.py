"""A column of features in parquet files of any size, read some rows at a time.

Letters: M rows, D width.
"""

from __future__ import annotations

import bisect
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hvf.files.guard import guarded
from hvf.registry import HvfError, listed
from hvf.vision.embedding_files import lists_as_rows, parts_of
from hvf.vision.embeddings import names_in_columns


class ParquetRows:
    """The rows of one column of lists, and the images that another column names.

    Attributes: ``ids``, one str per row; ``width``; ``key``, the column. Raises HvfError if the file cannot be read,
    has several such columns and none is named, or no column that names images.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        try:
            self._files = [guarded(part, "parquet", partial(pq.ParquetFile, part)) for part in parts_of(path)]
            schema = self._files[0].schema_arrow
            nested = [field.name for field in schema if _is_list(field.type)]
            if key is None and len(nested) == 1:
                key = nested[0]
            if key not in nested:
                raise HvfError(f"{path} holds {listed(nested) or 'no column of lists'}: say which, as {path.name}#KEY")
            columns = {field.name: [] for field in schema if not _is_list(field.type)}
            for file in self._files:
                for name, values in file.read(columns=list(columns)).to_pydict().items():
                    columns[name] += values
        except (pa.ArrowException, OSError, KeyError) as error:
            raise HvfError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:160]}") from error
        names = names_in_columns(columns, str(path))
        if names is None:
            raise HvfError(f"{path} names no images: none of its columns ({listed(columns)}) does")
        self.ids, self.key = names, key
        self._groups = [(file, i) for file in self._files for i in range(file.num_row_groups)]
        self._starts = [0]
        for file, i in self._groups:
            self._starts.append(self._starts[-1] + file.metadata.row_group(i).num_rows)
        self.width = self.read(0, 1).shape[1]
        self._group = lru_cache(maxsize=2)(self._read_group)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, float32 (stop - start, D)."""
        first, last = bisect.bisect_right(self._starts, start) - 1, bisect.bisect_left(self._starts, stop)
        parts = []
        for i in range(first, last):
            begin = self._starts[i]
            group = self._group(i) if hasattr(self, "_group") else self._read_group(i)
            parts.append(group[max(0, start - begin) : stop - begin])
        return np.concatenate(parts).astype(np.float32)

    def _read_group(self, i: int) -> np.ndarray:
        file, group = self._groups[i]
        column = file.read_row_group(group, columns=[self.key]).column(0)
        chunks = [lists_as_rows(chunk, f"{self.key!r} in {self.path}") for chunk in column.chunks if len(chunk)]
        return np.concatenate(chunks).reshape(sum(map(len, chunks)), -1)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
