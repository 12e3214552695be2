"""A run while it goes on, and after it: on one screen of a terminal, and on a page of this machine's browser."""
