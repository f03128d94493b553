"""Data on disk and in flight: dataset builders, the shard writer and its index, the epoch plan, the reader."""
