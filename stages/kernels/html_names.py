"""Names of classes, ids, roles and properties as hashed tokens: whole without digits, and their parts.

`related-posts2 topBar` gives related-posts, related, posts, topbar, top, bar. What stands in KEYWORDS also sets a bit
that says what such an element usually is: content, comments, navigation and so on.
"""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light
from stages.kernels.hashing import load_u8
from stages.kernels.html_scan import DIGIT, UPPER, WHITE, kind_of
from stages.kernels.html_tables import CLASS_TABLE, FNV_PRIME, FNV_START, TAG, hash_table, lookup

KEYWORDS = (
    "content article post entry body text story main artikel inhalt contenido contenu corps tresc articulo prose",
    "comment comments disqus reply replies discussion respond feedback forum kommentar kommentare comentarios commentaires",
    "nav navigation menu breadcrumb breadcrumbs navbar topbar toolbar pager pagination sitemap tabs navi crumbs paging",
    "footer foot copyright colophon bottom legal imprint impressum fuss",
    "header head masthead banner top logo branding hero kopf",
    "sidebar side aside rail widget widgets column right left secondary complementary seitenleiste",
    "related recommended recommend more similar teaser teasers latest popular trending recirculation promo card cards next "
    "also newsfeed mostread outbrain taboola recommendations list grid carousel",
    "share social sharing follow facebook twitter sharedaddy newsletter subscribe subscription signup login register addtoany",
    "ad ads advert advertisement sponsor sponsored promotion adsense dfp werbung anzeige publicidad reklama",
    "meta author byline date time published tags tag category categories info autor datum infos details",
    "modal popup overlay cookie cookies consent gdpr hidden dialog lightbox notice alert paywall screenreader sr",
    "caption figcaption gallery image img photo media video slideshow credit figure bild foto player",
)
GROUPS = len(KEYWORDS)
_KEYWORD_TABLE = hash_table({word: 1 << group for group, words in enumerate(KEYWORDS) for word in words.split()})

TAG_GROUPS = np.zeros(len(TAG), np.int64)
for _tag, _group in (
    ("article", 0), ("main", 0), ("nav", 2), ("footer", 3), ("header", 4), ("aside", 5), ("figure", 11), ("figcaption", 11),
):  # fmt: skip
    TAG_GROUPS[TAG[_tag]] = 1 << _group

_SALTS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
CLASS_NAME, ROLE, PROPERTY = range(3)  # kinds of names: they are told apart, but for class and id


@light
def add_token(key, kind, tok, s, most):
    """Keep the token of a hashed name, unless `most` tokens are there."""
    if s[L.NT] < most:
        key = (key ^ _SALTS[kind]) * _SALTS[0]
        tok[s[L.NT]] = key >> np.uint64(32)
        s[L.NT] += 1


@light
def add_names(data, at, stop, kind, tok, s, most):
    """Tokens of the names in data[at:stop] to `tok`, until it holds `most`; returns (bits of CLASSES, bits of KEYWORDS)."""
    classes = groups = np.int64(0)
    while at < stop:
        if kind_of(data, at) & WHITE:
            at += 1
            continue
        whole = bare = part = FNV_START  # hashes of the name, of it without digits, of its part
        parts = length = 0
        small = False  # the character before is a small letter
        while at < stop:
            byte = load_u8(data, at)
            flags = kind_of(data, at)
            if flags & WHITE:
                break
            upper = flags & UPPER != 0
            between = byte == 0x2D or byte == 0x5F or byte == 0x3A  # - _ :
            if between or (upper and small) or flags & DIGIT:
                if length >= 2:
                    groups |= lookup(_KEYWORD_TABLE, part)
                    add_token(part, kind, tok, s, most)
                    parts += 1
                part = FNV_START
                length = 0
            if upper:
                byte |= np.uint64(0x20)
            whole = (whole ^ byte) * FNV_PRIME
            if not flags & DIGIT:
                bare = (bare ^ byte) * FNV_PRIME
                if not between:
                    part = (part ^ byte) * FNV_PRIME
                    length += 1
            small = not upper and not between
            at += 1
        if length >= 2:
            groups |= lookup(_KEYWORD_TABLE, part)
            if parts:
                add_token(part, kind, tok, s, most)
        add_token(bare, kind, tok, s, most)
        classes |= lookup(CLASS_TABLE, whole)
    return classes, groups
