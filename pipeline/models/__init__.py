"""What the commands that teach models do: classifiers, the extractor, a language's rules."""
