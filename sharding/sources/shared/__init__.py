"""What several formats share: names of images and classes, paths of lists, unpacked files, listings of zips."""
