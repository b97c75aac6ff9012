"""Samplers of the distilled models; all others come from diffusers."""
