"""Comparison of our network with stored outputs of the official implementation."""
