"""How each method finds a mask of a given density and trains it; see `protocol` for what a method is."""
