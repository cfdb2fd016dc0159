"""Folders become sources of images and labels."""
