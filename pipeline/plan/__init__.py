"""From a recipe to phases of tasks: what is read, how it is cut, what each task is keyed by."""
