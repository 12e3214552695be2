"""Proxies of earlier searches: a source is known by what its shards hold, so those of a changed one are another source's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.mixture_search.show import Proxy
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest


class _Earlier(msgspec.Struct):
    """What is read of an earlier search's search.json."""

    identity: str
    proxies: list[Proxy]


@dataclass(frozen=True)
class Known:
    """Proxies of earlier searches, and the sources, by content, that they were trained on."""

    proxies: list[Proxy]
    columns: set[str]


def contents(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Of each source NAME@DIGEST: a digest of its shards' checksums, the same wherever they lie."""
    found = {}
    for manifest in manifests:
        for name, entry in manifest["sources"].items():
            digest = hashlib.sha256("".join(shard["sha256"] for shard in entry["shards"]).encode()).hexdigest()
            found[name] = f"{name}@{digest[:12]}"
    return found


def known_proxies(folders: Sequence[Path], identity: str) -> Known | None:
    """The proxies of searches in these folders, each mixture once; None where no folder is named.

    Raises UserError for a folder without a search, and for one whose proxies were trained or scored otherwise: their losses
    would not be comparable.
    """
    if not folders:
        return None
    found: dict[str, Proxy] = {}
    for folder in folders:
        path = folder / "search.json"
        try:
            earlier = msgspec.json.decode(path.read_bytes(), type=_Earlier)
        except FileNotFoundError:
            raise UserError(f"--reuse {folder}: holds no search.json of a search that came to its end") from None
        except msgspec.MsgspecError as error:
            raise UserError(f"{path}: is no result of a search ({error})") from None
        if earlier.identity != identity:
            raise UserError(
                f"--reuse {folder}: its proxies have another tokenizer, trainer's configuration, number of tokens or evaluation "
                "text, so their losses cannot be compared with new ones"
            )
        for proxy in earlier.proxies:
            found.setdefault(proxy.fingerprint, proxy)
    proxies = list(found.values())
    return Known(proxies, {column for proxy in proxies for column, share in proxy.shares.items() if share})
