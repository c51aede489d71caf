"""Objects at a URL: one small protocol over local files, memory and the clouds."""
