"""Configs: one runnable claim each."""
