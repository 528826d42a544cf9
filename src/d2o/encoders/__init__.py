"""What stands between people and a denoiser: autoencoders and text encoders, frozen and no part of its weights."""
