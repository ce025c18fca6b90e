"""Request to candidates, offline and online the same objects: encode, search, merge, apply the surface's policy."""
