"""Which code it is: what is checked out, and digests of what a run is made of."""
