"""Images in: any source becomes one prepared folder, read by index; what is computed once per image is cached beside it."""
