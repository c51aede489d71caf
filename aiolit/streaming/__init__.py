"""Reading data sets: the async reader, and the torch faces over it."""
