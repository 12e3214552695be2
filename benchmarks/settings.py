"""Settings that both sides of a comparison share."""

from __future__ import annotations

from typing import Any

# Options of Resiliparse's extract_plain_text: those that the recipe's `extract` step has by default.
RESILIPARSE: dict[str, Any] = {
    "main_content": True,
    "preserve_formatting": True,
    "list_bullets": True,
    "alt_texts": True,
    "links": False,
    "form_fields": False,
    "noscript": False,
    "comments": True,
    "post_meta": True,
    "skip_elements": None,
}
