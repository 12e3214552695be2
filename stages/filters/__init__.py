"""One step a file: what is measured about a document, what limits the recipe may set on it, what is edited in it."""
