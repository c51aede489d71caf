"""Raw files, streamed as they lie: finding them, and reading them many at a time."""
