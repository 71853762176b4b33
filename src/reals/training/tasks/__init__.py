"""What is trained, one module a kind of network: a task makes one step, and its state is all that the step changes."""
