"""Do the networks divide the work? Distances between layers, modules of layers, and how both go with the masks."""
