"""The stages of a build of any labelled images that decide: clusters, and which image goes where."""
