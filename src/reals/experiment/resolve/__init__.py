"""From sheets and scale to artefacts: a function for each kind, which says what it is made from and what decides its result."""
