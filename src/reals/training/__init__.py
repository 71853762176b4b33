"""How networks are trained: one loop, exact resume, one process or many, and the task of each kind of network."""
