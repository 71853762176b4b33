"""`reals sample`: images from a DiT, SiT, REPA or own checkpoint, as a picture grid and/or an .npz to be measured."""
