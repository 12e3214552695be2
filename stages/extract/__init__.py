"""Text extraction: crawled pages become documents, in a child process that may crash without harm."""
