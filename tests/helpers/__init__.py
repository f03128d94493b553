"""What tests share: data, processes, clusters, servers."""
