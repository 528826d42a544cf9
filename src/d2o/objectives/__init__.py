"""What a denoiser should learn: each objective is a loss per image. They are handed their networks and build none."""
