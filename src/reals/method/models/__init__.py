"""The networks: autoencoder, transformer, teacher, discriminator and heads."""
