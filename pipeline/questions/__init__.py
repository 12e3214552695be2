"""What a run is asked: a module a question gathers the answer (`inspect`, ...) and prints it (`show_inspect`, ...)."""
