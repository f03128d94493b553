"""What all builders share: the user's request, raw files, a process pool, packing into shards."""
