"""URLs brought to one form, so that one page fetched under two spellings is found."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def normalize_urls(urls: pa.Array, drop_query: bool) -> pa.Array:
    """Scheme, `www.`, user, default ports, fragment and final slashes dropped, the host in lower case; null stays null.

    Path and query keep their case: servers tell them apart. `drop_query` drops what follows `?` as well.
    """
    urls = pc.utf8_trim_whitespace(urls.cast(pa.large_string()))
    urls = pc.replace_substring_regex(urls, r"#.*$", "")
    if drop_query:
        urls = pc.replace_substring_regex(urls, r"\?.*$", "")
    urls = pc.replace_substring_regex(urls, r"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//", "")
    urls = pc.replace_substring_regex(urls, r"^[^/?@]*@", "")
    host = pc.ascii_lower(pc.struct_field(pc.extract_regex(urls, r"^(?P<host>[^/?]*)"), "host"))
    rest = pc.replace_substring_regex(urls, r"^[^/?]*", "")
    host = pc.replace_substring_regex(host, r"^www\.", "")
    host = pc.replace_substring_regex(host, r"\.?(?::(?:80|443)?)?$", "")
    rest = pc.replace_substring_regex(rest, r"/+$", "")
    rest = pc.replace_substring_regex(rest, r"^/+\?", "?")
    return pc.binary_join_element_wise(host, rest, pa.scalar("", pa.large_string()))
