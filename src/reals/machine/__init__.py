"""What jobs run on: GPUs, nodes and clusters, how a job is started there, told to stop, and how its end is understood."""
