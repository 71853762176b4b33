"""Image-quality and latent-space metrics: functions of tensors, without files, networks or global state."""
