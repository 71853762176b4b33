"""The paper: alignment (Eqs. 1-2), the autoencoder's loss (Eqs. 3-5), the generators' losses, their paths, networks and samplers."""
