"""The commands: one file each, its flags and what it prints; the work is done by the modules that it calls."""
