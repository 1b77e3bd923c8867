"""Virtual time: the same roles and hosts, one seed, a network and disks that fail."""
