"""Before anything runs: what every job costs, how long it takes on given devices, and whether all it needs is in place."""
