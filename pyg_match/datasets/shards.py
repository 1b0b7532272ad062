"""Keypoint pairs in checked files of many pairs each."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.data.keypoint_pair import NODE_ATTRIBUTES
from pyg_match.digest import tensor_digest
from pyg_match.files import readable_folder, replace_file, sweep

_FORMAT = 1
_OPEN_SHARDS = 32


class CorruptShardError(ValueError):
    """A shard that is cut off, changed, or not what its name says."""


class PairShards:
    r"""A folder of pairs, ``shard_size`` to a file, in safetensors.

    A shard is written under a temporary name, flushed to the disk and then renamed, so a shard that is there
    is whole, whatever happens to the process; and processes that write the same shard replace each other's with
    the same content. It carries a digest of all its numbers, checked once per process. Pairs are read one by one
    through memory mapping. Descriptors are kept in half precision.

    Args:
        folder: Root folder of the cache; the shards lie in a subfolder named by the fingerprint of ``settings``.
        settings: Everything that the pairs depend on, as JSON values.
        num_pairs: Number of pairs.
        shard_size: Pairs to a shard; the last one may have fewer.

    Raises:
        TypeError: If the settings are not JSON values.
        ValueError: If the name of the folder is not UTF-8.
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], num_pairs: int, shard_size: int
    ) -> None:
        self.settings = json.dumps({"format": _FORMAT, **settings}, sort_keys=True)
        self.fingerprint = hashlib.sha256(self.settings.encode()).hexdigest()
        self.folder = readable_folder(folder) / self.fingerprint[:24]
        self.num_pairs = num_pairs
        self.shard_size = shard_size
        self._open: OrderedDict[Path, _Shard] = OrderedDict()
        self._checked: set[tuple[Path, int, int]] = set()

    def __len__(self) -> int:
        return -(-self.num_pairs // self.shard_size)

    def indices(self, shard: int) -> range:
        """The pairs of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_pairs))

    def file(self, shard: int) -> Path:
        """The file of a shard, named by its first and one past its last pair."""
        pairs = self.indices(shard)
        return self.folder / f"{pairs.start:08d}-{pairs.stop:08d}.safetensors"

    def read(self, index: int) -> KeypointPair | None:
        """A pair, or ``None`` if its shard does not exist.

        Raises:
            CorruptShardError: If the shard cannot be trusted.
        """
        shard = index // self.shard_size
        file = self.file(shard)
        found = self._open.get(file)
        if found is None:
            if not file.is_file():
                return None
            status = file.stat()
            version = (file, status.st_size, status.st_mtime_ns)
            check = version not in self._checked
            found = _Shard(file, self.fingerprint, len(self.indices(shard)), check)
            self._checked.add(version)
            self._open[file] = found
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return found.pair(index % self.shard_size)

    def write(self, shard: int, pairs: Sequence[KeypointPair]) -> None:
        """Keep the pairs of a shard.

        Raises:
            OSError: If the shard cannot be written; nothing of it is left behind then.
        """
        tensors = _pack(pairs)
        metadata = {"fingerprint": self.fingerprint, "digest": tensor_digest(tensors)}
        file = self.file(shard)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            description = self.folder / "settings.json"
            if not description.exists():
                replace_file(description, self.settings.encode())
            replace_file(file, save(tensors, metadata))
        except OSError as error:
            done = sum(self.file(other).is_file() for other in range(len(self)))
            raise OSError(
                error.errno,
                f"cannot write the shard of pairs {self.indices(shard).start} to {self.indices(shard).stop - 1} "
                f"({error.strerror or error}); the {done} shards before stay and need not be made again",
                str(file),
            ) from error
        self.forget(shard)

    def remove(self, shard: int) -> None:
        """Delete a shard."""
        self.forget(shard)
        self.file(shard).unlink(missing_ok=True)

    def forget(self, shard: int) -> None:
        """Look at the file of a shard again when it is read next."""
        self._open.pop(self.file(shard), None)

    def sweep(self) -> None:
        """Delete temporary files that a killed process left behind."""
        sweep(self.folder, everything=True)

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps cannot be sent to another process; it opens its own.
        return {**self.__dict__, "_open": OrderedDict(), "_checked": set()}


class _Shard:
    """An open shard."""

    def __init__(self, file: Path, fingerprint: str, num_pairs: int, check: bool) -> None:
        try:
            self._file = safe_open(str(file), framework="pt")
            self._names = sorted(self._file.keys())
            metadata = self._file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                raise ValueError("it was made with other settings")
            if check:
                tensors = {name: self._file.get_tensor(name) for name in self._names}
                if metadata.get("digest") != tensor_digest(tensors):
                    raise ValueError("its numbers do not agree with their digest")
            counts = self._file.get_tensor("num_keypoints")
            if len(counts) != num_pairs:
                raise ValueError(f"it holds {len(counts)} pairs, expected {num_pairs}")
        except (SafetensorError, ValueError, OSError) as error:
            raise CorruptShardError(
                f"shard '{file}' cannot be used: {error}; delete it, or pass repair=True to have it made anew"
            ) from error
        self._ptr = [0, *counts.sum(1).cumsum(0).tolist()]

    def pair(self, index: int) -> KeypointPair:
        nodes, one = slice(self._ptr[index], self._ptr[index + 1]), slice(index, index + 1)
        values = {}
        for name in self._names:
            per_node = name in NODE_ATTRIBUTES or name == "y"
            values[name] = self._file.get_slice(name)[nodes if per_node else one]
        values["x"] = values["x"].float()
        values["image_size"] = values["image_size"][0]
        return KeypointPair(**values)


def rounded(pair: KeypointPair) -> KeypointPair:
    """The pair as it comes back from a shard: with descriptors of half precision, in single precision."""
    pair.x = pair.x.half().float()
    return pair


def _pack(pairs: Sequence[KeypointPair]) -> dict[str, Tensor]:
    names = [name for name in (*NODE_ATTRIBUTES, "y", "num_keypoints", "homography") if name in pairs[0]]
    tensors = {name: torch.cat([pair[name] for pair in pairs]) for name in names}
    tensors["image_size"] = torch.stack([pair.image_size for pair in pairs])
    tensors["x"] = tensors["x"].half()
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
