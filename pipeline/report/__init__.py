"""A finished run as one page: `gather` finds the figures, `page` sets them as static HTML (`templates/`)."""
