"""Where a folder of runs keeps what the site file wants done when runs end."""

WANTED = ".site.json"
